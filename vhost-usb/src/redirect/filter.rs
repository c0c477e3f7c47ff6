//! Which devices are let in: rules as usbredirfilter's.
//!
//! A rule is `class:vendor:product:version:allow`, each a number, decimal or after `0x` hexadecimal, or -1
//! for any. The first that a device's class, or an interface's, matches decides; if none does, it is
//! refused.

use std::fmt;

use super::packet::{DeviceInfo, InterfaceInfo};

/// A class code of devices whose interfaces have their own, and one of devices with several functions
/// (Interface Association Descriptors).
const PER_INTERFACE: [u8; 2] = [0x00, 0xef];
/// HID without a boot protocol: what devices have for buttons beside what they are for.
const HID: [u8; 3] = [0x03, 0, 0];

/// Why rules are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no rule; one is class:vendor:product:version:allow, each a number, or -1 for any"
)]
pub struct FilterError(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    class: Option<u8>,
    vendor: Option<u16>,
    product: Option<u16>,
    version: Option<u16>,
    allow: bool,
}

/// Rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Vec<Rule>);

/// A number, or any; `None`: neither.
fn number<T: TryFrom<u32>>(text: &str) -> Option<Option<T>> {
    if text == "-1" {
        return Some(None);
    }
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16),
        _ if text.starts_with('+') => return None,
        _ => text.parse(),
    };
    Some(Some(T::try_from(value.ok()?).ok()?))
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(':');
        let class = number(fields.next()?)?;
        let [vendor, product, version] =
            [number(fields.next()?)?, number(fields.next()?)?, number(fields.next()?)?];
        let allow = number::<u32>(fields.next()?)? != Some(0);
        fields.next().is_none().then_some(Self { class, vendor, product, version, allow })
    }

    fn matches(&self, class: u8, device: &DeviceInfo) -> bool {
        let is = |wanted: Option<u16>, value: Option<u16>| wanted.is_none() || wanted == value;
        self.class.is_none_or(|wanted| wanted == class)
            && is(self.vendor, Some(device.vendor))
            && is(self.product, Some(device.product))
            && is(self.version, device.version)
    }
}

impl Filter {
    /// From rules that are separated by `|`.
    ///
    /// # Errors
    /// One of them is none.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let rule = |text: &str| Rule::parse(text).ok_or_else(|| FilterError(text.to_owned()));
        text.split('|').map(rule).collect::<Result<_, _>>().map(Self)
    }

    fn allows_class(&self, class: u8, device: &DeviceInfo) -> bool {
        self.0.iter().find(|rule| rule.matches(class, device)).is_some_and(|rule| rule.allow)
    }

    /// Whether a device is let in: its own class, if it has one, and all its interfaces' have to be.
    #[must_use]
    pub fn allows(&self, device: &DeviceInfo, interfaces: &[InterfaceInfo]) -> bool {
        let [class, ..] = device.class;
        if !PER_INTERFACE.contains(&class) && !self.allows_class(class, device) {
            return false;
        }
        // Buttons of a device that is something else are not what it is refused for.
        let counts = |interface: &&InterfaceInfo| interfaces.len() == 1 || interface.class != HID;
        let mut counting: Vec<_> = interfaces.iter().filter(counts).collect();
        if counting.is_empty() {
            counting = interfaces.iter().collect();
        }
        counting.iter().all(|interface| {
            let [class, ..] = interface.class;
            self.allows_class(class, device)
        })
    }
}

/// As it is told to a host, with commas.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for Rule { class, vendor, product, version, allow } in &self.0 {
            let text = |value: Option<u16>| value.map_or("-1".into(), |it| format!("{it:#06x}"));
            let class = class.map_or("-1".into(), |it| format!("{it:#04x}"));
            let [vendor, product, version] = [*vendor, *product, *version].map(text);
            write!(f, "{before}{class},{vendor},{product},{version},{}", u8::from(*allow))?;
            before = "|";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(class: u8, version: Option<u16>) -> DeviceInfo {
        DeviceInfo { speed: 2, class: [class, 0, 0], vendor: 0x1234, product: 0x5678, version }
    }

    fn interface(class: [u8; 3]) -> InterfaceInfo {
        InterfaceInfo { number: 0, class }
    }

    #[test]
    fn rules_are_numbers_or_any() {
        let text = "0x08:-1:-1:-1:1|3:0x1234:22136:0x100:0";
        let filter = Filter::parse(text).unwrap();
        assert_eq!(filter.to_string(), "0x08,-1,-1,-1,1|0x03,0x1234,0x5678,0x0100,0");
        for wrong in
            ["", "1:2:3:4", "1:2:3:4:5:6", "256:-1:-1:-1:1", "-2:-1:-1:-1:1", "+3:-1:-1:-1:1"]
        {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let filter = Filter::parse("8:0x1234:-1:0x100:0|8:-1:-1:-1:1").unwrap();
        let storage = [interface([8, 6, 0x50])];
        assert!(!filter.allows(&device(0, Some(0x100)), &storage));
        assert!(filter.allows(&device(0, Some(0x101)), &storage));
        assert!(filter.allows(&device(0, None), &storage));
        assert!(!filter.allows(&device(0, None), &[interface([9, 0, 0])]));
        assert!(!filter.allows(&device(9, None), &storage), "its own class is not let in");
        assert!(filter.allows(&device(0xef, None), &storage));
    }

    #[test]
    fn buttons_are_let_in_with_what_they_belong_to() {
        let filter = Filter::parse("1:-1:-1:-1:1").unwrap();
        let audio = interface([1, 1, 0]);
        let buttons = interface([3, 0, 0]);
        assert!(filter.allows(&device(0, None), &[audio, buttons]));
        assert!(!filter.allows(&device(0, None), &[buttons, buttons]));
        assert!(!filter.allows(&device(0, None), &[buttons]));
        assert!(!filter.allows(&device(0, None), &[audio, interface([3, 1, 1])]), "a keyboard");
    }
}
