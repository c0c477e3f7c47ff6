//! Guests as files that a machine boots.

/// Where the image lies in a kernel's memory.
const KERNEL: u32 = 0x10_0000;
/// Bytes of a ROM, which ends at 4 GiB.
const ROM: u32 = 0x1_0000;

const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// An ELF kernel by the PVH protocol, whose first instruction is at `entry` of the image.
pub(super) fn kernel(image: &[u8], entry: u32) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    const PT_NOTE: u32 = 4;
    let address = u64::from(KERNEL + entry);
    let note = note(address);
    let note_at = u64::from(HEADER + 2 * PROGRAM_HEADER);
    let image_at = note_at + note.len() as u64;
    let mut file = header(address);
    program_header(&mut file, PT_LOAD, image_at, KERNEL.into(), image.len() as u64);
    program_header(&mut file, PT_NOTE, note_at, 0, note.len() as u64);
    file.extend(note);
    file.extend(image);
    file
}

/// ELF-64's header (System V ABI, AMD64), of an executable.
fn header(entry: u64) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let half = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    // ET_EXEC, EM_X86_64, EV_CURRENT.
    half(&mut bytes, 2);
    half(&mut bytes, 62);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes.extend(u64::from(HEADER).to_le_bytes());
    bytes.extend([0; 8 + 4]);
    for value in [HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        half(&mut bytes, value);
    }
    bytes
}

fn program_header(file: &mut Vec<u8>, kind: u32, offset: u64, address: u64, size: u64) {
    let (flags, align) = (7u32, 4u64);
    file.extend(kind.to_le_bytes());
    file.extend(flags.to_le_bytes());
    for value in [offset, address, address, size, size, align] {
        file.extend(value.to_le_bytes());
    }
}

/// XEN_ELFNOTE_PHYS32_ENTRY: where a PVH kernel starts.
fn note(entry: u64) -> Vec<u8> {
    const PHYS32_ENTRY: u32 = 18;
    let name = b"Xen\0";
    let words = [name.len() as u32, 8, PHYS32_ENTRY];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(name);
    bytes.extend(entry.to_le_bytes());
    bytes
}

/// A ROM that starts at `entry` of the image: `tail` is its end, with the reset vector, and has the
/// entry's address at `place`.
pub(super) fn rom(image: &[u8], entry: u32, tail: &[u8], place: usize) -> Vec<u8> {
    let mut rom = image.to_vec();
    let start = ROM as usize - tail.len();
    assert!(rom.len() <= start, "the guests are too large for a ROM");
    rom.resize(start, 0);
    rom.extend(tail);
    let address = entry.wrapping_sub(ROM);
    rom[start + place..][..4].copy_from_slice(&address.to_le_bytes());
    rom
}
