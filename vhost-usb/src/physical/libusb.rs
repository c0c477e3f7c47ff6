//! libusb, safely: all that is unsafe of passing devices through is here.
//!
//! A [`Context`] finds no devices itself: a [`Handle`] is made of a descriptor that somebody else has
//! opened. Transfers are submitted with a number, and come back by [`Handle::take`] after
//! [`Context::run`], on the thread that calls that.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_int, c_short, c_void};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libusb1_sys::constants as c;
use libusb1_sys::{
    self as ffi, libusb_context, libusb_device_handle, libusb_iso_packet_descriptor as Packet,
    libusb_transfer,
};
use rustix::event::epoll;

use crate::usb::{Endpoint, Speed};

/// What libusb says that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsbError {
    /// The device has gone.
    #[error("it has gone")]
    Gone,
    /// It has not what is asked for.
    #[error("it has no such thing")]
    NotFound,
    /// The endpoint is halted, or the request is not supported.
    #[error("it refuses")]
    Stall,
    /// Somebody else uses it.
    #[error("something else uses it")]
    Busy,
    /// Something else, by libusb's number.
    #[error("libusb says {0}")]
    Other(i32),
}

fn check(code: c_int) -> Result<c_int, UsbError> {
    match code {
        0.. => Ok(code),
        c::LIBUSB_ERROR_NO_DEVICE => Err(UsbError::Gone),
        c::LIBUSB_ERROR_NOT_FOUND => Err(UsbError::NotFound),
        c::LIBUSB_ERROR_PIPE => Err(UsbError::Stall),
        c::LIBUSB_ERROR_BUSY => Err(UsbError::Busy),
        code => Err(UsbError::Other(code)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// libusb, without devices.
#[derive(Debug)]
pub(super) struct Context {
    raw: NonNull<libusb_context>,
    /// libusb has its address, too.
    watch: Box<Watch>,
}

/// What libusb waits for.
#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    /// Descriptors that are not waited for any more: those of devices that have gone.
    removed: Mutex<Vec<RawFd>>,
}

// SAFETY: libusb's functions may be called on any thread, with the same context too (libusb's
// "Multi-threaded applications and asynchronous I/O").
unsafe impl Send for Context {}
// SAFETY: see above.
unsafe impl Sync for Context {}

impl Context {
    /// One that looks for no devices: that is done elsewhere.
    pub(super) fn new() -> Result<Self, UsbError> {
        let no_epoll = |error: rustix::io::Errno| UsbError::Other(error.raw_os_error());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(no_epoll)?;
        // SAFETY: without a context it is what contexts have that are made later; it has no argument.
        unsafe { ffi::libusb_set_option(ptr::null_mut(), c::LIBUSB_OPTION_NO_DEVICE_DISCOVERY) };
        let mut raw = ptr::null_mut();
        // SAFETY: it writes a context to `raw`, or fails.
        check(unsafe { ffi::libusb_init(&raw mut raw) })?;
        let raw = NonNull::new(raw).ok_or(UsbError::Other(c::LIBUSB_ERROR_OTHER))?;
        let watch = Box::new(Watch { epoll, removed: Mutex::default() });
        let this = Self { raw, watch };
        let user = (&raw const *this.watch).cast_mut().cast();
        // SAFETY: the functions take a watch, which stays where it is as long as the context is.
        unsafe { ffi::libusb_set_pollfd_notifiers(this.raw(), Some(added), Some(removed), user) };
        // SAFETY: it makes a list that ends with a null pointer, whose entries live until it is freed.
        unsafe {
            let list = ffi::libusb_get_pollfds(this.raw());
            let mut next = list;
            while !next.is_null()
                && let Some(entry) = (*next).as_ref()
            {
                added(entry.fd, entry.events, user);
                next = next.add(1);
            }
            ffi::libusb_free_pollfds(list);
        }
        Ok(this)
    }

    fn raw(&self) -> *mut libusb_context {
        self.raw.as_ptr()
    }

    /// Readable when [`run`](Self::run) has something to do.
    pub(super) fn event(&self) -> RawFd {
        self.watch.epoll.as_raw_fd()
    }

    /// Sees which transfers have ended, waiting for so many milliseconds.
    pub(super) fn run(&self, milliseconds: u16) {
        let wait =
            libc::timeval { tv_sec: 0, tv_usec: i64::from(milliseconds).saturating_mul(1000) };
        // SAFETY: both are valid; the functions that it calls are this module's own.
        let code = unsafe {
            ffi::libusb_handle_events_timeout_completed(
                self.raw(),
                &raw const wait,
                ptr::null_mut(),
            )
        };
        if let Err(error) = check(code) {
            log::debug!("libusb's events: {error}");
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is the last use: handles hold it.
        unsafe { ffi::libusb_exit(self.raw()) };
    }
}

extern "system" fn added(fd: c_int, events: c_short, user: *mut c_void) {
    // SAFETY: it is a context's watch, and libusb has opened the descriptor.
    let (watch, fd) = unsafe { (&*user.cast_const().cast::<Watch>(), BorrowedFd::borrow_raw(fd)) };
    let mut wanted = epoll::EventFlags::empty();
    wanted.set(epoll::EventFlags::IN, events & libc::POLLIN != 0);
    wanted.set(epoll::EventFlags::OUT, events & libc::POLLOUT != 0);
    if let Err(error) = epoll::add(&watch.epoll, fd, epoll::EventData::new_u64(0), wanted) {
        log::error!("a descriptor of libusb's is not waited for: {error}");
    }
}

extern "system" fn removed(fd: c_int, user: *mut c_void) {
    // SAFETY: as above; it is open still.
    let (watch, fd) = unsafe { (&*user.cast_const().cast::<Watch>(), BorrowedFd::borrow_raw(fd)) };
    lock(&watch.removed).push(fd.as_raw_fd());
    // It may have gone by being closed.
    let _ = epoll::delete(&watch.epoll, fd);
}

/// How a transfer moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Control,
    Bulk,
    Interrupt,
    Isochronous,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Control => c::LIBUSB_TRANSFER_TYPE_CONTROL,
            Self::Bulk => c::LIBUSB_TRANSFER_TYPE_BULK,
            Self::Interrupt => c::LIBUSB_TRANSFER_TYPE_INTERRUPT,
            Self::Isochronous => c::LIBUSB_TRANSFER_TYPE_ISOCHRONOUS,
        }
    }
}

