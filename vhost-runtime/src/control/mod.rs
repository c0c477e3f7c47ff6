//! The control interface of every device program: `--control PATH`.
//!
//! It speaks QMP as QEMU's does (docs/interop/qmp-spec.rst): a greeting, `qmp_capabilities`, then
//! commands, answers and events, each a JSON object. File descriptors come along by SCM_RIGHTS, since
//! a sandboxed process can open nothing new: they may come with a command or before it, and its
//! argument `fds` says how many of them are its own, oldest first.
//!
//! - [`message`]: what goes over the socket;
//! - [`scm`]: bytes and descriptors;
//! - [`events`]: what all clients are told;
//! - [`connection`]: one client, on a thread of its own;
//! - [`client`], [`table`]: the other end, and what it prints for people.

pub mod client;
mod connection;
mod events;
mod message;
mod scm;
pub mod table;

use std::error::Error;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

pub use events::Events;

use crate::program::{ProgramArgs, ProgramError, Shutdown, Socket, Stop};

/// Clients at once.
const CLIENTS: usize = 16;
/// How long to wait where the host has no descriptor left for a client.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A command's arguments.
pub type Arguments = Map<String, Value>;

/// The commands that a device adds to those that every program knows.
pub trait Commands: Send + Sync + 'static {
    /// Their names.
    fn names(&self) -> &'static [&'static str];

    /// Carries one out, on its client's thread, where it may block; several clients' run at once.
    ///
    /// # Errors
    /// See [`ControlError`]; the client is told.
    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError>;
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody knows it.
    #[error("there is no command {0}; query-commands lists those that there are")]
    CommandNotFound(String),
    /// The client has not sent `qmp_capabilities` yet, or sends it again.
    #[error("{0}")]
    Negotiation(&'static str),
    /// What the client sent is no command.
    #[error("{0}")]
    Message(String),
    /// Its arguments are not what it takes.
    #[error("arguments: {0}")]
    Arguments(#[from] serde_json::Error),
    /// They have one that it does not take. The words are QEMU's.
    #[error("Parameter '{0}' is unexpected")]
    Unexpected(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// It failed.
    #[error("{0}")]
    Failed(Box<dyn Error + Send + Sync>),
}

impl ControlError {
    /// It failed, for this reason.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// QMP's error class.
    fn class(&self) -> &'static str {
        match self {
            Self::CommandNotFound(_) | Self::Negotiation(_) => "CommandNotFound",
            Self::NotFound(_) => "DeviceNotFound",
            Self::Message(_) | Self::Arguments(_) | Self::Unexpected(_) | Self::Failed(_) => {
                "GenericError"
            }
        }
    }
}

/// Reads a command's arguments.
///
/// # Errors
/// They are not what it takes.
pub fn parse<T: DeserializeOwned>(arguments: Arguments) -> Result<T, ControlError> {
    Ok(serde_json::from_value(Value::Object(arguments))?)
}

/// Checks that a command has no arguments that takes none.
///
/// # Errors
/// It has.
pub fn parse_none(arguments: &Arguments) -> Result<(), ControlError> {
    match arguments.keys().next() {
        None => Ok(()),
        Some(key) => Err(ControlError::Unexpected(key.clone())),
    }
}

/// The socket that clients connect to, only those of the same user.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

impl Listener {
    /// Makes the socket that `--control` names.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn from_args(args: &ProgramArgs) -> Result<Option<Self>, ProgramError> {
        args.control.as_deref().map(|path| Self::new("--control", path)).transpose()
    }

    /// Makes the socket at `path`, which an option names.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn new(option: &'static str, path: &Path) -> Result<Self, ProgramError> {
        Ok(Self { socket: Socket::listen(option, path, true)? })
    }

    /// The socket itself, to be published.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Serves clients, on threads of its own, until the process ends.
    ///
    /// # Errors
    /// A thread can't be had.
    pub fn serve(
        &self,
        program: Program,
        commands: Arc<dyn Commands>,
        events: &Events,
        shutdown: &Shutdown,
    ) -> Result<(), ProgramError> {
        let host = |error| ProgramError::Host { what: "control clients cannot be served", error };
        let Socket::Listening { listener, .. } = &self.socket else { return Ok(()) };
        let listener = listener.try_clone().map_err(host)?;
        let stop = shutdown.stop().map_err(host)?;
        let server = Arc::new(Server {
            program,
            commands,
            events: events.clone(),
            stop,
            clients: AtomicUsize::new(0),
        });
        let thread = std::thread::Builder::new().name(String::from("control"));
        thread.spawn(move || accept(&listener, &server)).map_err(host)?;
        Ok(())
    }
}

/// Which program it is.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its version, as Cargo has it.
    pub version: &'static str,
}

/// What all connections share.
struct Server {
    program: Program,
    commands: Arc<dyn Commands>,
    events: Events,
    stop: Stop,
    clients: AtomicUsize,
}

/// The commands that every program knows.
const COMMON: [&str; 5] =
    ["qmp_capabilities", "query-commands", "query-version", "query-status", "quit"];

impl Server {
    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError> {
        let own = self.commands.names();
        // A program may know better what it is doing.
        if own.contains(&name) {
            return self.commands.execute(name, arguments, fds);
        }
        if COMMON.contains(&name) {
            parse_none(&arguments)?;
        }
        match name {
            "qmp_capabilities" => Err(ControlError::Negotiation(
                "capabilities are negotiated already: there is nothing more to enable",
            )),
            "query-commands" => {
                let names = COMMON.iter().filter(|name| !own.contains(name)).chain(own);
                Ok(names.map(|name| json!({ "name": name })).collect())
            }
            "query-version" => Ok(self.version()),
            "query-status" => Ok(json!({ "connected": self.events.is_connected() })),
            "quit" => Ok(json!({})),
            _ => Err(ControlError::CommandNotFound(name.to_owned())),
        }
    }

    /// As QEMU tells its own: QMP's tools read the member `qemu`.
    fn version(&self) -> Value {
        let mut numbers = self.program.version.split('.').map(|part| part.parse().unwrap_or(0u32));
        let mut number = || numbers.next().unwrap_or(0);
        let version = json!({ "major": number(), "minor": number(), "micro": number() });
        let package = format!("{} {}", self.program.name, self.program.version);
        json!({ "qemu": version, "package": package })
    }
}

fn accept(listener: &UnixListener, server: &Arc<Server>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("a control connection was not accepted: {error}");
                std::thread::sleep(BACK_OFF);
                continue;
            }
        };
        if server.clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            server.clients.fetch_sub(1, Ordering::Relaxed);
            refuse(&stream);
            continue;
        }
        let its = Arc::clone(server);
        let thread = std::thread::Builder::new().name(String::from("control client"));
        let spawned = thread.spawn(move || {
            if let Err(error) = connection::serve(stream, &its) {
                log::debug!("a control connection ended: {error}");
            }
            its.clients.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            log::warn!("a control connection has no thread: {error}");
            server.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Tells a client too many why; whether it hears does not matter.
fn refuse(mut stream: &UnixStream) {
    let what = format!("{CLIENTS} clients are connected, and that is all there can be");
    let line = message::error(&ControlError::Message(what), None);
    if let Err(error) = stream.set_nonblocking(true).and_then(|()| stream.write_all(&line)) {
        log::debug!("a control client too many is not told: {error}");
    }
}

#[cfg(test)]
mod tests;
