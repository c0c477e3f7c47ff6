use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use vhost_scsi::units::{Addresses, Kind as UnitKind, Unit};

use super::*;
use crate::device::Device;
use crate::device::emulated::Emulated;
use crate::device::host::{configure, read, setup, write};
use crate::usb::Speed;
use crate::usb::data::Buffer;
use crate::usb::setup::{feature, request};

/// A stick of 1 MiB, each block with its number, as the host has it.
struct Stick {
    device: Emulated<Storage>,
    image: tempfile::NamedTempFile,
    tag: u32,
}

/// What a command came to: data, residue, status.
type Came = (Vec<u8>, u32, u8);

impl Stick {
    fn new() -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        let blocks: Vec<u8> = (0..2048u32).flat_map(|block| [block as u8; 512]).collect();
        std::fs::write(image.path(), blocks).unwrap();
        let text = image.path().to_str().unwrap();
        let unit = Unit::parse(UnitKind::Disk, text).unwrap().open(None).unwrap();
        let placed = unit.place(&mut Addresses::default()).unwrap();
        let bus = Bus::default();
        bus.place(placed.address, placed.unit);
        let storage = Storage::new(bus, "0123456789AB").unwrap();
        let mut device = Emulated::new(storage, Speed::High);
        device.activate().unwrap();
        configure(&mut device, 1);
        let mut this = Self { device, image, tag: 0 };
        // It was switched on.
        assert_eq!(this.command(&[0; 6], Direction::In, 0, &[]).2, 1);
        this
    }

    /// Waits until the device has done something.
    fn wait(&mut self) {
        let events = self.device.events();
        // SAFETY: the device keeps it open.
        let fds = events.iter().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) });
        let mut polls: Vec<PollFd<'_>> =
            fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut polls, None).unwrap();
        self.device.turn();
    }

    fn wrapper(&mut self, cdb: &[u8], direction: Direction, length: u32) -> Vec<u8> {
        self.tag += 1;
        let mut bytes = 0x4342_5355u32.to_le_bytes().to_vec();
        bytes.extend(self.tag.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend([if direction == Direction::In { 0x80 } else { 0 }, 0, cdb.len() as u8]);
        bytes.extend(cdb);
        bytes.resize(COMMAND, 0);
        bytes
    }

    /// Sends all; `false`: the endpoint has halted.
    fn out(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            match self.device.data_out(1, &data) {
                Answer::Moved { bytes, .. } => data = &data[bytes..],
                Answer::Nak => self.wait(),
                Answer::Stall => return false,
                other => panic!("{other:?}"),
            }
        }
        true
    }

    /// Reads what comes; `false`: the endpoint has halted. What came before that is in the buffer.
    fn input(&mut self, buffer: &mut Buffer) -> bool {
        while buffer.room() > 0 {
            match self.device.data_in(1, buffer) {
                Answer::Moved { short: true, .. } => break,
                Answer::Moved { .. } => {}
                Answer::Nak => self.wait(),
                Answer::Stall => return false,
                other => panic!("{other:?}"),
            }
        }
        true
    }

    fn clear_halt(&mut self, endpoint: u16) {
        let clear = setup(2, request::CLEAR_FEATURE, feature::ENDPOINT_HALT, endpoint, 0);
        write(&mut self.device, clear, &[]).unwrap();
    }

    /// Carries out a command as a host does, with `length` bytes to or from it.
    fn command(&mut self, cdb: &[u8], direction: Direction, length: u32, data: &[u8]) -> Came {
        let wrapper = self.wrapper(cdb, direction, length);
        assert!(self.out(&wrapper));
        let mut came = Buffer::new(length as usize);
        let halted = match direction {
            _ if length == 0 => None,
            Direction::In => (!self.input(&mut came)).then_some(0x81),
            Direction::Out => (!self.out(data)).then_some(1),
        };
        if let Some(endpoint) = halted {
            self.clear_halt(endpoint);
        }
        let mut status = Buffer::new(13);
        if !self.input(&mut status) {
            self.clear_halt(0x81);
            assert!(self.input(&mut status), "it halts once");
        }
        let status = status.data().to_vec();
        assert_eq!(status[..4], 0x5342_5355u32.to_le_bytes());
        assert_eq!(status[4..8], self.tag.to_le_bytes());
        let residue = u32::from_le_bytes(status[8..12].try_into().unwrap());
        (came.data().to_vec(), residue, status[12])
    }

    fn read_10(block: u8, count: u8) -> [u8; 10] {
        [0x28, 0, 0, 0, 0, block, 0, 0, count, 0]
    }
}

