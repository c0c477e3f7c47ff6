//! What a hub says that it is (USB 2.0, 11.23).

use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::{Direction, Endpoint, Speed};

/// The class (11.23.1), and the protocol of one transaction translator at high speed.
const CLASS: [u8; 3] = [9, 0, 1];
/// The status change endpoint (11.12.1).
pub(super) const ENDPOINT: u8 = 1;
/// bInterval: as rarely as it can be asked at full speed, and every 256 ms at high speed.
const INTERVALS: [u8; 2] = [0xff, 12];

/// The hub descriptor's type (11.23.2.1).
pub(super) const OF_CLASS: u8 = 0x29;
/// wHubCharacteristics: ports are switched one by one, and report over-current one by one.
const CHARACTERISTICS: u16 = 0x0009;
/// bPwrOn2PwrGood: 2 ms.
const POWER_GOOD: u8 = 1;

/// Bytes of a bitmap with a bit for the hub and for each port.
pub(super) const fn bitmap_length(ports: usize) -> usize {
    if ports < 8 { 1 } else { 2 }
}

/// The class's own (11.23.2.1).
pub(super) fn of_class(ports: usize) -> Vec<u8> {
    let mut bytes = vec![OF_CLASS, u8::try_from(ports).unwrap_or(u8::MAX)];
    bytes.extend(CHARACTERISTICS.to_le_bytes());
    bytes.extend([POWER_GOOD, 0]); // the hub itself takes nothing of its ports' current
    let length = bitmap_length(ports);
    bytes.extend(std::iter::repeat_n(0, length)); // all devices can be taken out
    bytes.extend(std::iter::repeat_n(0xff, length)); // 1.0's, always so
    bytes.insert(0, u8::try_from(bytes.len().saturating_add(1)).unwrap_or(u8::MAX));
    bytes
}

/// Those that all devices have.
pub(super) fn standard(fastest: Speed, ports: usize) -> Descriptors {
    let configuration = |interval| Configuration {
        self_powered: true,
        remote_wakeup: true,
        interfaces: vec![Interface {
            class: [9, 0, 0],
            endpoints: vec![EndpointInfo {
                endpoint: Endpoint::new(ENDPOINT, Direction::In),
                transfer: Transfer::Interrupt,
                synchronization: Synchronization::None,
                max_packet: u16::try_from(bitmap_length(ports)).unwrap_or(1),
                interval,
                class_descriptors: Vec::new(),
            }],
            ..Interface::default()
        }],
        ..Configuration::default()
    };
    let is_high = fastest == Speed::High;
    let [full, high] = INTERVALS;
    Descriptors {
        usb: if is_high { 0x0200 } else { 0x0110 },
        class: CLASS,
        max_packet_0: 64,
        // pid.codes' numbers for tests: it is no vendor's product.
        id: (0x1209, 0x0005),
        release: 0x0100,
        manufacturer: String::from("vhost-usb"),
        product: String::from("Hub"),
        full_speed: Some(configuration(full)),
        high_speed: is_high.then(|| configuration(high)),
        ..Descriptors::default()
    }
}
