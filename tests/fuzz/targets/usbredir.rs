//! A redirected device whose host says what it likes, and whose guest asks for what it likes.
//!
//! Whatever comes: no more is sent than there was room for, or taken than there was; what waits is bounded;
//! and a device that is there gets an address.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vhost_usb::device::Device;
use vhost_usb::device::remote::Remote;
use vhost_usb::redirect::filter::Filter;
use vhost_usb::redirect::packet::Capabilities;
use vhost_usb::redirect::parse::Parser;
use vhost_usb::redirect::session::{CAPABILITIES, Session};
use vhost_usb::usb::data::{Buffer, Sink};
use vhost_usb::usb::setup::{Setup, request};
use vhost_usb::usb::{Answer, Direction, Endpoint};

/// What a host may say, or not.
const KINDS: [u32; 16] = [1, 2, 4, 5, 8, 11, 14, 17, 20, 23, 27, 100, 101, 102, 103, 104];

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    if input.ratio(1, 4)? { parse(input) } else { serve(input) }
}

/// Any bytes, in pieces.
fn parse(input: &mut Unstructured<'_>) -> Result<()> {
    let mut parser = Parser::new(Capabilities::from_bits_truncate(input.arbitrary()?));
    while !input.is_empty() {
        let count = input.int_in_range(1..=64)?;
        let mut piece = input.bytes(count.min(input.len()))?;
        loop {
            match parser.next(&mut piece) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
        assert!(piece.is_empty());
    }
    Ok(())
}

fn packet(kind: u32, id: u64, agreed: Capabilities, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    let long = agreed.contains(Capabilities::IDS_64_BITS);
    bytes.extend(id.to_le_bytes().iter().take(if long { 8 } else { 4 }));
    bytes.extend(body);
    bytes
}

/// The end of a transfer, or a packet, whose lengths are those of its data.
fn data(input: &mut Unstructured<'_>, kind: u32, agreed: Capabilities) -> Result<Vec<u8>> {
    let endpoint = input.int_in_range(0..=3u8)? | if input.ratio(2, 3)? { 0x80 } else { 0 };
    let status = input.int_in_range(0..=7u8)?;
    let count = input.int_in_range(0..=600u16)?;
    let length = count.to_le_bytes();
    if kind == 104 {
        let mut body = vec![0; 4];
        body.extend(u32::from(count).to_le_bytes());
        body.extend([endpoint, status]);
        body.resize(body.len() + usize::from(count), 0xa5);
        return Ok(body);
    }
    let mut body = match kind {
        100 => vec![endpoint & 0x80, 0, 0, status, 0, 0, 0, 0],
        _ => vec![endpoint, status],
    };
    body.extend(length);
    if kind == 101 {
        let long = agreed.contains(Capabilities::BULK_LENGTH_32_BITS);
        body.extend([0; 6].iter().take(if long { 6 } else { 4 }));
    }
    if endpoint & 0x80 != 0 {
        body.resize(body.len() + usize::from(count), 0xa5);
    }
    Ok(body)
}

fn said(input: &mut Unstructured<'_>, agreed: Capabilities) -> Result<Vec<u8>> {
    let kind = *input.choose(&KINDS)?;
    let id = input.int_in_range(0..=30)?;
    let body = match kind {
        100..=104 => data(input, kind, agreed)?,
        1 => {
            let long = agreed.contains(Capabilities::CONNECT_DEVICE_VERSION);
            let mut body = input.bytes(if long { 10 } else { 8 })?.to_vec();
            if input.arbitrary()? {
                body[4..6].copy_from_slice(&[0x03, 0x04]);
            }
            body
        }
        4 => {
            let mut body = vec![0; 132];
            body[0] = input.int_in_range(0..=32)?;
            body[36..40].copy_from_slice(input.bytes(4)?);
            if input.arbitrary()? {
                // A serial converter's, which is read ahead.
                body[36..38].fill(0xff);
            }
            body
        }
        5 => {
            let sized = agreed.contains(Capabilities::EP_INFO_MAX_PACKET_SIZE);
            let mut body = vec![255; 32];
            body.resize(64, 1);
            let length = match sized {
                true if agreed.contains(Capabilities::BULK_STREAMS) => 288,
                true => 160,
                false => 96,
            };
            body.resize(length, 0);
            for place in [1, 2, 3, 17, 18, 19] {
                body[place] = input.int_in_range(0..=3)?;
                body[64 + place] = input.int_in_range(0..=1)?;
                if sized {
                    body[96 + 2 * place] = input.arbitrary()?;
                }
            }
            body
        }
        8 | 14 | 17 => vec![input.int_in_range(0..=6)?, input.arbitrary::<u8>()? & 0x83],
        27 => vec![0, 0, 0, 0, input.arbitrary::<u8>()? & 0x83, input.int_in_range(0..=6)?],
        11 => vec![input.int_in_range(0..=6)?, 0, 0],
        _ => Vec::new(),
    };
    Ok(packet(kind, id, agreed, &body))
}

fn serve(input: &mut Unstructured<'_>) -> Result<()> {
    let filter = match input.ratio(1, 4)? {
        true => Filter::parse("3:-1:-1:-1:1|-1:-1:-1:0x100:0|-1:-1:-1:-1:1").ok(),
        false => None,
    };
    let mut device = Remote::new(Session::new(filter));
    device.backend().greet();
    let theirs = Capabilities::from_bits_truncate(input.arbitrary()?);
    let agreed = theirs & CAPABILITIES;
    let mut hello = vec![0; 64];
    hello.extend(theirs.bits().to_le_bytes());
    let mut bytes = packet(0, 0, Capabilities::empty(), &hello);
    while !input.is_empty() {
        if input.ratio(1, 2)? {
            bytes.extend(said(input, agreed)?);
            if device.backend().take_input(&bytes).is_err() {
                break;
            }
            bytes.clear();
            if device.backend().take_change() {
                device.renew();
            }
            device.turn();
        } else {
            step(&mut device, input)?;
        }
        // As much as one request and one transfer for each endpoint, and what was taken back.
        assert!(device.backend().output().len() < 8 << 20);
        if input.ratio(1, 8)? {
            device.backend().output().clear();
        }
    }
    device.reset();
    let setup = Setup { request: request::SET_ADDRESS, value: 7, ..Setup::default() };
    if device.is_present() {
        assert_eq!(device.setup(0, setup), Answer::moved(8));
        let done = device.data_in(0, &mut Buffer::new(0));
        assert_eq!(done, Answer::Moved { bytes: 0, short: true });
        assert!(device.find(7).is_some());
    } else {
        assert_eq!(device.setup(0, setup), Answer::Silent);
    }
    Ok(())
}

fn step(device: &mut Remote<Session>, input: &mut Unstructured<'_>) -> Result<()> {
    let endpoint = input.int_in_range(0..=3u8)?;
    match input.int_in_range(0..=7u8)? {
        0 | 1 => {
            let mut setup = Setup::parse(input.arbitrary()?);
            if input.ratio(1, 2)? {
                // Small values are what requests have.
                setup.request_type &= 0x83;
                setup.request &= 0xb;
                (setup.value, setup.index) = (setup.value & 0x3, setup.index & 0x83);
                setup.length &= 0x7f;
            }
            device.setup(0, setup);
        }
        2 | 3 => {
            let mut room = Buffer::new(input.int_in_range(0..=40_000)?);
            let before = room.room();
            if let Answer::Moved { bytes, .. } = device.data_in(endpoint, &mut room) {
                assert_eq!(bytes, before - room.room());
            }
        }
        4 | 5 => {
            let count = input.int_in_range(0..=600)?;
            let data = input.bytes(count.min(input.len()))?;
            if let Answer::Moved { bytes, .. } = device.data_out(endpoint, &data) {
                assert!(bytes <= data.len(), "{bytes} of {}", data.len());
            }
        }
        6 => {
            let direction = *input.choose(&[Direction::In, Direction::Out])?;
            device.cancel(Endpoint::new(endpoint, direction));
            device.set_suspended(input.arbitrary()?);
            let _ = (device.wakes(), device.take_change(), device.speed());
        }
        _ => device.reset(),
    }
    Ok(())
}
