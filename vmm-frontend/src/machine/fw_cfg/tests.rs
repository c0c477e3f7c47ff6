use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::frontend::memory::Memory;

const MEMORY: u64 = 0x4000;

/// One with two files.
fn fw_cfg() -> (Arc<FwCfg>, Memory) {
    let memory = Memory::new(&[(0, MEMORY)]).unwrap();
    let mut contents = Contents::default();
    contents.set(key::CPUS, &4u16.to_le_bytes());
    contents.set_file("etc/one", b"first".to_vec());
    contents.set_file("etc/two", b"second".to_vec());
    (FwCfg::new(contents, memory.space().clone()), memory)
}

fn select(fw_cfg: &FwCfg, key: u16) {
    fw_cfg.write(port::SELECTOR, &key.to_le_bytes());
}

/// Bytes read one by one.
fn read<const N: usize>(fw_cfg: &FwCfg) -> [u8; N] {
    [(); N].map(|()| {
        let mut byte = [0xff];
        fw_cfg.read(port::DATA, &mut byte);
        byte[0]
    })
}

/// Has a descriptor at 0x100 done: returns what is at its control afterwards.
fn dma(fw_cfg: &FwCfg, memory: &Memory, control: u32, length: u32, address: u64) -> u32 {
    let mut descriptor = [control.to_be_bytes(), length.to_be_bytes()].concat();
    descriptor.extend(address.to_be_bytes());
    memory.space().write_slice(&descriptor, GuestAddress(0x100)).unwrap();
    fw_cfg.write(port::DMA, &[0; 4]);
    fw_cfg.write(port::DMA_LOW, &0x100u32.to_be_bytes());
    let mut control = [0; 4];
    memory.space().read_slice(&mut control, GuestAddress(0x100)).unwrap();
    u32::from_be_bytes(control)
}

