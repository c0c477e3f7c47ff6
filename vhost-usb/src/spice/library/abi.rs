//! libspice-server's binary interface, as far as it is used: what `spice-core.h`, `spice-char.h` and
//! `spice-server.h` of version 0.14 and later declare.

use std::ffi::{c_char, c_int, c_void};

/// The library's own, never looked into here.
#[repr(C)]
pub(super) struct SpiceServer {
    _private: [u8; 0],
}

#[repr(C)]
pub(super) struct BaseInterface {
    pub(super) kind: *const c_char,
    pub(super) description: *const c_char,
    pub(super) major: u32,
    pub(super) minor: u32,
}

#[repr(C)]
pub(super) struct BaseInstance {
    pub(super) interface: *const BaseInterface,
}

/// A descriptor's function: it, SPICE_WATCH_EVENT_…, what was registered with it.
pub(super) type WatchFunction = unsafe extern "C" fn(c_int, c_int, *mut c_void);
pub(super) type TimerFunction = unsafe extern "C" fn(*mut c_void);

pub(super) const WATCH_READ: c_int = 1 << 0;
pub(super) const WATCH_WRITE: c_int = 1 << 1;

/// SPICE_CHANNEL_EVENT_…
pub(super) const CONNECTED: c_int = 1;
pub(super) const INITIALIZED: c_int = 2;
pub(super) const DISCONNECTED: c_int = 3;

/// How `SpiceChannelEventInfo` begins; addresses follow.
#[repr(C)]
pub(super) struct ChannelEventInfo {
    pub(super) connection: c_int,
    pub(super) kind: c_int,
    pub(super) id: c_int,
    pub(super) flags: c_int,
}

/// Watches and timers are pointers for the library, which are handed out here and looked into by nobody.
pub(super) type Handle = *mut c_void;

pub(super) const CORE: (u32, u32) = (1, 3);

#[repr(C)]
pub(super) struct CoreInterface {
    pub(super) base: BaseInterface,
    pub(super) timer_add: extern "C" fn(TimerFunction, *mut c_void) -> Handle,
    pub(super) timer_start: extern "C" fn(Handle, u32),
    pub(super) timer_cancel: extern "C" fn(Handle),
    pub(super) timer_remove: extern "C" fn(Handle),
    pub(super) watch_add: extern "C" fn(c_int, c_int, WatchFunction, *mut c_void) -> Handle,
    pub(super) watch_update_mask: extern "C" fn(Handle, c_int),
    pub(super) watch_remove: extern "C" fn(Handle),
    pub(super) channel_event: unsafe extern "C" fn(c_int, *mut ChannelEventInfo),
}

pub(super) const CHAR_DEVICE: (u32, u32) = (1, 3);
/// SPICE_CHAR_DEVICE_NOTIFY_WRITABLE: the library is woken when more can be written, and needs no timer.
pub(super) const NOTIFY_WRITABLE: c_int = 1 << 0;

#[repr(C)]
pub(super) struct CharDeviceInterface {
    pub(super) base: BaseInterface,
    pub(super) state: unsafe extern "C" fn(*mut CharDeviceInstance, c_int),
    pub(super) write: unsafe extern "C" fn(*mut CharDeviceInstance, *const u8, c_int) -> c_int,
    pub(super) read: unsafe extern "C" fn(*mut CharDeviceInstance, *mut u8, c_int) -> c_int,
    pub(super) event: Option<unsafe extern "C" fn(*mut CharDeviceInstance, u8)>,
    pub(super) flags: c_int,
}

/// Must stay where it is as long as the library has it.
#[repr(C)]
pub(super) struct CharDeviceInstance {
    pub(super) base: BaseInstance,
    pub(super) subtype: *const c_char,
    /// The library's.
    pub(super) state: *mut c_void,
    pub(super) portname: *const c_char,
}

pub(super) type New = unsafe extern "C" fn() -> *mut SpiceServer;
pub(super) type Init = unsafe extern "C" fn(*mut SpiceServer, *mut CoreInterface) -> c_int;
pub(super) type SetName = unsafe extern "C" fn(*mut SpiceServer, *const c_char);
pub(super) type SetNoAuth = unsafe extern "C" fn(*mut SpiceServer) -> c_int;
pub(super) type SetTicket =
    unsafe extern "C" fn(*mut SpiceServer, *const c_char, c_int, c_int, c_int) -> c_int;
pub(super) type AddClient = unsafe extern "C" fn(*mut SpiceServer, c_int, c_int) -> c_int;
pub(super) type AddInterface = unsafe extern "C" fn(*mut SpiceServer, *mut BaseInstance) -> c_int;
pub(super) type RemoveInterface = unsafe extern "C" fn(*mut BaseInstance) -> c_int;
pub(super) type Wakeup = unsafe extern "C" fn(*mut CharDeviceInstance);
pub(super) type Random = unsafe extern "C" fn() -> u32;

/// GLib's: the library's name, the level, the message, nothing.
pub(super) type LogFunction =
    unsafe extern "C" fn(*const c_char, c_int, *const c_char, *mut c_void);
/// The former function may be none.
pub(super) type SetLog = unsafe extern "C" fn(LogFunction, *mut c_void) -> Option<LogFunction>;

/// G_LOG_LEVEL_…
pub(super) const LOG_ERROR: c_int = 1 << 2;
pub(super) const LOG_CRITICAL: c_int = 1 << 3;
pub(super) const LOG_WARNING: c_int = 1 << 4;
pub(super) const LOG_MESSAGE: c_int = 1 << 5;
