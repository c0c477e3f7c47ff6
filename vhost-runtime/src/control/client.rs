//! The other end: what a program's verb for people talks to a running process with.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{self, SocketAddrUnix};
use serde_json::{Value, json};

use super::scm;

/// How long a process may be silent that was asked something: no command waits for what may never come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a process could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("--control {path}: cannot be reached: {error}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// The connection was lost.
    #[error("the process does not answer: {0}")]
    Lost(io::Error),
    /// It says nothing, and has not hung up.
    #[error(
        "the process has not answered for {} s; what it was asked for may still be done",
        PATIENCE.as_secs()
    )]
    Silent,
    /// It speaks another language.
    #[error("what listens there does not speak QMP")]
    Protocol,
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Self::Silent, // the socket's limit (socket(7), SO_RCVTIMEO)
            _ => Self::Lost(error),
        }
    }
}

/// A connection to a program's control interface.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects, and negotiates.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |error| ClientError::Connect { path: path.to_owned(), error };
        let stream = open(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => failed(io::ErrorKind::TimedOut.into()),
            _ => failed(error),
        })?;
        let mut client = Self { stream: BufReader::new(stream) };
        match client.negotiate() {
            Err(ClientError::Silent) => Err(failed(io::ErrorKind::TimedOut.into())),
            negotiated => negotiated.map(|()| client),
        }
    }

    fn negotiate(&mut self) -> Result<(), ClientError> {
        let greeting = self.read()?;
        if let Some(error) = refusal(&greeting) {
            return Err(error);
        }
        if greeting.get("QMP").is_none() {
            return Err(ClientError::Protocol);
        }
        self.execute("qmp_capabilities", json!({}), &[]).map(drop)
    }

    /// Has a command carried out, and gives what it returns.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn execute(
        &mut self,
        name: &str,
        mut arguments: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, ClientError> {
        if let (Some(arguments), false) = (arguments.as_object_mut(), fds.is_empty()) {
            arguments.insert(String::from("fds"), json!(fds.len()));
        }
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        let sent = scm::send(self.stream.get_ref(), line.as_bytes(), fds)?;
        self.stream.get_mut().write_all(line.as_bytes().get(sent..).unwrap_or_default())?;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = refusal(&answer) {
                return Err(error);
            }
            // An event.
        }
    }

    fn read(&mut self) -> Result<Value, ClientError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into())),
            _ => serde_json::from_str(&line).map_err(|_| ClientError::Protocol),
        }
    }
}

/// Connects, by a socket that waits for nothing without end: not even for a place among those that a stuck process does
/// not accept.
fn open(path: &Path) -> io::Result<UnixStream> {
    let (family, kind) = (net::AddressFamily::UNIX, net::SocketType::STREAM);
    let socket = net::socket_with(family, kind, net::SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn refusal(message: &Value) -> Option<ClientError> {
    let error = message.get("error")?;
    let text = error.get("desc").and_then(Value::as_str).unwrap_or("it refused, and not why");
    Some(ClientError::Refused(text.to_owned()))
}
