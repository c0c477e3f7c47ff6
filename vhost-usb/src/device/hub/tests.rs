use std::sync::atomic::{AtomicBool, Ordering};

use super::descriptors::ENDPOINT;
use super::*;
use crate::device::emulated::Emulated;
use crate::device::hid::keyboard::{Keyboard, KeyboardInput};
use crate::device::host::{Asked, ask, configure, is_ready, read, setup, write};
use crate::device::remote::tests::fickle;
use crate::usb::data::Buffer;
use crate::usb::descriptor::kind;

const RESET: u16 = feature::PORT_RESET;
const POWER: u16 = feature::PORT_POWER;
const SUSPEND: u16 = feature::PORT_SUSPEND;
const C_CONNECTION: u16 = 16;
const C_SUSPEND: u16 = 18;
const C_RESET: u16 = 20;

fn hub(speed: Speed) -> Emulated<Hub> {
    let mut hub = Emulated::new(Hub::new(speed, PORTS).unwrap(), speed);
    configure(&mut hub, 1);
    hub
}

fn keyboard(speed: Speed) -> (Box<dyn Device>, Arc<KeyboardInput>) {
    let keyboard = Keyboard::new(speed).unwrap();
    let input = keyboard.input();
    (Box::new(Emulated::new(keyboard, speed)), input)
}

fn set(hub: &mut dyn Device, feature: u16, port: u16) {
    write(hub, setup(0x23, request::SET_FEATURE, feature, port, 0), &[]).unwrap();
}

fn clear(hub: &mut dyn Device, feature: u16, port: u16) {
    write(hub, setup(0x23, request::CLEAR_FEATURE, feature, port, 0), &[]).unwrap();
}

/// wPortStatus and wPortChange.
fn status(hub: &mut dyn Device, port: u16) -> (u16, u16) {
    let bytes = read(hub, setup(0xa3, request::GET_STATUS, 0, port, 4)).unwrap();
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    (word(0), word(2))
}

/// What the status change endpoint says.
fn changes(hub: &mut dyn Device) -> Option<Vec<u8>> {
    let mut buffer = Buffer::new(8);
    match hub.data_in(ENDPOINT, &mut buffer) {
        Answer::Moved { .. } => Some(buffer.data().to_vec()),
        Answer::Nak => None,
        other => panic!("{other:?}"),
    }
}

/// Does what a driver does until the device in a port has an address.
fn enumerate(hub: &mut Emulated<Hub>, port: u16, address: u8) {
    set(hub, POWER, port);
    clear(hub, C_CONNECTION, port);
    set(hub, RESET, port);
    clear(hub, C_RESET, port);
    let found = hub.find(0).expect("a reset device has address 0");
    let set_address = setup(0, request::SET_ADDRESS, address.into(), 0, 0);
    write(found, set_address, &[]).unwrap();
    let configure = setup(0, request::SET_CONFIGURATION, 1, 0, 0);
    write(hub.find(address).unwrap(), configure, &[]).unwrap();
}

#[test]
fn a_device_is_found_once_its_port_was_reset() {
    let mut hub = hub(Speed::High);
    assert!(hub.function().plug(2, keyboard(Speed::High).0));
    assert_eq!((status(&mut hub, 3), changes(&mut hub)), ((0, 0), None), "it has no power");
    set(&mut hub, POWER, 3);
    assert_eq!(status(&mut hub, 3), (0x101, 1));
    assert_eq!(changes(&mut hub).unwrap(), [1 << 3]);
    clear(&mut hub, C_CONNECTION, 3);
    assert_eq!(changes(&mut hub), None);
    assert!(hub.find(0).is_none());
    set(&mut hub, RESET, 3);
    assert_eq!(status(&mut hub, 3), (0x503, 0x10));
    enumerate(&mut hub, 3, 9);
    assert_eq!(hub.find(9).unwrap().address(), 9);
    clear(&mut hub, feature::PORT_ENABLE, 3);
    assert!(hub.find(9).is_none());
}

#[test]
fn devices_come_and_go_while_it_is_in_use() {
    let mut hub = hub(Speed::High);
    let sockets = hub.function().sockets();
    set(&mut hub, POWER, 1);
    sockets.plug(0, keyboard(Speed::High).0);
    sockets.plug(7, keyboard(Speed::High).0);
    assert!(is_ready(&hub));
    hub.turn();
    assert!(!is_ready(&hub));
    assert_eq!((changes(&mut hub).unwrap(), hub.events().len()), (vec![2], 3));
    enumerate(&mut hub, 1, 5);
    sockets.unplug(0);
    hub.turn();
    assert_eq!(status(&mut hub, 1), (0x100, 1));
    assert!(hub.find(5).is_none());
    assert_eq!(hub.events().len(), 1);
}

