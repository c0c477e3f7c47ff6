//! Tables that hold addresses of each other, before it is known where they will lie.
//!
//! Whoever places them has to add where they lie to each pointer, and to make the sums zero again. We do
//! it for a kernel; firmware does it by a script (QEMU's hw/acpi/bios-linker-loader.c, which SeaBIOS
//! and OVMF run).

/// Two pieces of memory: the RSDP, which a guest searches for, and all tables, one after the other.
#[derive(Clone, Debug)]
pub struct Linked {
    rsdp: Vec<u8>,
    tables: Vec<u8>,
    steps: Vec<Step>,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Rsdp,
    Tables,
}

/// What is to be done when it is known where the tables lie, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A little-endian number is an offset into the tables: it becomes an address.
    Pointer { piece: Piece, offset: u32, size: u8 },
    /// A byte makes the sum of a range, which it is in, zero.
    Sum { piece: Piece, offset: u32, start: u32, length: u32 },
}

/// A table's sum, from its start (ACPI 6.5, 5.2.6).
const SUM: u32 = 9;

impl Linked {
    /// One without a table yet.
    pub(super) fn new() -> Self {
        Self { rsdp: Vec::new(), tables: Vec::new(), steps: Vec::new() }
    }

    /// Adds a table at the next multiple of 64, and returns its offset. `pointers` are the places and
    /// bytes of its pointers, which are offsets of tables as yet.
    ///
    /// `None`: more than 4 GiB of tables.
    pub(super) fn add(&mut self, table: &[u8], pointers: &[(u32, u8)]) -> Option<u32> {
        let start = self.add_raw(table)?;
        let piece = Piece::Tables;
        for (place, size) in pointers {
            let offset = start.checked_add(*place)?;
            self.steps.push(Step::Pointer { piece, offset, size: *size });
        }
        let (offset, length) = (start.checked_add(SUM)?, u32::try_from(table.len()).ok()?);
        self.steps.push(Step::Sum { piece, offset, start, length });
        Some(start)
    }

    /// Adds one that has neither pointers nor a sum.
    pub(super) fn add_raw(&mut self, table: &[u8]) -> Option<u32> {
        self.tables.resize(self.tables.len().next_multiple_of(ALIGN as usize), 0);
        let start = u32::try_from(self.tables.len()).ok()?;
        self.tables.extend(table);
        Some(start)
    }

    /// Sets the RSDP, whose pointer to the XSDT is an offset as yet (5.2.5.3).
    pub(super) fn set_rsdp(&mut self, rsdp: &[u8]) -> Option<()> {
        let piece = Piece::Rsdp;
        self.rsdp = rsdp.to_vec();
        let length = u32::try_from(rsdp.len()).ok()?;
        self.steps.extend([
            Step::Pointer { piece, offset: 24, size: 8 },
            Step::Sum { piece, offset: 8, start: 0, length: 20 },
            Step::Sum { piece, offset: 32, start: 0, length },
        ]);
        Some(())
    }

    /// All of it as it lies in memory from `base` on, a multiple of 64, with the RSDP first.
    ///
    /// `None`: a pointer is too small for that address.
    #[must_use]
    pub fn placed(&self, base: u64) -> Option<Vec<u8>> {
        let mut rsdp = self.rsdp.clone();
        let mut tables = self.tables.clone();
        rsdp.resize(rsdp.len().next_multiple_of(ALIGN as usize), 0);
        let address = base.checked_add(rsdp.len() as u64)?;
        for step in &self.steps {
            match *step {
                Step::Pointer { piece, offset, size } => {
                    let bytes = piece.of(&mut rsdp, &mut tables);
                    add(range(bytes, offset, size.into())?, address)?;
                }
                Step::Sum { piece, offset, start, length } => {
                    let bytes = piece.of(&mut rsdp, &mut tables);
                    let sum = range(bytes, start, length)?.iter();
                    let sum = sum.fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    let byte = range(bytes, offset, 1)?.first_mut()?;
                    *byte = byte.wrapping_sub(sum);
                }
            }
        }
        rsdp.append(&mut tables);
        Some(rsdp)
    }

    /// Files of fw_cfg, by which firmware places the tables: name and content of each.
    #[must_use]
    pub fn files(&self) -> [(&'static str, Vec<u8>); 3] {
        let mut script = Vec::new();
        for piece in [Piece::Rsdp, Piece::Tables] {
            let (zone, align) = piece.place();
            let mut argument = piece.name().to_vec();
            argument.extend(align.to_le_bytes());
            argument.push(zone);
            command(&mut script, ALLOCATE, argument);
        }
        for step in &self.steps {
            match *step {
                Step::Pointer { piece, offset, size } => {
                    let mut argument = [piece.name(), Piece::Tables.name()].concat();
                    argument.extend(offset.to_le_bytes());
                    argument.push(size);
                    command(&mut script, ADD_POINTER, argument);
                }
                Step::Sum { piece, offset, start, length } => {
                    let mut argument = piece.name().to_vec();
                    for number in [offset, start, length] {
                        argument.extend(number.to_le_bytes());
                    }
                    command(&mut script, ADD_CHECKSUM, argument);
                }
            }
        }
        [(RSDP, self.rsdp.clone()), (TABLES, self.tables.clone()), ("etc/table-loader", script)]
    }
}

/// What tables are aligned to: the FACS has to be (5.2.10).
const ALIGN: u32 = 64;

const RSDP: &str = "etc/acpi/rsdp";
const TABLES: &str = "etc/acpi/tables";

/// Commands of the script, each with its argument in [`COMMAND`] bytes.
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
const COMMAND: usize = 128;
/// Bytes of a file's name in them, with its NUL.
const NAME: usize = 56;

impl Piece {
    fn of<'a>(self, rsdp: &'a mut [u8], tables: &'a mut [u8]) -> &'a mut [u8] {
        match self {
            Self::Rsdp => rsdp,
            Self::Tables => tables,
        }
    }

    fn name(self) -> [u8; NAME] {
        let name = match self {
            Self::Rsdp => RSDP,
            Self::Tables => TABLES,
        };
        let mut bytes = [0; NAME];
        for (byte, letter) in bytes.iter_mut().zip(name.bytes()) {
            *byte = letter;
        }
        bytes
    }

    /// Where firmware is to put it, and what it aligns it to.
    fn place(self) -> (u8, u32) {
        /// Anywhere below 4 GiB.
        const HIGH: u8 = 1;
        /// Where the search for an RSDP finds it (5.2.5.1), at a multiple of 16.
        const F_SEGMENT: u8 = 2;
        match self {
            Self::Rsdp => (F_SEGMENT, 16),
            Self::Tables => (HIGH, ALIGN),
        }
    }
}

fn command(script: &mut Vec<u8>, number: u32, argument: Vec<u8>) {
    let end = script.len() + COMMAND;
    script.extend(number.to_le_bytes());
    script.extend(argument);
    script.resize(end, 0);
}

fn range(bytes: &mut [u8], start: u32, length: u32) -> Option<&mut [u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get_mut(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// Adds to a little-endian number of 1 to 8 bytes. `None`: it is too small.
fn add(number: &mut [u8], more: u64) -> Option<()> {
    let mut wide = [0; 8];
    wide.get_mut(..number.len())?.copy_from_slice(number);
    let sum = u64::from_le_bytes(wide).checked_add(more)?.to_le_bytes();
    let (low, high) = sum.split_at_checked(number.len())?;
    number.copy_from_slice(low);
    high.iter().all(|byte| *byte == 0).then_some(())
}

#[cfg(test)]
mod tests;
