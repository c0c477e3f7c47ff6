//! What the first CPU starts with: a kernel in memory, and what it is told of the machine.
//!
//! - [`linux`]: a bzImage, by Linux's boot protocol; [`unpack`] has its kernel, [`vmlinux`] moves it;
//! - [`pvh`]: an ELF kernel, by Xen's PVH protocol;
//! - [`firmware`]: a disk, by firmware in a ROM;
//! - [`memory_map`](memory_map()): the address space, as all are told of it.
//!
//! A kernel starts in 32-bit protected mode without paging, or with paging in 64-bit mode; firmware
//! where a processor starts.

pub mod firmware;
mod linux;
mod memory_map;
mod pvh;
mod unpack;
mod vmlinux;

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{self, KernelLoader, bzimage, bzimage::BzImage, elf};
use vm_memory::{Bytes, GuestAddress};

use crate::frontend::memory::AddressSpace;
use crate::machine::layout;
pub use firmware::Firmware;
pub use memory_map::{Kind, Range, memory_map};

/// Why a guest can't be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file can't be read.
    #[error("{option} {path}: {source}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It is no kernel that can be started.
    #[error(
        "--kernel {path}: neither a Linux bzImage nor an ELF kernel with a PVH entry point ({reason})"
    )]
    NoKernel {
        /// The file.
        path: PathBuf,
        /// What the loader found.
        reason: String,
    },
    /// Debian's firmware is not there, and the user named nothing else to start with.
    #[error(
        "no kernel, and no firmware at {path}: install the package seabios, or give --kernel FILE or --firmware FILE"
    )]
    NoFirmware {
        /// Where it would be.
        path: PathBuf,
    },
    /// It has a size that no firmware has.
    #[error(
        "--firmware {path}: its {size} bytes are no firmware, which has 128 KiB to 8 MiB in multiples of 64 KiB"
    )]
    OddFirmware {
        /// The file.
        path: PathBuf,
        /// Its size in bytes, or more than the largest.
        size: u64,
    },
    /// Something has no room.
    #[error(
        "{option}: its {size} bytes have no room in the guest's memory: give it more by --memory"
    )]
    NoRoom {
        /// The option that names it.
        option: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// The command line is too long for this kernel.
    #[error("--append: {length} bytes, and this kernel takes at most {limit}")]
    CommandLine {
        /// Its length in bytes.
        length: usize,
        /// The most that the kernel takes.
        limit: usize,
    },
    /// Where Linux is mapped could not be chosen.
    #[error("the kernel cannot be moved to a random place (\"nokaslr\" does without): {0}")]
    NoRandom(io::Error),
}

/// How the first CPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In 32-bit protected mode, with flat segments and no paging.
    Protected,
    /// In 64-bit mode, with the first 4 GiB mapped where they are.
    Long,
}

/// Where the first CPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How.
    pub mode: Mode,
    /// The instruction that is first.
    pub address: u32,
    /// EBX: where a PVH kernel finds what it is told.
    pub ebx: u32,
    /// ESI: where Linux does.
    pub esi: u32,
}

/// What a machine starts with.
#[derive(Debug)]
pub enum Payload {
    /// A kernel.
    Kernel(Kernel),
    /// Firmware.
    Firmware(Firmware),
}

/// A kernel, with what is loaded beside it. Its files stay open, since a reset loads them again.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    file: File,
    size: u64,
    protocol: Protocol,
    initrd: Option<Initrd>,
    command_line: String,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Linux,
    Pvh,
}

impl Protocol {
    /// By what a file of that size begins with.
    fn of(head: &[u8], size: u64) -> Result<Self, String> {
        const CLASS: usize = 4;
        const CLASS_32: u8 = 1;
        if head.starts_with(b"\x7fELF") {
            return match head.get(CLASS) {
                Some(&CLASS_32) => Err(String::from("it is a 32-bit ELF file")),
                _ => Ok(Self::Pvh),
            };
        }
        linux::check(head, size).map(|()| Self::Linux)
    }
}

#[derive(Debug)]
struct Initrd {
    path: PathBuf,
    file: File,
    size: u64,
}

/// Bytes of a file that tell what it is.
const HEAD: u64 = 1024;
/// The option that names a kernel.
const KERNEL: &str = "--kernel";
/// The option that names an initial RAM disk.
const INITRD: &str = "--initrd";

