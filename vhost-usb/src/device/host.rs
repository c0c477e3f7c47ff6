//! The host's side of transfers, for tests of devices.

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::Device;
use crate::usb::Answer;
use crate::usb::data::Buffer;
use crate::usb::setup::{Setup, request};

/// A control transfer that asks for data.
pub(crate) fn read(device: &mut dyn Device, setup: Setup) -> Result<Vec<u8>, Answer> {
    expect(device.setup(0, setup), 8)?;
    let mut buffer = Buffer::new(setup.length.into());
    while buffer.data().len() < usize::from(setup.length) {
        match device.data_in(0, &mut buffer) {
            Answer::Moved { short: false, .. } => {}
            Answer::Moved { short: true, .. } => break,
            other => return Err(other),
        }
    }
    expect(device.data_out(0, &(&[][..])), 0)?;
    Ok(buffer.data().to_vec())
}

/// One that brings data, or needs none.
pub(crate) fn write(device: &mut dyn Device, setup: Setup, data: &[u8]) -> Result<(), Answer> {
    let length = u16::try_from(data.len()).unwrap();
    expect(device.setup(0, Setup { length, ..setup }), 8)?;
    if !data.is_empty() {
        expect(device.data_out(0, &data), data.len())?;
    }
    expect(device.data_in(0, &mut Buffer::new(0)), 0)
}

fn expect(answer: Answer, count: usize) -> Result<(), Answer> {
    match answer {
        Answer::Moved { bytes, .. } if bytes == count => Ok(()),
        other => Err(other),
    }
}

/// A standard request with bmRequestType, bRequest, wValue, wIndex and wLength.
pub(crate) fn setup(request_type: u8, request: u8, value: u16, index: u16, length: u16) -> Setup {
    Setup { request_type, request, value, index, length }
}

/// Resets it, and gives it an address and its configuration.
pub(crate) fn configure(device: &mut dyn Device, address: u8) {
    device.reset();
    write(device, setup(0, request::SET_ADDRESS, address.into(), 0, 0), &[]).unwrap();
    assert_eq!(device.address(), address);
    write(device, setup(0, request::SET_CONFIGURATION, 1, 0, 0), &[]).unwrap();
}

/// Whether its events say that it has something to do.
pub(crate) fn is_ready(device: &dyn Device) -> bool {
    let epoll = Epoll::new().unwrap();
    for fd in device.events() {
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
    }
    epoll.wait(0, &mut [EpollEvent::default(); 4]).unwrap() > 0
}

/// What a host may ask for: a SETUP packet if the first byte is 0, IN tokens for so many bytes if it is 1,
/// else OUT tokens with so many, each for an endpoint. Requests that begin so are likely to mean
/// something.
pub(crate) type Asked = (u8, [u8; 8], u8);

/// Asks for all of that, and checks that no more bytes move than can.
pub(crate) fn ask(device: &mut dyn Device, asked: &[Asked]) {
    const TYPES: [u8; 8] = [0x21, 0xa1, 0x20, 0xa0, 0x23, 0xa3, 0x40, 0xc0];
    for (stage, bytes, length) in asked {
        let endpoint = bytes[0] % 4;
        let length = usize::from(*length) * 5;
        match stage % 4 {
            0 | 3 => {
                let mut setup = Setup::parse(*bytes);
                if stage % 8 < 4 {
                    setup.request_type = TYPES[usize::from(bytes[0]) % 8];
                    setup.request %= 0x30;
                    setup.value &= 0x1f1f;
                    setup.index &= 7;
                }
                assert_eq!(device.setup(0, setup), Answer::moved(8));
                let mut buffer = Buffer::new(setup.length.into());
                match setup.request_type & 0x80 {
                    0 => drop(device.data_out(0, &&vec![bytes[7]; setup.length.into()][..])),
                    _ => drop(device.data_in(0, &mut buffer)),
                }
                device.data_in(0, &mut Buffer::new(0));
                device.data_out(0, &&[][..]);
            }
            1 => {
                let mut buffer = Buffer::new(length);
                if let Answer::Moved { bytes, .. } = device.data_in(endpoint, &mut buffer) {
                    assert_eq!(bytes, buffer.data().len());
                }
            }
            _ => {
                let answer = device.data_out(endpoint, &&vec![bytes[1]; length][..]);
                assert!(!matches!(answer, Answer::Moved { bytes, .. } if bytes > length));
            }
        }
        if bytes[2] % 8 == 0 {
            device.set_suspended(bytes[3] % 2 == 0);
        }
        device.turn();
        device.wakes();
    }
}
