//! Configuration space, counts, and messages that are refused.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use lab::Error;
use lab::driver::{Initiator, InitiatorOptions, Space};
use vhost_runtime::queue::Position;
use vmm_frontend::frontend::{Base, FrontendError, ProtocolFeatures, QueueSetup};

use crate::common::{Sent, io, one_disk, works};

#[test]
fn the_configuration_space_is_read_whole_and_in_parts() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    let device = initiator.session.device();
    let config = device.config(0, 36).sent()?;
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| config[at + byte]));
    assert_eq!(word(0), 64, "num_queues");
    assert_eq!((word(16), word(20), word(24)), (16, 96, 32), "event, sense and CDB size");
    assert_eq!(config[28..32], [0, 0, 255, 0], "max_channel, max_target");
    assert_eq!(word(32), 16383, "max_lun");
    for at in (0..36).step_by(4) {
        assert_eq!(device.config(at, 4).sent()?, config[at as usize..][..4]);
    }
    assert_eq!(device.config(30, 8).sent()?, [255, 0, 0xff, 0x3f, 0, 0, 0, 0], "then zeroes");
    assert_eq!(device.config(200, 56).sent()?, [0; 56]);
    assert_eq!(device.queues(), 66);
    // The parts that a driver may write, with what it may write there.
    device.set_config(20, &96u32.to_le_bytes()).sent()?;
    device.set_config(24, &32u32.to_le_bytes()).sent()?;
    works(&mut initiator.queues[0])
}

#[test]
fn what_cannot_be_is_refused_and_the_session_goes_on() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    let device = initiator.session.device();
    assert!(device.protocol_features().contains(ProtocolFeatures::REPLY_ACK));
    let refused = |result: Result<(), FrontendError>| {
        assert!(matches!(result, Err(FrontendError::Message { .. })), "{result:?}");
    };
    refused(device.set_config(20, &97u32.to_le_bytes()));
    refused(device.set_config(0, &1u32.to_le_bytes()));
    refused(device.set_config(100, &[0]));
    use vhost::VhostBackend;
    refused(device.send("SET_FEATURES", |messages| messages.set_features(1 << 63)));
    refused(device.send("SET_VRING_NUM", |messages| messages.set_vring_num(3, 4096)));
    refused(device.send("SET_VRING_NUM", |messages| messages.set_vring_num(3, 3)));
    refused(device.send("SET_VRING_NUM", |messages| messages.set_vring_num(66, 64)));
    refused(device.send("SET_VRING_NUM", |messages| messages.set_vring_num(2, 64)));
    refused(device.send("SET_VRING_BASE", |messages| messages.set_vring_base(2, 0)));
    let kick = vmm_sys_util::eventfd::EventFd::new(0).map_err(|source| io("an event", source))?;
    refused(device.send("SET_VRING_KICK", |messages| messages.set_vring_kick(3, &kick)));
    works(&mut initiator.queues[0])
}

/// How far a packed ring is takes 32 bits, which a split ring does not have; and SCSI commands are not
/// completed in the order in which they came.
#[test]
fn a_ring_s_base_is_that_of_its_format() -> Result<(), Error> {
    const IN_ORDER: u64 = 1 << 35;
    let scsi = one_disk()?;
    let mut wanted = InitiatorOptions::default().wanted();
    wanted.features |= IN_ORDER;
    let start = |packed, base| -> Result<Base, Error> {
        let mut options = InitiatorOptions { wanted, ..InitiatorOptions::default() };
        options.ring.packed = packed;
        let space = Space::new(options.memory())?;
        let mut initiator = Initiator::prepare(&scsi.socket(), options, space)?;
        let memory = initiator.space.memory.clone();
        let setup = QueueSetup::of(&initiator.queues[0].slots.ring);
        let device = initiator.session.device();
        assert_eq!(device.features() & IN_ORDER, 0);
        assert_eq!(device.has_packed_rings(), packed);
        device.start_queue(2, &setup, base, &memory).sent()?;
        device.stop_queue(2).sent()
    };
    let at = |index, wrap| Base::Packed {
        available: Position { index, wrap },
        used: Position { index: 127, wrap: !wrap },
    };
    assert_eq!(start(false, Base::Split(0))?, Base::Split(0));
    assert_eq!(start(true, at(0, true))?, at(0, true));
    assert!(start(false, at(0, true)).is_err(), "not negotiated");
    assert!(start(true, at(128, true)).is_err(), "beyond the ring");
    assert!(
        start(
            true,
            Base::Packed { available: Position::START, used: Position { index: 1, wrap: true } }
        )
        .is_err(),
        "more used than taken"
    );
    Ok(())
}

/// Messages that the process does not know, and messages of devices that it is not.
#[test]
fn unknown_messages_are_refused_and_the_session_goes_on() -> Result<(), Error> {
    const VERSION: u32 = 1;
    const NEED_REPLY: u32 = 8;
    const FOREIGN: [u32; 7] = [7, 19, 20, 26, 28, 39, 4711];
    let scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    for (number, request) in FOREIGN.into_iter().enumerate() {
        for flags in [VERSION, VERSION | NEED_REPLY] {
            let mut stream = initiator.session.device().stream();
            let payload = vec![0x5a; number * 8];
            let header = [request, flags, payload.len() as u32];
            let bytes: Vec<u8> =
                header.into_iter().flat_map(u32::to_ne_bytes).chain(payload).collect();
            stream.write_all(&bytes).map_err(|source| io("write", source))?;
            if flags & NEED_REPLY != 0 {
                let mut reply = [0; 20];
                stream.read_exact(&mut reply).map_err(|source| io("read", source))?;
                assert_eq!(reply[..4], request.to_ne_bytes());
                assert_ne!(reply[12..], [0; 8], "message {request} was accepted");
            }
            initiator.session.device().config(0, 4).sent()?;
        }
        works(&mut initiator.queues[0])?;
    }
    Ok(())
}

/// As QEMU's network card does.
#[test]
fn a_ring_may_be_enabled_before_features_are_set() -> Result<(), Error> {
    const GET_FEATURES: [u32; 3] = [1, 1, 0];
    const SET_VRING_ENABLE: [u32; 5] = [18, 1, 8, 2, 1];
    let scsi = one_disk()?;
    let mut stream = UnixStream::connect(scsi.socket()).map_err(|source| io("connect", source))?;
    let messages = SET_VRING_ENABLE.into_iter().chain(GET_FEATURES);
    let bytes: Vec<u8> = messages.flat_map(u32::to_ne_bytes).collect();
    stream.write_all(&bytes).map_err(|source| io("write", source))?;
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).map_err(|source| io("read", source))?;
    assert_eq!(reply[..4], 1u32.to_ne_bytes());
    Ok(())
}

#[test]
fn a_reset_stops_the_rings_and_they_start_anew() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    works(&mut initiator.queues[0])?;
    initiator.session.reset().sent()?;
    let queue = &mut initiator.queues[0];
    queue.slots.ring.clear();
    initiator.session.start(2, &queue.slots.ring).sent()?;
    works(queue)
}
