use super::*;
use crate::device::host::{configure, read, setup, write};
use crate::usb::data::Buffer;
use crate::usb::descriptor::{Configuration, EndpointInfo, Synchronization, Transfer, kind};

/// Keeps what it is sent until it is asked for it.
pub(crate) struct Echo {
    descriptors: Descriptors,
    pub(crate) kept: Vec<u8>,
    pub(crate) told: Vec<String>,
}

impl Echo {
    pub(crate) fn new() -> Emulated<Echo> {
        let endpoint = |direction| EndpointInfo {
            endpoint: Endpoint::new(1, direction),
            transfer: Transfer::Bulk,
            synchronization: Synchronization::None,
            max_packet: 512,
            interval: 0,
            class_descriptors: Vec::new(),
        };
        let interface =
            |alternate, endpoints| Interface { alternate, endpoints, ..Interface::default() };
        let both = vec![endpoint(Direction::In), endpoint(Direction::Out)];
        let high_speed = Configuration {
            remote_wakeup: true,
            self_powered: true,
            interfaces: vec![interface(0, both), interface(1, vec![])],
            ..Configuration::default()
        };
        let descriptors = Descriptors { high_speed: Some(high_speed), ..Descriptors::default() };
        Emulated::new(Echo { descriptors, kept: vec![], told: vec![] }, Speed::High)
    }
}

impl Function for Echo {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.kept.clear();
    }

    fn interface_set(&mut self, interface: u8, alternate: u8) {
        self.told.push(format!("interface {interface}: {alternate}"));
    }

    fn halt_cleared(&mut self, endpoint: Endpoint) {
        self.told.push(format!("endpoint {:#x}", endpoint.address()));
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        (setup.request == 0x10).then(|| self.kept.clone())
    }

    fn request_out(&mut self, setup: Setup, data: &[u8]) -> Option<()> {
        (setup.request == 0x11).then(|| self.kept = data.to_vec())
    }

    fn data_in(&mut self, _endpoint: u8, to: &mut dyn Sink) -> Answer {
        if self.kept.is_empty() {
            return Answer::Nak;
        }
        let bytes = to.write(&std::mem::take(&mut self.kept));
        Answer::Moved { bytes, short: to.room() > 0 }
    }

    fn data_out(&mut self, _endpoint: u8, from: &dyn Source) -> Answer {
        self.kept = from.to_vec(0x8000);
        if self.kept == b"bad" { Answer::Stall } else { Answer::moved(self.kept.len()) }
    }

    fn wants_to_wake(&self) -> bool {
        true
    }
}

#[test]
fn a_device_is_addressed_and_configured_and_forgets_it_at_a_reset() {
    let mut echo = Echo::new();
    assert_eq!(echo.data_out(1, &(&b"x"[..])), Answer::Silent, "it is not configured");
    configure(&mut echo, 5);
    let asked = setup(0x80, request::GET_CONFIGURATION, 0, 0, 1);
    assert_eq!(read(&mut echo, asked), Ok(vec![1]));
    assert!(echo.find(5).is_some() && echo.find(6).is_none());
    echo.reset();
    assert_eq!((echo.address(), read(&mut echo, asked)), (0, Ok(vec![0])));
    let wrong = setup(0, request::SET_CONFIGURATION, 2, 0, 0);
    assert_eq!(write(&mut echo, wrong, &[]), Err(Answer::Stall));
    assert_eq!(
        write(&mut echo, setup(0, request::SET_ADDRESS, 128, 0, 0), &[]),
        Err(Answer::Stall)
    );
}

#[test]
fn the_address_changes_after_the_status_stage() {
    let mut echo = Echo::new();
    echo.setup(0, setup(0, request::SET_ADDRESS, 7, 0, 0));
    assert_eq!(echo.address(), 0);
    assert_eq!(echo.data_in(0, &mut Buffer::new(0)), Answer::Moved { bytes: 0, short: true });
    assert_eq!(echo.address(), 7);
}

#[test]
fn an_answer_is_cut_to_what_is_asked_for_and_comes_in_pieces() {
    let mut echo = Echo::new();
    let device =
        |length| setup(0x80, request::GET_DESCRIPTOR, u16::from(kind::DEVICE) << 8, 0, length);
    assert_eq!(read(&mut echo, device(8)).unwrap().len(), 8);
    assert_eq!(read(&mut echo, device(64)).unwrap().len(), 18);
    echo.setup(0, device(18));
    let mut piece = Buffer::new(10);
    assert_eq!(echo.data_in(0, &mut piece), Answer::moved(10));
    let mut piece = Buffer::new(10);
    assert_eq!(echo.data_in(0, &mut piece), Answer::Moved { bytes: 8, short: true });
    let mut piece = Buffer::new(10);
    assert_eq!(echo.data_in(0, &mut piece), Answer::Moved { bytes: 0, short: true });
}

