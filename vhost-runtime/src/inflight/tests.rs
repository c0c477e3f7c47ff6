use super::*;
use proptest::prelude::*;

fn region(queues: u16, size: u16) -> (File, Arc<Region>) {
    let (file, bytes) = Region::create(Shape::of_queues(queues, size)).unwrap();
    let region = Region::map(&file, Shape::of_queues(queues, size), bytes, 0).unwrap();
    (file, region)
}

#[test]
fn requests_under_way_are_found_again_in_their_order() {
    let (file, first) = region(2, 8);
    let mut record = first.queue(1, 8).unwrap();
    assert!(!first.is_in_use());
    assert_eq!(record.recover(0), None);
    assert!(first.is_in_use());
    for head in [5, 2, 7] {
        record.begin(head);
    }
    record.finishing(2);
    record.finished(&[2], 1);
    drop((record, first));
    let again =
        Region::map(&file, Shape::of_queues(2, 8), file.metadata().unwrap().len(), 0).unwrap();
    assert_eq!(again.queue(1, 8).unwrap().recover(1).unwrap(), [5, 7]);
    assert_eq!(again.queue(0, 8).unwrap().recover(0), None);
}

#[test]
fn a_request_told_to_the_guest_just_before_death_is_not_repeated() {
    let (_file, region) = region(1, 8);
    let mut record = region.queue(0, 8).unwrap();
    record.recover(0);
    record.begin(3);
    record.begin(4);
    record.finishing(3);
    // the used index was stored, then the process was killed
    assert_eq!(region.queue(0, 8).unwrap().recover(1).unwrap(), [4]);
    // …or it was killed before the used index was stored
    record.begin(3);
    record.finishing(3);
    assert_eq!(region.queue(0, 8).unwrap().recover(1).unwrap(), [4, 3]);
}

#[test]
fn requests_told_to_the_guest_together_just_before_death_are_not_repeated() {
    let (_file, region) = region(1, 8);
    let mut record = region.queue(0, 8).unwrap();
    record.recover(0);
    for head in [6, 1, 3, 4] {
        record.begin(head);
    }
    record.finishing(6);
    record.finished(&[6], 1);
    record.begin(6);
    record.finishing(3);
    record.finishing(1);
    // the used index was stored for both, then the process was killed
    assert_eq!(region.queue(0, 8).unwrap().recover(3).unwrap(), [4, 6]);
}

#[test]
fn a_record_of_another_version_leaves_nothing_behind() {
    let (_file, region) = region(1, 8);
    let mut record = region.queue(0, 8).unwrap();
    record.begin(3);
    region.part(0).unwrap().version().store(VERSION + 1, Ordering::Relaxed);
    assert_eq!(record.recover(0), None);
    assert_eq!(region.queue(0, 8).unwrap().recover(0), Some(vec![]), "not after a kill either");
}

#[test]
fn a_region_that_does_not_fit_is_refused() {
    let (file, bytes) = Region::create(Shape::of_queues(1, 8)).unwrap();
    assert!(Region::map(&file, Shape::of_queues(1, 1024), bytes, 0).is_err());
    assert!(Region::map(&file, Shape::of_queues(2, 8), bytes, 0).is_err());
    assert!(Region::map(&file, Shape::of_queues(1, 8), bytes, 64).is_err());
    assert!(Region::map(&file, Shape::of_queues(1, 8), bytes, u64::MAX).is_err());
    assert!(Region::map(&file, Shape::of_queues(0, 8), bytes, 0).is_err());
    let region = Region::map(&file, Shape::of_queues(1, 8), bytes, 0).unwrap();
    assert!(region.queue(1, 8).is_none());
    assert!(region.queue(0, 16).is_none());
}

#[test]
fn a_region_cannot_be_taken_away_from_who_maps_it() {
    let (file, bytes) = Region::create(Shape::of_queues(1, 8)).unwrap();
    assert!(file.set_len(0).is_err() && file.set_len(bytes * 2).is_err());
}

#[test]
fn doublewords_behind_the_records_are_everybodys() {
    let shape = Shape { queues: 3, size: 8, words: 100 };
    let (file, bytes) = Region::create(shape).unwrap();
    let (one, other) = (Region::map(&file, shape, bytes, 0), Region::map(&file, shape, bytes, 0));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.words().len(), bytes), (100, 4096 + 400));
    let mut record = one.queue(2, 8).unwrap();
    record.recover(0);
    record.begin(7);
    assert!(one.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
    one.words()[99].store(7, Ordering::Relaxed);
    assert_eq!(other.words()[99].load(Ordering::Relaxed), 7);
    assert!(Region::map(&file, Shape { words: 101, ..shape }, bytes, 0).is_err());
}

