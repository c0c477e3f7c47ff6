//! A host that says what it is told to.

mod device;
mod parse;
mod session;

use super::packet::{Capabilities, EndpointInfo, kind};
use super::session::CAPABILITIES;
use crate::usb::Endpoint;

/// A packet's bytes, for who has agreed on that.
pub(crate) fn frame(kind: u32, id: u64, agreed: Capabilities, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    match agreed.contains(Capabilities::IDS_64_BITS) {
        true => bytes.extend(id.to_le_bytes()),
        false => bytes.extend(u32::try_from(id).unwrap().to_le_bytes()),
    }
    bytes.extend(body);
    bytes
}

pub(crate) fn hello(capabilities: Capabilities) -> Vec<u8> {
    let mut body = b"a host".to_vec();
    body.resize(64, 0);
    body.extend(capabilities.bits().to_le_bytes());
    frame(kind::HELLO, 0, Capabilities::empty(), &body)
}

/// What follows hello, with all that is served here.
pub(crate) fn said(kind: u32, id: u64, body: &[u8]) -> Vec<u8> {
    frame(kind, id, CAPABILITIES, body)
}

pub(crate) fn interfaces(classes: &[[u8; 3]]) -> Vec<u8> {
    let mut body = vec![0; 132];
    body[0] = u8::try_from(classes.len()).unwrap();
    for (number, class) in classes.iter().enumerate() {
        body[4 + number] = u8::try_from(number).unwrap();
        for (field, value) in class.iter().enumerate() {
            body[4 + 32 * (field + 1) + number] = *value;
        }
    }
    said(kind::INTERFACE_INFO, 0, &body)
}

/// Endpoints' addresses, kinds and packets' sizes.
pub(crate) fn endpoints(all: &[(u8, u8, u16)]) -> Vec<u8> {
    let mut body = vec![0; 288];
    body[..32].fill(255);
    for (address, kind, max_packet) in all {
        let place = usize::from(address & 0xf | address >> 3 & 0x10);
        body[place] = *kind;
        body[32 + place] = 1;
        body[96 + 2 * place..][..2].copy_from_slice(&max_packet.to_le_bytes());
    }
    said(kind::EP_INFO, 0, &body)
}

pub(crate) fn info(address: u8, kind: u8, max_packet: u16) -> EndpointInfo {
    let endpoint = Endpoint::of_address(address);
    EndpointInfo { endpoint, kind, interval: 1, interface: 0, max_packet: Some(max_packet) }
}

pub(crate) fn connect(speed: u8) -> Vec<u8> {
    connect_from(0x1234, speed)
}

/// Of that vendor.
pub(crate) fn connect_from(vendor: u16, speed: u8) -> Vec<u8> {
    let [low, high] = vendor.to_le_bytes();
    said(kind::DEVICE_CONNECT, 0, &[speed, 0, 0, 0, low, high, 0x78, 0x56, 0, 1])
}

/// A stick, all that is to be said of it.
pub(crate) fn stick() -> Vec<u8> {
    let endpoints = endpoints(&[(0, 0, 64), (0x80, 0, 64), (0x81, 2, 512), (2, 2, 512)]);
    [hello(Capabilities::all()), endpoints, interfaces(&[[8, 6, 0x50]]), connect(2)].concat()
}
