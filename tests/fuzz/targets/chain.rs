//! A virtqueue whose driver is hostile: descriptor tables, indices and the time of every change.
//!
//! Whatever comes: buffers within guest memory, lengths that add up, each request once, and a used
//! ring that says of each completion what the device said.

#![no_main]

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_runtime::chain::{Buffers, Chain, MAX_DESCRIPTORS};
use vhost_runtime::memory::{Memory, RegionSpec};
use vhost_runtime::queue::{Base, Queue, RingSetup};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Two regions side by side, and one after a gap.
const REGIONS: [(u64, u64); 3] = [(0, 0x8000), (0x8000, 0x8000), (0x2_0000, 0x4000)];
/// Where a driver that keeps to the rules has its rings.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x5000;
/// Where it has indirect tables.
const INDIRECT: u64 = 0x6000;

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

/// Mapped once; the driver's bytes of one input are gone with the next.
fn memory() -> Arc<Memory> {
    static MEMORY: OnceLock<Arc<Memory>> = OnceLock::new();
    let make = || {
        let region = |(guest, size)| RegionSpec {
            guest,
            size,
            user: guest + 0x7000_0000,
            offset: 0,
            file: memfd(size),
        };
        Arc::new(Memory::new(REGIONS.map(region), Arc::default()).expect("three regions"))
    };
    Arc::clone(MEMORY.get_or_init(make))
}

fn clear(memory: &Memory) {
    for (guest, size) in REGIONS {
        let zeroes = vec![0; size as usize];
        memory.space().write_slice(&zeroes, GuestAddress(guest)).expect("mapped");
    }
}

/// What may be written outside the regions is refused, as the driver's own processor would.
fn poke(memory: &Memory, address: u64, bytes: &[u8]) {
    let _ = memory.space().write_slice(bytes, GuestAddress(address));
}

/// Where the rings may lie anywhere, so may what is in them.
fn at(base: u64, offset: u64) -> u64 {
    base.wrapping_add(offset)
}

fn peek_u16(memory: &Memory, address: u64) -> Option<u16> {
    memory.space().read_obj(GuestAddress(address)).ok()
}

fn address(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => u64::MAX - input.int_in_range(0..=64)?,
        2 => 0x7fe0 + input.int_in_range(0..=64)?,
        3 => 0x2_3fe0 + input.int_in_range(0..=64)?,
        4 => INDIRECT + 16 * input.int_in_range(0..=15)?,
        _ => 0x8000 + input.int_in_range(0..=0x8000)?,
    })
}

