//! What the library calls: descriptors, timers, and the ports' channels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut, without_provenance_mut};
use std::slice;
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use super::abi::{
    BaseInstance, BaseInterface, CHAR_DEVICE, CONNECTED, CORE, ChannelEventInfo,
    CharDeviceInstance, CharDeviceInterface, CoreInterface, DISCONNECTED, Handle, INITIALIZED,
    LOG_CRITICAL, LOG_ERROR, LOG_MESSAGE, LOG_WARNING, NOTIFY_WRITABLE, TimerFunction, WATCH_READ,
    WATCH_WRITE, WatchFunction,
};
use crate::spice::events::{Owner, Token};
use crate::spice::port::Port;
use crate::spice::world::{self, World};

/// SPICE_CHANNEL_MAIN: a client's first channel.
const MAIN: c_int = 1;

/// A port's channel, as the library and its callbacks see it.
#[repr(C)]
pub(super) struct Instance {
    /// The library knows of this.
    device: CharDeviceInstance,
    /// The port's.
    number: usize,
}

/// What the library wants called.
#[derive(Clone, Copy)]
pub(super) enum Call {
    Watch(WatchFunction, *mut c_void),
    Timer(TimerFunction, *mut c_void),
}

thread_local! {
    /// Of each watch and timer that it has not removed.
    static CALLS: RefCell<BTreeMap<Token, Call>> = const { RefCell::new(BTreeMap::new()) };
}

pub(super) fn call(token: Token) -> Option<Call> {
    CALLS.with_borrow(|calls| calls.get(&token).copied())
}

/// Registers a call with what `add` makes, and gives the library its number for a pointer.
fn register(call: Call, add: impl FnOnce(&mut World) -> std::io::Result<Token>) -> Handle {
    match world::with(add) {
        Some(Ok(token)) => {
            CALLS.with_borrow_mut(|calls| calls.insert(token, call));
            without_provenance_mut(token)
        }
        Some(Err(error)) => {
            log::error!("the SPICE library's descriptor cannot be waited for: {error}");
            null_mut()
        }
        None => null_mut(),
    }
}

fn unregister(handle: Handle, remove: impl FnOnce(&mut World, Token)) {
    CALLS.with_borrow_mut(|calls| calls.remove(&handle.addr()));
    world::with(|world| remove(world, handle.addr()));
}

extern "C" fn timer_add(function: TimerFunction, opaque: *mut c_void) -> Handle {
    register(Call::Timer(function, opaque), |world| Ok(world.events.add_timer()))
}

extern "C" fn timer_start(timer: Handle, milliseconds: u32) {
    let after = Duration::from_millis(milliseconds.into());
    world::with(|world| world.events.start(timer.addr(), after));
}

extern "C" fn timer_cancel(timer: Handle) {
    world::with(|world| world.events.stop(timer.addr()));
}

extern "C" fn timer_remove(timer: Handle) {
    unregister(timer, |world, token| world.events.remove_timer(token));
}

/// What SPICE_WATCH_EVENT_… bits want.
fn wanted(bits: c_int) -> EventSet {
    let mut wanted = EventSet::empty();
    wanted.set(EventSet::IN, bits & WATCH_READ != 0);
    wanted.set(EventSet::OUT, bits & WATCH_WRITE != 0);
    wanted
}

extern "C" fn watch_add(
    fd: c_int,
    bits: c_int,
    function: WatchFunction,
    opaque: *mut c_void,
) -> Handle {
    register(Call::Watch(function, opaque), |world| {
        world.events.add(fd, wanted(bits), Owner::Library)
    })
}

extern "C" fn watch_update_mask(watch: Handle, bits: c_int) {
    if let Some(Err(error)) = world::with(|world| world.events.change(watch.addr(), wanted(bits))) {
        log::error!("the SPICE library's descriptor cannot be waited for: {error}");
    }
}

extern "C" fn watch_remove(watch: Handle) {
    unregister(watch, |world, token| world.events.remove(token));
}

/// # Safety
/// `info` is null or a whole SpiceChannelEventInfo that nobody else writes to.
unsafe extern "C" fn channel_event(event: c_int, info: *mut ChannelEventInfo) {
    let id = info.addr();
    // SAFETY: the caller's promise; it begins so.
    let Some(info) = (unsafe { info.as_ref() }) else { return };
    let ChannelEventInfo { connection, kind, id: channel, .. } = info;
    log::debug!("connection {connection}, channel {kind}:{channel}: event {event}");
    match event {
        CONNECTED => world::with(|world| world.links.connected(id)),
        INITIALIZED | DISCONNECTED => world::with(|world| world.links.settled(id)),
        _ => None,
    };
    match event {
        INITIALIZED if *kind == MAIN => log::info!("a client is connected"),
        DISCONNECTED if *kind == MAIN => log::info!("a client has gone"),
        _ => {}
    }
}