/// How a transfer, or a packet of it, has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Stall,
    Babble,
    Gone,
    Failed,
}

impl Outcome {
    fn of(status: c_int) -> Self {
        match status {
            c::LIBUSB_TRANSFER_COMPLETED => Self::Done,
            c::LIBUSB_TRANSFER_STALL => Self::Stall,
            c::LIBUSB_TRANSFER_OVERFLOW => Self::Babble,
            c::LIBUSB_TRANSFER_NO_DEVICE => Self::Gone,
            _ => Self::Failed,
        }
    }
}

/// A transfer that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) number: u64,
    pub(super) outcome: Outcome,
    /// Its buffer, as it was given, with what has come.
    pub(super) buffer: Vec<u8>,
    /// Bytes that have moved, without a control transfer's setup.
    pub(super) moved: usize,
    /// Of an isochronous one, how each packet has ended, and how many bytes of it have moved.
    pub(super) packets: Vec<(Outcome, usize)>,
}

/// A transfer that is under way, cancelled by its number alone.
struct Raw(NonNull<libusb_transfer>);

// SAFETY: libusb's functions may be called on any thread.
unsafe impl Send for Raw {}

#[derive(Default)]
struct Shared {
    pending: Mutex<BTreeMap<u64, Raw>>,
    ended: Mutex<VecDeque<Ended>>,
}

/// What belongs to a transfer while libusb has it.
struct Flight {
    number: u64,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

/// A device that is open.
pub(super) struct Handle {
    raw: NonNull<libusb_device_handle>,
    context: Arc<Context>,
    shared: Arc<Shared>,
    /// What it was made of: libusb does not close it.
    file: ManuallyDrop<File>,
}

// SAFETY: libusb's functions may be called on any thread, with the same handle too.
unsafe impl Send for Handle {}
// SAFETY: see above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Of a device's node in /dev/bus/usb that somebody has opened.
    pub(super) fn new(context: Arc<Context>, file: File) -> Result<Self, UsbError> {
        let mut raw = ptr::null_mut();
        // Another device's had the number, and was closed.
        lock(&context.watch.removed).retain(|gone| *gone != file.as_raw_fd());
        let fd = ptr::without_provenance_mut(usize::try_from(file.as_raw_fd()).unwrap_or(0));
        // SAFETY: it writes a handle to `raw`, or fails; the descriptor is open as long as the handle is.
        check(unsafe { ffi::libusb_wrap_sys_device(context.raw(), fd, &raw mut raw) })?;
        let raw = NonNull::new(raw).ok_or(UsbError::Other(c::LIBUSB_ERROR_OTHER))?;
        Ok(Self { raw, context, shared: Arc::default(), file: ManuallyDrop::new(file) })
    }

    fn raw(&self) -> *mut libusb_device_handle {
        self.raw.as_ptr()
    }

