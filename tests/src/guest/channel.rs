//! The lab's end of the channel to the agent in the guest (`machine/agent.sh`).

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::Error;

/// What a script in the guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 124 if it ran out of time.
    pub status: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it printed to its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// What it printed, as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it printed to its standard error, as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// What it printed, as text, if it ended with status 0; else an error that says all.
    pub fn stdout_if_ok(self) -> Result<String, Error> {
        match self.status {
            0 => Ok(self.stdout()),
            _ => Err(self.into_error()),
        }
    }

    pub(super) fn into_error(self) -> Error {
        Error::Script { status: self.status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

/// How long after its own limit a script's answer may come: the guest is slow, and so may be the
/// answer's transport.
const GRACE: Duration = Duration::from_secs(60);

/// How often a guest that is waited for is sent a line without a request. QEMU's TCG has been seen to lose the
/// timer interrupt of a guest whose own guest runs: idle, it would sleep until something else comes.
const PULSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Channel {
    stream: BufReader<UnixStream>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Channel {
        Channel { stream: BufReader::new(stream) }
    }

    /// Waits until the agent has started.
    pub(super) fn wait_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let line = self.limit(limit).and_then(|()| self.line(&mut String::new()));
        match line.map_err(|source| broken("waiting for the guest to boot", limit, source))? {
            line if line == "ready" => Ok(()),
            answer => Err(Error::Protocol { doing: "booting".into(), answer }),
        }
    }

    pub(super) fn run(
        &mut self,
        limit: Duration,
        script: &str,
        input: &[u8],
    ) -> Result<Output, Error> {
        let doing = || format!("running in the guest: {script}");
        let limit = limit.max(Duration::from_secs(1));
        let whole = limit.saturating_add(GRACE);
        let line = self
            .limit(whole)
            .and_then(|()| self.send(limit, script, input))
            .and_then(|()| self.answer(whole))
            .map_err(|source| broken(doing(), limit, source))?;

        let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let &[status, stdout, stderr] = numbers.as_slice() else {
            return Err(Error::Protocol { doing: doing(), answer: line });
        };
        let mut bytes = |size| self.bytes(size).map_err(|source| broken(doing(), limit, source));
        let (stdout, stderr) = (bytes(stdout)?, bytes(stderr)?);
        // An exit status is 0 to 255.
        Ok(Output { status: i32::try_from(status).unwrap_or(i32::MAX), stdout, stderr })
    }

    /// Has the agent end, and so the guest power off.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let sent = self.stream.get_mut().write_all(b"end 0 0\n");
        sent.map_err(|source| broken("shutting the guest down", GRACE, source))
    }

    fn limit(&mut self, limit: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        self.stream.get_ref().set_write_timeout(Some(limit))
    }

    fn send(&mut self, limit: Duration, script: &str, input: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        writeln!(stream, "{} {} {}", limit.as_secs(), script.len(), input.len())?;
        stream.write_all(script.as_bytes())?;
        stream.write_all(input)
    }

    /// The first line of an answer, for which the guest is kept awake.
    fn answer(&mut self, limit: Duration) -> io::Result<String> {
        let end = Instant::now() + limit;
        self.stream.get_ref().set_read_timeout(Some(PULSE))?;
        let mut line = String::new();
        let line = loop {
            match self.line(&mut line) {
                Err(error) if is_silence(&error) && Instant::now() < end => {
                    self.stream.get_mut().write_all(b"\n")?;
                }
                other => break other?,
            }
        };
        self.stream.get_ref().set_read_timeout(Some(GRACE))?;
        Ok(line)
    }

    /// A line, of which there may be a beginning.
    fn line(&mut self, line: &mut String) -> io::Result<String> {
        self.stream.read_line(line)?;
        match line.strip_suffix('\n') {
            Some(whole) => Ok(whole.trim_end().to_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn bytes(&mut self, size: u32) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.stream).take(size.into()).read_to_end(&mut bytes)?;
        match u32::try_from(read) {
            Ok(read) if read == size => Ok(bytes),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A socket to QEMU failed: by silence, or for good.
pub(super) fn broken(doing: impl Into<String>, limit: Duration, source: io::Error) -> Error {
    let (doing, log) = (doing.into(), String::new());
    match is_silence(&source) {
        true => Error::Timeout { doing, seconds: limit.as_secs(), log },
        false => Error::Ended { doing, source, log },
    }
}
