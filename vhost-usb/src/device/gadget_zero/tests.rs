use super::*;
use crate::device::Device;
use crate::device::emulated::Emulated;
use crate::device::host::{Asked, ask, configure, is_ready, read, setup, write};
use crate::usb::data::Buffer;
use crate::usb::setup::{feature, request};

fn zero(speed: Speed, mode: Mode) -> Emulated<GadgetZero> {
    let mut zero = Emulated::new(GadgetZero::new(speed, mode).unwrap(), speed);
    configure(&mut zero, 1);
    zero
}

#[test]
fn a_source_fills_all_the_room_packet_by_packet() {
    let mut zero = zero(Speed::High, Mode::SourceSink(Pattern::Mod63));
    let mut buffer = Buffer::new(1200);
    assert_eq!(zero.data_in(BULK, &mut buffer), Answer::moved(1200));
    let expected: Vec<u8> = (0..1200usize).map(|place| (place % 512 % 63) as u8).collect();
    assert_eq!(buffer.data(), expected);
    assert_eq!(zero.data_out(BULK, &&expected[..]), Answer::moved(1200));
    assert_eq!(zero.data_in(BULK, &mut Buffer::new(0)), Answer::moved(0));
}

#[test]
fn packets_are_shorter_at_full_speed() {
    let mut zero = zero(Speed::Full, Mode::SourceSink(Pattern::Mod63));
    let mut buffer = Buffer::new(66);
    zero.data_in(BULK, &mut buffer);
    assert_eq!(buffer.data()[60..], [60, 61, 62, 0, 0, 1]);
}

#[test]
fn a_sink_stalls_at_what_does_not_fit_its_pattern() {
    for (pattern, wrong) in [(Pattern::Zeroes, 9000), (Pattern::Mod63, 0)] {
        let mut zero = zero(Speed::High, Mode::SourceSink(pattern));
        let mut data: Vec<u8> = (0..10000usize).map(|place| pattern.byte(place % 512)).collect();
        assert_eq!(zero.data_out(BULK, &&data[..]), Answer::moved(10000));
        data[wrong] ^= 1;
        assert_eq!(zero.data_out(BULK, &&data[..]), Answer::Stall);
        let clear = setup(2, request::CLEAR_FEATURE, feature::ENDPOINT_HALT, 1, 0);
        assert_eq!(write(&mut zero, clear, &[]), Ok(()));
        assert_eq!(zero.data_out(BULK, &&[0][..]), Answer::moved(1));
    }
}

#[test]
fn isochronous_endpoints_are_in_another_setting() {
    let mut zero = zero(Speed::High, Mode::SourceSink(Pattern::Zeroes));
    let mut buffer = Buffer::new(1024);
    assert_eq!(zero.data_in(ISOCHRONOUS, &mut buffer), Answer::Silent);
    let set = setup(1, request::SET_INTERFACE, 1, 0, 0);
    assert_eq!(write(&mut zero, set, &[]), Ok(()));
    assert_eq!(zero.data_in(ISOCHRONOUS, &mut buffer), Answer::moved(1024));
    assert_eq!(zero.data_out(ISOCHRONOUS, &&[9; 100][..]), Answer::moved(100));
    assert_eq!(zero.data_in(BULK, &mut buffer), Answer::moved(0));
}

#[test]
fn interrupt_endpoints_are_in_another_setting() {
    for (speed, packet) in [(Speed::High, 1024usize), (Speed::Full, 64)] {
        let mut zero = zero(speed, Mode::SourceSink(Pattern::Mod63));
        let mut buffer = Buffer::new(packet);
        assert_eq!(zero.data_in(INTERRUPT, &mut buffer), Answer::Silent);
        let set = setup(1, request::SET_INTERFACE, 2, 0, 0);
        assert_eq!(write(&mut zero, set, &[]), Ok(()));
        assert_eq!(zero.data_in(INTERRUPT, &mut buffer), Answer::moved(packet));
        assert_eq!(zero.data_out(INTERRUPT, &buffer.data()), Answer::moved(packet));
        assert_eq!(zero.data_out(INTERRUPT, &&[9; 10][..]), Answer::Stall);
        assert_eq!(zero.data_in(ISOCHRONOUS, &mut buffer), Answer::Silent);
    }
}

#[test]
fn a_control_buffer_is_written_and_read_back() {
    let mut zero = zero(Speed::High, Mode::SourceSink(Pattern::Zeroes));
    let data: Vec<u8> = (0..1024usize).map(|place| place as u8).collect();
    assert_eq!(write(&mut zero, setup(0x40, WRITE, 0, 0, 0), &data), Ok(()));
    assert_eq!(read(&mut zero, setup(0xc0, READ, 0, 0, 1024)), Ok(data.clone()));
    assert_eq!(read(&mut zero, setup(0xc0, READ, 0, 0, 2)), Ok(vec![0, 1]));
    assert_eq!(write(&mut zero, setup(0x40, WRITE, 1, 0, 0), &data), Err(Answer::Stall));
    assert_eq!(write(&mut zero, setup(0x40, WRITE, 0, 0, 0), &[0; 4097]), Err(Answer::Stall));
    assert_eq!(read(&mut zero, setup(0xc0, READ, 0, 0, 4097)), Err(Answer::Stall));
}

#[test]
fn what_is_sent_comes_back_as_it_was() {
    let mut zero = zero(Speed::High, Mode::Loopback);
    let mut buffer = Buffer::new(4096);
    assert_eq!(zero.data_in(BULK, &mut buffer), Answer::Nak);
    let data: Vec<u8> = (0..700usize).map(|place| place as u8).collect();
    assert_eq!(zero.data_out(BULK, &&data[..]), Answer::moved(700));
    assert!(is_ready(&zero));
    zero.turn();
    assert_eq!(zero.data_out(BULK, &&[][..]), Answer::moved(0));
    assert_eq!(zero.data_in(BULK, &mut buffer), Answer::Moved { bytes: 700, short: true });
    assert_eq!(buffer.data(), data);
    assert_eq!(zero.data_in(BULK, &mut buffer), Answer::Moved { bytes: 0, short: true });
    assert_eq!(zero.data_in(BULK, &mut buffer), Answer::Nak);
}

#[test]
fn a_loopback_has_bounds() {
    let mut zero = zero(Speed::High, Mode::Loopback);
    let data = vec![1; 100_000];
    assert_eq!(zero.data_out(BULK, &&data[..]), Answer::moved(64 * 512));
    assert_eq!(zero.data_out(BULK, &&data[..]), Answer::Nak);
    zero.turn();
    assert_eq!(zero.data_in(BULK, &mut Buffer::new(100)), Answer::Babble);
    assert!(is_ready(&zero));
    assert_eq!(zero.data_in(BULK, &mut Buffer::new(1100)), Answer::moved(1024));
    assert_eq!(zero.data_out(BULK, &&data[..]), Answer::moved(3 * 512));
}

proptest::proptest! {
    /// Whatever a host asks for, in whatever order.
    #[test]
    fn any_request_is_answered(
        asked in proptest::collection::vec(proptest::prelude::any::<Asked>(), 0..40),
        mode in proptest::sample::select(vec![
            Mode::Loopback, Mode::SourceSink(Pattern::Zeroes), Mode::SourceSink(Pattern::Mod63)]),
    ) {
        ask(&mut zero(Speed::High, mode), &asked);
        ask(&mut zero(Speed::Full, mode), &asked);
    }
}