fn descriptor(input: &mut Unstructured<'_>, size: u16) -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let length: u32 = match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => 0,
        2 => 16 * input.int_in_range(0..=16)?,
        _ => input.int_in_range(0..=0x400)?,
    };
    let flags: u16 = match input.int_in_range(0..=15)? {
        0 => input.arbitrary()?,
        other => (other & 7) as u16,
    };
    let next: u16 =
        if input.ratio(1, 16)? { input.arbitrary()? } else { input.int_in_range(0..=size)? };
    bytes[..8].copy_from_slice(&address(input)?.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    Ok(bytes)
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let memory = memory();
    clear(&memory);
    let odd = input.ratio(1, 8)?;
    let mut ring = |usual, align: u64| -> Result<u64> {
        Ok(if odd { address(input)? & !(align - 1) } else { usual })
    };
    let (descriptors, available, used) =
        (ring(DESCRIPTORS, 16)?, ring(AVAILABLE, 2)?, ring(USED, 4)?);
    let size = if odd { input.arbitrary()? } else { 1 << input.int_in_range(0..=8)? };
    let start: u16 = if input.arbitrary()? { input.arbitrary()? } else { 0 };
    let base = Base::Split(start);
    let event_index = input.arbitrary()?;
    let indirect = input.ratio(3, 4)?;
    let setup = RingSetup { size, descriptors, available, used, base, event_index, indirect };
    // The driver goes on where the device does.
    poke(&memory, at(available, 2), &start.to_le_bytes());
    poke(&memory, at(used, 2), &start.to_le_bytes());
    let Ok(mut queue) = Queue::start(0, setup, Arc::clone(&memory), None) else { return Ok(()) };
    assert!(size.is_power_of_two(), "a ring of {size} descriptors was started");

    let mut told = peek_u16(&memory, at(used, 2)).unwrap_or(0);
    let mut under_way: Vec<Chain> = Vec::new();
    // What the driver made available at most: what is taken can't be more.
    let mut offered = 0;
    let mut taken = 0;
    while !input.is_empty() {
        match input.int_in_range(0..=15)? {
            0..=3 => {
                let offset = 16 * u64::from(input.int_in_range(0..=size)?);
                poke(&memory, at(descriptors, offset), &descriptor(input, size)?);
            }
            4 => {
                let place = INDIRECT + 16 * input.int_in_range(0..=31)?;
                poke(&memory, place, &descriptor(input, 31)?);
            }
            5..=7 => {
                // A head, as a driver that keeps to the rules makes it available.
                let head: u16 = input.int_in_range(0..=size)?;
                let index = peek_u16(&memory, at(available, 2)).unwrap_or(0);
                let slot = at(available, 4 + 2 * u64::from(index % size));
                poke(&memory, slot, &head.to_le_bytes());
                poke(&memory, at(available, 2), &index.wrapping_add(1).to_le_bytes());
            }
            8 => {
                let address = address(input)?;
                let bytes: [u8; 8] = input.arbitrary()?;
                poke(&memory, address, &bytes);
            }
            9 => poke(&memory, at(available, 2), &input.arbitrary::<[u8; 2]>()?),
            10 => poke(&memory, available, &input.arbitrary::<[u8; 2]>()?),
            11 | 12 => {
                offered += u64::from(size);
                while let Some(chain) = queue.pop() {
                    taken += 1;
                    assert!(taken <= offered, "more requests than the ring can hold");
                    check(&memory, &chain);
                    under_way.push(chain);
                }
                assert!(queue.pop().is_none(), "a request after the last");
            }
            13 if !under_way.is_empty() => {
                let chain = under_way.swap_remove(input.choose_index(under_way.len())?);
                let (head, written) = (chain.head(), input.arbitrary()?);
                let broken = queue.is_broken();
                queue.complete(chain, written);
                queue.publish();
                if !broken && !queue.is_broken() {
                    let slot = at(used, 4 + 8 * u64::from(told % size));
                    let mut element = [0; 8];
                    memory.space().read_slice(&mut element, GuestAddress(slot)).expect("mapped");
                    let expected = [u32::from(head).to_le_bytes(), written.to_le_bytes()].concat();
                    assert_eq!(element[..], expected);
                    told = told.wrapping_add(1);
                    assert_eq!(peek_u16(&memory, at(used, 2)), Some(told));
                }
                queue.notify();
            }
            14 => drop(queue.enable_kicks()),
            15 => queue.disable_kicks(),
            _ => {}
        }
    }
    Ok(())
}

fn check(memory: &Memory, chain: &Chain) {
    let (readable, writable) = (chain.readable(), chain.writable());
    let mut pieces = 0;
    for buffers in [readable, writable] {
        pieces += buffers.iovecs().count();
        check_buffers(memory, buffers);
        let third = buffers.len() / 3;
        let (first, rest) = buffers.split_at(third);
        assert_eq!((first.len(), rest.len()), (third, buffers.len() - third));
        check_buffers(memory, first);
        check_buffers(memory, rest);
    }
    // A descriptor has at most three pieces: one in each region.
    assert!(pieces <= 3 * MAX_DESCRIPTORS, "{pieces} pieces");
    if readable.len() <= 1 << 16 {
        assert_eq!(readable.to_vec().len() as u64, readable.len());
    }
    let mut few = [0; 100];
    assert_eq!(readable.read(&mut few) as u64, readable.len().min(100));
    // Only where this can't change the rings: what they then say is the driver's word, not ours.
    let (head, _) = writable.split_at(0);
    assert_eq!(head.write(&[1, 2, 3]), 0);
}

fn check_buffers(memory: &Memory, buffers: Buffers<'_>) {
    let mut length = 0;
    for piece in buffers.iovecs() {
        length += piece.iov_len as u64;
        let start = piece.iov_base as u64;
        let inside = memory.space().iter().any(|region| {
            let base = region.get_host_address(vm_memory::MemoryRegionAddress(0));
            let base = base.expect("a region has a first byte") as u64;
            start >= base && start + piece.iov_len as u64 <= base + region.len()
        });
        assert!(inside && piece.iov_len > 0, "{piece:?} is not guest memory");
    }
    assert_eq!(length, buffers.len());
}