#[test]
fn requests_that_only_the_device_knows_are_its_own() {
    let mut echo = Echo::new();
    assert_eq!(write(&mut echo, setup(0x40, 0x11, 0, 0, 0), b"abc"), Ok(()));
    assert_eq!(read(&mut echo, setup(0xc0, 0x10, 0, 0, 64)), Ok(b"abc".to_vec()));
    assert_eq!(write(&mut echo, setup(0x40, 0x12, 0, 0, 0), b"abc"), Err(Answer::Stall));
    assert_eq!(read(&mut echo, setup(0xc0, 0x12, 0, 0, 64)), Err(Answer::Stall));
    // More data than wLength has said.
    echo.setup(0, setup(0x40, 0x11, 0, 0, 2));
    assert_eq!(echo.data_out(0, &(&b"abc"[..])), Answer::Stall);
    assert_eq!(echo.data_in(0, &mut Buffer::new(0)), Answer::Stall);
    // A status stage before all the data.
    echo.setup(0, setup(0x40, 0x11, 0, 0, 2));
    assert_eq!(echo.data_in(0, &mut Buffer::new(0)), Answer::Stall);
    assert_eq!(read(&mut echo, setup(0xc0, 0x10, 0, 0, 64)), Ok(b"abc".to_vec()), "as it was");
}

#[test]
fn a_halted_endpoint_stalls_until_it_is_cleared() {
    let mut echo = Echo::new();
    configure(&mut echo, 1);
    assert_eq!(echo.data_out(1, &(&b"bad"[..])), Answer::Stall);
    assert_eq!(echo.data_out(1, &(&b"good"[..])), Answer::Stall);
    let status = |index| setup(0x82, request::GET_STATUS, 0, index, 2);
    assert_eq!(read(&mut echo, status(1)), Ok(vec![1, 0]));
    assert_eq!(read(&mut echo, status(0x81)), Ok(vec![0, 0]));
    assert_eq!(read(&mut echo, status(0x82)), Err(Answer::Stall), "there is none");
    let clear = setup(2, request::CLEAR_FEATURE, feature::ENDPOINT_HALT, 1, 0);
    assert_eq!(write(&mut echo, clear, &[]), Ok(()));
    assert_eq!(echo.function().told, ["endpoint 0x1"]);
    assert_eq!(echo.data_out(1, &(&b"good"[..])), Answer::moved(4));
    let halt = setup(2, request::SET_FEATURE, feature::ENDPOINT_HALT, 0x81, 0);
    assert_eq!(write(&mut echo, halt, &[]), Ok(()));
    assert_eq!(echo.data_in(1, &mut Buffer::new(8)), Answer::Stall);
}

#[test]
fn an_alternate_setting_has_its_own_endpoints() {
    let mut echo = Echo::new();
    configure(&mut echo, 1);
    let set = |alternate, interface| setup(1, request::SET_INTERFACE, alternate, interface, 0);
    assert_eq!(write(&mut echo, set(1, 0), &[]), Ok(()));
    assert_eq!(echo.function().told, ["interface 0: 1"]);
    assert_eq!(echo.data_out(1, &(&b"x"[..])), Answer::Silent);
    let asked = setup(0x81, request::GET_INTERFACE, 0, 0, 1);
    assert_eq!(read(&mut echo, asked), Ok(vec![1]));
    assert_eq!(write(&mut echo, set(2, 0), &[]), Err(Answer::Stall));
    assert_eq!(write(&mut echo, set(0, 1), &[]), Err(Answer::Stall));
    assert_eq!(read(&mut echo, setup(0x81, request::GET_INTERFACE, 0, 1, 1)), Err(Answer::Stall));
}

#[test]
fn a_device_of_a_new_process_has_no_address_before_its_reset() {
    let mut echo = Echo::new();
    echo.goes_on(&mut std::iter::empty());
    assert!((0..=127).all(|address| echo.find(address).is_none()));
    echo.reset();
    assert!(echo.find(0).is_some());
}

#[test]
fn only_a_device_that_may_wakes_the_host() {
    let mut echo = Echo::new();
    configure(&mut echo, 1);
    let status = setup(0x80, request::GET_STATUS, 0, 0, 2);
    assert_eq!(read(&mut echo, status), Ok(vec![1, 0]));
    echo.set_suspended(true);
    assert!(!echo.wakes());
    let set = setup(0, request::SET_FEATURE, feature::DEVICE_REMOTE_WAKEUP, 0, 0);
    assert_eq!(write(&mut echo, set, &[]), Ok(()));
    assert!(echo.wakes());
    assert_eq!(read(&mut echo, status), Ok(vec![3, 0]));
    echo.set_suspended(false);
    assert!(!echo.wakes());
}

proptest::proptest! {
    /// Whatever a host asks for, in whatever order.
    #[test]
    fn any_request_is_answered(
        requests in proptest::collection::vec(
            (proptest::array::uniform8(0u8..), 0usize..3, 0usize..80), 0..40)
    ) {
        let mut echo = Echo::new();
        configure(&mut echo, 1);
        for (bytes, stage, length) in requests {
            match stage {
                0 => assert_eq!(echo.setup(0, Setup::parse(bytes)), Answer::moved(8)),
                1 => {
                    let mut buffer = Buffer::new(length);
                    if let Answer::Moved { bytes, .. } = echo.data_in(bytes[0] % 3, &mut buffer) {
                        assert_eq!(bytes, buffer.data().len());
                    }
                }
                _ => {
                    let data = vec![0; length];
                    let answer = echo.data_out(bytes[0] % 3, &&data[..]);
                    assert!(!matches!(answer, Answer::Moved { bytes, .. } if bytes > length));
                }
            }
        }
    }
}
