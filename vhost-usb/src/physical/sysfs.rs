//! The host's devices (Linux, Documentation/ABI/testing/sysfs-bus-usb and stable/sysfs-bus-usb).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Filter;

const DEVICES: &str = "/sys/bus/usb/devices";
/// The class of hubs: the host needs them for itself.
const HUB: u8 = 9;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct HostDevice {
    /// Where it is plugged in: BUS-PORT[.PORT…].
    pub(super) name: String,
    pub(super) bus: u8,
    pub(super) address: u8,
    pub(super) vendor: u16,
    pub(super) product: u16,
    /// Its own class, and those of its interfaces.
    pub(super) classes: Vec<u8>,
}

impl HostDevice {
    fn read(folder: &Path) -> Option<Self> {
        let text = |name: &str| Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
        let decimal = |name| text(name)?.parse().ok();
        let hex = |name| u16::from_str_radix(&text(name)?, 16).ok();
        let class = |file: &Path| {
            let class = fs::read_to_string(file).ok()?;
            u8::from_str_radix(class.trim(), 16).ok()
        };
        let interfaces = fs::read_dir(folder).ok()?.flatten();
        let interfaces = interfaces.filter_map(|it| class(&it.path().join("bInterfaceClass")));
        let own = class(&folder.join("bDeviceClass"))?;
        Some(Self {
            name: folder.file_name()?.to_str()?.to_owned(),
            bus: decimal("busnum")?,
            address: decimal("devnum")?,
            vendor: hex("idVendor")?,
            product: hex("idProduct")?,
            classes: [own].into_iter().chain(interfaces).collect(),
        })
    }

    /// It is the other one too: what it is made of may have been found only since.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.bus, self.address) == (other.bus, other.address)
    }

    /// The host has set its configuration.
    pub(super) fn has_interfaces(&self) -> bool {
        self.classes.len() > 1
    }

    fn is_hub(&self) -> bool {
        self.classes.first() == Some(&HUB)
    }

    fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/bus/usb/{:03}/{:03}", self.bus, self.address))
    }

    /// Opens it.
    pub(super) fn open(&self) -> io::Result<File> {
        File::options().read(true).write(true).open(self.node())
    }
}

/// All but hubs, in the order of their names.
pub(super) fn list() -> Vec<HostDevice> {
    list_in(Path::new(DEVICES))
}

fn list_in(folder: &Path) -> Vec<HostDevice> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let devices = entries.filter_map(|entry| HostDevice::read(&entry.path()));
    let mut devices: Vec<_> = devices.filter(|device| !device.is_hub()).collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices
}

/// Opens the first device that is meant, for another process.
///
/// # Errors
/// There is none, or the host refuses.
pub fn open(filter: &Filter) -> io::Result<File> {
    let found = list().into_iter().find(|device| filter.matches(device));
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the host has no such device");
    let device = found.ok_or_else(missing)?;
    device.open().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{} cannot be opened: {error}", device.node().display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sysfs_says_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, files: &[(&str, &str)]| {
            for (file, text) in files {
                let path = folder.path().join(name).join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            }
        };
        let device =
            [("busnum", "1"), ("devnum", "12"), ("idVendor", "46f4"), ("idProduct", "0001")];
        make("1-2", &device);
        make("1-2", &[("bDeviceClass", "00"), ("1-2:1.0/bInterfaceClass", "08")]);
        make("usb1", &device);
        make("usb1", &[("bDeviceClass", "09")]);
        make("1-2:1.0", &[("bInterfaceClass", "08")]);
        let found = list_in(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].address), ("1-2", 12));
        assert_eq!((found[0].vendor, found[0].classes.as_slice()), (0x46f4, [0, 8].as_slice()));
        assert_eq!(found[0].node(), Path::new("/dev/bus/usb/001/012"));
        assert!(found[0].has_interfaces());
        assert!(list_in(Path::new("/nowhere")).is_empty());
        fs::remove_dir_all(folder.path().join("1-2/1-2:1.0")).unwrap();
        let [bare] = list_in(folder.path()).try_into().unwrap();
        assert!(!bare.has_interfaces() && bare.is(&found[0]));
    }
}
