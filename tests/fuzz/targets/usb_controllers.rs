//! EHCI and UHCI whose driver writes what it likes to their registers, and has what it likes in memory.
//!
//! Whatever comes: a run ends, and does not look at memory more often than it may; registers that read
//! the same for all read so.

#![no_main]

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vhost_runtime::registers::Access;
use vhost_usb::controller::host::{Host, Kind};
use vhost_usb::controller::{Memory, Next, Time};
use vhost_usb::devices::Devices;

/// Bytes of memory: small, so that structures meet.
const SIZE: usize = 0x1_0000;
/// Looks at memory in a run of all four controllers: each may look through its frames, and visit some.
const MOST: u64 = 2_000_000;
/// What is plugged in.
const PLUGGED: [&str; 7] = [
    "gadget-zero",
    "gadget-zero,mode=loopback,speed=full",
    "hub,port=3",
    "kbd,port=3.1",
    "mouse,port=3.2,speed=full",
    "tablet,port=4",
    "audio,port=5,playback=headphone,backend=loopback,capture=mic,backend=loopback",
];

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

struct Ram {
    bytes: RefCell<Vec<u8>>,
    looks: Cell<u64>,
}

impl Ram {
    fn place(&self, address: u32, length: usize) -> Option<std::ops::Range<usize>> {
        self.looks.set(self.looks.get() + 1);
        let start = usize::try_from(address).ok()?;
        let end = start.checked_add(length).filter(|end| *end <= SIZE)?;
        Some(start..end)
    }
}

impl Memory for Ram {
    fn load(&self, address: u32) -> Option<u32> {
        assert_eq!(address % 4, 0, "a doubleword at {address:#x}");
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    fn store(&self, address: u32, value: u32) -> Option<()> {
        assert_eq!(address % 4, 0, "a doubleword at {address:#x}");
        self.write(address, &value.to_le_bytes())
    }

    fn read(&self, address: u32, to: &mut [u8]) -> Option<()> {
        let place = self.place(address, to.len())?;
        to.copy_from_slice(&self.bytes.borrow()[place]);
        Some(())
    }

    fn write(&self, address: u32, from: &[u8]) -> Option<()> {
        let place = self.place(address, from.len())?;
        self.bytes.borrow_mut()[place].copy_from_slice(from);
        Some(())
    }
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let kind = *input.choose(&[Kind::Ehci, Kind::EhciWithUhci, Kind::Uhci])?;
    let shared = Arc::new(Mutex::new(Host::new(kind).expect("a descriptor")));
    let devices = Devices::new(Arc::clone(&shared));
    for text in PLUGGED {
        // UHCI alone has two ports.
        let _ = devices.plug(text, None);
    }
    let mut host = shared.lock().expect("nobody else has it");
    let ram = Ram { bytes: RefCell::new(vec![0; SIZE]), looks: Cell::new(0) };
    let mut now = Time(1_000_000_000);
    let functions = host.count();
    let fixed: Vec<u32> = (0..functions).map(|function| host.register(function, 0, now)).collect();
    while !input.is_empty() {
        match input.int_in_range(0..=5u8)? {
            0 => {
                let address = u32::from(input.arbitrary::<u16>()?) & !3;
                let count = input.int_in_range(1..=16usize)?;
                for word in 0..count {
                    let _ = ram.store(address + 4 * word as u32, pointer(input)?);
                }
            }
            1 | 2 => {
                let function = input.int_in_range(0..=functions - 1)?;
                let offset = u16::from(input.arbitrary::<u8>()?);
                let width = *input.choose(&[1, 2, 4, 4, 4])?;
                let value = pointer(input)?;
                let access = match input.ratio(1, 16)? {
                    true => Access::Reset,
                    false => Access::Write { offset, width, value },
                };
                // The transport lets no other pass.
                if Access::parse(access.bytes()).is_some() {
                    host.access(function, access, now);
                }
            }
            3 => {
                now = now.after(u64::from(input.arbitrary::<u32>()?) % 300_000_000);
            }
            4 => {
                let port = input.int_in_range(0..=5usize)?;
                let device = host.ports().unplug(port);
                if let (Some(device), true) = (device, input.arbitrary()?) {
                    host.ports().plug(port, device);
                }
            }
            _ => host.stir(now),
        }
        ram.looks.set(0);
        let next = host.run(now, &ram);
        assert!(ram.looks.get() <= MOST, "{} looks", ram.looks.get());
        if let Next::At(time) = next
            && input.arbitrary()?
        {
            now = now.max(time);
        }
    }
    // CAPLENGTH and HCIVERSION are always the same; a UHCI controller has no such.
    if kind == Kind::Ehci {
        assert_eq!(host.register(0, 0, now), fixed[0]);
    }
    Ok(())
}

/// A value that often leads somewhere.
fn pointer(input: &mut Unstructured<'_>) -> Result<u32> {
    let word: u32 = input.arbitrary()?;
    Ok(if input.ratio(2, 3)? { word & 0xffff } else { word })
}
