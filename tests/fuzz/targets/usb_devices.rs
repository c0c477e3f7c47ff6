//! Every kind of USB device, whose host asks for what it likes.
//!
//! Whatever comes: no more is sent than there was room for, or taken than there was, and a device that is
//! reset and configured answers its standard requests again.

#![no_main]

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use fuzz::Ram;
use libfuzzer_sys::fuzz_target;
use vhost_scsi::lun::disk::{Disk, DiskOptions};
use vhost_scsi::lun::identity::Identity;
use vhost_scsi::scsi::target::{Address, Bus};
use vhost_scsi::scsi::{ErrorPolicy, LogicalUnit};
use vhost_sound::card::port::Direction;
use vhost_sound::options::Stream;
use vhost_sound::streams;
use vhost_usb::device::Device;
use vhost_usb::device::audio::Audio;
use vhost_usb::device::emulated::{Emulated, Function};
use vhost_usb::device::gadget_zero::{GadgetZero, Mode, Pattern};
use vhost_usb::device::hid::keyboard::Keyboard;
use vhost_usb::device::hid::mouse::Mouse;
use vhost_usb::device::hid::tablet::Tablet;
use vhost_usb::device::hub::Hub;
use vhost_usb::device::serial::Serial;
use vhost_usb::device::serial::peer::Peer;
use vhost_usb::device::storage::Storage;
use vhost_usb::usb::data::{Buffer, Sink};
use vhost_usb::usb::setup::{Setup, request};
use vhost_usb::usb::{self, Answer, Endpoint, Speed};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn emulated<F: Function + 'static>(function: std::io::Result<F>, speed: Speed) -> Box<dyn Device> {
    Box::new(Emulated::new(function.expect("descriptors are left"), speed))
}

fn disk_options() -> DiskOptions {
    let identity = Identity {
        name: String::from("disk"),
        serial: None,
        wwn: None,
        product: String::from("DISK"),
    };
    DiskOptions {
        identity,
        block_size: 512,
        physical_block_size: None,
        solid_state: false,
        removable: true,
        error_policy: ErrorPolicy::default(),
    }
}

/// It hears what it plays.
fn headset(speed: Speed) -> Audio {
    let stream = |text, direction| Stream::parse(text, direction).expect("a stream");
    let playback = stream("headphone,backend=loopback", Direction::Playback);
    let capture = stream("mic,backend=loopback", Direction::Capture);
    let opened = streams::on_files(&[playback], &[capture], Vec::new()).expect("a cable");
    Audio::new(speed, opened).expect("a headset")
}

fn device(input: &mut Unstructured<'_>, most: u8) -> Result<Box<dyn Device>> {
    let speed = *input.choose(&[Speed::Full, Speed::High])?;
    Ok(match input.int_in_range(0..=most)? {
        0 => emulated(Keyboard::new(speed), speed),
        1 => emulated(Mouse::new(speed), speed),
        2 => emulated(Tablet::new(speed), speed),
        3 => emulated(GadgetZero::new(speed, Mode::SourceSink(Pattern::Mod63)), speed),
        4 => emulated(GadgetZero::new(speed, Mode::Loopback), speed),
        5 => emulated(Serial::new(speed, Peer::Stream(None)), speed),
        6 => {
            let bus = Bus::default();
            let image = Arc::new(Ram::new(1 << 20, false));
            let unit: Arc<dyn LogicalUnit> = Disk::new(image, disk_options());
            bus.place(Address { target: 0, lun: 0 }, unit);
            emulated(Storage::new(bus, "0123456789AB"), speed)
        }
        7 => emulated(Ok(headset(speed)), speed),
        _ => {
            let mut hub = Hub::new(speed, 4).expect("descriptors are left");
            hub.plug(0, device(input, 7)?);
            emulated(Ok(hub), speed)
        }
    })
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut device = device(input, 8)?;
    configure(device.as_mut());
    while !input.is_empty() {
        step(device.as_mut(), input)?;
    }
    configure(device.as_mut());
    Ok(())
}

fn step(device: &mut dyn Device, input: &mut Unstructured<'_>) -> Result<()> {
    let endpoint = input.int_in_range(0..=3u8)?;
    match input.int_in_range(0..=7u8)? {
        0 | 1 => {
            let mut setup = Setup::parse(input.arbitrary()?);
            if input.ratio(1, 2)? {
                // Small values are what requests have.
                (setup.value, setup.index) = (setup.value & 0x30f, setup.index & 0x78f);
            }
            device.setup(0, setup);
        }
        2 | 3 => {
            let mut room = Buffer::new(input.int_in_range(0..=20_000)?);
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
            let direction = *input.choose(&[usb::Direction::In, usb::Direction::Out])?;
            device.cancel(Endpoint::new(endpoint, direction));
            device.set_suspended(input.arbitrary()?);
            let _ = device.wakes();
        }
        _ => {
            device.turn();
            let _ = (device.events(), device.events_changed());
            // One that is plugged into a hub.
            let address = input.int_in_range(0..=3)?;
            if let Some(found) = device.find(address)
                && input.ratio(1, 4)?
            {
                found.reset();
            }
        }
    }
    Ok(())
}

/// Resets it, and asks what every device answers.
fn configure(device: &mut dyn Device) {
    device.reset();
    let setup = Setup { request: request::SET_CONFIGURATION, value: 1, ..Setup::default() };
    assert_eq!(device.setup(0, setup), Answer::moved(8));
    let done = device.data_in(0, &mut Buffer::new(0));
    assert_eq!(done, Answer::Moved { bytes: 0, short: true });
    let asks = Setup {
        request_type: 0x80,
        request: request::GET_CONFIGURATION,
        length: 1,
        ..Setup::default()
    };
    assert_eq!(device.setup(0, asks), Answer::moved(8));
    let mut answer = Buffer::new(1);
    assert_eq!(device.data_in(0, &mut answer), Answer::moved(1));
    assert_eq!(answer.data(), [1]);
}
