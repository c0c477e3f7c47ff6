//! Items by their number, and the directory of those that have a name.

use std::collections::BTreeMap;

/// Numbers of items (QEMU, include/standard-headers/linux/qemu_fw_cfg.h).
pub mod key {
    /// That there is something at all.
    pub const SIGNATURE: u16 = 0x00;
    /// Which interfaces there are.
    pub const ID: u16 = 0x01;
    /// Whether there is a serial port in place of a display.
    pub const NO_GRAPHIC: u16 = 0x04;
    /// Processors that there are, in 16 bits.
    pub const CPUS: u16 = 0x05;
    /// Whether to offer a menu of what to boot from, in 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// What every APIC id is below, in 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The directory of files.
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// The first file; the others follow.
    pub const FILE_FIRST: u16 = 0x20;
    /// Whether the PIT is wired to the I/O APIC's input 2, in 8 bits.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Item 0 if there is something at all.
const SIGNATURE: [u8; 4] = *b"QEMU";
/// Bits of item 1: ports for each byte; DMA.
const TRADITIONAL: u32 = 1 << 0;
const DMA: u32 = 1 << 1;
/// Bytes of a file's name, with its NUL.
const NAME: usize = 56;

/// What firmware can read.
#[derive(Clone, Debug)]
pub struct Contents {
    items: BTreeMap<u16, Vec<u8>>,
    /// In order of their numbers.
    files: Vec<&'static str>,
}

impl Default for Contents {
    /// What says that there is something, and no files.
    fn default() -> Self {
        let mut contents = Self { items: BTreeMap::new(), files: Vec::new() };
        contents.set(key::SIGNATURE, &SIGNATURE);
        contents.set(key::ID, &(TRADITIONAL | DMA).to_le_bytes());
        contents.list();
        contents
    }
}

impl Contents {
    /// Sets an item.
    pub fn set(&mut self, key: u16, content: &[u8]) {
        self.items.insert(key, content.to_vec());
    }

    /// Sets a file, whose name has at most 55 bytes, in place of one of that name.
    pub fn set_file(&mut self, name: &'static str, content: Vec<u8>) {
        let known = self.files.iter().position(|known| *known == name);
        let place = known.unwrap_or_else(|| {
            self.files.push(name);
            self.files.len() - 1
        });
        self.items.insert(file_key(place), content);
        self.list();
    }

    /// Bytes of a file.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let place = self.files.iter().position(|known| *known == name)?;
        Some(self.item(file_key(place)))
    }

    /// Bytes of an item; none: there is no such item.
    #[must_use]
    pub fn item(&self, key: u16) -> &[u8] {
        self.items.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Writes the directory: how many files there are, and of each its size, its number, two bytes of
    /// nothing, and its name. Numbers are big-endian.
    fn list(&mut self) {
        let count = u32::try_from(self.files.len()).unwrap_or(0);
        let mut directory = count.to_be_bytes().to_vec();
        for (place, name) in self.files.iter().enumerate() {
            let key = file_key(place);
            let size = u32::try_from(self.item(key).len()).unwrap_or(0);
            directory.extend(size.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let end = directory.len() + NAME;
            directory.extend(name.bytes().take(NAME - 1));
            directory.resize(end, 0);
        }
        self.items.insert(key::FILE_DIRECTORY, directory);
    }
}

/// The number of the file at that place of the directory.
fn file_key(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(u16::MAX).saturating_add(key::FILE_FIRST)
}
