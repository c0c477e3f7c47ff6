//! A packed virtqueue whose driver is hostile: descriptors, event suppression structures, sizes and
//! positions, the time of every change, and the record of a process that was killed.
//!
//! Whatever comes: buffers within guest memory, no more requests than the ring holds, no buffer ID
//! twice at once, and used descriptors that say of each completion what the device said.

#![no_main]

use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_runtime::chain::Chain;
use vhost_runtime::inflight::{Region, Shape};
use vhost_runtime::memory::{Memory, RegionSpec};
use vhost_runtime::queue::{Base, Position, Queue, RingSetup};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Two regions side by side, and one after a gap.
const REGIONS: [(u64, u64); 3] = [(0, 0x8000), (0x8000, 0x8000), (0x2_0000, 0x4000)];
/// Where a driver that keeps to the rules has its ring, and what the two sides want to be told.
const RING: u64 = 0;
const DRIVER: u64 = 0x4000;
const DEVICE: u64 = 0x5000;
/// Where it has indirect tables.
const INDIRECT: u64 = 0x6000;
/// Descriptors of the largest ring, but for odd ones.
const MOST: u16 = 64;

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

/// A descriptor that is available at a position, unless its flags take that back.
fn descriptor(input: &mut Unstructured<'_>, size: u16, at: Position) -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let length: u32 = match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => 16 * input.int_in_range(0..=64)?,
        _ => input.int_in_range(0..=0x400)?,
    };
    let flags: u16 = match input.int_in_range(0..=15)? {
        0 => input.arbitrary()?,
        other => other & 7,
    };
    let id: u16 =
        if input.ratio(1, 16)? { input.arbitrary()? } else { input.int_in_range(0..=size)? };
    bytes[..8].copy_from_slice(&address(input)?.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&id.to_le_bytes());
    bytes[14..].copy_from_slice(&(flags ^ at.available()).to_le_bytes());
    Ok(bytes)
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let memory = memory();
    clear(&memory);
    let odd = input.ratio(1, 8)?;
    let mut place = |usual, align: u64| -> Result<u64> {
        Ok(if odd { address(input)? & !(align - 1) } else { usual })
    };
    let (descriptors, available, used) = (place(RING, 16)?, place(DRIVER, 4)?, place(DEVICE, 4)?);
    let size: u16 = if odd { input.arbitrary()? } else { input.int_in_range(1..=MOST)? };
    let base: u32 = if input.arbitrary()? { input.arbitrary()? } else { 0x8000_8000 };
    let base = Base::parse(base, true).expect("32 bits");
    let event_index = input.arbitrary()?;
    let indirect = input.ratio(3, 4)?;
    let setup = RingSetup { size, descriptors, available, used, base, event_index, indirect };

    let shape = Shape::of_queues(1, size.clamp(1, MOST));
    let (file, bytes) = Region::create(shape).expect("a region");
    if input.ratio(1, 4)? {
        // Anything, with the head of a packed ring's record.
        let head = [&(1u64 << 34).to_ne_bytes()[..], &1u16.to_ne_bytes(), &size.to_ne_bytes()];
        let head = head.concat();
        let count = input.int_in_range(0..=bytes as usize - head.len())?;
        let rest = input.bytes(count.min(input.len()))?;
        file.write_all_at(&[&head, rest].concat(), 0).expect("it is as large");
    }
    let region = || Region::map(&file, shape, bytes, 0).expect("its own region");
    let start = || Queue::start(0, setup, Arc::clone(&memory), Some(&region()));
    let Ok(mut queue) = start() else { return Ok(()) };
    assert!((1..=0x8000).contains(&size), "a ring of {size} descriptors was started");

    let Base::Packed { available: mut next, .. } = queue.base() else { unreachable!("packed") };
    let mut under_way: Vec<Chain> = Vec::new();
    while !input.is_empty() {
        match input.int_in_range(0..=15)? {
            0..=4 => {
                let offset = 16 * u64::from(next.index);
                let bytes = descriptor(input, size, next)?;
                poke(&memory, descriptors.wrapping_add(offset), &bytes);
                next = next.after(1, size);
            }
            5 => {
                let place = INDIRECT + 16 * input.int_in_range(0..=31)?;
                poke(&memory, place, &descriptor(input, 31, next)?);
            }
            6 => {
                let offset = 16 * u64::from(input.int_in_range(0..=size)?) + 8;
                poke(&memory, descriptors.wrapping_add(offset), &input.arbitrary::<[u8; 8]>()?);
            }
            7 => {
                let address = address(input)?;
                poke(&memory, address, &input.arbitrary::<[u8; 8]>()?);
            }
            8 => poke(&memory, available, &input.arbitrary::<[u8; 4]>()?),
            9 | 10 => {
                while let Some(chain) = queue.pop() {
                    check(&memory, &chain);
                    let same = |other: &Chain| other.head() == chain.head();
                    assert!(!under_way.iter().any(same), "buffer ID {} twice", chain.head());
                    under_way.push(chain);
                    assert!(under_way.len() <= usize::from(size), "more than the ring holds");
                }
                assert!(queue.pop().is_none(), "a request after the last");
            }
            11 | 12 if !under_way.is_empty() => {
                let chain = under_way.swap_remove(input.choose_index(under_way.len())?);
                let (id, written) = (chain.head(), input.arbitrary()?);
                let Base::Packed { used: at, .. } = queue.base() else { unreachable!("packed") };
                queue.complete(chain, written);
                queue.publish();
                if !queue.is_broken() {
                    check_used(&memory, descriptors, at, id, written);
                }
                queue.notify();
            }
            13 => drop(queue.enable_kicks()),
            14 => queue.disable_kicks(),
            15 => {
                // Killed.
                under_way.clear();
                let Ok(another) = start() else { return Ok(()) };
                queue = another;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_used(memory: &Memory, ring: u64, at: Position, id: u16, written: u32) {
    let mut bytes = [0; 8];
    let place = ring.wrapping_add(16 * u64::from(at.index) + 8);
    memory.space().read_slice(&mut bytes, GuestAddress(place)).expect("mapped");
    let flags = at.used() | if written > 0 { 2 } else { 0 };
    let expected = [&written.to_le_bytes()[..], &id.to_le_bytes(), &flags.to_le_bytes()].concat();
    assert_eq!(bytes[..], expected);
}

fn check(memory: &Memory, chain: &Chain) {
    for buffers in [chain.readable(), chain.writable()] {
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
}
