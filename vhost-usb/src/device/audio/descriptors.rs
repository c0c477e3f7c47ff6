//! What an audio device says that it is (Audio 1.0, 4; Audio Data Formats 1.0, 2.2.5).

use vhost_sound::card::port::{Direction as Way, Port};

use super::feature::Feature;
use super::shape::Shape;
use super::{CONTROL, entity, interface};
use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::{Direction, Endpoint, Speed};

/// bInterfaceClass, and the subclasses of the interfaces (tables ).
const CLASS: u8 = 1;
const AUDIOCONTROL: u8 = 1;
const AUDIOSTREAMING: u8 = 2;
/// Types of descriptors (table A-4).
const CS_INTERFACE: u8 = 0x24;
const CS_ENDPOINT: u8 = 0x25;
/// Subtypes of an AudioControl interface's (table A-5).
const HEADER: u8 = 1;
const INPUT_TERMINAL: u8 = 2;
const OUTPUT_TERMINAL: u8 = 3;
const FEATURE_UNIT: u8 = 6;
/// Subtypes of an AudioStreaming interface's (table A-6), and of its endpoint's (table A-8).
const AS_GENERAL: u8 = 1;
const FORMAT_TYPE: u8 = 2;
const EP_GENERAL: u8 = 1;
/// Samples in frames, and linear (Formats, tables ).
const FORMAT_TYPE_I: u8 = 1;
const PCM: u16 = 1;
/// bmAttributes of an endpoint: its sampling frequency can be set (table 4-21).
const SETS_FREQUENCY: u8 = 1;
/// The terminal at the bus's end (Terminal Types 1.0, 2.1).
const USB_STREAMING: u16 = 0x0101;
/// bInterval: a packet in each millisecond, at full speed and at high speed.
const INTERVALS: [u8; 2] = [1, 4];

/// The terminal at the jack's end (Terminal Types 1.0, 2.2 to 2.7).
fn terminal(port: Port) -> u16 {
    match port {
        Port::Speaker => 0x0301,
        Port::Headphone => 0x0302,
        Port::Mic => 0x0201,
        Port::Aux => 0x0601,
        Port::DigitalOut | Port::DigitalIn => 0x0602,
        Port::LineOut | Port::LineIn => 0x0603,
        Port::SpdifOut | Port::SpdifIn => 0x0605,
        Port::Cd => 0x0703,
    }
}

/// wChannelConfig (3.7.2.3): left and right front; a single channel is nowhere in particular.
fn places(channels: u8) -> u16 {
    if channels == 2 { 0b11 } else { 0 }
}

