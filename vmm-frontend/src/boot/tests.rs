use super::*;
use crate::frontend::memory::Memory;

use std::io::Write;

use tempfile::NamedTempFile;

const MEMORY: u64 = 64 << 20;

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A bzImage of a setup sector, and so many bytes of kernel.
fn bzimage(size: usize) -> Vec<u8> {
    let mut image = vec![0; 1024 + size];
    let mut put = |offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1f1, &[1]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x238, &255u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x100_0000u32.to_le_bytes());
    put(1024, &[0x90; 16]);
    image
}

/// An ELF kernel with one segment at 2 MiB, and a PVH note.
fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x200];
    let mut put = |offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"\x7fELF\x02\x01\x01");
    put(24, &0x20_0000u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &[56, 0, 2, 0]);
    // PT_LOAD: 16 bytes from 0x180.
    put(64, &[1, 0, 0, 0]);
    put(72, &0x180u64.to_le_bytes());
    put(88, &0x20_0000u64.to_le_bytes());
    put(96, &16u64.to_le_bytes());
    put(104, &16u64.to_le_bytes());
    // PT_NOTE: 20 bytes from 0x140.
    put(120, &[4, 0, 0, 0]);
    put(128, &0x140u64.to_le_bytes());
    put(152, &20u64.to_le_bytes());
    put(160, &20u64.to_le_bytes());
    put(168, &4u64.to_le_bytes());
    put(0x140, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0x14c, b"Xen\0");
    put(0x150, &0x20_0004u32.to_le_bytes());
    put(0x180, &[0xf4; 16]);
    image
}

struct Loaded {
    memory: Memory,
    entry: Entry,
}

fn load(kernel: &[u8], initrd: Option<&[u8]>, text: &str) -> Result<Loaded, BootError> {
    let (kernel, initrd) = (file(kernel), initrd.map(file));
    let initrd = initrd.as_ref().map(NamedTempFile::path);
    let memory = Memory::new(&[(0, MEMORY)]).unwrap();
    let mut kernel = Kernel::open(kernel.path(), initrd, text)?;
    let entry = kernel.load(memory.space(), &memory_map(MEMORY, 0))?;
    Ok(Loaded { memory, entry })
}

impl Loaded {
    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.space().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }
}

#[test]
fn a_bzimage_finds_its_command_line_its_initrd_and_the_memory_map() {
    let loaded = load(&bzimage(5000), Some(b"initial"), "quiet").unwrap();
    let zero_page = u64::from(loaded.entry.esi);
    assert_eq!(loaded.entry.address, 0x10_0000);
    assert_eq!(loaded.bytes(0x10_0000), [0x90; 16]);
    let initrd = loaded.u32(zero_page + 0x218);
    assert_eq!(u64::from(initrd), MEMORY - 4096, "at the end of memory");
    assert_eq!(loaded.u32(zero_page + 0x21c), 7);
    assert_eq!(&loaded.bytes(initrd.into()), b"initial");
    let command_line = loaded.u32(zero_page + 0x228);
    assert_eq!(&loaded.bytes(command_line.into()), b"quiet\0");
    assert_eq!(loaded.bytes::<1>(zero_page + 0x1e8), [5], "ranges");
    assert_eq!(loaded.u32(zero_page + 0x70), layout::TABLES as u32);
}

#[test]
fn a_pvh_kernel_finds_them_too() {
    let loaded = load(&elf(), Some(b"initial"), "quiet").unwrap();
    assert_eq!(loaded.entry.address, 0x20_0004);
    assert_eq!(loaded.bytes(0x20_0000), [0xf4; 16]);
    let info = u64::from(loaded.entry.ebx);
    assert_eq!(loaded.u32(info), 0x336e_c578);
    let module = loaded.u32(info + 16);
    assert_eq!(loaded.u32(u64::from(module) + 8), 7);
    assert_eq!(&loaded.bytes(loaded.u32(module.into()).into()), b"initial");
    assert_eq!(&loaded.bytes(loaded.u32(info + 24).into()), b"quiet\0");
    assert_eq!(loaded.u32(info + 48), 5, "ranges");
}

fn refusal(kernel: &[u8], initrd: Option<&[u8]>, text: &str) -> String {
    load(kernel, initrd, text).err().unwrap().to_string()
}

