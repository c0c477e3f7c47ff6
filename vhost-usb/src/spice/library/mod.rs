//! libspice-server, loaded at run time: nothing of it is needed to build this.
//!
//! The library belongs to the thread that has made the [`Server`], which can't leave it. It calls back in that
//! thread alone, while it is called itself, and never holds what a callback is given for longer.

mod abi;
mod callbacks;

use std::error::Error;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use libloading::Library;
use vhost_runtime::sandbox::Call;
use vmm_sys_util::epoll::EventSet;

use self::abi::{BaseInstance, CharDeviceInstance, SpiceServer};
use self::callbacks::{Call as Registered, Instance};
use super::events::{Event, Owner, Token};
use super::world::{self, World};

/// The library's file.
pub const NAME: &str = "libspice-server.so.1";

/// Bytes of a password at most (SPICE_MAX_PASSWORD_LENGTH).
pub const LONGEST_PASSWORD: usize = 60;

/// How much of what was sent has not arrived (linux/sockios.h).
const SIOCOUTQ: u32 = 0x5411;

/// System calls that it makes besides those that all programs make.
#[must_use]
pub fn calls() -> [Call; 1] {
    [Call::ioctl(SIOCOUTQ)]
}

/// What is wrong with the library.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It is not there.
    #[error("{NAME} cannot be loaded, install Debian's package libspice-server1: {}", reason(.0))]
    Missing(libloading::Error),
    /// It is another one.
    #[error("{NAME} has no {0}, install Debian's package libspice-server1, 0.14 or newer")]
    Function(&'static str),
    /// It refuses something, and has said why.
    #[error("libspice-server refuses to {0}")]
    Refused(&'static str),
}

/// What the loader says, which names what is missing, be it another library.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// What is called in it.
struct Functions {
    new: abi::New,
    init: abi::Init,
    set_name: abi::SetName,
    set_noauth: abi::SetNoAuth,
    set_ticket: abi::SetTicket,
    add_client: abi::AddClient,
    add_interface: abi::AddInterface,
    remove_interface: abi::RemoveInterface,
    wakeup: abi::Wakeup,
    random: abi::Random,
    set_log: abi::SetLog,
}

/// A function of the library.
///
/// # Safety
/// `F` is the type of pointers to that function.
unsafe fn function<F: Copy>(library: &Library, name: &'static str) -> Result<F, LibraryError> {
    // SAFETY: the caller's promise.
    let symbol = unsafe { library.get::<F>(name) };
    symbol.map(|symbol| *symbol).map_err(|_| LibraryError::Function(name))
}

impl Functions {
    fn load(name: &str) -> Result<Self, LibraryError> {
        // SAFETY: what the library and those that it needs do when they are loaded is their own affair, and
        // they are not unloaded.
        let library = unsafe { Library::new(name) }.map_err(LibraryError::Missing)?;
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: spice-server.h and spice-char.h, and GLib's grand.h and gmessages.h, declare them so.
        unsafe {
            Ok(Self {
                new: function(library, "spice_server_new")?,
                init: function(library, "spice_server_init")?,
                set_name: function(library, "spice_server_set_name")?,
                set_noauth: function(library, "spice_server_set_noauth")?,
                set_ticket: function(library, "spice_server_set_ticket")?,
                add_client: function(library, "spice_server_add_client")?,
                add_interface: function(library, "spice_server_add_interface")?,
                remove_interface: function(library, "spice_server_remove_interface")?,
                wakeup: function(library, "spice_server_char_device_wakeup")?,
                // Of a library that it needs.
                random: function(library, "g_random_int")?,
                set_log: function(library, "g_log_set_default_handler")?,
            })
        }
    }
}

/// Who may connect.
#[derive(Debug)]
pub enum Access {
    /// Whoever can.
    Everybody,
    /// Who knows the password.
    Password(CString),
}

/// A port's channel.
struct Channel {
    /// Never freed, so that it is where the library believes it to be.
    instance: NonNull<Instance>,
    /// The library has it.
    offered: bool,
}

/// The SPICE server. It listens to nothing: connections are given to it.
pub struct Server {
    functions: Functions,
    server: NonNull<SpiceServer>,
    channels: Vec<Channel>,
}

impl Server {
    /// Loads the library, and makes this thread the one that serves that world.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub fn new(world: World, name: &CStr, access: &Access) -> Result<Self, LibraryError> {
        let functions = Functions::load(NAME)?;
        let interface = callbacks::char_device();
        let numbers = 0..world.ports.len();
        let instances = numbers.map(|number| callbacks::instance(interface, number));
        let channels =
            instances.map(|instance| Channel { instance: instance.into(), offered: false });
        let channels = channels.collect();
        world::set(world);
        // SAFETY: the function is one of the type that GLib wants, and needs nothing else.
        unsafe { (functions.set_log)(callbacks::log, null_mut()) };
        // SAFETY: it has no arguments.
        let server = NonNull::new(unsafe { (functions.new)() });
        let server = server.ok_or(LibraryError::Refused("begin"))?;
        // SAFETY: the server is one, and is never destroyed; the library copies both strings. The core
        // interface is never freed.
        unsafe {
            (functions.set_name)(server.as_ptr(), name.as_ptr());
            let result = match access {
                Access::Everybody => (functions.set_noauth)(server.as_ptr()),
                // For ever; who is connected already does not matter, nobody is.
                Access::Password(password) => {
                    (functions.set_ticket)(server.as_ptr(), password.as_ptr(), 0, 0, 0)
                }
            };
            if result != 0 {
                return Err(LibraryError::Refused("take the password"));
            }
            if (functions.init)(server.as_ptr(), callbacks::core()) != 0 {
                return Err(LibraryError::Refused("start"));
            }
            // Who has a client's connection id can open its channels. It is a random number of GLib's, which is
            // seeded by a file at the first one: from within a sandbox, it would be by the time.
            (functions.random)();
        }
        Ok(Self { functions, server, channels })
    }

    /// Gives it a connection.
    ///
    /// # Errors
    /// It can't be used.
    pub fn add_client(&self, socket: OwnedFd) -> std::io::Result<()> {
        world::with(|world| world.links.expect(socket.as_fd())).transpose()?;
        let fd = socket.into_raw_fd();
        // SAFETY: the server is one; the descriptor is the library's from now on.
        if unsafe { (self.functions.add_client)(self.server.as_ptr(), fd, 0) } != 0 {
            // SAFETY: it is not: the library closes none that it refuses.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    /// Lets clients find a port's channel.
    ///
    /// # Errors
    /// There are too many.
    pub fn offer(&mut self, number: usize) -> Result<(), LibraryError> {
        let Some(channel) = self.channels.get_mut(number).filter(|channel| !channel.offered) else {
            return Ok(());
        };
        let base: *mut BaseInstance = channel.instance.as_ptr().cast();
        // SAFETY: the server is one; the instance is never freed, begins with its base, and is not the library's
        // already.
        if unsafe { (self.functions.add_interface)(self.server.as_ptr(), base) } != 0 {
            return Err(LibraryError::Refused("have so many channels"));
        }
        channel.offered = true;
        Ok(())
    }

    /// Closes a port's channel, and has the library forget what is on its way there.
    pub fn withdraw(&mut self, number: usize) {
        let Some(channel) = self.channels.get_mut(number).filter(|channel| channel.offered) else {
            return;
        };
        channel.offered = false;
        // SAFETY: the instance is the library's. No callback of it is running: they call nothing that calls this.
        unsafe { (self.functions.remove_interface)(channel.instance.as_ptr().cast()) };
    }

    /// A port may be read, or written to.
    pub fn wake(&self, number: usize) {
        if let Some(channel) = self.channels.get(number).filter(|channel| channel.offered) {
            let device: *mut CharDeviceInstance = channel.instance.as_ptr().cast();
            // SAFETY: the instance is the library's.
            unsafe { (self.functions.wakeup)(device) };
        }
    }

    /// Something has happened that the library may wait for.
    pub fn tell(&self, event: Event) {
        match event {
            Event::Ready(token, Owner::Library) => self.tell_ready(token),
            Event::Timer(token)
                if world::with(|world| world.events.take_end(token)) == Some(true) =>
            {
                if let Some(Registered::Timer(function, opaque)) = callbacks::call(token) {
                    // SAFETY: it is the library's function, with what the library wants it called with: it has not
                    // removed the timer.
                    unsafe { function(opaque) };
                }
            }
            _ => {}
        }
    }

    fn tell_ready(&self, token: Token) {
        // What was called before this may have removed it, or want something else of it.
        let Some((fd, ready)) = world::with(|world| world.events.ready(token)).flatten() else {
            return;
        };
        let bit = |set, bit| if ready.contains(set) { bit } else { 0 };
        let bits = bit(EventSet::IN, abi::WATCH_READ) | bit(EventSet::OUT, abi::WATCH_WRITE);
        if let Some(Registered::Watch(function, opaque)) = callbacks::call(token) {
            // SAFETY: as in `tell`, of a watch.
            unsafe { function(fd, bits, opaque) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_said_to_be_missing() {
        let error = Functions::load("libnothing-of-that-name.so.1").map(drop).unwrap_err();
        let said = error.to_string();
        assert!(said.ends_with("No such file or directory"), "{said}");
        let start =
            "libspice-server.so.1 cannot be loaded, install Debian's package libspice-server1: ";
        assert!(said.starts_with(start), "{said}");
        assert_eq!(said.lines().count(), 1);
        assert!(matches!(Functions::load("libc.so.6"), Err(LibraryError::Function(_))));
    }
}
