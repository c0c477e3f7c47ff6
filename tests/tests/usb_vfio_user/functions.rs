//! What functions are, and what they do, with a client of another project.

use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::common::{
    ASYNCLISTADDR, BAR_0, BAR_4, Bench, CONFIG, CONFIGFLAG, EHCI, USBCMD, USBINTR, USBSTS, read,
    soon, write,
};

/// VFIO's interrupts, and what is done to them.
const INTX: u32 = 0;
const MSI: u32 = 1;
const NO_DATA: u32 = 1 << 0;
const DESCRIPTORS: u32 = 1 << 2;
const UNMASK: u32 = 1 << 4;
const TRIGGER: u32 = 1 << 5;

/// Bits of USBCMD and USBSTS.
const RUN: u32 = 1 << 0;
const ASYNCHRONOUS: u32 = 1 << 5;
const DOORBELL: u32 = 1 << 6;
const PORT_CHANGE: u32 = 1 << 2;
const SYSTEM_ERROR: u32 = 1 << 4;
const ASYNC_ADVANCE: u32 = 1 << 5;

#[test]
fn functions_are_what_vmm_frontend_presents() {
    let bench = Bench::start();
    for (function, device, interface, release, pin) in [
        (7, 0x3a, 0x20, 0x20, 4),
        (0, 0x34, 0, 0x10, 1),
        (1, 0x35, 0, 0x10, 2),
        (2, 0x36, 0, 0x10, 3),
    ] {
        let mut client = bench.client(function);
        let mut config = [0; 256];
        client.region_read(CONFIG, 0, &mut config).unwrap();
        assert_eq!(config[..4], [0x86, 0x80, device, 0x29], "function {function}");
        assert_eq!(config[9..12], [interface, 0x03, 0x0c]);
        assert_eq!((config[0x0e], config[0x3d], config[0x60]), (0x80, pin, release));
        // One capability: MSI, one message to anywhere.
        assert_eq!((config[0x34], &config[0x40..0x44]), (0x40, &[5, 0, 0x80, 0][..]));
        // Not owned by a BIOS.
        assert_eq!(config[0xc0..0xc2], [0, 0]);
        let bar = if function == EHCI { BAR_0 } else { BAR_4 };
        let sizes: Vec<u64> = (0..9).map(|region| client.region(region).unwrap().size).collect();
        let size: u32 = if function == EHCI { 0x1000 } else { 0x20 };
        assert_eq!(sizes[bar as usize], u64::from(size));
        assert_eq!(sizes.iter().sum::<u64>(), u64::from(size) + 256);
        // A BAR is as large as what can't be written of it says.
        let register = u64::from(0x10 + bar * 4);
        client.region_write(CONFIG, register, &[0xff; 4]).unwrap();
        let mut mask = [0; 4];
        client.region_read(CONFIG, register, &mut mask).unwrap();
        assert_eq!(!(u32::from_le_bytes(mask) & !0xf), size - 1);
        client.reset().unwrap();
        client.region_read(CONFIG, register, &mut mask).unwrap();
        assert_eq!(mask, [u8::from(function != EHCI), 0, 0, 0]);
    }
}

#[test]
fn a_function_alone_is_the_first() {
    let bench = Bench::new(&["--controller", "ehci"], |_| ());
    let mut config = [0; 16];
    bench.client(0).region_read(CONFIG, 0, &mut config).unwrap();
    assert_eq!((config[2], config[0x0e]), (0x3a, 0));
    assert!(!bench.socket(EHCI).exists());
}

#[test]
fn a_port_that_changes_interrupts_by_message_or_by_pin() {
    let bench = Bench::start();
    let mut client = bench.client(EHCI);
    let (message, pin) = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap()).into();
    assert_eq!(
        (client.get_irq_info(INTX).unwrap().count, client.get_irq_info(MSI).unwrap().count),
        (1, 1)
    );
    client.set_irqs(MSI, DESCRIPTORS | TRIGGER, 0, 1, &[message.as_raw_fd()]).unwrap();
    write(&mut client, USBINTR, PORT_CHANGE);
    write(&mut client, CONFIGFLAG, 1);
    assert!(soon(|| message.read().is_ok()));
    assert_eq!(read(&mut client, USBSTS) & PORT_CHANGE, PORT_CHANGE);

    client.set_irqs(MSI, NO_DATA | TRIGGER, 0, 0, &[]).unwrap();
    client.set_irqs(INTX, DESCRIPTORS | TRIGGER, 0, 1, &[pin.as_raw_fd()]).unwrap();
    assert!(soon(|| pin.read().is_ok()));
    // It is masked until the client says otherwise, and then still asserted.
    assert!(pin.read().is_err());
    client.set_irqs(INTX, NO_DATA | UNMASK, 0, 1, &[]).unwrap();
    assert!(soon(|| pin.read().is_ok()));
    let unmask = EventFd::new(EFD_NONBLOCK).unwrap();
    client.set_irqs(INTX, DESCRIPTORS | UNMASK, 0, 1, &[unmask.as_raw_fd()]).unwrap();
    for _ in 0..3 {
        unmask.write(1).unwrap();
        assert!(soon(|| pin.read().is_ok()));
    }
    write(&mut client, USBSTS, PORT_CHANGE);
    unmask.write(1).unwrap();
    assert_eq!(read(&mut client, USBSTS) & PORT_CHANGE, 0);
    assert!(pin.read().is_err());
}

#[test]
fn memory_is_reached_as_long_as_it_is_mapped() {
    let bench = Bench::start();
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, 4096).unwrap();
    // A queue head, which is the head of a list of itself, and has nothing to do (EHCI 1.0, 3.6).
    let head: [u32; 12] = [0x1_0002, 1 << 15, 0, 0, 1, 1, 0x40, 0, 0, 0, 0, 0];
    let bytes = head.map(u32::to_le_bytes);
    rustix::io::write(&memory, bytes.as_flattened()).unwrap();
    let mut client = bench.client(EHCI);
    client.dma_map(0, 0x1_0000, 4096, memory.as_raw_fd()).unwrap();
    write(&mut client, ASYNCLISTADDR, 0x1_0000);
    write(&mut client, USBCMD, RUN | ASYNCHRONOUS);
    for _ in 0..3 {
        write(&mut client, USBCMD, RUN | ASYNCHRONOUS | DOORBELL);
        assert!(soon(|| read(&mut client, USBSTS) & ASYNC_ADVANCE != 0));
        write(&mut client, USBSTS, ASYNC_ADVANCE);
    }
    assert_eq!(read(&mut client, USBSTS) & SYSTEM_ERROR, 0);
    client.dma_unmap(0x1_0000, 4096).unwrap();
    assert!(soon(|| read(&mut client, USBSTS) & SYSTEM_ERROR != 0));
}
