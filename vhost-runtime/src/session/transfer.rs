//! Device state on its way, on a thread of its own: the frontend may use the pipe only after our
//! answer, and may hand over anything for one. What never becomes ready is given up with the session.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::state::{self, StateError};

/// A frontend that checks the state has done with its end of the pipe: what is still to be moved
/// then does not take longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a transfer ends with: a LOAD with the state itself.
type Outcome = Result<Option<serde_json::Value>, StateError>;

/// A transfer under way. Dropped, it is given up.
pub(super) struct Transfer {
    outcome: Receiver<Outcome>,
    cancel: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Transfer {
    /// Writes `state` to `pipe`.
    pub(super) fn save(
        pipe: File,
        device: &'static str,
        state: serde_json::Value,
    ) -> io::Result<Self> {
        Self::start(pipe, move |pipe| state::write(pipe, device, state).map(|()| None))
    }

    /// Reads a state from `pipe`.
    pub(super) fn load(pipe: File, device: &'static str) -> io::Result<Self> {
        Self::start(pipe, move |pipe| state::read(pipe, device).map(Some))
    }

    fn start(file: File, work: impl FnOnce(Pipe) -> Outcome + Send + 'static) -> io::Result<Self> {
        let cancel = EventFd::new(EFD_NONBLOCK)?;
        let pipe = Pipe::new(file, cancel.try_clone()?)?;
        let (done, outcome) = channel();
        let thread = std::thread::Builder::new().name(String::from("state")).spawn(move || {
            let _ = done.send(work(pipe)); // who gave it up does not want to know
        })?;
        Ok(Self { outcome, cancel, thread: Some(thread) })
    }

    /// Waits for its end (CHECK_DEVICE_STATE).
    pub(super) fn finish(self) -> Outcome {
        match self.outcome.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(StateError::Interrupted)
            }
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Err(error) = self.cancel.write(1) {
            log::error!("a transfer of device state cannot be given up: {error}");
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The frontend's descriptor, whose goodwill is waited for no longer than the session wants.
struct Pipe {
    file: File,
    cancel: EventFd,
}

impl Pipe {
    fn new(file: File, cancel: EventFd) -> io::Result<Self> {
        // SAFETY: plain integers, to a descriptor that `file` keeps open.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        let nonblocking = flags | libc::O_NONBLOCK;
        // SAFETY: as above.
        if flags < 0 || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, nonblocking) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file, cancel })
    }

    fn wait(&self, events: libc::c_short) -> io::Result<()> {
        let poll =
            |fd: &dyn AsRawFd, events| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
        let mut polls = [poll(&self.cancel, libc::POLLIN), poll(&self.file, events)];
        // SAFETY: two pollfds, which outlive the call.
        if unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) } < 0 {
            return Err(io::Error::last_os_error()); // if interrupted, it is tried again
        }
        let [cancel, _] = polls;
        if cancel.revents != 0 { Err(io::Error::other("it was given up")) } else { Ok(()) }
    }

    /// Does `work` as soon as it does not block.
    fn when_ready<T>(
        &mut self,
        events: libc::c_short,
        mut work: impl FnMut(&mut File) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            self.wait(events)?;
            match work(&mut self.file) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when_ready(libc::POLLIN, |file| file.read(buffer))
    }
}

impl Write for Pipe {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.when_ready(libc::POLLOUT, |file| file.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_larger_than_the_pipe_goes_through() {
        let (from, to) = io::pipe().unwrap();
        let state = serde_json::json!({ "text": "x".repeat(1 << 20) });
        let save = Transfer::save(File::from(std::os::fd::OwnedFd::from(to)), "x", state.clone());
        let load = Transfer::load(File::from(std::os::fd::OwnedFd::from(from)), "x").unwrap();
        assert_eq!(load.finish().unwrap(), Some(state));
        assert_eq!(save.unwrap().finish().unwrap(), None);
    }

    #[test]
    fn a_descriptor_that_never_becomes_ready_is_given_up() {
        use std::os::fd::{FromRawFd, IntoRawFd};
        // Blocking, and held by nobody who could ever write to it.
        let event = EventFd::new(0).unwrap().into_raw_fd();
        // SAFETY: just taken out of its owner.
        let load = Transfer::load(unsafe { File::from_raw_fd(event) }, "x").unwrap();
        drop(load); // returns

        let (_reader, to) = io::pipe().unwrap();
        let state = serde_json::json!("x".repeat(1 << 20));
        drop(Transfer::save(File::from(std::os::fd::OwnedFd::from(to)), "x", state).unwrap());
    }
}
