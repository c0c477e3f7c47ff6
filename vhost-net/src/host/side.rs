//! The host's side of a card as the serving process has it: descriptors, which can be lost, and come again.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vhost_runtime::broker::Channel;
use vhost_runtime::program::{self, Shutdown};

use super::broker::{AGAIN, FIRST, GONE};
use super::stream::Framing;
use super::{Kind, stream, tap};

/// Told whether there is a host's side, each time that this changes.
type Told = Box<dyn Fn(bool) + Send + Sync>;

/// Descriptors, one for each pair of queues.
pub struct Side {
    kind: Kind,
    channel: Channel,
    there: AtomicBool,
    /// What a worker that has ended has left of a stream.
    parked: Mutex<Option<(u64, Box<Framing>)>>,
    state: Mutex<State>,
    /// Goes up with each change.
    generation: AtomicU64,
    told: OnceLock<Told>,
}

#[derive(Default)]
struct State {
    fds: Vec<Arc<OwnedFd>>,
}

/// Of an interface's queues the host uses the first alone, until a guest takes more: whoever had them
/// before may have left it otherwise.
fn prepared(kind: Kind, fds: Vec<OwnedFd>) -> Vec<Arc<OwnedFd>> {
    if kind == Kind::Tap {
        for queue in fds.iter().skip(1) {
            if let Err(error) = tap::set_attached(queue.as_fd(), false) {
                log::trace!("a queue of the interface stays as it is: {error}");
            }
        }
    }
    fds.into_iter().map(Arc::new).collect()
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Side {
    /// Asks the broker for what there is. `None`: the program is to end.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn new(kind: Kind, channel: Channel, shutdown: &Shutdown) -> io::Result<Option<Self>> {
        // What was for one that was killed.
        while channel.try_receive()?.is_some() {}
        let mut message = None;
        while message.is_none() {
            channel.send(FIRST, &[])?;
            if !program::wait(&[channel.as_fd().as_raw_fd()], shutdown).map_err(io::Error::other)? {
                return Ok(None);
            }
            message = channel.try_receive()?.filter(|message| message.byte != AGAIN);
        }
        let fds = message.map(|message| prepared(kind, message.fds)).unwrap_or_default();
        Ok(Some(Self {
            kind,
            channel,
            there: AtomicBool::new(!fds.is_empty()),
            parked: Mutex::default(),
            state: Mutex::new(State { fds }),
            generation: AtomicU64::new(1),
            told: OnceLock::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// Keeps what was read of a stream, and is still to be written, for the next worker.
    pub(super) fn park(&self, generation: u64, framing: Box<Framing>) {
        *self.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, framing));
    }

    /// What a worker before has left of the stream of this generation.
    pub(super) fn unpark(&self, generation: u64) -> Option<Box<Framing>> {
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
        parked.filter(|(its, _)| *its == generation).map(|(_, framing)| framing)
    }

    /// Which of the descriptors that there were one after the other are the ones of now.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A pair's descriptor, and its generation.
    #[must_use]
    pub fn queue(&self, number: usize) -> (Option<Arc<OwnedFd>>, u64) {
        let state = self.state();
        (state.fds.get(number).cloned(), self.generation())
    }

    /// Whether there is something. It is asked: that an interface was deleted, or that a peer has hung up, is told
    /// to those alone who read from it, which nobody does while no guest takes anything.
    pub fn check(&self) -> bool {
        if let (Some(first), generation) = self.queue(0) {
            let gone = match self.kind {
                Kind::Tap => (!tap::is_there(&first)).then_some("it is not there"),
                Kind::Stream => stream::has_ended(&first).then_some("the peer has hung up"),
                Kind::Datagram => None,
            };
            if let Some(said) = gone {
                self.lost(generation, &said);
                return false;
            }
        }
        self.is_there()
    }

    /// The descriptors of this generation are of no use any more, as the host said.
    pub fn lost(&self, generation: u64, said: &dyn fmt::Display) {
        let mut state = self.state();
        if self.generation() != generation || state.fds.is_empty() {
            return;
        }
        // Not what the host says then.
        if self.kind == Kind::Tap && !state.fds.first().is_some_and(|first| tap::is_there(first)) {
            log::warn!("the host's side is lost: the interface was deleted");
        } else {
            log::warn!("the host's side is lost: {said}");
        }
        state.fds.clear();
        self.there.store(false, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(state);
        self.ask();
        self.tell(false);
    }

    /// Asks for something in place of what was lost.
    fn ask(&self) {
        if let Err(error) = self.channel.send(GONE, &[]) {
            log::error!("the host's side is lost for good: {error}");
        }
    }

    fn tell(&self, there: bool) {
        if let Some(told) = self.told.get() {
            told(there);
        }
    }

    /// Waits, on a thread of its own, for what takes the place of what is lost.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn watch(self: &Arc<Self>, told: Told) -> io::Result<()> {
        let _ = self.told.set(told); // once
        let side = Arc::clone(self);
        std::thread::Builder::new().name(String::from("host")).spawn(move || {
            loop {
                match side.channel.receive() {
                    Ok(message) if message.byte == AGAIN => {
                        if side.state().fds.is_empty() {
                            side.ask();
                        }
                    }
                    Ok(message) if message.fds.is_empty() => {}
                    Ok(message) => {
                        let fds = prepared(side.kind, message.fds);
                        let mut state = side.state();
                        state.fds = fds;
                        side.there.store(true, Ordering::Relaxed);
                        side.generation.fetch_add(1, Ordering::AcqRel);
                        drop(state);
                        side.tell(true);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        log::error!("nothing takes the place of what is lost of the host: {error}");
                        return;
                    }
                }
            }
        })?;
        Ok(())
    }
}
