use std::time::{Duration, Instant};

use super::keyboard::{Keyboard, Keys};
use super::mouse::{Mouse, Moves};
use super::pointer::Button;
use super::tablet::{Positions, Tablet};
use super::*;
use crate::device::Device;
use crate::device::emulated::Emulated;
use crate::device::host::{Asked, ask, configure, is_ready, read, setup, write};
use crate::usb::data::Buffer;

fn plugged<R: Reports>(device: Hid<R>) -> (Emulated<Hid<R>>, Arc<Input<R>>) {
    let input = device.input();
    let mut device = Emulated::new(device, Speed::High);
    configure(&mut device, 1);
    (device, input)
}

/// What the host reads from the interrupt endpoint.
fn poll(device: &mut dyn Device) -> Option<Vec<u8>> {
    let mut buffer = Buffer::new(64);
    match device.data_in(ENDPOINT, &mut buffer) {
        Answer::Moved { bytes, .. } => {
            assert_eq!(bytes, buffer.data().len());
            Some(buffer.data().to_vec())
        }
        Answer::Nak => None,
        other => panic!("{other:?}"),
    }
}

fn set(device: &mut dyn Device, request: u8, value: u16, data: &[u8]) -> Result<(), Answer> {
    write(device, setup(0x21, request, value, 0, 0), data)
}

fn get(device: &mut dyn Device, request: u8, value: u16) -> Result<Vec<u8>, Answer> {
    read(device, setup(0xa1, request, value, 0, 64))
}