fn at<const N: usize>(memory: &Memory, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.space().read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
fn firmware_sees_that_it_is_there() {
    let (fw_cfg, _) = fw_cfg();
    select(&fw_cfg, key::SIGNATURE);
    assert_eq!(&read(&fw_cfg), b"QEMU");
    select(&fw_cfg, key::ID);
    assert_eq!(read(&fw_cfg), [3, 0, 0, 0]);
    let mut signature = [0; 4];
    fw_cfg.read(port::DMA, &mut signature);
    assert_eq!(&signature, b"QEMU");
    fw_cfg.read(port::DMA_LOW, &mut signature);
    assert_eq!(&signature, b" CFG");
}

#[test]
fn files_are_in_a_directory() {
    let (fw_cfg, _) = fw_cfg();
    fw_cfg.set_file("etc/one", b"changed".to_vec());
    select(&fw_cfg, key::FILE_DIRECTORY);
    assert_eq!(read(&fw_cfg), 2u32.to_be_bytes());
    let mut names = Vec::new();
    for content in [&b"changed"[..], b"second"] {
        let entry: [u8; 64] = read(&fw_cfg);
        assert_eq!(entry[..4], u32::try_from(content.len()).unwrap().to_be_bytes());
        names.push((entry[8..15].to_vec(), u16::from_be_bytes([entry[4], entry[5]]), content));
        assert_eq!(entry[15..], [0; 49]);
    }
    for (name, key, content) in names {
        select(&fw_cfg, key);
        let read: [u8; 8] = read(&fw_cfg);
        assert_eq!(&read[..content.len()], content, "{name:?}");
        assert_eq!(read[content.len()..], [0; 8][content.len()..], "zeroes behind its end");
    }
}

#[test]
fn what_is_not_there_reads_as_zeroes() {
    let (fw_cfg, _) = fw_cfg();
    select(&fw_cfg, 0x7f);
    assert_eq!(read(&fw_cfg), [0; 4]);
    select(&fw_cfg, key::CPUS);
    let _: [u8; 2] = read(&fw_cfg);
    fw_cfg.reset();
    assert_eq!(&read(&fw_cfg), b"QEMU", "a reset selects the first item");
}

#[test]
fn dma_selects_skips_and_reads() {
    let (fw_cfg, memory) = fw_cfg();
    let select = u32::from(key::FILE_FIRST + 1) << 16 | dma::SELECT;
    assert_eq!(dma(&fw_cfg, &memory, select | dma::SKIP, 3, 0), 0);
    memory.space().write_slice(&[0xff; 6], GuestAddress(0x200)).unwrap();
    assert_eq!(dma(&fw_cfg, &memory, dma::READ, 2, 0x200), 0);
    assert_eq!(&at(&memory, 0x200), b"on\xff\xff\xff\xff");
    assert_eq!(dma(&fw_cfg, &memory, dma::READ, 5, 0x201), 0);
    assert_eq!(&at(&memory, 0x200), b"od\0\0\0\0", "zeroes behind its end");
}

#[test]
fn dma_that_cannot_be_done_is_an_error() {
    let (fw_cfg, memory) = fw_cfg();
    let select = u32::from(key::FILE_FIRST) << 16 | dma::SELECT;
    for address in [MEMORY - 4, MEMORY, u64::MAX, u64::MAX - 4] {
        assert_eq!(dma(&fw_cfg, &memory, select | dma::READ, 5, address), dma::ERROR);
    }
    assert_eq!(dma(&fw_cfg, &memory, select | dma::READ, u32::MAX, 0x2000), dma::ERROR);
    assert_eq!(dma(&fw_cfg, &memory, select | dma::WRITE, 1, 0x200), dma::ERROR);
    assert_eq!(dma(&fw_cfg, &memory, select, u32::MAX, u64::MAX), 0, "nothing to do");
    // A descriptor at the end of memory, and one where there is none.
    for descriptor in [MEMORY - 8, MEMORY, 0xffff_ffff] {
        fw_cfg.write(port::DMA_LOW, &u32::try_from(descriptor).unwrap().to_be_bytes());
    }
    assert_eq!(at(&memory, MEMORY - 8), dma::ERROR.to_be_bytes());
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in prop::collection::vec((any::<bool>(), 0..12u64, 1..9usize, any::<u64>()), 0..64),
    ) {
        let (fw_cfg, _memory) = fw_cfg();
        for (write, offset, width, value) in accesses {
            let width = width.min(usize::try_from(port::COUNT - offset).unwrap());
            let mut data = value.to_le_bytes();
            match write {
                true => fw_cfg.write(offset, &data[..width]),
                false => fw_cfg.read(offset, &mut data[..width]),
            }
        }
    }

    /// Whatever a descriptor says, wherever it lies: memory is written where it says, and its control
    /// is zero or an error.
    #[test]
    fn no_descriptor_does_harm(
        control: u16,
        key in prop_oneof![0u16..0x30, any::<u16>()],
        length in prop_oneof![0u32..0x100, any::<u32>()],
        address in prop_oneof![0..MEMORY, Just(u64::MAX), any::<u64>()],
        descriptor in prop_oneof![0..MEMORY - 16, MEMORY - 16..MEMORY, any::<u64>()],
    ) {
        let (fw_cfg, memory) = fw_cfg();
        let control = u32::from(key) << 16 | u32::from(control);
        let mut bytes = [control.to_be_bytes(), length.to_be_bytes()].concat();
        bytes.extend(address.to_be_bytes());
        let there = memory.space().write_slice(&bytes, GuestAddress(descriptor)).is_ok();
        let [high, low] = [(descriptor >> 32) as u32, descriptor as u32];
        fw_cfg.write(port::DMA, &high.to_be_bytes());
        fw_cfg.write(port::DMA_LOW, &low.to_be_bytes());
        if there {
            let control = u32::from_be_bytes(at(&memory, descriptor));
            prop_assert!(control == 0 || control == dma::ERROR);
        }
    }
}