impl Kernel {
    /// Opens the files, and sees whether the kernel is one.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn open(
        kernel: &Path,
        initrd: Option<&Path>,
        command_line: &str,
    ) -> Result<Self, BootError> {
        let failed = |source| unreadable(KERNEL, kernel, source);
        let mut file = open(KERNEL, kernel)?;
        let mut head = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut head).map_err(failed)?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let protocol = Protocol::of(&head, size)
            .map_err(|reason| BootError::NoKernel { path: kernel.to_owned(), reason })?;
        let initrd = initrd.map(Initrd::open).transpose()?;
        let command_line = command_line.to_owned();
        Ok(Self { path: kernel.to_owned(), file, size, protocol, initrd, command_line })
    }

    /// Puts it into memory, and all that it is told; `map` is the address space, and the ACPI tables
    /// are at [`layout::TABLES`].
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn load(&mut self, memory: &AddressSpace, map: &[Range]) -> Result<Entry, BootError> {
        match self.protocol {
            Protocol::Linux => linux::load(self, memory, map),
            Protocol::Pvh => pvh::load(self, memory, map),
        }
    }

    fn no_kernel(&self, reason: impl ToString) -> BootError {
        BootError::NoKernel { path: self.path.clone(), reason: reason.to_string() }
    }

    /// What the loader says, without that it is the loader.
    fn refused(&self, error: &loader::Error) -> BootError {
        let inner = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        self.no_kernel(inner.trim_start_matches("Kernel Loader: "))
    }

    /// Writes the command line with its NUL.
    fn write_command_line(&self, memory: &AddressSpace, limit: usize) -> Result<(), BootError> {
        let length = self.command_line.len();
        let limit = limit.min(layout::COMMAND_LINE_SIZE - 1);
        if length > limit {
            return Err(BootError::CommandLine { length, limit });
        }
        let text = [self.command_line.as_bytes(), b"\0"].concat();
        memory
            .write_slice(&text, GuestAddress(layout::COMMAND_LINE))
            .map_err(|_| BootError::NoRoom { option: "--append", size: text.len() as u64 })
    }

    /// Reads the initial RAM disk into memory, as high as it may be: below `limit`, above `floor`.
    /// Returns where it is, and its size in bytes.
    fn load_initrd(
        &mut self,
        memory: &AddressSpace,
        map: &[Range],
        floor: u64,
        limit: u64,
    ) -> Result<Option<(u32, u32)>, BootError> {
        let Some(initrd) = &mut self.initrd else { return Ok(None) };
        let size = initrd.size;
        let no_room = BootError::NoRoom { option: INITRD, size };
        // The lowest range has what the kernel is told.
        let high =
            map.iter().filter(|range| range.kind == Kind::Usable && range.start >= layout::HIGH);
        let starts = high.filter_map(|range| {
            let end = range.start.saturating_add(range.size).min(limit).min(layout::HOLE);
            let start = end.checked_sub(size)? & !0xfff;
            (start >= floor.max(range.start)).then_some(start)
        });
        let Some(start) = starts.max() else { return Err(no_room) };
        let (Ok(start), Ok(size)) = (u32::try_from(start), u32::try_from(size)) else {
            return Err(no_room);
        };
        read_into(memory, start.into(), &mut initrd.file, size.into())
            .map_err(|source| unreadable(INITRD, &initrd.path, source))?;
        Ok(Some((start, size)))
    }
}

impl Initrd {
    fn open(path: &Path) -> Result<Self, BootError> {
        let file = open(INITRD, path)?;
        let size = file.metadata().map_err(|source| unreadable(INITRD, path, source))?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }
}

fn unreadable(option: &'static str, path: &Path, source: io::Error) -> BootError {
    BootError::File { option, path: path.to_owned(), source }
}

/// Opens a file that has a size, without waiting for a writer at the other end of a pipe.
fn open(option: &'static str, path: &Path) -> Result<File, BootError> {
    let failed = |source| unreadable(option, path, source);
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    if kind.is_dir() || kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    File::open(path).map_err(failed)
}

/// Reads a whole file of that size into memory.
fn read_into(memory: &AddressSpace, at: u64, file: &mut File, size: u64) -> io::Result<()> {
    file.rewind()?;
    let size = usize::try_from(size).map_err(io::Error::other)?;
    memory.read_exact_volatile_from(GuestAddress(at), file, size).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