#[test]
fn a_device_that_goes_by_itself_keeps_its_port() {
    let mut hub = hub(Speed::High);
    let (device, gone) = fickle();
    hub.function().plug(0, device);
    set(&mut hub, POWER, 1);
    set(&mut hub, RESET, 1);
    [C_CONNECTION, C_RESET].iter().for_each(|change| clear(&mut hub, *change, 1));
    assert_eq!(status(&mut hub, 1), (0x503, 0));
    gone.store(true, Ordering::Relaxed);
    assert!(hub.find(0).is_none());
    assert_eq!(changes(&mut hub).unwrap(), [2]);
    assert_eq!(status(&mut hub, 1), (0x100, 1));
    set(&mut hub, RESET, 1);
    assert_eq!(status(&mut hub, 1).0, 0x100);
    [C_CONNECTION, C_RESET].iter().for_each(|change| clear(&mut hub, *change, 1));
    gone.store(false, Ordering::Relaxed);
    assert_eq!(status(&mut hub, 1), (0x101, 1));
}

#[test]
fn another_process_has_the_hub_as_it_was_and_its_devices_wait_for_a_reset() {
    let make = || {
        let (mut outer, mut inner) = (hub(Speed::High), hub(Speed::High));
        inner.function().plug(2, keyboard(Speed::High).0);
        outer.function().plug(0, Box::new(inner));
        outer.function().plug(1, keyboard(Speed::High).0);
        outer
    };
    let mut first = make();
    enumerate(&mut first, 1, 5);
    enumerate(&mut first, 2, 6);
    set(first.find(5).unwrap(), POWER, 3);
    let mut noted = Vec::new();
    first.note(&mut |word| noted.push(word));
    let mut second = make();
    second.goes_on(&mut noted.iter().copied());
    assert_eq!(status(&mut second, 1), status(&mut first, 1));
    assert_eq!(changes(&mut second), changes(&mut first));
    assert!(second.find(6).is_none(), "it waits for its port's reset");
    let inner = second.find(5).expect("a hub goes on behind a hub");
    assert_eq!(status(inner, 3), (0x101, 1));
    set(&mut second, RESET, 2);
    assert!(second.find(0).is_some());
    // What was plugged out meanwhile is told, and nonsense leads nowhere.
    let mut third = make();
    third.function().unplug(1);
    third.goes_on(&mut noted.iter().copied());
    assert_eq!(status(&mut third, 2), (0x100, 1));
    let mut fourth = make();
    fourth.goes_on(&mut std::iter::repeat(u32::MAX));
    assert!((0..=127).all(|address| fourth.find(address).is_none()));
}

#[test]
fn over_current_takes_a_ports_power() {
    let mut hub = hub(Speed::High);
    hub.function().plug(0, keyboard(Speed::High).0);
    enumerate(&mut hub, 1, 5);
    hub.function().set_over_current(0, true);
    assert_eq!(status(&mut hub, 1), (8, 8));
    assert!(hub.find(5).is_none());
    set(&mut hub, POWER, 1);
    assert_eq!(status(&mut hub, 1).0, 8, "not yet");
    clear(&mut hub, 19, 1);
    hub.function().set_over_current(0, false);
    assert_eq!(status(&mut hub, 1), (0, 8));
    set(&mut hub, POWER, 1);
    assert_eq!(status(&mut hub, 1), (0x101, 9));
}

#[test]
fn a_suspended_port_goes_on_when_its_device_wants_it() {
    let mut hub = hub(Speed::High);
    let (device, input) = keyboard(Speed::High);
    hub.function().plug(0, device);
    enumerate(&mut hub, 1, 5);
    let allow = setup(0, request::SET_FEATURE, 1, 0, 0);
    write(hub.find(5).unwrap(), allow, &[]).unwrap();
    set(&mut hub, SUSPEND, 1);
    assert_eq!(status(&mut hub, 1), (0x507, 0));
    assert!(hub.find(5).is_none());
    input.press(4);
    assert!(is_ready(&hub));
    hub.turn();
    assert_eq!(status(&mut hub, 1), (0x503, 4));
    assert_eq!(changes(&mut hub).unwrap(), [2]);
    assert!(hub.find(5).is_some());
    clear(&mut hub, C_SUSPEND, 1);
    set(&mut hub, SUSPEND, 1);
    clear(&mut hub, SUSPEND, 1);
    assert_eq!(status(&mut hub, 1), (0x503, 4), "or when the driver wants it");
}

