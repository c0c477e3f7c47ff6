//! The process that opens the host's devices for the one that serves a guest, which is in its sandbox; sees
//! new ones; and gives them back to the host's drivers when that process ends, however it does.
//!
//! For each filter there is a [`Slot`]: a pair of sockets, a message a packet. To the serving process comes
//! first whether there is a device, then, for each one that has gone, whether there is another, and those that
//! come later; from it comes that its device has gone or can't be used, or that something else uses it. That
//! process may have been taken over by a guest: nothing that it sends is more than one bit.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

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
/// Here is one; or, from the other end: something else uses it.
const DEVICE: u8 = 1;
/// How often a device is tried that can't be had yet, 4 times a second: its node gets its permissions after it
/// was made, the host's drivers find its interfaces then, and who had it before may not have given it back.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// How long a program that starts waits for its devices, all of them together: a VMM waits for it.
const START: Duration = Duration::from_secs(2);

/// The serving process's end of a filter's slot.
#[derive(Debug)]
pub struct Slot {
    channel: Channel,
    /// Until when its device is waited for.
    deadline: Instant,
}

impl Slot {
    /// Whether there is a device to begin with; or another, if the one before can't be used. `None`: not now.
    pub(super) fn first(&self) -> io::Result<Option<File>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&left))?;
        self.next()
    }

    /// The next one, if it has come.
    ///
    /// # Errors
    /// None will come any more: the process has died.
    pub(super) fn next(&self) -> io::Result<Option<File>> {
        Ok(self.channel.try_receive()?.and_then(device))
    }

    /// Its device has gone, or can't be used: there is room for another.
    pub(super) fn is_free(&self) {
        self.send(NONE);
    }

    /// Something else uses its device: it is to come again.
    pub(super) fn is_busy(&self) {
        self.send(DEVICE);
    }

    fn send(&self, byte: u8) {
        if let Err(error) = self.channel.send(byte, &[]) {
            log::error!("devices that are plugged into the host are not noticed any more: {error}");
        }
    }
}

fn device(message: Message) -> Option<File> {
    message.fds.into_iter().next().map(File::from)
}

impl AsFd for Slot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Starts the process, before any thread is started, and returns a slot for each filter, in their
/// order. It ends when all of them are closed.
///
/// # Errors
/// The host refuses.
pub fn start(filters: &[Filter]) -> io::Result<Vec<Slot>> {
    let events = watch()?;
    let now = Instant::now();
    let deadline = now.checked_add(START).unwrap_or(now);
    let (mut slots, mut theirs) = (Vec::new(), Vec::new());
    for filter in filters {
        let (ours, other) = Channel::pair()?;
        theirs.push(Slot { channel: ours, deadline });
        slots.push(Entry {
            filter: filter.clone(),
            socket: other,
            given: None,
            refused: Vec::new(),
            tries: 0,
            next: None,
            is_awaited: true,
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
    /// How often a device could not be had, and when the next attempt is due.
    tries: u32,
    next: Option<Instant>,
    /// The other end may wait for what comes next.
    is_awaited: bool,
}

struct Broker {
    events: OwnedFd,
    slots: Vec<Entry>,
}

impl Broker {
    fn run(mut self) {
        while !self.slots.is_empty() {
            self.offer();
            if let Err(error) = self.wait() {
                log::error!("the host's devices are not noticed any more: {error}");
                return;
            }
        }
    }

    /// Gives devices to slots that have none.
    fn offer(&mut self) {
        let devices = sysfs::list();
        for index in 0..self.slots.len() {
            let used: Vec<HostDevice> =
                self.slots.iter().filter_map(|slot| Some(slot.given.as_ref()?.0.clone())).collect();
            let Some(slot) = self.slots.get_mut(index) else { continue };
            let is_in =
                |all: &[HostDevice], device: &HostDevice| all.iter().any(|it| it.is(device));
            slot.refused.retain(|device| is_in(&devices, device));
            let mut free = devices.iter().filter(|device| {
                !is_in(&used, device)
                    && !is_in(&slot.refused, device)
                    && slot.filter.matches(device)
            });
            if slot.given.is_some() || slot.next.is_some_and(|next| Instant::now() < next) {
                continue;
            }
            match free.next() {
                Some(device) => slot.offer(device),
                None => slot.expect_another(),
            }
        }
    }

    fn wait(&mut self) -> Result<(), Errno> {
        let next = self.slots.iter().filter_map(|slot| slot.next).min();
        let limit = next.map(|next| next.saturating_duration_since(Instant::now()));
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let events = [self.events.as_fd()].into_iter();
        let sockets = self.slots.iter().map(|slot| slot.socket.as_fd());
        let fds: Vec<BorrowedFd<'_>> = events.chain(sockets).collect();
        let mut fds: Vec<PollFd<'_>> =
            fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, limit.as_ref()) {
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
    fn offer(&mut self, device: &HostDevice) {
        // It may have been seen before the host has set its configuration; it may have none.
        if !device.has_interfaces() && self.tries == 0 {
            return self.try_again(device, &"it has no configuration");
        }
        match device.open() {
            Ok(file) => {
                if self.socket.send(DEVICE, &[file.as_fd()]).is_ok() {
                    self.given = Some((device.clone(), file));
                    self.next = None;
                    self.is_awaited = false;
                }
            }
            Err(error) => self.try_again(device, &error),
        }
    }

    /// A device can't be had now.
    fn try_again(&mut self, device: &HostDevice, why: &dyn fmt::Display) {
        self.tries = self.tries.saturating_add(1);
        if self.tries < TRIES {
            self.next = Instant::now().checked_add(PAUSE);
        } else {
            log::error!("the device {} of the host's is left out: {why}", self.filter);
            self.refused.push(device.clone());
            self.tries = 0;
            self.next = Some(Instant::now()); // another one may be there
        }
    }

    fn expect_another(&mut self) {
        self.tries = 0;
        self.next = None;
        if std::mem::take(&mut self.is_awaited) {
            // Who does not listen has closed it, which is seen at once.
            let _ = self.socket.send(NONE, &[]);
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
            self.is_awaited = true;
            if matches!(heard, Ok(Some(Message { byte: DEVICE, .. }))) {
                self.try_again(&device, &"something else uses it");
            } else {
                self.refused.push(device);
                self.tries = 0;
            }
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
