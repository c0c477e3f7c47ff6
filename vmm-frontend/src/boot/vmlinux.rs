//! Linux as it is once it is unpacked: an ELF file, with relocations behind it.
//!
//! The stub that unpacks it in the guest would choose where it runs ("KASLR"), so this does too. It
//! moves the kernel in its own, virtual address space; where it is in memory stays.

use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

/// Where the kernel's image is mapped (Documentation/arch/x86/x86_64/mm.rst), and bytes of that.
const MAP: u64 = 0xffff_ffff_8000_0000;
const MAP_SIZE: u64 = 1 << 30;
/// Bytes of a relocation.
const WORD: usize = size_of::<u32>();

/// What the kernel's header says of its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where it is in memory, and is mapped behind [`MAP`] if it is not moved.
    pub(super) start: u64,
    /// Bytes from there on that it needs.
    pub(super) size: u64,
    /// It is moved by multiples of this.
    pub(super) alignment: u64,
}

/// A kernel to be copied into memory.
#[derive(Debug)]
pub(super) struct Vmlinux {
    bytes: Vec<u8>,
    segments: Vec<ProgramHeader>,
    entry: u64,
    /// Its relocations; `None` if it has none.
    relocations: Option<Relocations>,
}

/// Ranges of words in the file: addresses of places to add to, to subtract from, and of 64 bits to
/// add to.
#[derive(Debug)]
struct Relocations {
    add: Vec<u32>,
    subtract: Vec<u32>,
    add_64: Vec<u32>,
}

impl Vmlinux {
    /// Reads its headers. `None` if it is not what Linux unpacks to, at that place.
    pub(super) fn parse(bytes: Vec<u8>, place: Place) -> Option<Self> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes).ok()?;
        let header = file.ehdr;
        let end = place.start.checked_add(place.size)?;
        let inside = |segment: &ProgramHeader| {
            let last = segment.p_paddr.checked_add(segment.p_memsz);
            segment.p_paddr >= place.start
                && last.is_some_and(|last| last <= end)
                && segment.p_filesz <= segment.p_memsz
                && contents(&bytes, segment).is_some()
        };
        let loaded = |segment: &ProgramHeader| segment.p_type == PT_LOAD;
        let segments: Vec<_> = file.segments()?.iter().filter(loaded).collect();
        let sound = header.e_machine == EM_X86_64
            && !segments.is_empty()
            && segments.iter().all(inside)
            && (place.start..end).contains(&header.e_entry);
        // The section headers are the file's end.
        let headers = u64::from(header.e_shentsize) * u64::from(header.e_shnum);
        let behind = bytes.get(usize::try_from(header.e_shoff.checked_add(headers)?).ok()?..)?;
        let relocations = if behind.is_empty() { None } else { Some(Relocations::parse(behind)?) };
        sound.then_some(Self { entry: header.e_entry, segments, relocations, bytes })
    }

    /// Its first instruction.
    pub(super) fn entry(&self) -> u64 {
        self.entry
    }

    /// What goes where in memory.
    pub(super) fn contents(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let contents = |segment| contents(&self.bytes, segment).unwrap_or_default();
        self.segments.iter().map(move |segment| (segment.p_paddr, contents(segment)))
    }

    /// Moves it, by one of the distances that the stub chooses from: `random` says which. Whether
    /// it could be.
    pub(super) fn relocate(&mut self, place: Place, random: u64) -> bool {
        let Some(relocations) = &self.relocations else { return false };
        let room = MAP_SIZE.saturating_sub(place.start).saturating_sub(place.size);
        let Some(slots) = room.checked_div(place.alignment).map(|slots| slots + 1) else {
            return false;
        };
        // Less than 1 GiB.
        let distance = (random % slots * place.alignment) as u32;
        let segments = &self.segments;
        let bytes = &mut self.bytes;
        let mut change = |addresses: &[u32], change: &dyn Fn(u32) -> u32| {
            for &address in addresses {
                if let Some(word) = word(bytes, segments, address) {
                    *word = change(u32::from_le_bytes(*word)).to_le_bytes();
                }
            }
        };
        change(&relocations.add, &|word| word.wrapping_add(distance));
        change(&relocations.subtract, &|word| word.wrapping_sub(distance));
        for &address in &relocations.add_64 {
            if let Some(word) = word(bytes, segments, address) {
                *word = u64::from_le_bytes(*word).wrapping_add(distance.into()).to_le_bytes();
            }
        }
        true
    }
}

impl Relocations {
    /// They are three lists, each behind a zero: of 64 bits, to subtract from (not from Linux 6.15
    /// on), to add to.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<WORD>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let mut lists = words.split(|word| *word == 0).map(<[u32]>::to_vec);
        let (first, add_64) = (lists.next()?, lists.next()?);
        let (second, third) = (lists.next()?, lists.next());
        if !rest.is_empty() || !first.is_empty() || lists.next().is_some() {
            return None;
        }
        Some(match third {
            Some(add) => Self { add_64, subtract: second, add },
            None => Self { add_64, subtract: Vec::new(), add: second },
        })
    }
}

fn contents<'a>(bytes: &'a [u8], segment: &ProgramHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(segment.p_offset).ok()?;
    bytes.get(start..)?.get(..usize::try_from(segment.p_filesz).ok()?)
}

/// The place in the file of `N` bytes at a virtual address, whose upper half is all ones.
fn word<'a, const N: usize>(
    bytes: &'a mut [u8],
    segments: &[ProgramHeader],
    address: u32,
) -> Option<&'a mut [u8; N]> {
    let address = u64::from(address).wrapping_sub(MAP & u64::from(u32::MAX));
    let (offset, segment) = segments.iter().find_map(|segment| {
        let offset = address.checked_sub(segment.p_paddr)?;
        (offset < segment.p_filesz).then_some((offset, segment))
    })?;
    let start = usize::try_from(segment.p_offset.checked_add(offset)?).ok()?;
    bytes.get_mut(start..)?.first_chunk_mut()
}