#[test]
fn a_device_wakes_the_host_through_hubs() {
    let mut outer = hub(Speed::High);
    let mut inner = Emulated::new(Hub::new(Speed::High, 1).unwrap(), Speed::High);
    // Who has only the outer hub plugs something into the inner one by its sockets.
    let sockets = inner.function().sockets();
    outer.function().plug(0, Box::new(inner));
    enumerate(&mut outer, 1, 2);
    let (device, input) = keyboard(Speed::High);
    sockets.plug(0, device);
    outer.turn();
    let inner = outer.find(2).unwrap();
    set(inner, POWER, 1);
    set(inner, RESET, 1);
    let keyboard = outer.find(0).expect("through both hubs");
    write(keyboard, setup(0, request::SET_ADDRESS, 3, 0, 0), &[]).unwrap();
    let keyboard = outer.find(3).unwrap();
    write(keyboard, setup(0, request::SET_CONFIGURATION, 1, 0, 0), &[]).unwrap();
    write(keyboard, setup(0, request::SET_FEATURE, 1, 0, 0), &[]).unwrap();
    outer.set_suspended(true);
    assert!(!outer.wakes());
    input.press(4);
    assert!(outer.wakes(), "hubs pass it on, whatever they may do themselves");
    outer.set_suspended(false);
    assert!(!outer.wakes());
    assert!(outer.find(3).is_some(), "no port was suspended by itself");
}

#[test]
fn a_hub_that_may_wakes_the_host_for_its_ports() {
    let mut hub = hub(Speed::High);
    set(&mut hub, POWER, 1);
    hub.set_suspended(true);
    hub.function().plug(0, keyboard(Speed::High).0);
    assert!(!hub.wakes());
    write(&mut hub, setup(0, request::SET_FEATURE, 1, 0, 0), &[]).unwrap();
    assert!(hub.wakes());
}

#[test]
fn a_reset_hub_has_no_port_with_power() {
    let mut hub = hub(Speed::High);
    hub.function().plug(0, keyboard(Speed::High).0);
    enumerate(&mut hub, 1, 5);
    hub.reset();
    assert!(hub.find(5).is_none());
    configure(&mut hub, 1);
    assert_eq!(status(&mut hub, 1), (0, 0));
}

#[test]
fn what_is_behind_a_full_speed_hub_is_not_faster() {
    let mut hub = hub(Speed::Full);
    hub.function().plug(0, keyboard(Speed::High).0);
    enumerate(&mut hub, 1, 5);
    assert_eq!(status(&mut hub, 1).0, 0x103);
    assert_eq!(hub.find(5).unwrap().speed(), Speed::Full);
    // A high-speed hub that is plugged in where it is a full-speed one slows its devices down too.
    let mut hub = self::hub(Speed::High);
    hub.function().plug(0, keyboard(Speed::High).0);
    hub.set_high_speed(false);
    assert_eq!(hub.function().device(0).unwrap().speed(), Speed::Full);
}

#[test]
fn a_stopped_translator_reaches_no_slower_device() {
    let mut hub = hub(Speed::High);
    hub.function().plug(0, keyboard(Speed::Full).0);
    hub.function().plug(1, keyboard(Speed::High).0);
    enumerate(&mut hub, 1, 5);
    enumerate(&mut hub, 2, 6);
    assert_eq!((status(&mut hub, 1).0, status(&mut hub, 2).0), (0x103, 0x503));
    let tt = |request, index| setup(0x23, request, 0, index, 0);
    assert_eq!(write(&mut hub, tt(STOP_TT, TT), &[]), Ok(()));
    assert!(hub.find(5).is_none() && hub.find(6).is_some());
    assert!(read(&mut hub, setup(0xa3, GET_TT_STATE, 0, TT, 64)).is_ok());
    assert_eq!(write(&mut hub, tt(RESET_TT, TT), &[]), Ok(()));
    assert_eq!(write(&mut hub, tt(CLEAR_TT_BUFFER, TT), &[]), Ok(()));
    assert_eq!(write(&mut hub, tt(RESET_TT, 2), &[]), Err(Answer::Stall));
    assert!(hub.find(5).is_some());
    let mut slow = self::hub(Speed::Full);
    assert_eq!(write(&mut slow, tt(RESET_TT, TT), &[]), Err(Answer::Stall));
}