#[test]
fn what_cannot_be_started_is_refused_in_one_sentence() {
    let long = "x".repeat(256);
    let text = refusal(&bzimage(16), None, &long);
    assert_eq!(text, "--append: 256 bytes, and this kernel takes at most 255");
    let large = vec![0; (MEMORY - 0x150_0000) as usize];
    let text = refusal(&bzimage(16), Some(&large), "");
    assert!(text.contains("--initrd") && text.contains("--memory"), "{text}");
    for odd in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0; 4096], &elf()[..0x100]] {
        let text = refusal(odd, None, "");
        assert!(text.contains("neither a Linux bzImage nor an ELF kernel"), "{text}");
    }
    let mut old = bzimage(16);
    old[0x206] = 9;
    assert!(refusal(&old, None, "").contains("boot protocol 0x209 is too old"));
    let text = Kernel::open(Path::new("/dev/null"), None, "").err().unwrap().to_string();
    assert_eq!(text, "--kernel /dev/null: not a regular file");
}

#[test]
fn it_is_said_why_a_file_is_no_kernel() {
    let mut small = elf();
    small[4] = 1;
    let mut cut = bzimage(512);
    cut[0x1f4..0x1f8].copy_from_slice(&64u32.to_le_bytes());
    for (file, reason) in [
        (&b"#!/bin/sh\n"[..], "(it has the header of neither)"),
        (&small, "(it is a 32-bit ELF file)"),
        (&cut, "(it is cut off: 1536 of 2048 bytes are there)"),
        (&cut[..1023], "(it is cut off: 1023 of 2048 bytes are there)"),
        (&elf()[..0x60], "(Unable to read program header)"),
    ] {
        let text = refusal(file, None, "");
        assert!(text.ends_with(reason), "{text}");
    }
    cut.resize(2048, 0);
    load(&cut, None, "").unwrap();
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    let text = refusal(&bzimage(MEMORY as usize), None, "");
    assert!(text.starts_with("--kernel: its 67109888 bytes have no room"), "{text}");
    // What it says that it needs when it has unpacked itself.
    let mut image = bzimage(16);
    image[0x260..0x264].copy_from_slice(&0x400_0000u32.to_le_bytes());
    let text = refusal(&image, None, "");
    assert!(text.starts_with("--kernel: its 67108864 bytes have no room"), "{text}");
    let mut image = elf();
    image[88..96].copy_from_slice(&MEMORY.to_le_bytes());
    let text = refusal(&image, None, "");
    assert!(text.contains("beyond the guest's memory"), "{text}");
}

/// Linux's own limit is 2 GiB, and memory may go on above 4 GiB.
#[test]
fn an_initrd_is_put_where_memory_is() {
    let (kernel, initrd) = (file(&bzimage(16)), file(b"initial"));
    let memory = Memory::new(&[(0, MEMORY), (layout::ABOVE, 1 << 20)]).unwrap();
    let mut kernel = Kernel::open(kernel.path(), Some(initrd.path()), "").unwrap();
    let entry = kernel.load(memory.space(), &memory_map(MEMORY, 1 << 20)).unwrap();
    assert_eq!(Loaded { memory, entry }.u32(layout::BOOT_PARAMS + 0x218), 0x3ff_f000);
}

#[test]
fn no_initrd_lies_over_a_kernel_that_is_larger_than_it_says() {
    let mut image = bzimage(MEMORY as usize - 0x20_0000);
    image[0x258..0x264].fill(0);
    let text = refusal(&image, Some(&[0; 0x20_0000]), "");
    assert!(text.starts_with("--initrd: its 2097152 bytes have no room"), "{text}");
}

/// What is below 1 MiB is not all memory, and has what the kernel is told.
#[test]
fn no_initrd_begins_below_one_mebibyte() {
    let mut low = elf();
    for at in [24, 88] {
        low[at..at + 8].copy_from_slice(&0x2_0000u64.to_le_bytes());
    }
    low[0x150..0x154].copy_from_slice(&0x2_0000u32.to_le_bytes());
    let (fits, size) = (vec![0; (MEMORY - layout::HIGH) as usize], MEMORY - layout::HIGH + 1);
    load(&low, Some(&fits), "").unwrap();
    let text = refusal(&low, Some(&vec![0; size as usize]), "");
    assert!(text.starts_with(&format!("--initrd: its {size} bytes have no room")), "{text}");
}

