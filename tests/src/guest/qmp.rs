//! QMP, QEMU's control socket (QEMU's docs/interop/qmp-spec.rst).

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::channel::broken;
use crate::Error;

/// How long a command may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A QMP session, past its greeting.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// Events that came while a command's answer was awaited.
    events: Vec<Value>,
}

impl Qmp {
    /// Reads the greeting and leaves the negotiation mode.
    pub fn new(stream: UnixStream) -> Result<Qmp, Error> {
        let mut qmp = Qmp { stream: BufReader::new(stream), events: Vec::new() };
        let doing = "waiting for QMP's greeting";
        let greeting = qmp.message(ANSWER).map_err(|source| broken(doing, ANSWER, source))?;
        if greeting.get("QMP").is_none() {
            return Err(Error::Protocol { doing: doing.into(), answer: greeting.to_string() });
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Sends a command, and gives its `return` value.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let lost = |source| broken(format!("executing QMP {command}"), ANSWER, source);
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").map_err(lost)?;
        loop {
            let mut answer = self.message(ANSWER).map_err(lost)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let (command, answer) = (command.to_owned(), error.to_string());
                return Err(Error::Qmp { command, answer });
            }
            self.events.push(answer);
        }
    }

    /// Waits for an event (those that came before count), and gives its `data`.
    pub fn wait_event(&mut self, event: &str, limit: Duration) -> Result<Value, Error> {
        let lost = |source| broken(format!("waiting for QMP's {event}"), limit, source);
        let is_it = |message: &Value| message["event"] == event;
        if let Some(at) = self.events.iter().position(is_it) {
            return Ok(self.events.remove(at)["data"].take());
        }
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(lost(ErrorKind::TimedOut.into()));
            }
            let mut message = self.message(left).map_err(lost)?;
            if is_it(&message) {
                return Ok(message["data"].take());
            }
            self.events.push(message);
        }
    }

    fn message(&mut self, limit: Duration) -> io::Result<Value> {
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}
