//! Which of the host's devices is meant.

use std::fmt;

use super::sysfs::HostDevice;

/// A device, or some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// By vendor and product.
    Id(u16, u16),
    /// By the bus and the address that it has until it is plugged out.
    Address(u8, u8),
    /// By where it is plugged in, as sysfs names it.
    Port(String),
    /// By its class, or that of one of its interfaces.
    Class(u8),
}

impl Filter {
    /// What [`parse`](Self::parse) takes.
    pub const WANTED: &'static str = "VENDOR:PRODUCT in hexadecimal digits, BUS.ADDRESS, \
        BUS-PORT[.PORT…], or class=CLASS in hexadecimal digits";

    /// Reads one. `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            u16::from_str_radix(text, 16).ok().filter(|_| plain)
        };
        let decimal = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u8>().ok().filter(|_| plain)
        };
        if let Some(class) = text.strip_prefix("class=") {
            return u8::try_from(hex(class)?).ok().map(Self::Class);
        }
        if let Some((vendor, product)) = text.split_once(':') {
            return Some(Self::Id(hex(vendor)?, hex(product)?));
        }
        if let Some((bus, ports)) = text.split_once('-') {
            let all = decimal(bus).is_some() && ports.split('.').all(|it| decimal(it).is_some());
            return all.then(|| Self::Port(text.to_owned()));
        }
        let (bus, address) = text.split_once('.')?;
        Some(Self::Address(decimal(bus)?, decimal(address)?))
    }

    /// It is this one.
    pub(super) fn matches(&self, device: &HostDevice) -> bool {
        match self {
            Self::Id(vendor, product) => (*vendor, *product) == (device.vendor, device.product),
            Self::Address(bus, address) => (*bus, *address) == (device.bus, device.address),
            Self::Port(port) => *port == device.name,
            Self::Class(class) => device.classes.contains(class),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(vendor, product) => write!(f, "{vendor:04x}:{product:04x}"),
            Self::Address(bus, address) => write!(f, "{bus}.{address}"),
            Self::Port(port) => write!(f, "{port}"),
            Self::Class(class) => write!(f, "class={class:02x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_meant_by_what_they_are_and_where_they_are() {
        for (text, filter) in [
            ("1d6b:0104", Filter::Id(0x1d6b, 0x104)),
            ("3.12", Filter::Address(3, 12)),
            ("1-2.3", Filter::Port("1-2.3".into())),
            ("class=08", Filter::Class(8)),
        ] {
            assert_eq!(Filter::parse(text).as_ref(), Some(&filter));
            assert_eq!(filter.to_string(), text);
        }
        for text in [
            "",
            "1",
            "1d6b",
            "1d6b:",
            "x:y",
            "+1:2",
            "1.300",
            "1-",
            "1-2..3",
            "class=",
            "class=100",
        ] {
            assert_eq!(Filter::parse(text), None, "{text}");
        }
        let device = HostDevice {
            name: "1-2.3".into(),
            bus: 1,
            address: 7,
            vendor: 0x46f4,
            product: 1,
            classes: vec![0, 8],
        };
        for text in ["46f4:0001", "1.7", "1-2.3", "class=8"] {
            assert!(Filter::parse(text).unwrap().matches(&device), "{text}");
        }
        for text in ["46f4:0002", "1.8", "1-2", "class=3"] {
            assert!(!Filter::parse(text).unwrap().matches(&device), "{text}");
        }
    }
}