/// A terminal, a feature unit, and a terminal (4.3.2.1, 4.3.2.5, 4.3.2.2).
fn entities(shape: &Shape) -> Vec<u8> {
    let channels = shape.channels();
    let ids = entity::of(shape.direction());
    let (from, to) = match shape.direction() {
        Way::Playback => (USB_STREAMING, terminal(shape.port())),
        Way::Capture => (terminal(shape.port()), USB_STREAMING),
    };
    let mut bytes = vec![12, CS_INTERFACE, INPUT_TERMINAL, ids.input];
    bytes.extend(from.to_le_bytes());
    bytes.extend([0, channels]);
    bytes.extend(places(channels).to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend([channels.saturating_add(8), CS_INTERFACE, FEATURE_UNIT, ids.feature, ids.input]);
    bytes.push(1); // byte for each channel's controls
    bytes.extend(Feature::controls(channels));
    bytes.push(0);
    bytes.extend([9, CS_INTERFACE, OUTPUT_TERMINAL, ids.output]);
    bytes.extend(to.to_le_bytes());
    bytes.extend([0, ids.feature, 0]);
    bytes
}

/// The interface whose requests are the entities' (4.3.2).
fn control(shapes: &[&Shape]) -> Interface {
    let entities: Vec<u8> = shapes.iter().flat_map(|shape| entities(shape)).collect();
    let streams: Vec<u8> =
        shapes.iter().map(|shape| interface(shape.direction(), shapes.len())).collect();
    let count = u8::try_from(streams.len()).unwrap_or(u8::MAX);
    let length = count.saturating_add(8);
    let total = u16::from(length).saturating_add(u16::try_from(entities.len()).unwrap_or(u16::MAX));
    let mut bytes = vec![length, CS_INTERFACE, HEADER, 0x00, 0x01];
    bytes.extend(total.to_le_bytes());
    bytes.push(count);
    bytes.extend(streams);
    bytes.extend(entities);
    Interface {
        number: CONTROL,
        class: [CLASS, AUDIOCONTROL, 0],
        class_descriptors: bytes,
        ..Interface::default()
    }
}

/// An alternate setting with packets (4.5.2; Formats, 2.2.5).
fn setting(shape: &Shape, channels: u8) -> Vec<u8> {
    let ids = entity::of(shape.direction());
    let link = match shape.direction() {
        Way::Playback => ids.input,
        Way::Capture => ids.output,
    };
    let mut bytes = vec![7, CS_INTERFACE, AS_GENERAL, link, 1];
    bytes.extend(PCM.to_le_bytes());
    let rates = u8::try_from(shape.rates().len()).unwrap_or(u8::MAX);
    let length = rates.saturating_mul(3).saturating_add(8);
    bytes.extend([length, CS_INTERFACE, FORMAT_TYPE, FORMAT_TYPE_I, channels, 2, 16, rates]);
    for rate in shape.rates() {
        let [low, middle, high, _] = rate.hertz().to_le_bytes();
        bytes.extend([low, middle, high]);
    }
    bytes
}

/// An interface of samples, in all its settings: the first has no packets (4.5).
fn streaming(shape: &Shape, number: u8, interval: u8) -> Vec<Interface> {
    let class = [CLASS, AUDIOSTREAMING, 0];
    // Who plays takes what comes; what is recorded comes with the device's clock, which is the bus's.
    let synchronization = match shape.direction() {
        Way::Playback => Synchronization::Adaptive,
        Way::Capture => Synchronization::Asynchronous,
    };
    let silent = Interface { number, class, ..Interface::default() };
    let settings = shape.settings().zip(1..).map(|(channels, alternate)| Interface {
        alternate,
        class_descriptors: setting(shape, channels),
        endpoints: vec![EndpointInfo {
            endpoint: endpoint(shape.direction()),
            transfer: Transfer::Isochronous,
            synchronization,
            max_packet: shape.max_packet(channels),
            interval,
            // 4.6.1.2
            class_descriptors: vec![7, CS_ENDPOINT, EP_GENERAL, SETS_FREQUENCY, 0, 0, 0],
        }],
        ..silent.clone()
    });
    std::iter::once(silent.clone()).chain(settings).collect()
}

/// Where a stream's packets go.
pub(super) fn endpoint(way: Way) -> Endpoint {
    match way {
        Way::Playback => Endpoint::new(1, Direction::Out),
        Way::Capture => Endpoint::new(2, Direction::In),
    }
}

/// All of it.
pub(super) fn descriptors(fastest: Speed, shapes: &[&Shape]) -> Descriptors {
    let configuration = |interval| {
        let streams = shapes.iter().flat_map(|shape| {
            streaming(shape, interface(shape.direction(), shapes.len()), interval)
        });
        Configuration {
            milliamperes: 100,
            interfaces: std::iter::once(control(shapes)).chain(streams).collect(),
            ..Configuration::default()
        }
    };
    let [full, high] = INTERVALS;
    Descriptors {
        usb: 0x0200,
        max_packet_0: 64,
        // pid.codes' numbers for tests: it is no vendor's product.
        id: (0x1209, 0x0007),
        release: 0x0100,
        manufacturer: String::from("vhost-usb"),
        product: String::from("Audio"),
        full_speed: Some(configuration(full)),
        high_speed: (fastest == Speed::High).then(|| configuration(high)),
        ..Descriptors::default()
    }
}
