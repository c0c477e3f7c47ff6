//! A device that does what a test wants.

use std::sync::{Arc, Mutex};

use crate::device::Device;
use crate::device::emulated::{Emulated, Function};
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::{Answer, Direction, Endpoint, Speed};

/// What a test and its device share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// What the device has been sent, packet by packet.
    pub(super) got: Vec<Vec<u8>>,
    /// What it sends.
    pub(super) sends: Vec<Vec<u8>>,
    /// What it answers, if not by that.
    pub(super) answer: Option<Answer>,
    /// More is to come, however few bytes it sends.
    pub(super) in_pieces: bool,
    pub(super) wakes: bool,
    pub(super) resets: usize,
}

/// Has a bulk endpoint 1 and an interrupt endpoint 2.
struct Toy {
    descriptors: Descriptors,
    shared: Arc<Mutex<Shared>>,
}

impl Function for Toy {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.shared.lock().unwrap().resets += 1;
    }

    fn data_in(&mut self, _endpoint: u8, to: &mut dyn Sink) -> Answer {
        let mut shared = self.shared.lock().unwrap();
        if let Some(answer) = shared.answer {
            return answer;
        }
        if shared.sends.is_empty() {
            return Answer::Nak;
        }
        let data = shared.sends.remove(0);
        if data.len() > to.room() {
            return Answer::Babble;
        }
        let bytes = to.write(&data);
        Answer::Moved { bytes, short: to.room() > 0 && !shared.in_pieces }
    }

    fn data_out(&mut self, _endpoint: u8, from: &dyn Source) -> Answer {
        let mut shared = self.shared.lock().unwrap();
        if let Some(answer) = shared.answer {
            return answer;
        }
        shared.got.push(from.to_vec(2000));
        Answer::moved(from.len())
    }

    fn wants_to_wake(&self) -> bool {
        self.shared.lock().unwrap().wakes
    }
}

pub(super) fn toy(speed: Speed) -> (Box<dyn Device>, Arc<Mutex<Shared>>) {
    let endpoint = |number, direction, transfer| EndpointInfo {
        endpoint: Endpoint::new(number, direction),
        transfer,
        synchronization: Synchronization::None,
        max_packet: 64,
        interval: 1,
        class_descriptors: Vec::new(),
    };
    let configuration = Configuration {
        remote_wakeup: true,
        interfaces: vec![Interface {
            endpoints: vec![
                endpoint(1, Direction::In, Transfer::Bulk),
                endpoint(1, Direction::Out, Transfer::Bulk),
                endpoint(2, Direction::In, Transfer::Interrupt),
            ],
            ..Interface::default()
        }],
        ..Configuration::default()
    };
    let descriptors = Descriptors {
        usb: 0x110,
        max_packet_0: 8,
        id: (0x1234, 0x5678),
        full_speed: Some(configuration),
        ..Descriptors::default()
    };
    let shared = Arc::new(Mutex::new(Shared::default()));
    let toy = Toy { descriptors, shared: shared.clone() };
    (Box::new(Emulated::new(toy, speed)), shared)
}