#[test]
fn descriptors_tell_its_ports_and_its_translator() {
    let mut hub = hub(Speed::High);
    let class = read(&mut hub, setup(0xa0, request::GET_DESCRIPTOR, 0x2900, 0, 64));
    assert_eq!(class, Ok(vec![9, 0x29, 4, 9, 0, 1, 0, 0, 0xff]));
    let device = hub.function().descriptors.get(Speed::High, kind::DEVICE, 0).unwrap();
    assert_eq!(device[4..7], [9, 0, 1]);
    let qualifier = hub.function().descriptors.get(Speed::High, kind::DEVICE_QUALIFIER, 0).unwrap();
    assert_eq!(qualifier[4..7], [9, 0, 0], "at full speed there is none");
    let large = Hub::new(Speed::High, 99).unwrap();
    assert_eq!((large.len(), descriptors::of_class(8).len()), (8, 11));
    let mut large = Emulated::new(large, Speed::High);
    configure(&mut large, 1);
    large.function().plug(7, keyboard(Speed::High).0);
    set(&mut large, POWER, 8);
    assert_eq!(changes(&mut large).unwrap(), [0, 1]);
}

#[test]
fn what_no_hub_has_is_refused() {
    let mut hub = hub(Speed::High);
    for (feature, port) in [(POWER, 0), (POWER, 5), (21, 1), (22, 1), (0, 1), (16, 1)] {
        let asked = setup(0x23, request::SET_FEATURE, feature, port, 0);
        assert_eq!(write(&mut hub, asked, &[]), Err(Answer::Stall), "{feature} of {port}");
    }
    let asked = setup(0x23, request::CLEAR_FEATURE, 21, 1, 0);
    assert_eq!(write(&mut hub, asked, &[]), Err(Answer::Stall));
    assert_eq!(read(&mut hub, setup(0xa3, request::GET_STATUS, 0, 5, 4)), Err(Answer::Stall));
}

/// Says whether the guest runs, and can't be activated if it is not to.
struct Told {
    device: Box<dyn Device>,
    active: Arc<AtomicBool>,
    fails: bool,
}

impl Told {
    fn boxed(fails: bool) -> (Box<dyn Device>, Arc<AtomicBool>) {
        let active = Arc::new(AtomicBool::new(false));
        let told = Self { device: keyboard(Speed::High).0, active: Arc::clone(&active), fails };
        (Box::new(told), active)
    }
}

impl Device for Told {
    fn speed(&self) -> Speed {
        self.device.speed()
    }

    fn reset(&mut self) {
        self.device.reset();
    }

    fn address(&self) -> u8 {
        self.device.address()
    }

    fn setup(&mut self, endpoint: u8, setup: Setup) -> Answer {
        self.device.setup(endpoint, setup)
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        self.device.data_in(endpoint, to)
    }

    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer {
        self.device.data_out(endpoint, from)
    }

    fn activate(&mut self) -> io::Result<()> {
        if self.fails {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.active.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn deactivate(&mut self) {
        self.active.store(false, Ordering::Relaxed);
    }

    fn find(&mut self, address: u8) -> Option<&mut dyn Device> {
        self.device.find(address)
    }
}

#[test]
fn devices_hold_what_they_need_while_the_guest_runs() {
    let mut hub = hub(Speed::High);
    let is = |active: &Arc<AtomicBool>| active.load(Ordering::Relaxed);
    let (device, first) = Told::boxed(false);
    hub.function().plug(0, device);
    assert!(!is(&first));
    hub.activate().unwrap();
    assert!(is(&first));
    hub.function().unplug(0);
    assert!(!is(&first));
    let (mut device, second) = Told::boxed(false);
    device.activate().unwrap(); // by whoever plugs it in
    hub.function().plug(1, device);
    hub.deactivate();
    assert!(!is(&second));
    hub.activate().unwrap();
    assert!(is(&second));
    hub.deactivate();
    hub.function().plug(3, Told::boxed(true).0);
    assert!(hub.activate().is_err() && !is(&second));
}

proptest::proptest! {
    /// Whatever a host asks for, in whatever order.
    #[test]
    fn any_request_is_answered(
        asked in proptest::collection::vec(proptest::prelude::any::<Asked>(), 0..60),
        ports in 0usize..10,
    ) {
        let mut hub = Emulated::new(Hub::new(Speed::High, ports).unwrap(), Speed::High);
        configure(&mut hub, 1);
        hub.function().plug(0, keyboard(Speed::High).0);
        hub.function().plug(1, Box::new(Emulated::new(Hub::new(Speed::Full, 2).unwrap(), Speed::Full)));
        ask(&mut hub, &asked);
        hub.find(0);
        hub.find(77);
    }
}