#[test]
fn a_disk_is_read() {
    let mut stick = Stick::new();
    let (data, residue, status) = stick.command(&[0x12, 0, 0, 0, 36, 0], Direction::In, 36, &[]);
    assert_eq!((data.len(), data[0], residue, status), (36, 0, 0, 0));
    let (data, residue, status) = stick.command(&[0x25; 1], Direction::In, 8, &[]);
    assert_eq!((data, residue, status), (vec![0, 0, 7, 0xff, 0, 0, 2, 0], 0, 0));
    let (data, residue, status) = stick.command(&Stick::read_10(5, 2), Direction::In, 1024, &[]);
    assert_eq!((residue, status), (0, 0));
    assert!(data[..512] == [5; 512] && data[512..] == [6; 512]);
}

#[test]
fn more_than_a_piece_is_read_and_written() {
    let mut stick = Stick::new();
    let all = [0x28, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    let (data, residue, status) = stick.command(&all, Direction::In, 1 << 20, &[]);
    assert_eq!((data.len(), residue, status), (1 << 20, 0, 0));
    assert!(data.chunks(512).enumerate().all(|(block, data)| data == [block as u8; 512]));
    let new: Vec<u8> = data.iter().map(|byte| !byte).collect();
    let all = [0x2a, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    assert_eq!(stick.command(&all, Direction::Out, 1 << 20, &new), (vec![], 0, 0));
    // SYNCHRONIZE CACHE.
    assert_eq!(stick.command(&[0x35; 1], Direction::Out, 0, &[]), (vec![], 0, 0));
    assert!(std::fs::read(stick.image.path()).unwrap() == new);
}

#[test]
fn a_command_that_fails_leaves_its_sense_to_be_asked_for() {
    let mut stick = Stick::new();
    let past = [0x28, 0, 0, 0, 0x10, 0, 0, 0, 1, 0];
    assert_eq!(stick.command(&past, Direction::In, 512, &[]), (vec![], 512, 1));
    let (sense, residue, status) = stick.command(&[3, 0, 0, 0, 18, 0], Direction::In, 18, &[]);
    assert_eq!((sense[2] & 0xf, sense[12], residue, status), (5, 0x21, 0, 0));
    let (sense, ..) = stick.command(&[3, 0, 0, 0, 18, 0], Direction::In, 18, &[]);
    assert_eq!(sense[2] & 0xf, 0, "it is told once");
}

#[test]
fn less_data_than_the_host_wants_are_told_by_a_residue() {
    let mut stick = Stick::new();
    // A short packet ends them.
    let (data, residue, status) = stick.command(&[0x12, 0, 0, 0, 36, 0], Direction::In, 255, &[]);
    assert_eq!((data.len(), residue, status), (36, 219, 0));
    // Whole packets are followed by a halt.
    let (data, residue, status) = stick.command(&Stick::read_10(1, 1), Direction::In, 4096, &[]);
    assert_eq!((data.len(), residue, status), (512, 3584, 0));
    let (data, residue, status) = stick.command(&[0; 6], Direction::In, 64, &[]);
    assert_eq!((data.len(), residue, status), (0, 64, 0));
    let (_, residue, status) = stick.command(&[0; 6], Direction::Out, 64, &[0; 64]);
    assert_eq!((residue, status), (64, 0));
}

#[test]
fn a_command_that_wants_to_move_more_is_a_phase_error() {
    let mut stick = Stick::new();
    let (data, _, status) = stick.command(&Stick::read_10(0, 2), Direction::In, 512, &[]);
    assert_eq!((data.len(), status), (0, 2));
    assert_eq!(stick.command(&Stick::read_10(0, 2), Direction::Out, 0, &[]).2, 2);
}

#[test]
fn what_is_no_command_halts_everything_until_the_reset() {
    let mut stick = Stick::new();
    let good = stick.wrapper(&[0; 6], Direction::In, 0);
    for (place, byte) in [(0, 0), (13, 1), (14, 0), (14, 17)] {
        let mut bad = good.clone();
        bad[place] = byte;
        assert_eq!(stick.device.data_out(1, &&bad[..]), Answer::Stall);
        stick.clear_halt(1);
        assert_eq!(stick.device.data_out(1, &&good[..]), Answer::Stall);
        assert_eq!(stick.device.data_in(1, &mut Buffer::new(13)), Answer::Stall);
        write(&mut stick.device, setup(0x21, BULK_ONLY_RESET, 0, 0, 0), &[]).unwrap();
        stick.clear_halt(1);
        stick.clear_halt(0x81);
        assert_eq!(stick.command(&[0; 6], Direction::In, 0, &[]), (vec![], 0, 0));
    }
    assert_eq!(stick.device.data_out(1, &&good[..30]), Answer::Stall);
}

#[test]
fn a_reset_forgets_what_is_under_way() {
    let mut stick = Stick::new();
    let wrapper = stick.wrapper(&Stick::read_10(0, 64), Direction::In, 32768);
    assert!(stick.out(&wrapper));
    configure(&mut stick.device, 2);
    let (data, residue, status) = stick.command(&Stick::read_10(9, 1), Direction::In, 512, &[]);
    assert_eq!((data, residue, status), (vec![9; 512], 0, 0));
}

#[test]
fn what_was_given_up_is_not_overtaken() {
    let mut stick = Stick::new();
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    for round in 0..50u8 {
        let wrapper = stick.wrapper(&write, Direction::Out, 512);
        assert!(stick.out(&wrapper) && stick.out(&[0xee; 512]));
        configure(&mut stick.device, 2);
        assert_eq!(stick.command(&write, Direction::Out, 512, &[round; 512]), (vec![], 0, 0));
        let (data, ..) = stick.command(&Stick::read_10(0, 1), Direction::In, 512, &[]);
        assert_eq!(data, [round; 512]);
    }
}

#[test]
fn media_are_given_back_when_what_is_under_way_is_done() {
    let mut stick = Stick::new();
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    let wrapper = stick.wrapper(&write, Direction::Out, 4096);
    assert!(stick.out(&wrapper) && stick.out(&[0xee; 4096]));
    stick.device.deactivate();
    assert!(std::fs::read(stick.image.path()).unwrap()[..4096] == [0xee; 4096]);
    stick.device.activate().unwrap();
    let mut status = Buffer::new(13);
    assert!(stick.input(&mut status));
    assert_eq!(status.data()[12], 0);
}

#[test]
fn units_are_counted() {
    let mut stick = Stick::new();
    let asked = setup(0xa1, GET_MAX_LUN, 0, 0, 1);
    assert_eq!(read(&mut stick.device, asked), Ok(vec![0]));
    // REPORT LUNS.
    let cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    let (data, residue, status) = stick.command(&cdb, Direction::In, 16, &[]);
    assert_eq!((data[3], data.len(), residue, status), (8, 16, 0, 0));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    /// Whatever a host sends and asks for.
    #[test]
    fn any_order_of_transfers_is_answered(
        steps in proptest::collection::vec((0u8..4, 0u8.., 0u8.., 0u32..200_000), 0..30)
    ) {
        let mut stick = Stick::new();
        for (step, opcode, byte, length) in steps {
            match step {
                0 => {
                    let mut cdb = [byte; 16];
                    // Not to be stopped, or formatted.
                    cdb[0] = if matches!(opcode, 0x1b | 0x04) { 0 } else { opcode };
                    let direction = if byte & 1 == 0 { Direction::In } else { Direction::Out };
                    let wrapper = stick.wrapper(&cdb, direction, length);
                    let _ = stick.device.data_out(1, &&wrapper[..]);
                }
                1 => {
                    let data = vec![byte; length as usize / 8];
                    let answer = stick.device.data_out(1, &&data[..]);
                    if let Answer::Moved { bytes, .. } = answer {
                        assert!(bytes <= data.len());
                    }
                }
                2 => {
                    let mut buffer = Buffer::new(length as usize / 8);
                    if let Answer::Moved { bytes, .. } = stick.device.data_in(1, &mut buffer) {
                        assert_eq!(bytes, buffer.data().len());
                    }
                }
                _ => stick.device.turn(),
            }
        }
    }
}

#[test]
fn a_piece_is_read_once_however_often_the_host_asks() {
    let mut stick = Stick::new();
    let wrapper = stick.wrapper(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], Direction::In, 512);
    assert!(stick.out(&wrapper));
    for _ in 0..3 {
        assert_eq!(stick.device.data_in(1, &mut Buffer::new(512)), Answer::Nak);
    }
    assert_eq!(stick.device.function().medium.outstanding, 1);
    let mut came = Buffer::new(512);
    assert!(stick.input(&mut came));
    assert_eq!(came.data(), [0; 512]);
}

#[test]
fn sense_moves_only_to_a_host_that_has_room() {
    for (direction, length) in [(Direction::Out, 18), (Direction::In, 0)] {
        let mut stick = Stick::new();
        assert_eq!(stick.command(&[0xff; 6], Direction::In, 0, &[]).2, 1);
        let (came, residue, status) =
            stick.command(&[3, 0, 0, 0, 18, 0], direction, length, &[0; 18]);
        assert_eq!((came.len(), residue, status), (0, length, 0));
    }
}
