//! The process that opens the host's devices for the one that serves a guest, which is in its sandbox; sees
//! new ones; and gives them back to the host's drivers when that process ends, however it does.
//!
//! For each filter there is a [`Slot`]: a pair of sockets, a message a packet. To the serving process comes
//! first whether there is a device, then each one that takes the place of one that has gone; from it comes
//! that its device has gone, or can't be used. That process may have been taken over by a guest: nothing
//! that it sends is more than one bit.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, bind, recv, recvmsg, send, sendmsg,
    socket_with, socketpair,
};

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
pub struct Slot(OwnedFd);

impl Slot {
    /// Whether there is a device to begin with.
    pub(super) fn first(&self) -> io::Result<Option<File>> {
        Ok(self.receive(RecvFlags::CMSG_CLOEXEC)?)
    }

    /// The next one, if it has come.
    ///
    /// # Errors
    /// None will come any more: the process has died.
    pub(super) fn next(&self) -> io::Result<Option<File>> {
        match self.receive(RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            other => Ok(other?),
        }
    }

    fn receive(&self, flags: RecvFlags) -> Result<Option<File>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [NONE];
        let message = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        if message.bytes == 0 {
            return Err(Errno::PIPE);
        }
        let files = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        Ok(files.flatten().next().map(File::from))
    }

    /// Its device has gone, or can't be used: there is room for another.
    pub(super) fn is_free(&self) {
        if let Err(error) = send(&self.0, &[NONE], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            log::error!("devices that are plugged into the host are not noticed any more: {error}");
        }
    }
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
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, other) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        theirs.push(Slot(ours));
        slots.push(Entry {
            filter: filter.clone(),
            socket: other,
            given: None,
            refused: Vec::new(),
            failed: 0,
        });
    }
    // SAFETY: this process has one thread (the caller's promise), so the child finds every lock free; it
    // never returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(theirs);
            // What it is called does not matter to it.
            let _ = rustix::thread::set_name(NAME);
            close_others(
                slots.iter().map(|slot| slot.socket.as_raw_fd()).chain([events.as_raw_fd()]),
            );
            Broker { events, slots }.run();
            // SAFETY: it ends this process, without what belongs to the other one.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(theirs),
    }
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

/// Closes all descriptors but these and the standard ones: others listen and connect there.
fn close_others(kept: impl Iterator<Item = RawFd>) {
    let mut kept: Vec<u32> = kept.filter_map(|fd| u32::try_from(fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= first) {
            // SAFETY: nothing in this process uses them any more.
            unsafe { libc::close_range(first, last, 0) };
        }
        first = fd.saturating_add(1);
    }
}

/// A filter's slot, from here.
struct Entry {
    filter: Filter,
    socket: OwnedFd,
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
                    let _ = send(&slot.socket, &[NONE], SendFlags::NOSIGNAL);
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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        let whole = control.push(SendAncillaryMessage::ScmRights(&fds));
        let sent =
            sendmsg(&self.socket, &[IoSlice::new(&[DEVICE])], &mut control, SendFlags::NOSIGNAL);
        if whole && sent.is_ok() {
            self.given = Some((device.clone(), file));
        }
    }

    /// The other end has said something, or is closed (`false`).
    fn hear(&mut self) -> bool {
        let mut byte = [NONE];
        let heard = recv(&self.socket, &mut byte[..], RecvFlags::DONTWAIT);
        if matches!(heard, Err(Errno::AGAIN | Errno::INTR)) {
            return true;
        }
        if let Some((device, file)) = self.given.take() {
            give_back(&file);
            self.refused.push(device);
        }
        matches!(heard, Ok((1.., _)))
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