    /// It was plugged out, which [`Context::run`] has seen.
    pub(super) fn has_gone(&self) -> bool {
        std::mem::take(&mut *lock(&self.context.watch.removed)).contains(&self.file.as_raw_fd())
    }

    /// `None`: it is too fast for USB 2.0.
    pub(super) fn speed(&self) -> Option<Speed> {
        // SAFETY: a handle always has a device.
        let speed = unsafe { ffi::libusb_get_device_speed(ffi::libusb_get_device(self.raw())) };
        match speed {
            c::LIBUSB_SPEED_LOW => Some(Speed::Low),
            c::LIBUSB_SPEED_FULL => Some(Speed::Full),
            c::LIBUSB_SPEED_HIGH | c::LIBUSB_SPEED_UNKNOWN => Some(Speed::High),
            _ => None,
        }
    }

    /// Its device descriptor and its configurations' (Linux, devio.c).
    pub(super) fn descriptors(&self) -> io::Result<Vec<u8>> {
        const MOST: u64 = 1 << 20;
        let mut bytes = Vec::new();
        let mut file: &File = &self.file;
        file.rewind()?;
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// bConfigurationValue of the active configuration; 0 if there is none.
    pub(super) fn configuration(&self) -> Result<u8, UsbError> {
        let mut value = 0;
        // SAFETY: it writes a number to `value`, or fails.
        check(unsafe { ffi::libusb_get_configuration(self.raw(), &raw mut value) })?;
        Ok(u8::try_from(value).unwrap_or(0))
    }

    pub(super) fn set_configuration(&self, value: u8) -> Result<(), UsbError> {
        // -1 is what libusb calls no configuration.
        let value = if value == 0 { -1 } else { c_int::from(value) };
        // SAFETY: the handle is valid.
        check(unsafe { ffi::libusb_set_configuration(self.raw(), value) }).map(drop)
    }

    /// Takes an interface from the host's driver, if one has it: at once, since one could bind in between.
    pub(super) fn claim(&self, interface: u8) -> Result<(), UsbError> {
        // SAFETY: the handle is valid. With this set, claiming detaches; releasing would attach, which is
        // not meant where a configuration is set next.
        let code = unsafe {
            ffi::libusb_set_auto_detach_kernel_driver(self.raw(), 1);
            let code = ffi::libusb_claim_interface(self.raw(), interface.into());
            ffi::libusb_set_auto_detach_kernel_driver(self.raw(), 0);
            code
        };
        check(code).map(drop)
    }

    pub(super) fn release(&self, interface: u8) -> Result<(), UsbError> {
        // SAFETY: the handle is valid.
        check(unsafe { ffi::libusb_release_interface(self.raw(), interface.into()) }).map(drop)
    }

    /// Gives an interface that was released to a driver of the host's.
    pub(super) fn give_back(&self, interface: u8) -> Result<(), UsbError> {
        // SAFETY: the handle is valid.
        check(unsafe { ffi::libusb_attach_kernel_driver(self.raw(), interface.into()) }).map(drop)
    }

    pub(super) fn set_alternate(&self, interface: u8, alternate: u8) -> Result<(), UsbError> {
        let (interface, alternate) = (interface.into(), alternate.into());
        // SAFETY: the handle is valid.
        let code =
            unsafe { ffi::libusb_set_interface_alt_setting(self.raw(), interface, alternate) };
        check(code).map(drop)
    }

    pub(super) fn clear_halt(&self, endpoint: Endpoint) -> Result<(), UsbError> {
        // SAFETY: the handle is valid.
        check(unsafe { ffi::libusb_clear_halt(self.raw(), endpoint.address()) }).map(drop)
    }

    pub(super) fn reset(&self) -> Result<(), UsbError> {
        // SAFETY: the handle is valid.
        check(unsafe { ffi::libusb_reset_device(self.raw()) }).map(drop)
    }

    /// Begins a transfer of the whole buffer; a control transfer's begins with its setup. An isochronous
    /// one's packets are as long as `packets` says.
    pub(super) fn submit(
        &self,
        number: u64,
        kind: Kind,
        endpoint: Endpoint,
        buffer: Vec<u8>,
        packets: &[usize],
    ) -> Result<(), UsbError> {
        let too_large = UsbError::Other(c::LIBUSB_ERROR_INVALID_PARAM);
        let length = c_int::try_from(buffer.len()).map_err(|_| too_large)?;
        let count = c_int::try_from(packets.len()).map_err(|_| too_large)?;
        let lengths = packets.iter().map(|length| u32::try_from(*length).map_err(|_| too_large));
        let lengths = lengths.collect::<Result<Vec<u32>, UsbError>>()?;
        // SAFETY: it makes a transfer with room for so many packets, or fails.
        let made = unsafe { ffi::libusb_alloc_transfer(count) };
        let raw = NonNull::new(made).ok_or(UsbError::Other(c::LIBUSB_ERROR_NO_MEM))?;
        let mut flight = Box::new(Flight { number, buffer, shared: Arc::clone(&self.shared) });
        let data = flight.buffer.as_mut_ptr();
        let user = Box::into_raw(flight);
        let transfer = raw.as_ptr();
        // SAFETY: nobody else has it yet, and there is room for so many packets behind it. The buffer stays
        // where it is until the flight is over.
        unsafe {
            (*transfer).dev_handle = self.raw();
            (*transfer).flags = 0;
            (*transfer).endpoint = if kind == Kind::Control { 0 } else { endpoint.address() };
            (*transfer).transfer_type = kind.number();
            (*transfer).timeout = 0;
            (*transfer).length = length;
            (*transfer).callback = ended;
            (*transfer).user_data = user.cast();
            (*transfer).buffer = data;
            (*transfer).num_iso_packets = count;
            let first = (&raw mut (*transfer).iso_packet_desc).cast::<Packet>();
            for (index, length) in lengths.into_iter().enumerate() {
                (*first.add(index)).length = length;
            }
        }
        lock(&self.shared.pending).insert(number, Raw(raw));
        // SAFETY: all that it needs is there, and stays until its function is called.
        if let Err(error) = check(unsafe { ffi::libusb_submit_transfer(raw.as_ptr()) }) {
            lock(&self.shared.pending).remove(&number);
            // SAFETY: libusb has not taken it: nothing else will free it, or what belongs to it.
            unsafe {
                ffi::libusb_free_transfer(raw.as_ptr());
                drop(Box::from_raw(user));
            }
            return Err(error);
        }
        Ok(())
    }

    /// Ends a transfer before its time, if it is under way: it comes back soon.
    pub(super) fn cancel(&self, number: u64) {
        if let Some(Raw(raw)) = lock(&self.shared.pending).get(&number) {
            // SAFETY: it is pending, and not freed before it is taken from there, which the lock keeps.
            unsafe { ffi::libusb_cancel_transfer(raw.as_ptr()) };
        }
    }

    /// A transfer that has ended.
    pub(super) fn take(&self) -> Option<Ended> {
        lock(&self.shared.ended).pop_front()
    }

    fn is_idle(&self) -> bool {
        lock(&self.shared.pending).is_empty()
    }

    fn cancel_all(&self) {
        for Raw(raw) in lock(&self.shared.pending).values() {
            // SAFETY: as in `cancel`.
            unsafe { ffi::libusb_cancel_transfer(raw.as_ptr()) };
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        const MILLISECONDS: u16 = 20;
        self.cancel_all();
        for _ in 0..100 {
            if self.is_idle() {
                break;
            }
            self.context.run(MILLISECONDS);
        }
        if !self.is_idle() {
            log::error!("a device does not end its transfers, and is left as it is");
            std::mem::forget(Arc::clone(&self.context));
            return;
        }
        // SAFETY: no transfer uses it any more; the file is not used after that.
        unsafe {
            ffi::libusb_close(self.raw());
            ManuallyDrop::drop(&mut self.file);
        }
    }
}

/// libusb calls it once for each transfer that it has taken.
extern "system" fn ended(transfer: *mut libusb_transfer) {
    // SAFETY: the transfer is one of `submit`'s, which nobody has freed; its user data are a flight, which
    // nobody else takes back.
    let (flight, status, actual, count) = unsafe {
        let flight = Box::from_raw((*transfer).user_data.cast::<Flight>());
        (flight, (*transfer).status, (*transfer).actual_length, (*transfer).num_iso_packets)
    };
    let Flight { number, buffer, shared } = *flight;
    // SAFETY: the place is the transfer's.
    let first = unsafe { (&raw const (*transfer).iso_packet_desc).cast::<Packet>() };
    let packets = (0..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: there are so many behind the transfer.
        let packet = unsafe { &*first.add(index) };
        let length = usize::try_from(packet.actual_length).unwrap_or(0).min(buffer.len());
        (Outcome::of(packet.status), length)
    });
    let done = Ended {
        number,
        outcome: Outcome::of(status),
        moved: usize::try_from(actual).unwrap_or(0).min(buffer.len()),
        packets: packets.collect(),
        buffer,
    };
    // Nobody can cancel it from here on.
    if let Some(Raw(raw)) = lock(&shared.pending).remove(&number) {
        // SAFETY: libusb lets its functions free their transfers; nobody else has it.
        unsafe { ffi::libusb_free_transfer(raw.as_ptr()) };
    }
    lock(&shared.ended).push_back(done);
}