#[test]
fn keys_are_reported_one_by_one_and_in_order() {
    let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
    assert_eq!(poll(&mut device), None);
    keyboard.press(key_names::usage("shift").unwrap());
    keyboard.press(key_names::usage("a").unwrap());
    keyboard.press(4); // it is down already
    keyboard.release(4);
    keyboard.release(5); // it is not down
    assert!(is_ready(&device));
    device.turn();
    assert!(!is_ready(&device));
    assert_eq!(poll(&mut device).unwrap(), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(poll(&mut device).unwrap(), [2, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(get(&mut device, GET_REPORT, 0x100).unwrap(), [2, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(poll(&mut device).unwrap(), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(poll(&mut device), None);
}

#[test]
fn more_than_six_keys_are_a_roll_over_error() {
    let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
    (4..10).for_each(|usage| keyboard.press(usage));
    let reports: Vec<_> = std::iter::from_fn(|| poll(&mut device)).collect();
    assert_eq!(reports.last().unwrap()[..], [0, 0, 4, 5, 6, 7, 8, 9]);
    keyboard.press(10);
    keyboard.press(0xe0);
    poll(&mut device).unwrap();
    assert_eq!(poll(&mut device).unwrap(), [1, 0, 1, 1, 1, 1, 1, 1], "modifiers are still told");
    keyboard.release(6);
    assert_eq!(poll(&mut device).unwrap(), [1, 0, 4, 5, 7, 8, 9, 10]);
}

#[test]
fn a_release_is_never_lost() {
    let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
    for _ in 0..500 {
        keyboard.press(4);
        keyboard.press(5);
        keyboard.release(4);
        keyboard.release(5);
    }
    let reports: Vec<_> = std::iter::from_fn(|| poll(&mut device)).collect();
    assert!(reports.len() < 200, "it is bounded");
    assert_eq!(reports.last().unwrap()[..], [0; 8]);
}

#[test]
fn the_guest_sets_leds() {
    let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
    assert_eq!(set(&mut device, SET_REPORT, 0x200, &[0xe3]), Ok(()));
    assert_eq!(keyboard.leds(), 3);
    assert_eq!(get(&mut device, GET_REPORT, 0x200).unwrap(), [3]);
    assert_eq!(set(&mut device, SET_REPORT, 0x200, &[]), Err(Answer::Stall));
    assert_eq!(set(&mut device, SET_REPORT, 0x300, &[1]), Err(Answer::Stall));
    device.reset();
    assert_eq!(keyboard.leds(), 0);
}

#[test]
fn keys_that_were_not_read_before_a_reset_are_over() {
    let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
    keyboard.press(4);
    keyboard.release(4);
    keyboard.press(5);
    configure(&mut device, 2);
    assert_eq!(poll(&mut device), None);
    assert_eq!(get(&mut device, GET_REPORT, 0x100).unwrap()[2], 5, "it is held down");
    keyboard.release(5);
    assert_eq!(poll(&mut device).unwrap(), [0; 8]);
}

#[test]
fn motions_are_summed_up_and_buttons_keep_their_order() {
    let (mut device, mouse) = plugged(Mouse::new(Speed::High).unwrap());
    mouse.motion(100, -1, 0);
    mouse.motion(100, -1, 1);
    mouse.button(Button::Left, true);
    mouse.motion(-5, 0, 0);
    mouse.button(Button::Left, false);
    mouse.button(Button::Extra, true);
    let reports: Vec<_> = std::iter::from_fn(|| poll(&mut device)).collect();
    let expected: [[u8; 4]; 6] = [
        [0, 127, 254, 1],
        [0, 73, 0, 0],
        [1, 0, 0, 0],
        [1, 251, 0, 0],
        [0, 0, 0, 0],
        [16, 0, 0, 0],
    ];
    assert_eq!(reports, expected);
}

#[test]
fn a_boot_mouse_has_three_bytes_and_three_buttons() {
    let (mut device, mouse) = plugged(Mouse::new(Speed::High).unwrap());
    assert_eq!(get(&mut device, GET_PROTOCOL, 0).unwrap(), [1]);
    assert_eq!(set(&mut device, SET_PROTOCOL, 0, &[]), Ok(()));
    assert_eq!(set(&mut device, SET_PROTOCOL, 2, &[]), Err(Answer::Stall));
    mouse.button(Button::Side, true);
    mouse.button(Button::Right, true);
    poll(&mut device).unwrap();
    assert_eq!(poll(&mut device).unwrap(), [2, 0, 0]);
    device.reset();
    assert_eq!(get(&mut device, GET_PROTOCOL, 0).unwrap(), [1], "7.2.6");
}

#[test]
fn a_full_queue_loses_motions_and_no_release() {
    let (mut device, mouse) = plugged(Mouse::new(Speed::High).unwrap());
    for _ in 0..200 {
        mouse.button(Button::Left, true);
        mouse.motion(1, 0, 0);
        mouse.button(Button::Left, false);
        mouse.motion(1, 0, 0);
    }
    let reports: Vec<_> = std::iter::from_fn(|| poll(&mut device)).collect();
    assert!(reports.len() < 140);
    assert_eq!(reports.last().unwrap()[0], 0);
}

#[test]
fn a_tablet_is_where_it_was_put_last() {
    let (mut device, tablet) = plugged(Tablet::new(Speed::High).unwrap());
    tablet.position(1, 2);
    tablet.position(0x1234, 0xffff);
    tablet.wheel(-1);
    tablet.button(Button::Left, true);
    tablet.position(0, 0);
    assert_eq!(poll(&mut device).unwrap(), [0, 0x34, 0x12, 0xff, 0x7f, 0xff]);
    assert_eq!(poll(&mut device).unwrap(), [1, 0x34, 0x12, 0xff, 0x7f, 0]);
    assert_eq!(poll(&mut device).unwrap(), [1, 0, 0, 0, 0, 0]);
    assert_eq!(poll(&mut device), None);
    assert_eq!(get(&mut device, GET_PROTOCOL, 0), Err(Answer::Stall), "it is no boot device");
}

#[test]
fn a_report_is_repeated_while_the_host_wants_it() {
    let (mut device, tablet) = plugged(Tablet::new(Speed::High).unwrap());
    tablet.position(3, 4);
    poll(&mut device).unwrap();
    assert_eq!(set(&mut device, SET_IDLE, 5 << 8, &[]), Ok(()));
    assert_eq!(get(&mut device, GET_IDLE, 0).unwrap(), [5]);
    device.turn();
    let begin = Instant::now();
    while !is_ready(&device) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(begin.elapsed() >= Duration::from_millis(15));
    device.turn();
    assert!(!is_ready(&device), "it does not wake anyone again");
    assert_eq!(poll(&mut device).unwrap(), [0, 3, 0, 4, 0, 0]);
    assert_eq!(set(&mut device, SET_IDLE, 0, &[]), Ok(()));
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!((is_ready(&device), poll(&mut device)), (false, None));
}

#[test]
fn an_event_wakes_a_host_that_wants_it() {
    let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
    let allow = setup(0, request::SET_FEATURE, 1, 0, 0);
    assert_eq!(write(&mut device, allow, &[]), Ok(()));
    device.set_suspended(true);
    assert!(!device.wakes());
    keyboard.press(4);
    assert!(device.wakes());
}

#[test]
fn descriptors_are_those_of_the_class() {
    let (mut device, _) = plugged(Mouse::new(Speed::High).unwrap());
    let get = |device: &mut dyn Device, kind: u16, of: u8| {
        read(device, setup(0x80 | of, request::GET_DESCRIPTOR, kind << 8, 0, 255))
    };
    let report = get(&mut device, 0x22, 1).unwrap();
    assert_eq!(report, Moves::SHAPE.report_descriptor);
    let hid = get(&mut device, 0x21, 1).unwrap();
    assert_eq!(hid, [9, 0x21, 0x11, 1, 0, 1, 0x22, 52, 0]);
    let configuration = get(&mut device, 2, 0).unwrap();
    assert_eq!(configuration[14..18], [3, 1, 2, 0], "HID, boot, mouse");
    assert_eq!(configuration[18..27], hid);
    assert_eq!(configuration[27..], [7, 5, 0x81, 3, 4, 0, 7]);
    device.set_high_speed(false);
    let slower = get(&mut device, 2, 0).unwrap();
    assert_eq!((device.speed(), slower[33]), (Speed::Full, 10));
    assert_eq!(get(&mut device, 0x23, 1), Err(Answer::Stall));
}

#[test]
fn windows_may_suspend_it() {
    let (mut device, _) = plugged(Tablet::new(Speed::Full).unwrap());
    let string = read(&mut device, setup(0x80, request::GET_DESCRIPTOR, 0x3ee, 0, 18)).unwrap();
    let code = string[16];
    assert_eq!(read(&mut device, setup(0xc0, code, 0, 4, 64)).unwrap().len(), 40);
    assert_eq!(read(&mut device, setup(0xc1, code, 0, 5, 10)).unwrap()[0], 76);
    assert_eq!(read(&mut device, setup(0xc0, code, 0, 9, 10)), Err(Answer::Stall));
}

proptest::proptest! {
    #[test]
    fn any_request_is_answered(
        asked in proptest::collection::vec(proptest::prelude::any::<Asked>(), 0..40)
    ) {
        ask(&mut plugged(Hid::<Keys>::new(Speed::High).unwrap()).0, &asked);
        ask(&mut plugged(Hid::<Moves>::new(Speed::High).unwrap()).0, &asked);
        ask(&mut plugged(Hid::<Positions>::new(Speed::High).unwrap()).0, &asked);
    }

    /// Whatever a client does, what is held down at the end is what the guest sees.
    #[test]
    fn all_keys_end_as_they_are(
        keys in proptest::collection::vec((0u8.., proptest::bool::ANY), 0..600)
    ) {
        let (mut device, keyboard) = plugged(Keyboard::new(Speed::High).unwrap());
        for (usage, pressed) in keys {
            if pressed { keyboard.press(usage) } else { keyboard.release(usage) }
        }
        (0..=255).for_each(|usage| keyboard.release(usage));
        let reports: Vec<_> = std::iter::from_fn(|| poll(&mut device)).collect();
        assert!(reports.len() <= 128 + 256);
        assert!(reports.last().is_none_or(|last| last[..] == [0; 8]));
    }

    /// Whatever a client does, the guest's pointer goes where it was moved to, and has its buttons.
    #[test]
    fn a_mouse_ends_where_it_is(
        motions in proptest::collection::vec((-300i32..300, -300i32..300), 0..60),
        buttons in proptest::collection::vec(proptest::bool::ANY, 60),
    ) {
        let (mut device, mouse) = plugged(Mouse::new(Speed::High).unwrap());
        let (mut expected, mut last) = ((0, 0), false);
        for ((dx, dy), pressed) in motions.iter().zip(buttons) {
            mouse.motion(*dx, *dy, 0);
            mouse.button(Button::Left, pressed);
            expected = (expected.0 + dx, expected.1 + dy);
            last = pressed;
        }
        let reports: Vec<_> = std::iter::from_fn(|| poll(&mut device)).collect();
        let sum = |axis: usize| -> i32 {
            reports.iter().map(|report| i32::from(report[axis].cast_signed())).sum()
        };
        assert_eq!((sum(1), sum(2)), expected);
        assert_eq!(get(&mut device, GET_REPORT, 0x100).unwrap()[0], u8::from(last));
    }
}
