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

/// Lower halves of the virtual addresses of places: to add to, to subtract from, and of 64 bits to
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

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x100_0000;
    const PLACE: Place = Place { start: START, size: 0x40_0000, alignment: 0x20_0000 };
    /// What a place of 4 bytes has, and one of 8.
    const SHORT: u32 = 0x8100_0040;
    const LONG: u64 = 0xffff_ffff_8100_0040;

    /// A kernel of one segment: 4 bytes to add to, 4 to subtract from, 8 to add to; then lists.
    fn vmlinux(lists: &[u32]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(0x100, 0);
        let mut put = |offset: usize, bytes: &[u8]| {
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(16, &[2, 0, 62, 0, 1]);
        put(24, &(START + 4).to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(40, &0xc0u64.to_le_bytes());
        put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 1, 0]);
        put(64, &PT_LOAD.to_le_bytes());
        for (at, value) in [(72, 0x80), (80, START | MAP), (88, START), (96, 0x40), (104, 0x40)] {
            put(at, &u64::to_le_bytes(value));
        }
        put(0x80, &SHORT.to_le_bytes());
        put(0x84, &SHORT.to_le_bytes());
        put(0x88, &LONG.to_le_bytes());
        file.extend(lists.iter().flat_map(|word| word.to_le_bytes()));
        file
    }

    fn moved(lists: &[u32], random: u64) -> (u32, u32, u64) {
        let mut kernel = Vmlinux::parse(vmlinux(lists), PLACE).unwrap();
        assert!(kernel.relocate(PLACE, random));
        let (address, bytes) = kernel.contents().next().unwrap();
        assert_eq!((address, kernel.entry()), (START, START + 4));
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        (word(0), word(4), u64::from_le_bytes(*bytes[8..].first_chunk().unwrap()))
    }

    #[test]
    fn relocations_of_all_kinds_are_made() {
        let lists = [0, 0x8100_0008, 0, 0x8100_0004, 0, 0x8100_0000];
        let distance = 3 * 0x20_0000;
        let expected = (SHORT + distance, SHORT - distance, LONG + u64::from(distance));
        assert_eq!(moved(&lists, 3), expected);
        // Without what is subtracted from, as Linux has it from 6.15 on.
        let lists = [0, 0x8100_0008, 0, 0x8100_0000];
        assert_eq!(moved(&lists, 3), (expected.0, SHORT, expected.2));
    }

    #[test]
    fn the_whole_kernel_stays_where_it_may_be_mapped() {
        let lists = [0, 0, 0x8100_0000];
        for random in [0, 1, 501, 502, u64::MAX] {
            let distance = u64::from(moved(&lists, random).0 - SHORT);
            assert!(START + distance + PLACE.size <= MAP_SIZE && distance % PLACE.alignment == 0);
        }
        let distances = (0..502).map(|random| moved(&lists, random).0);
        assert!(distances.is_sorted_by(|one, next| one < next), "502 distances are possible");
        let mut large = Vmlinux::parse(vmlinux(&lists), PLACE).unwrap();
        assert!(!large.relocate(Place { alignment: 0, ..PLACE }, 1));
    }

    #[test]
    fn what_linux_does_not_unpack_to_is_refused() {
        let lists: [&[u32]; 4] = [&[1, 0, 0], &[0], &[0, 1], &[0, 1, 0, 2, 0, 3, 0, 4]];
        for lists in lists {
            assert!(Vmlinux::parse(vmlinux(lists), PLACE).is_none(), "{lists:?}");
        }
        let changed = |at: usize, value: u8| {
            let mut file = vmlinux(&[0, 0, 0x8100_0000]);
            file[at] = value;
            Vmlinux::parse(file, PLACE)
        };
        assert!(changed(18, 62).is_some());
        // The machine, the entry point, segments: what they are, where they are, their size.
        for (at, value) in [(18, 3), (27, 2), (64, 2), (91, 2), (91, 0), (99, 1), (98, 0x41)] {
            assert!(changed(at, value).is_none(), "{at}: {value}");
        }
    }

    #[test]
    fn one_without_relocations_is_not_moved() {
        let mut kernel = Vmlinux::parse(vmlinux(&[]), PLACE).unwrap();
        assert!(!kernel.relocate(PLACE, 3));
        // What points nowhere changes nothing.
        let nowhere = [0, 0x8100_0039, 0, 0x1, 0, 0x8000_0000];
        assert_eq!(moved(&nowhere, 3), (SHORT, SHORT, LONG));
    }

    proptest::proptest! {
        /// Whatever a file has in it, it is moved or refused.
        #[test]
        fn odd_kernels_do_no_harm(
            changes in proptest::collection::vec((0usize..0x110, proptest::prelude::any::<u8>()), 1..8),
            random: u64,
        ) {
            let mut file = vmlinux(&[0, 0x8100_0008, 0, 0x8100_0004, 0, 0x8100_0000]);
            for (place, value) in changes { file[place] = value; }
            if let Some(mut kernel) = Vmlinux::parse(file, PLACE) {
                kernel.relocate(PLACE, random);
                assert!(kernel.contents().all(|(address, _)| address >= START));
            }
        }
    }
}