#[test]
fn a_kernel_that_is_loaded_above_where_it_likes_to_be_unpacks_itself() {
    let mut vmlinux = elf();
    vmlinux[18] = 62;
    // One section header, at the end of the file.
    vmlinux[40..48].copy_from_slice(&0x1c0u64.to_le_bytes());
    vmlinux[58..61].copy_from_slice(&[64, 0, 1]);
    let mut payload = zstd::bulk::compress(&vmlinux, 1).unwrap();
    payload.extend((vmlinux.len() as u32).to_le_bytes());
    let image = |liked: u64| {
        let mut image = bzimage(16);
        image[0x248] = 16;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image[0x258..0x260].copy_from_slice(&liked.to_le_bytes());
        [image, payload.clone()].concat()
    };
    let mode = |liked| load(&image(liked), None, "").unwrap().entry.mode;
    assert_eq!(mode(0x10_0000), Mode::Long);
    assert_eq!(mode(0xf_f000), Mode::Protected);
}

proptest::proptest! {
    /// Whatever a file has in its headers, it is loaded or refused.
    #[test]
    fn odd_headers_do_no_harm(
        changes in proptest::collection::vec((0usize..0x200, proptest::prelude::any::<u8>()), 1..8),
        pvh: bool,
    ) {
        let mut image = if pvh { elf() } else { bzimage(512) };
        for (place, value) in changes {
            if !pvh || place >= 4 { image[place + if pvh { 0 } else { 0x1f1 - 0xf1 }] = value; }
        }
        let _ = load(&image, Some(b"initial"), "quiet");
    }
}

mod firmware {
    use super::*;
    use crate::boot::firmware::{Firmware, Told, boot_order};
    use crate::machine::acpi;
    use crate::machine::fw_cfg::key;
    use crate::pci::host::Place;

    #[test]
    fn its_end_is_below_one_mebibyte_too() {
        let mut rom = vec![1; 0x4_0000];
        rom[0x2_0000..].fill(2);
        rom[0x3_fff0] = 3;
        let rom = file(&rom);
        let memory = Memory::new(&[(0, MEMORY)]).unwrap();
        let firmware = Firmware::open(Some(rom.path())).unwrap();
        firmware.load(memory.space()).unwrap();
        let at = |address| memory.space().read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!([0xd_ffff, 0xe_0000, 0xf_fff0, 0xf_ffff, 0x10_0000].map(at), [0, 2, 3, 2, 0]);
    }

    #[test]
    fn what_is_none_is_refused_in_a_sentence() {
        for size in [0, 1, 0x1_0000, 0x2_0001, 0x4_1000] {
            let rom = file(&vec![0; size]);
            let text = Firmware::open(Some(rom.path())).err().unwrap().to_string();
            let start =
                format!("--firmware {}: its {size} bytes are no firmware", rom.path().display());
            assert!(text.starts_with(&start), "{text}");
        }
        let text = Firmware::open(Some(Path::new("/nowhere"))).err().unwrap().to_string();
        assert_eq!(text, "--firmware /nowhere: No such file or directory (os error 2)");
    }

    #[test]
    fn it_is_told_of_processors_memory_and_tables() {
        let map = memory_map(0x8000_0000, 0x4000_0000);
        let described = acpi::Description { cpus: &[0, 1, 4, 5], pci_above: (1 << 39, 1 << 40) };
        let tables = acpi::tables(&described).unwrap();
        let contents = Told { cpus: 4, apic_ids: 6, map: &map, tables: &tables }.contents();
        assert_eq!(contents.item(key::CPUS), [4, 0]);
        assert_eq!(contents.item(key::MAX_CPUS), [6, 0]);
        let e820 = contents.file("etc/e820").unwrap();
        let entry = |start: u64, size: u64, kind: u32| {
            [&start.to_le_bytes()[..], &size.to_le_bytes(), &kind.to_le_bytes()].concat()
        };
        assert_eq!(e820[..20], entry(0, 0x10_0000, 1));
        assert_eq!(e820[20..40], entry(0x10_0000, 0x7ff0_0000, 1));
        assert_eq!(e820[e820.len() - 20..], entry(1 << 32, 0x4000_0000, 1));
        for name in ["etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"] {
            assert!(!contents.file(name).unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn it_boots_from_the_first_unit_of_a_controller() {
        let path = |device, function| {
            let (name, path) = boot_order(Place::new(device, function).unwrap());
            assert_eq!(name, "bootorder");
            String::from_utf8(path).unwrap()
        };
        assert_eq!(path(1, 0), "/pci@i0cf8/scsi@1/channel@0/disk@0,0\0");
        assert_eq!(path(17, 2), "/pci@i0cf8/scsi@11,2/channel@0/disk@0,0\0");
    }
}
