//! Guest memory in many slots, which come and go.

use lab::Error;
use lab::driver::{Data, Initiator, InitiatorOptions, Space};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_frontend::frontend::ring::Buffer;

use crate::common::{
    BLOCK, DISK, Sent, clear_attention, one_disk, pattern, read16, works, write16,
};

const SLOT: u64 = 64 << 10;
const SLOTS: u64 = 200;
const FIRST: u64 = 1 << 32;

fn io(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    crate::common::io("guest memory", std::io::Error::other(error))
}

/// A command whose data lies at some guest address.
fn run_at(initiator: &mut Initiator, cdb: &[u8], data: Buffer, write: bool) -> Result<u8, Error> {
    let queue = &mut initiator.queues[0].slots;
    let slot = queue.claim().expect("a free slot");
    let place = queue.place(slot);
    let mut head = [0; 51];
    head[..8].copy_from_slice(&DISK.0);
    head[19..][..cdb.len()].copy_from_slice(cdb);
    queue.write(place.head, &head)?;
    queue.write(place.response, &[0xff; 12])?;
    let request = Buffer { address: place.head, length: 51 };
    let response = Buffer { address: place.response, length: 108 };
    match write {
        true => queue.add(slot, &[request, data], &[response])?,
        false => queue.add(slot, &[request], &[response, data])?,
    }
    queue.publish()?;
    let (slot, _) = queue.wait()?;
    let mut answer = [0; 12];
    queue.read(place.response, &mut answer)?;
    queue.release(slot);
    assert_eq!(answer[11], 0, "response");
    Ok(answer[10])
}

#[test]
fn two_hundred_regions() -> Result<(), Error> {
    let scsi = one_disk()?;
    let options = InitiatorOptions::default();
    let mut initiator = Initiator::connect(&scsi.socket(), options)?;
    let mut memory = initiator.space.memory.clone();
    for slot in 0..SLOTS {
        memory.add(FIRST + slot * SLOT, SLOT).map_err(io)?;
    }
    initiator.session.set_memory(&memory).sent()?;
    works(&mut initiator.queues[0])?;
    for slot in 0..SLOTS {
        let bytes = pattern(slot, 7);
        // Over the boundary to the next slot, where there is one.
        let address =
            FIRST + (slot + 1) * SLOT - BLOCK as u64 / if slot + 1 < SLOTS { 2 } else { 1 };
        memory.space().write_slice(&bytes, GuestAddress(address)).map_err(io)?;
        let data = Buffer { address, length: BLOCK as u32 };
        assert_eq!(run_at(&mut initiator, &write16(slot, 1), data, true)?, 0);
    }
    for slot in (0..SLOTS).rev() {
        let data = Buffer { address: FIRST + slot * SLOT, length: BLOCK as u32 };
        assert_eq!(run_at(&mut initiator, &read16(slot, 1), data, false)?, 0);
        let mut bytes = vec![0; BLOCK];
        memory.space().read_slice(&mut bytes, GuestAddress(data.address)).map_err(io)?;
        assert_eq!(bytes, pattern(slot, 7));
    }
    Ok(())
}

#[test]
fn a_region_that_is_taken_away_is_guest_memory_no_more() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    clear_attention(&mut initiator, DISK)?;
    let small = initiator.space.memory.clone();
    let mut large = small.clone();
    large.add(FIRST, SLOT).map_err(io)?;
    initiator.session.set_memory(&large).sent()?;
    let data = Buffer { address: FIRST, length: BLOCK as u32 };
    assert_eq!(run_at(&mut initiator, &read16(0, 1), data, false)?, 0);
    initiator.session.set_memory(&small).sent()?;
    // A chain that leads there is a driver's fault now.
    let queue = &mut initiator.queues[0].slots;
    let slot = queue.claim().expect("a free slot");
    let request = Buffer { address: queue.place(slot).head, length: 51 };
    queue.add(slot, &[request], &[data])?;
    queue.publish()?;
    let broken = queue.ring.wait_broken(std::time::Duration::from_secs(10)).map_err(io)?;
    assert!(broken, "the frontend is told");
    initiator.session.stop(2).sent()?;
    let queue = &mut initiator.queues[0];
    queue.slots.ring.clear();
    initiator.session.start(2, &queue.slots.ring).sent()?;
    works(queue)
}

#[test]
fn regions_come_and_go_under_load() -> Result<(), Error> {
    const ROUNDS: usize = 200;
    let scsi = one_disk()?;
    let mut space = Space::new(InitiatorOptions::default().memory())?;
    space.memory.add(FIRST, SLOT).map_err(io)?;
    let memory = space.memory.clone();
    let mut initiator = Initiator::in_space(&scsi.socket(), InitiatorOptions::default(), space)?;
    let mut queue = initiator.queues.remove(0);
    let (done, over) = std::sync::mpsc::channel::<()>();
    let load = std::thread::spawn(move || -> Result<u64, Error> {
        let mut count = 0;
        while over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let cdb = read16(0, 128);
            let command =
                lab::driver::Command { lun: DISK, tag: count, cdb: &cdb, data: Data::In(64 << 10) };
            while queue.submit(&command)?.is_some() {}
            queue.slots.publish()?;
            let done = queue.wait()?;
            assert_eq!(done.response, 0);
            queue.slots.release(done.slot);
            count += 1;
        }
        Ok(count)
    });
    for round in 0..ROUNDS {
        let mut other = memory.clone();
        if round % 2 == 0 {
            other.remove(FIRST, SLOT).map_err(io)?;
            other.add(FIRST + SLOT, SLOT).map_err(io)?;
        }
        initiator.session.set_memory(&other).sent()?;
    }
    drop(done);
    assert!(load.join().expect("the load")? > 0);
    Ok(())
}

/// SIGBUS is the end of the process that serves, and no more than that.
#[test]
fn a_frontend_that_cuts_its_memory_short_loses_its_connection_alone() -> Result<(), Error> {
    let mut scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    works(&mut initiator.queues[0])?;
    for region in initiator.space.memory.space().iter() {
        region.file_offset().expect("shared memory").file().set_len(0).map_err(io)?;
    }
    initiator.queues[0].slots.ring.kick().map_err(io)?;
    while initiator.session.device().config(0, 4).is_ok() {}
    let mut next = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    works(&mut next.queues[0])?;
    assert!(scsi.runs());
    Ok(())
}