/// Does something with the port of a device.
///
/// # Safety
/// `device` is one of the library's.
unsafe fn with_port<T>(
    device: *mut CharDeviceInstance,
    act: impl FnOnce(&mut Port) -> T,
) -> Option<T> {
    // SAFETY: the library has no other devices than those of `instance`, which are never freed. The number is
    // never written to.
    let number = unsafe { (*device.cast::<Instance>()).number };
    world::with_port(number, act)
}

/// # Safety
/// As of [`with_port`].
unsafe extern "C" fn state(device: *mut CharDeviceInstance, connected: c_int) {
    let act = if connected == 0 { Port::left } else { Port::joined };
    // SAFETY: the caller's promise.
    unsafe { with_port(device, act) };
}

/// # Safety
/// As of [`with_port`]; at `from` are as many bytes as `length` says.
unsafe extern "C" fn write(
    device: *mut CharDeviceInstance,
    from: *const u8,
    length: c_int,
) -> c_int {
    let Ok(length) = usize::try_from(length) else { return 0 };
    if from.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise; nobody writes to them during this call, which keeps nothing.
    let bytes = unsafe { slice::from_raw_parts(from, length) };
    // SAFETY: as well.
    let count = unsafe { with_port(device, |port| port.write(bytes)) };
    c_int::try_from(count.unwrap_or(0)).unwrap_or(0)
}

/// # Safety
/// As of [`with_port`]; at `to` is room for as many bytes as `length` says.
unsafe extern "C" fn read(device: *mut CharDeviceInstance, to: *mut u8, length: c_int) -> c_int {
    let Ok(length) = usize::try_from(length) else { return 0 };
    if to.is_null() {
        return 0;
    }
    let take = |port: &mut Port| {
        let bytes = port.read(length);
        // SAFETY: the caller's promise, and a port reads no more than it is told; these are its own bytes.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        bytes.len()
    };
    // SAFETY: the caller's promise.
    let count = unsafe { with_port(device, take) };
    c_int::try_from(count.unwrap_or(0)).unwrap_or(0)
}

/// Puts what the library says into the program's log.
///
/// # Safety
/// `message` is null or a string.
pub(super) unsafe extern "C" fn log(
    _: *const c_char,
    level: c_int,
    message: *const c_char,
    _: *mut c_void,
) {
    if message.is_null() {
        return;
    }
    // SAFETY: the caller's promise; it is used during this call alone.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // The rest of the bits are flags.
    let level = match level & (LOG_ERROR | LOG_CRITICAL | LOG_WARNING | LOG_MESSAGE) {
        0 => log::Level::Trace,
        LOG_MESSAGE => log::Level::Info,
        LOG_WARNING => log::Level::Warn,
        _ => log::Level::Error,
    };
    log::log!(level, "libspice-server: {message}");
}

/// What a program gives the library to work with. It is never freed: the library keeps it.
pub(super) fn core() -> *mut CoreInterface {
    Box::into_raw(Box::new(CoreInterface {
        base: base(c"core".as_ptr(), c"descriptors and timers".as_ptr(), CORE),
        timer_add,
        timer_start,
        timer_cancel,
        timer_remove,
        watch_add,
        watch_update_mask,
        watch_remove,
        channel_event,
    }))
}

/// What all channels' devices can do. It is never freed either.
pub(super) fn char_device() -> *const CharDeviceInterface {
    Box::into_raw(Box::new(CharDeviceInterface {
        base: base(c"char_device".as_ptr(), c"usbredir".as_ptr(), CHAR_DEVICE),
        state,
        write,
        read,
        event: None,
        flags: NOTIFY_WRITABLE,
    }))
}

/// A channel's device. Never freed.
pub(super) fn instance(
    interface: *const CharDeviceInterface,
    number: usize,
) -> &'static mut Instance {
    Box::leak(Box::new(Instance {
        device: CharDeviceInstance {
            base: BaseInstance { interface: interface.cast() },
            subtype: c"usbredir".as_ptr(),
            state: null_mut(),
            portname: null(),
        },
        number,
    }))
}

fn base(
    kind: *const c_char,
    description: *const c_char,
    (major, minor): (u32, u32),
) -> BaseInterface {
    BaseInterface { kind, description, major, minor }
}
