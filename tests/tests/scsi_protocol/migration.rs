//! What a live migration needs: the dirty log, and the device's state.

use std::collections::BTreeSet;
use std::sync::Arc;

use lab::driver::{Data, Initiator, InitiatorOptions};
use lab::{Error, Scsi};
use vmm_frontend::frontend::ring::RingFeatures;
use vmm_frontend::frontend::{Base, DirtyLog, FrontendError, ProtocolFeatures};

use crate::common::{BLOCK, DISK, Sent, clear_attention, one_disk, read16, works};

const PAGE: u64 = 4096;
const LENGTH: u64 = 32 << 10;

/// Reads, and returns the pages that the device wrote for that: payload, response, used ring.
fn read(initiator: &mut Initiator) -> Result<BTreeSet<u64>, Error> {
    let queue = &mut initiator.queues[0];
    let (cdb, data) = (read16(0, (LENGTH / BLOCK as u64) as u32), Data::In(LENGTH as usize));
    let command = lab::driver::Command { lun: DISK, tag: 0, cdb: &cdb, data };
    let slot = queue.submit(&command)?.expect("a free slot");
    queue.slots.publish()?;
    let done = queue.wait()?;
    assert_eq!((done.response, done.status, done.residual), (0, 0, 0));
    let place = queue.slots.place(slot);
    queue.slots.release(slot);
    // A page may be marked a little after the driver sees it written: when the features are set,
    // all of it is, as it is when the ring has stopped.
    let device = initiator.session.device();
    device.set_features(device.features()).sent()?;
    let queue = &initiator.queues[0];
    let ring = &queue.slots.ring;
    let used = if ring.features().packed { ring.layout().descriptors } else { ring.layout().used };
    let payload = (place.data..place.data + LENGTH).step_by(PAGE as usize);
    Ok(payload.chain([place.response, used]).map(|address| address & !(PAGE - 1)).collect())
}

/// The pages marked since the last look. By what a packed ring's driver is told of kicks, which is a
/// page of its own, the device may have been late.
fn marked(initiator: &Initiator, log: &DirtyLog) -> BTreeSet<u64> {
    let ring = &initiator.queues[0].slots.ring;
    let kicks = ring.features().packed.then(|| ring.layout().used & !(PAGE - 1));
    log.take().into_iter().filter(|&page| Some(page) != kicks).collect()
}

#[test]
fn every_page_that_a_read_writes_is_marked() -> Result<(), Error> {
    for (full, packed) in [(true, false), (false, false), (true, true), (false, true)] {
        let ring = RingFeatures { event_index: full, indirect: full, packed };
        let scsi = one_disk()?;
        let options = InitiatorOptions { ring, ..InitiatorOptions::default() };
        let mut initiator = Initiator::connect(&scsi.socket(), options)?;
        clear_attention(&mut initiator, DISK)?;
        let log = Arc::new(DirtyLog::new(initiator.session.memory()).sent()?);
        initiator.session.device().set_log(&log).sent()?;
        read(&mut initiator)?;
        assert_eq!(marked(&initiator, &log), BTreeSet::new(), "not asked for");
        initiator.session.set_log(Some(Arc::clone(&log))).sent()?;
        for _ in 0..3 {
            let written = read(&mut initiator)?;
            assert_eq!(marked(&initiator, &log), written);
        }
        initiator.session.set_log(None).sent()?;
        read(&mut initiator)?;
        assert_eq!(marked(&initiator, &log), BTreeSet::new(), "no longer asked for");
    }
    Ok(())
}

#[test]
fn a_new_memory_table_keeps_the_log() -> Result<(), Error> {
    for unwanted in [ProtocolFeatures::CONFIGURE_MEM_SLOTS, ProtocolFeatures::empty()] {
        let scsi = one_disk()?;
        let mut options = InitiatorOptions::default();
        options.wanted = options.wanted.without(unwanted);
        let mut initiator = Initiator::connect(&scsi.socket(), options)?;
        clear_attention(&mut initiator, DISK)?;
        let mut memory = initiator.space.memory.clone();
        memory
            .add(1 << 32, 1 << 20)
            .map_err(|error| crate::common::io("guest memory", std::io::Error::other(error)))?;
        let log = Arc::new(DirtyLog::new(&memory).sent()?);
        initiator.session.set_log(Some(Arc::clone(&log))).sent()?;
        initiator.session.set_memory(&memory).sent()?;
        let written = read(&mut initiator)?;
        assert_eq!(marked(&initiator, &log), written);
    }
    Ok(())
}

#[test]
fn rings_may_stop_while_dirty_pages_are_logged() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    clear_attention(&mut initiator, DISK)?;
    let log = Arc::new(DirtyLog::new(initiator.session.memory()).sent()?);
    initiator.session.set_log(Some(Arc::clone(&log))).sent()?;
    let (cdb, data) = (read16(0, 64), Data::In(LENGTH as usize));
    let command = lab::driver::Command { lun: DISK, tag: 0, cdb: &cdb, data };
    let mut wanted = BTreeSet::new();
    while let Some(slot) = initiator.queues[0].submit(&command)? {
        wanted.insert(initiator.queues[0].slots.place(slot).response & !(PAGE - 1));
        wanted.insert(initiator.queues[0].slots.place(slot).data);
    }
    initiator.queues[0].slots.publish()?;
    // What is taken is completed before the answer; what is not stays in the ring.
    let base = initiator.session.stop(2).sent()?;
    let mut completed = 0;
    while initiator.queues[0].take()?.is_some() {
        completed += 1;
    }
    assert!(matches!(base, Base::Split(base) if completed <= base));
    let marked = marked(&initiator, &log);
    assert!(completed < 32 || marked.is_superset(&wanted));
    Ok(())
}

fn state_of(scsi: &Scsi) -> Result<(Initiator, Vec<u8>), Error> {
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    works(&mut initiator.queues[0])?;
    let running = initiator.session.device().save_state();
    assert!(matches!(running, Err(FrontendError::Message { .. })), "rings run: {running:?}");
    initiator.stop()?;
    let state = initiator.session.device().save_state().sent()?;
    Ok((initiator, state))
}

#[test]
fn state_moves_to_another_process() -> Result<(), Error> {
    let source = Scsi::new()?.disk(16 << 20, "")?.disk(1 << 20, "")?.start()?;
    let (old, state) = state_of(&source)?;
    let destination = Scsi::new()?.same_images_as(&source).start()?;
    let options = InitiatorOptions::default();
    let memory = lab::driver::Space::new(options.memory())?;
    let mut new = Initiator::prepare(&destination.socket(), options, memory)?;
    new.session.device().load_state(&state).sent()?;
    drop(old);
    new.start()?;
    works(&mut new.queues[0])
}

#[test]
fn state_that_does_not_fit_is_refused() -> Result<(), Error> {
    let source = Scsi::new()?.disk(16 << 20, "")?.disk(1 << 20, "")?.start()?;
    let (_old, state) = state_of(&source)?;
    let destination = one_disk()?;
    let options = InitiatorOptions::default();
    let memory = lab::driver::Space::new(options.memory())?;
    let mut new = Initiator::prepare(&destination.socket(), options, memory)?;
    let missing = new.session.device().load_state(&state);
    let check = "CHECK_DEVICE_STATE";
    assert!(matches!(&missing, Err(FrontendError::Message { message, .. }) if *message == check));
    for foreign in [&b""[..], b"{}", b"\xff\0", &state[..state.len() / 2]] {
        assert!(new.session.device().load_state(foreign).is_err());
    }
    // The session goes on, and the device is as it was.
    new.start()?;
    works(&mut new.queues[0])
}
