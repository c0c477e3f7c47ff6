//! A VMM that runs, with its guest's serial console on its standard input and output.

use std::io::{self, Read as _, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Error, Process, spawn};

/// How long the guest may take to say something that is waited for.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Console {
    process: Process,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    said: Vec<u8>,
}

impl Console {
    pub(crate) fn start(mut command: Command) -> Result<Console, Error> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |source| Error::Io { what: format!("cannot start {name}"), source };
        let mut process = spawn(command).map_err(failed)?;
        let pipes = process.pipes();
        let (Some(input), Some(mut from)) = (pipes.stdin.take(), pipes.stdout.take()) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut some) {
                if sender.send(some[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Console { process, input, output, said: Vec::new() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn type_line(&mut self, line: &str) -> Result<(), Error> {
        let failed = |source| Error::Io { what: "cannot type".into(), source };
        writeln!(self.input, "{line}").map_err(failed)
    }

    /// Waits until the guest says a number, with this before it and a semicolon behind it.
    pub(crate) fn number(&mut self, before: &str) -> Result<f64, Error> {
        loop {
            self.wait_for(before)?;
            if let Ok(number) = self.until(";")?.trim().parse() {
                return Ok(number);
            }
        }
    }

    /// Waits until the guest says it, after what was waited for before.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<(), Error> {
        self.until(text).map(drop)
    }

    /// The same; what it said before that.
    fn until(&mut self, text: &str) -> Result<String, Error> {
        let end = Instant::now() + LIMIT;
        loop {
            let found = self.said.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let mut said: Vec<u8> = self.said.drain(..at + text.len()).collect();
                said.truncate(at);
                return Ok(String::from_utf8_lossy(&said).into_owned());
            }
            let doing = || format!("waiting for {text:?}");
            let log = || String::from_utf8_lossy(&self.said).into_owned();
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(more) => self.said.extend(more),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = LIMIT.as_secs();
                    return Err(Error::Timeout { doing: doing(), seconds, log: log() });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(Error::Ended { doing: doing(), source, log: log() });
                }
            }
        }
    }
}
