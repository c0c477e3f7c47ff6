//! The process that opens the host's devices for the one that serves a guest, which is in its sandbox; sees
//! new ones; and gives them back to the host's drivers when that process ends, however it does.
//!
//! For each filter there is a [`Slot`]: a pair of sockets, a message a packet. To the serving process comes
//! first whether there is a device, then each one that takes the place of one that has gone; from it comes
//! that its device has gone, or can't be used. That process may have been taken over by a guest: nothing
//! that it sends is more than one bit.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use vhost_runtime::broker::{self, Channel, Message};

use super::Filter;
use super::sysfs::{self, HostDevice};

/// What the process is called.
const NAME: &CStr = c"usb-broker";
/// There is no device now.
const NONE: u8 = 0;
/// Here is one.
const DEVICE: u8 = 1;
/// How often a device that can't be opened yet is tried again, 4 times a second: its node gets its
/// permissions after it was made.
const TRIES: u32 = 20;
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// The serving process's end of a filter's slot.
#[derive(Debug)]
pub struct Slot(Channel);

impl Slot {
    /// Whether there is a device to begin with.
    pub(super) fn first(&self) -> io::Result<Option<File>> {
        Ok(device(self.0.receive()?))
    }

    /// The next one, if it has come.
    ///
    /// # Errors
    /// None will come any more: the process has died.
    pub(super) fn next(&self) -> io::Result<Option<File>> {
        Ok(self.0.try_receive()?.and_then(device))
    }

    /// Its device has gone, or can't be used: there is room for another.
    pub(super) fn is_free(&self) {
        if let Err(error) = self.0.send(NONE, &[]) {
            log::error!("devices that are plugged into the host are not noticed any more: {error}");
        }
    }
}

fn device(message: Message) -> Option<File> {
    message.fds.into_iter().next().map(File::from)
}

impl AsFd for Slot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts the process, before any thread is started, and returns a slot for each filter, in their
/// order. It ends when all of them are closed.
///
/// # Errors
/// The host refuses.
pub fn start(filters: &[Filter]) -> io::Result<Vec<Slot>> {
    let events = watch()?;
    let (mut slots, mut theirs) = (Vec::new(), Vec::new());
    for filter in filters {
        let (ours, other) = Channel::pair()?;
        theirs.push(Slot(ours));
        slots.push(Entry {
            filter: filter.clone(),
            socket: other,
            given: None,
            refused: Vec::new(),
            failed: 0,
        });
    }
    let sockets = slots.iter().map(|slot| slot.socket.as_fd().as_raw_fd());
    let kept: Vec<RawFd> = sockets.chain([events.as_raw_fd()]).collect();
    broker::start(NAME, &kept, || Broker { events, slots }.run())?;
    Ok(theirs)
}

/// The kernel's messages about devices. What is in them is not looked at: whoever sends one has this process
/// look at sysfs once more.
fn watch() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

/// A filter's slot, from here.
struct Entry {
    filter: Filter,
    socket: Channel,
    given: Option<(HostDevice, File)>,
    /// Devices that the other end has had, until they are plugged out.
    refused: Vec<HostDevice>,
    /// How often a device could not be opened.
    failed: u32,
}

struct Broker {
    events: OwnedFd,
    slots: Vec<Entry>,
}

impl Broker {
    fn run(mut self) {
        let mut is_first = true;
        while !self.slots.is_empty() {
            let again = self.offer();
            if std::mem::take(&mut is_first) {
                for slot in self.slots.iter().filter(|slot| slot.given.is_none()) {
                    // Who does not listen has closed it, which is seen at once.
                    let _ = slot.socket.send(NONE, &[]);
                }
            }
            if let Err(error) = self.wait(again.then_some(&PAUSE)) {
                log::error!("the host's devices are not noticed any more: {error}");
                return;
            }
        }
    }

    /// Gives devices to slots that have none. `true`: one can't be opened yet.
    fn offer(&mut self) -> bool {
        let devices = sysfs::list();
        let mut again = false;
        for index in 0..self.slots.len() {
            let used: Vec<HostDevice> =
                self.slots.iter().filter_map(|slot| Some(slot.given.as_ref()?.0.clone())).collect();
            let Some(slot) = self.slots.get_mut(index) else { continue };
            slot.refused.retain(|device| devices.contains(device));
            let mut free = devices.iter().filter(|device| {
                !used.contains(device)
                    && !slot.refused.contains(device)
                    && slot.filter.matches(device)
            });
            if slot.given.is_some() {
                continue;
            }
            let Some(device) = free.next() else {
                slot.failed = 0;
                continue;
            };
            match device.open() {
                Ok(file) => slot.give(device, file),
                Err(error) => {
                    slot.failed = slot.failed.saturating_add(1);
                    again |= slot.failed < TRIES;
                    if slot.failed == TRIES {
                        log::error!("the device {} cannot be opened: {error}", slot.filter);
                        slot.refused.push(device.clone());
                        slot.failed = 0;
                    }
                }
            }
        }
        again
    }

    fn wait(&mut self, limit: Option<&Timespec>) -> Result<(), Errno> {
        let events = [self.events.as_fd()].into_iter();
        let sockets = self.slots.iter().map(|slot| slot.socket.as_fd());
        let fds: Vec<BorrowedFd<'_>> = events.chain(sockets).collect();
        let mut fds: Vec<PollFd<'_>> =
            fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            let mut message = [0; 8192];
            // All that wait mean the same; ENOBUFS is what too many are.
            while !matches!(
                recv(&self.events, &mut message[..], RecvFlags::DONTWAIT),
                Err(Errno::AGAIN)
            ) {}
        }
        let mut ready = ready.into_iter().skip(1);
        self.slots.retain_mut(|slot| ready.next() != Some(true) || slot.hear());
        Ok(())
    }
}

impl Entry {
    fn give(&mut self, device: &HostDevice, file: File) {
        if self.socket.send(DEVICE, &[file.as_fd()]).is_ok() {
            self.given = Some((device.clone(), file));
        }
    }

    /// The other end has said something, or is closed (`false`).
    fn hear(&mut self) -> bool {
        let heard = self.socket.try_receive();
        if matches!(heard, Ok(None)) {
            return true;
        }
        if let Some((device, file)) = self.given.take() {
            give_back(&file);
            self.refused.push(device);
        }
        heard.is_ok()
    }
}

/// Linux, usbdevice_fs.h.
const USBDEVFS_RELEASEINTERFACE: libc::c_ulong = 0x8004_5510;
const USBDEVFS_IOCTL: libc::c_ulong = 0xc010_5512;
const USBDEVFS_CONNECT: libc::c_int = 0x5517;
/// Interfaces that a device can have, as usbfs counts them.
const INTERFACES: libc::c_uint = 32;

#[repr(C)]
struct Ioctl {
    interface: libc::c_int,
    code: libc::c_int,
    data: *mut libc::c_void,
}

/// Gives a device's interfaces to the host's drivers. Who had claimed them may be dead, and could not.
fn give_back(file: &File) {
    for interface in 0..INTERFACES {
        let number = libc::c_int::try_from(interface).unwrap_or(0);
        let mut connect =
            Ioctl { interface: number, code: USBDEVFS_CONNECT, data: std::ptr::null_mut() };
        // SAFETY: both take what they are given here, and keep nothing of it. They fail for interfaces that
        // there are not.
        unsafe {
            libc::ioctl(file.as_raw_fd(), USBDEVFS_RELEASEINTERFACE, &raw const interface);
            libc::ioctl(file.as_raw_fd(), USBDEVFS_IOCTL, &raw mut connect);
        }
    }
}
