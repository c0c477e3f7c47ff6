//! When and how rings start, and connections one after the other.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lab::Error;
use lab::driver::{Data, Initiator, InitiatorOptions};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::FrontendReq;
use vmm_frontend::frontend::Base;
use vmm_frontend::frontend::ring::RingFeatures;

use crate::common::{
    ByHand, DISK, PROTOCOL_FEATURES, Sent, VERSION_1, inquiry, io, one_disk, works,
};

const PLAIN: RingFeatures = RingFeatures { event_index: false, indirect: false, packed: false };
const SHORT: Duration = Duration::from_millis(100);

/// Everything but kick and enable.
fn set_up(driver: &mut ByHand, index: usize) -> Result<(), Error> {
    let events = driver.ring(index).events().clone();
    let addresses = driver.addresses(index);
    driver.messages.set_vring_num(index, addresses.queue_size).sent()?;
    driver.messages.set_vring_base(index, 0).sent()?;
    driver.messages.set_vring_addr(index, &addresses).sent()?;
    driver.messages.set_vring_call(index, &events.call).sent()
}

fn greet(driver: &mut ByHand, features: u64) -> Result<(), Error> {
    driver.messages.set_owner().sent()?;
    driver.messages.get_features().sent()?;
    driver.messages.set_features(features).sent()?;
    driver.messages.set_mem_table(&driver.regions()).sent().map(drop)
}

fn ask(driver: &mut ByHand) -> Result<(), Error> {
    let cdb = inquiry(36);
    let command = lab::driver::Command { lun: DISK, tag: 0, cdb: &cdb, data: Data::In(36) };
    assert!(driver.request.submit(&command)?.is_some());
    driver.request.slots.publish()
}

#[test]
fn a_kick_before_the_ring_is_enabled_is_not_lost() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, PLAIN, 64)?;
    greet(&mut driver, VERSION_1 | PROTOCOL_FEATURES)?;
    set_up(&mut driver, 2)?;
    let events = driver.ring(2).events().clone();
    driver.messages.set_vring_kick(2, &events.kick).sent()?;
    ask(&mut driver)?;
    let early = driver.request.slots.ring.wait(SHORT).map_err(|source| io("waiting", source))?;
    assert!(!early, "a ring that is not enabled is not served");
    driver.messages.set_vring_enable(2, true).sent()?;
    assert_eq!(driver.request.wait()?.status, 0);
    // Disabled and enabled again.
    driver.messages.set_vring_enable(2, false).sent()?;
    driver.messages.get_features().sent()?; // the answer comes after that took effect, or soon
    std::thread::sleep(SHORT);
    ask(&mut driver)?;
    assert!(!driver.request.slots.ring.wait(SHORT).map_err(|source| io("waiting", source))?);
    driver.messages.set_vring_enable(2, true).sent()?;
    assert_eq!(driver.request.wait()?.status, 0);
    Ok(())
}

#[test]
fn a_kick_before_the_ring_is_set_up_is_not_lost() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, PLAIN, 64)?;
    greet(&mut driver, VERSION_1 | PROTOCOL_FEATURES)?;
    ask(&mut driver)?;
    set_up(&mut driver, 2)?;
    driver.messages.set_vring_enable(2, true).sent()?;
    let events = driver.ring(2).events().clone();
    driver.messages.set_vring_kick(2, &events.kick).sent()?;
    assert_eq!(driver.request.wait()?.status, 0);
    Ok(())
}

#[test]
fn without_protocol_features_rings_are_enabled_from_the_start() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, PLAIN, 64)?;
    greet(&mut driver, VERSION_1)?;
    set_up(&mut driver, 2)?;
    let events = driver.ring(2).events().clone();
    driver.messages.set_vring_kick(2, &events.kick).sent()?;
    works(&mut driver.request)
}

