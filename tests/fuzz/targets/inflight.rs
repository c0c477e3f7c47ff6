//! The record of requests under way: any bytes in the frontend's region, and a device process that
//! dies at any moment.
//!
//! What was begun and not finished is what the next process finds, oldest first; hostile bytes give
//! heads of the ring, each once.

#![no_main]

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_runtime::inflight::{Region, Shape};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    if input.arbitrary()? { hostile(input) } else { killed(input) }
}

fn hostile(input: &mut Unstructured<'_>) -> Result<()> {
    let odd = input.ratio(1, 4)?;
    let queues = if odd { input.arbitrary()? } else { input.int_in_range(1..=4)? };
    let size: u16 = if odd { input.arbitrary()? } else { input.int_in_range(1..=64)? };
    let file = memfd(input.int_in_range(0..=0x4000)?);
    let offset = if odd { input.arbitrary()? } else { 16 * input.int_in_range(0..=16)? };
    let length = if odd { input.arbitrary()? } else { 0x2000 };
    let index = input.int_in_range(0..=4)?;
    let ring = input.int_in_range(0..=size)?;
    let used = input.arbitrary()?;
    let version_is_ours = input.ratio(3, 4)?;
    let words = if odd { input.arbitrary()? } else { input.int_in_range(0..=64)? };
    let shape = Shape { queues, size, words };
    let Ok(region) = Region::map(&file, shape, length, offset) else { return Ok(()) };
    // The last one is there too.
    assert_eq!(region.words().len(), words);
    let last = region.words().last().map(|word| word.load(Ordering::Relaxed));
    assert_eq!(last.is_some(), words > 0);
    let bytes = input.bytes(input.len())?;
    file.write_all_at(bytes, 0).expect("a memfd grows");
    let Some(mut record) = region.queue(index, ring) else { return Ok(()) };
    if version_is_ours {
        // Each queue's part begins with 8 bytes of features, then the version. Where there is room,
        // a part is large enough for a packed ring's record.
        let stride = |entry: u64| (entry * u64::from(size) + entry).next_multiple_of(64);
        let packed = words == 0 && stride(32) * u64::from(queues) <= length;
        let at = offset + stride(if packed { 32 } else { 16 }) * u64::from(index);
        let head = [&0u64.to_ne_bytes()[..], &1u16.to_ne_bytes()].concat();
        file.write_all_at(&head, at).expect("within the region");
    }
    let mut heads = record.recover(used).unwrap_or_default();
    assert!(heads.iter().all(|&head| head < ring), "{heads:?} of {ring}");
    let again = record.recover(used).unwrap_or_default();
    assert_eq!(again, heads, "read twice");
    for &head in &heads {
        record.begin(head);
        record.finishing(head);
        record.finished(&[head], used);
    }
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads.len(), again.len(), "a head twice");
    assert!(record.recover(used).unwrap_or_default().is_empty(), "all were finished");
    Ok(())
}

fn killed(input: &mut Unstructured<'_>) -> Result<()> {
    const SIZE: u16 = 16;
    let (file, bytes) = Region::create(Shape::of_queues(2, SIZE)).expect("a region");
    let map = || Region::map(&file, Shape::of_queues(2, SIZE), bytes, 0).expect("its own region");
    let index = input.int_in_range(0..=1)?;
    let mut used: u16 = input.arbitrary()?;
    let mut record = map().queue(index, SIZE).expect("a record");
    assert!(record.recover(used).unwrap_or_default().is_empty());
    let mut under_way: Vec<u16> = Vec::new();
    while !input.is_empty() {
        match input.int_in_range(0..=3)? {
            0 => {
                let head = input.int_in_range(0..=SIZE - 1)?;
                if !under_way.contains(&head) {
                    record.begin(head);
                    under_way.push(head);
                }
                continue;
            }
            1 if !under_way.is_empty() => {
                let mut left = under_way.clone();
                let batch: Vec<u16> = (0..input.int_in_range(1..=under_way.len())?)
                    .map(|_| Ok(left.swap_remove(input.choose_index(left.len())?)))
                    .collect::<Result<_>>()?;
                batch.iter().for_each(|&head| record.finishing(head));
                if input.arbitrary()? {
                    // The driver sees them…
                    used = used.wrapping_add(batch.len() as u16);
                    under_way.retain(|head| !batch.contains(head));
                    if input.arbitrary()? {
                        // … and we live on.
                        record.finished(&batch, used);
                        continue;
                    }
                }
            }
            2 => {}
            _ => continue,
        }
        drop(record);
        record = map().queue(index, SIZE).expect("a record");
        assert_eq!(record.recover(used).unwrap_or_default(), under_way, "after a kill");
        // The next process takes them again, in the order in which they were found.
        under_way.iter().for_each(|&head| record.begin(head));
    }
    Ok(())
}