proptest! {
    #[test]
    fn any_bytes_give_distinct_heads_of_the_ring(
        bytes in proptest::collection::vec(any::<u8>(), 192), used: u16,
    ) {
        use std::os::unix::fs::FileExt;
        let (file, region) = region(1, 8);
        file.write_all_at(&bytes, 0).unwrap();
        let mut heads = region.queue(0, 8).unwrap().recover(used).unwrap_or_default();
        prop_assert!(heads.iter().all(|&head| head < 8));
        heads.sort_unstable();
        heads.dedup();
        prop_assert!(heads.len() <= 8);
    }
}

/// A packed ring's record, and what is in the ring.
mod packed {
    use super::*;
    use crate::queue::Position;
    use virtio_queue::desc::packed::Descriptor;

    const START: Position = Position::START;

    fn record(region: &Arc<Region>) -> PackedRecord {
        region.packed_queue(0, 8).unwrap()
    }

    /// With nothing in it.
    fn fresh(region: &Arc<Region>) -> PackedRecord {
        let mut record = record(region);
        assert_eq!(record.recover(|_| None), None);
        record.begin_at(START);
        record
    }

    fn take(record: &mut PackedRecord, ids: &[u16]) -> u16 {
        for &id in ids {
            record.store(Descriptor::new(
                u64::from(id) << 32,
                u32::from(id),
                id,
                START.available(),
            ));
        }
        record.begin()
    }

    /// The chains that are found, by the IDs of their descriptors, in a ring that has these flags.
    fn found(region: &Arc<Region>, flags: u16) -> (Position, Vec<Vec<u16>>) {
        let mut record = record(region);
        let Recovered { used, under_way } = record.recover(|_| Some(flags)).unwrap();
        let ids = |taken| record.chain(taken).map(|descriptor| descriptor.id()).collect();
        (used, under_way.into_iter().map(ids).collect())
    }

    #[test]
    fn chains_under_way_are_found_again_with_their_descriptors() {
        let (_file, region) = region(1, 8);
        let mut record = fresh(&region);
        let [first, _, third] = [&[1, 2][..], &[3], &[4, 5, 6]].map(|ids| take(&mut record, ids));
        let used = START.after(2, 8);
        record.finishing(&[first], used);
        record.finished(&[first]);
        let fourth = take(&mut record, &[7]);
        record.undo(third);
        assert_eq!(found(&region, 0), (used, vec![vec![3], vec![7]]));
        let mut next = super::packed::record(&region);
        next.recover(|_| None).unwrap();
        let again = next.chain(Taken { entry: fourth, descriptors: 1 }).next().unwrap();
        assert_eq!((again.addr().0, again.len()), (7 << 32, 7));
        // All entries are free but two.
        assert_eq!((0..6).map(|id| take(&mut next, &[id])).filter(|&entry| entry < 8).count(), 6);
        assert_eq!(take(&mut next, &[9]), 8, "none is left");
    }

    /// Killed between any two steps of a batch.
    #[test]
    fn a_batch_counts_when_the_driver_could_see_it() {
        let (_file, region) = region(1, 8);
        let mut record = fresh(&region);
        let [first, second, _third] = [1, 2, 3].map(|id| take(&mut record, &[id]));
        let (before, after) = (vec![vec![1], vec![2], vec![3]], vec![vec![3]]);
        let used = START.after(2, 8);
        record.finishing(&[second, first], used);
        // Neither side has looked at it, as what was found before is written down again.
        let seen = |flags| {
            let (file, copy) = super::region(1, 8);
            std::io::copy(&mut read(&region), &mut &file).unwrap();
            found(&copy, flags)
        };
        assert_eq!(seen(START.available()), (START, before), "not yet");
        assert_eq!(seen(START.used()), (used, after.clone()), "used");
        let next_lap = Position { wrap: !START.wrap, ..START };
        assert_eq!(seen(next_lap.available()), (used, after.clone()), "and offered again");
        record.finished(&[second, first]);
        assert_eq!(seen(START.used()), (used, after));
    }

    /// What a region has in it.
    fn read(region: &Arc<Region>) -> impl std::io::Read {
        let part = region.part(0).unwrap();
        let words = (0..part.length).step_by(8);
        let bytes = words.flat_map(|at| part.u64(at).load(Ordering::Relaxed).to_ne_bytes());
        std::io::Cursor::new(bytes.collect::<Vec<u8>>())
    }

    #[test]
    fn a_chain_that_was_only_half_taken_is_none() {
        let (_file, region) = region(1, 8);
        let mut record = fresh(&region);
        take(&mut record, &[1]);
        record.store(Descriptor::new(0, 0, 2, 0));
        assert_eq!(found(&region, 0), (START, vec![vec![1]]));
    }

    #[test]
    fn an_earlier_version_s_region_has_no_room_for_it() {
        let shape = Shape::of_queues(2, 8);
        let (file, bytes) = Region::create(shape).unwrap();
        assert_eq!(bytes, 2 * 320);
        let map = |size| Region::map(&file, shape, size, 0).unwrap();
        assert!(map(bytes).packed_queue(1, 8).is_some());
        assert!(map(2 * 192).packed_queue(1, 8).is_none());
        assert!(map(2 * 192).queue(1, 8).is_some());
    }
}