#[test]
fn a_ring_without_events_is_polled() -> Result<(), Error> {
    const NO_FD: u64 = 1 << 8;
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, PLAIN, 64)?;
    greet(&mut driver, VERSION_1 | PROTOCOL_FEATURES)?;
    set_up(&mut driver, 2)?;
    for message in [FrontendReq::SET_VRING_CALL, FrontendReq::SET_VRING_KICK] {
        driver.raw(message.into(), 1, &(2 | NO_FD).to_ne_bytes())?;
    }
    driver.messages.set_vring_enable(2, true).sent()?;
    for _ in 0..3 {
        ask(&mut driver)?;
        let done = loop {
            if let Some(done) = driver.request.take()? {
                break done;
            }
            std::thread::yield_now();
        };
        assert_eq!(done.status, 0);
        driver.request.slots.release(done.slot);
    }
    Ok(())
}

#[test]
fn one_connection_after_the_other() -> Result<(), Error> {
    let scsi = one_disk()?;
    for round in 0..20 {
        let options = InitiatorOptions {
            queues: round % 3 + 1,
            ring: RingFeatures {
                event_index: round % 2 == 0,
                indirect: round % 4 < 2,
                packed: round % 8 < 4,
            },
            ..InitiatorOptions::default()
        };
        let mut initiator = Initiator::connect(&scsi.socket(), options)?;
        for queue in &mut initiator.queues {
            works(queue)?;
        }
        if round % 5 == 0 {
            initiator.stop()?;
        }
    }
    Ok(())
}

#[test]
fn a_ring_starts_again_where_it_stopped() -> Result<(), Error> {
    for packed in [false, true] {
        let scsi = one_disk()?;
        let mut options = InitiatorOptions::default();
        options.ring.packed = packed;
        let mut initiator = Initiator::connect(&scsi.socket(), options)?;
        for _ in 0..5 {
            works(&mut initiator.queues[0])?;
            let base = initiator.session.stop(2).sent()?;
            assert_ne!(base, Base::start(packed));
            let ring = &initiator.queues[0].slots.ring;
            assert_eq!(base, ring.base());
            initiator.session.start(2, ring).sent()?;
        }
    }
    Ok(())
}

/// virtio 1.2, 2.8.10.1: a packed ring need not have a power of two.
#[test]
fn packed_rings_have_any_size() -> Result<(), Error> {
    let scsi = one_disk()?;
    for size in [9, 100, 255] {
        let mut options = InitiatorOptions { size, depth: 8, ..InitiatorOptions::default() };
        options.ring.packed = true;
        let mut initiator = Initiator::connect(&scsi.socket(), options)?;
        for _ in 0..10 {
            works(&mut initiator.queues[0])?;
        }
    }
    Ok(())
}

#[test]
fn a_second_connection_waits_and_does_not_disturb() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut first = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    let socket = scsi.socket();
    let second = std::thread::spawn(move || {
        let mut second = Initiator::connect(&socket, InitiatorOptions::default())?;
        works(&mut second.queues[0])
    });
    for _ in 0..20 {
        works(&mut first.queues[0])?;
    }
    std::thread::sleep(SHORT);
    assert!(!second.is_finished(), "one connection is served at a time");
    works(&mut first.queues[0])?;
    drop(first);
    second.join().expect("the second connection")
}

#[test]
fn a_frontend_that_stalls_in_the_middle_of_a_message_is_given_up() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut stalled = UnixStream::connect(scsi.socket()).map_err(|source| io("connect", source))?;
    // SET_FEATURES, with 3 of its 8 bytes.
    let message: Vec<u8> =
        [2u32, 1, 8].into_iter().flat_map(u32::to_ne_bytes).chain([0; 3]).collect();
    stalled.write_all(&message).map_err(|source| io("write", source))?;
    let mut next = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    works(&mut next.queues[0])?;
    drop(stalled);
    Ok(())
}

#[test]
fn a_frontend_that_hangs_up_in_the_middle_of_a_message_is_gone() -> Result<(), Error> {
    let scsi = one_disk()?;
    for length in [1, 11, 12, 13, 19] {
        let message: Vec<u8> =
            [2u32, 1, 8].into_iter().flat_map(u32::to_ne_bytes).chain([0; 8]).collect();
        let mut stream =
            UnixStream::connect(scsi.socket()).map_err(|source| io("connect", source))?;
        stream.write_all(&message[..length]).map_err(|source| io("write", source))?;
    }
    works(&mut Initiator::connect(&scsi.socket(), InitiatorOptions::default())?.queues[0])
}
