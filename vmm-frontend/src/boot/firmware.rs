//! Firmware that boots a disk, such as SeaBIOS, and what it is told of the machine.

use std::io::Read;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Kind, Range, open, unreadable};
use crate::frontend::memory::AddressSpace;
use crate::machine::fw_cfg::{Contents, key};
use crate::machine::layout;
use crate::machine::linked::Linked;
use crate::pci::host::Place;

const OPTION: &str = "--firmware";
/// Where Debian has SeaBIOS.
const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";
/// Its size is a multiple of this.
const UNIT: u64 = 64 << 10;
const LARGEST: u64 = 8 << 20;
/// So much of its end is in memory below 1 MiB too, where it runs.
const SHADOW: usize = 128 << 10;

/// Firmware: the content of its ROM.
#[derive(Debug)]
pub struct Firmware {
    rom: Vec<u8>,
}

impl Firmware {
    /// Reads it, or Debian's SeaBIOS if the user named no other.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn open(path: Option<&Path>) -> Result<Self, BootError> {
        let default = Path::new(SEABIOS);
        if path.is_none() && !default.exists() {
            return Err(BootError::NoFirmware { path: default.into() });
        }
        Self::read(path.unwrap_or(default))
    }

    fn read(path: &Path) -> Result<Self, BootError> {
        let file = open(OPTION, path)?;
        let mut rom = Vec::new();
        let read = file.take(LARGEST + 1).read_to_end(&mut rom);
        let size = read.map_err(|source| unreadable(OPTION, path, source))? as u64;
        if size < SHADOW as u64 || size > LARGEST || !size.is_multiple_of(UNIT) {
            return Err(BootError::OddFirmware { path: path.to_owned(), size });
        }
        Ok(Self { rom })
    }

    /// What lies at the end of the first 4 GiB, where processors begin.
    #[must_use]
    pub fn rom(&self) -> &[u8] {
        &self.rom
    }

    /// Copies its end to below 1 MiB, which is memory that it can write to: no bridge has to switch
    /// that from ROM to memory.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn load(&self, memory: &AddressSpace) -> Result<(), BootError> {
        let size = SHADOW as u64;
        let start = self.rom.len().saturating_sub(SHADOW);
        memory
            .write_slice(
                self.rom.get(start..).unwrap_or_default(),
                GuestAddress(layout::HIGH - size),
            )
            .map_err(|_| BootError::NoRoom { option: OPTION, size })
    }
}

/// What firmware is told.
#[derive(Debug)]
pub struct Told<'a> {
    /// Processors.
    pub cpus: u32,
    /// What every processor's APIC id is below.
    pub apic_ids: u32,
    /// The address space.
    pub map: &'a [Range],
    /// The ACPI tables.
    pub tables: &'a Linked,
}

impl Told<'_> {
    /// It as fw_cfg's contents.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        let count = |number| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
        contents.set(key::CPUS, &count(self.cpus));
        contents.set(key::MAX_CPUS, &count(self.apic_ids));
        contents.set(key::IRQ0_OVERRIDE, &[1]);
        // The console is the serial port, and nobody waits for a key.
        contents.set(key::NO_GRAPHIC, &count(1));
        contents.set(key::BOOT_MENU, &count(0));
        contents.set_file("etc/e820", self.e820());
        for (name, content) in self.tables.files() {
            contents.set_file(name, content);
        }
        // Without anything to boot from it does not reset again and again.
        contents.set_file("etc/boot-fail-wait", u32::MAX.to_le_bytes().to_vec());
        contents
    }

    /// The memory map: firmware itself takes out what it and the ISA bus have below 1 MiB.
    fn e820(&self) -> Vec<u8> {
        let first = Range { start: 0, size: layout::HIGH, kind: Kind::Usable };
        let above = self.map.iter().filter(|range| range.start >= layout::HIGH);
        let mut table = Vec::new();
        for range in std::iter::once(&first).chain(above) {
            table.extend(range.start.to_le_bytes());
            table.extend(range.size.to_le_bytes());
            table.extend((range.kind as u32).to_le_bytes());
        }
        table
    }
}

/// The file `bootorder`, by which the first unit of a SCSI controller is booted, in Open Firmware's
/// words.
#[must_use]
pub fn boot_order(controller: Place) -> (&'static str, Vec<u8>) {
    let (device, function) = (controller.device(), controller.function());
    let function = if function == 0 { String::new() } else { format!(",{function:x}") };
    let path = format!("/pci@i0cf8/scsi@{device:x}{function}/channel@0/disk@0,0\0");
    ("bootorder", path.into_bytes())
}
