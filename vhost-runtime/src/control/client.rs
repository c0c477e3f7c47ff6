//! The other end: what a program's verb for people talks to a running process with.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::scm;

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
    Lost(#[from] io::Error),
    /// It speaks another language.
    #[error("what listens there does not speak QMP")]
    Protocol,
    /// It refused.
    #[error("{0}")]
    Refused(String),
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
        let stream = UnixStream::connect(path)
            .map_err(|error| ClientError::Connect { path: path.to_owned(), error })?;
        let mut client = Self { stream: BufReader::new(stream) };
        let greeting = client.read()?;
        if let Some(error) = refusal(&greeting) {
            return Err(error);
        }
        if greeting.get("QMP").is_none() {
            return Err(ClientError::Protocol);
        }
        client.execute("qmp_capabilities", json!({}), &[])?;
        Ok(client)
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

fn refusal(message: &Value) -> Option<ClientError> {
    let error = message.get("error")?;
    let text = error.get("desc").and_then(Value::as_str).unwrap_or("it refused, and not why");
    Some(ClientError::Refused(text.to_owned()))
}
