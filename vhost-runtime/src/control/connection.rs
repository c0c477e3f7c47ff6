//! One client.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::events::Outbox;
use super::message::{self, Command, Found, Request, Splitter};
use super::{ControlError, Server, scm};

/// A message must arrive whole within this time, and an answer leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes read at a time.
const PIECE: usize = 16 << 10;

/// Serves a client until it hangs up.
///
/// # Errors
/// The client does not keep to the rules, or the socket failed.
pub(super) fn serve(stream: UnixStream, server: &Server) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut connection = Connection {
        stream,
        server,
        outbox: Arc::new(Outbox::new()?),
        splitter: Splitter::default(),
        fds: VecDeque::new(),
        negotiated: false,
    };
    connection.write(&message::greeting(&server.version()))?;
    let result = connection.serve();
    server.events.unsubscribe(&connection.outbox);
    result
}

struct Connection<'a> {
    stream: UnixStream,
    server: &'a Server,
    outbox: Arc<Outbox>,
    splitter: Splitter,
    /// Descriptors that came and that no command has claimed yet.
    fds: VecDeque<OwnedFd>,
    /// The client has sent `qmp_capabilities`.
    negotiated: bool,
}

impl Connection<'_> {
    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut deadline: Option<Instant> = None;
        while let Some(readable) = self.wait(deadline)? {
            self.write_events()?;
            if !readable {
                continue;
            }
            let count = match self.receive(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            self.splitter.push(buffer.get(..count).unwrap_or_default());
            self.take_messages()?;
            deadline = match deadline {
                _ if !self.splitter.is_within() => None,
                None => Instant::now().checked_add(PATIENCE),
                some => some,
            };
        }
        self.end(&format!("a message was not complete within {} s", PATIENCE.as_secs()))
    }

    fn write_events(&mut self) -> io::Result<()> {
        loop {
            let lines = self.outbox.take();
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines {
                self.write(&line)?;
            }
        }
    }

    /// Waits for events or for the client: whether the latter has sent something. `None`: it has
    /// taken too long.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<Option<bool>> {
        let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polls = [poll(self.stream.as_raw_fd()), poll(self.outbox.fd())];
        let timeout = match deadline {
            None => -1,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()).as_millis();
                libc::c_int::try_from(left).unwrap_or(libc::c_int::MAX)
            }
        };
        // SAFETY: the array outlives the call.
        match unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout) } {
            0 => Ok(None),
            count if count > 0 => Ok(Some(polls.first().is_some_and(|poll| poll.revents != 0))),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(Some(false)),
                error => Err(error),
            },
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut fds = Vec::new();
        let count = scm::receive(&self.stream, buffer, &mut fds)?;
        self.fds.extend(fds);
        if self.fds.len() > scm::MOST {
            self.end("too many descriptors were passed that no command claims")?;
        }
        Ok(count)
    }

    fn take_messages(&mut self) -> io::Result<()> {
        loop {
            match self.splitter.next() {
                Found::Object(bytes) if bytes.len() > message::LIMIT => return self.too_long(),
                Found::Object(bytes) => self.answer(&bytes)?,
                Found::Garbage => {
                    let what = String::from("this is no JSON object");
                    self.write(&message::error(&ControlError::Message(what), None))?;
                }
                Found::Nothing if self.splitter.pending() > message::LIMIT => {
                    return self.too_long();
                }
                Found::Nothing => return Ok(()),
            }
        }
    }

    fn too_long(&mut self) -> io::Result<()> {
        self.end(&format!("a message may have {} bytes", message::LIMIT))
    }

    /// Says why, and gives the client up.
    fn end(&mut self, why: &str) -> io::Result<()> {
        self.write(&message::error(&ControlError::Message(why.to_owned()), None))?;
        Err(io::Error::other(why.to_owned()))
    }

    fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let request = Request::read(bytes);
        let mut quits = false;
        let result = match request.command {
            Ok(command) if self.negotiated => {
                quits = command.name == "quit";
                self.execute(command)
            }
            Ok(command) => self.negotiate(&command),
            Err(error) => Err(error),
        };
        quits &= result.is_ok();
        let line = match result {
            Ok(value) => message::answer(value, request.id),
            Err(error) => message::error(&error, request.id),
        };
        let written = self.write(&line);
        if quits {
            // Not before: nobody waits for this thread.
            self.server.stop.ask();
        }
        written
    }

    fn negotiate(&mut self, command: &Command) -> Result<serde_json::Value, ControlError> {
        if command.name != "qmp_capabilities" {
            return Err(ControlError::Negotiation("send qmp_capabilities first"));
        }
        // `enable` may list capabilities: none is offered.
        let enable = command.arguments.get("enable").and_then(serde_json::Value::as_array);
        if enable.is_some_and(|list| !list.is_empty()) {
            return Err(ControlError::Message(String::from("there are no capabilities to enable")));
        }
        self.negotiated = true;
        self.server.events.subscribe(&self.outbox);
        Ok(json!({}))
    }

    fn execute(&mut self, command: Command) -> Result<serde_json::Value, ControlError> {
        if command.fds > self.fds.len() {
            let what = format!("fds: {} are named, {} were passed", command.fds, self.fds.len());
            return Err(ControlError::Message(what));
        }
        let fds = self.fds.drain(..command.fds).collect();
        self.server.execute(&command.name, command.arguments, fds)
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.stream.write_all(line)
    }
}
