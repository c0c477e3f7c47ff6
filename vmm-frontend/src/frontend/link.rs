//! A connection to a device process that is made again, as long as it takes, when it is lost.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vhost::vhost_user::message::VhostUserVirtioFeatures;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_RING_PACKED;
use vmm_sys_util::eventfd::EventFd;

use super::memory::Memory;
use super::{FrontendError, ProtocolFeatures, QueueSetup, Session, Wanted, host};
use crate::confinement::{self, Role};
use crate::lock::lock;
use vhost_runtime::inflight::Region;

/// How long to wait before it is tried again to connect, first and at most.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// A connection and the thread that watches over it.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
    features: u64,
    has_config: bool,
}

#[derive(Debug)]
struct Shared {
    session: Mutex<Session>,
    path: std::path::PathBuf,
    end: OwnedFd,
    ended: AtomicBool,
    config: Mutex<ConfigSpace>,
    generation: AtomicU8,
    /// Bytes of configuration space that are read at once.
    config_size: usize,
}

/// What is known of the configuration space.
#[derive(Debug, Default)]
struct ConfigSpace {
    bytes: Vec<u8>,
    call: Option<Arc<EventFd>>,
}

/// What belongs to the connection, not to the device.
fn of_connection() -> u64 {
    (VhostUserVirtioFeatures::PROTOCOL_FEATURES | VhostUserVirtioFeatures::LOG_ALL).bits()
}

impl Link {
    /// Connects to the process at `path`. `unwanted` are the features that are not used, depending on
    /// whether it has a configuration space, of which `config_size` bytes are read at once.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn connect(
        path: &Path,
        unwanted: impl FnOnce(bool) -> u64,
        config_size: usize,
        memory: &Memory,
    ) -> Result<Self, FrontendError> {
        let mut session = Session::open(path, Wanted::new(u64::MAX), memory)?;
        let device = session.device();
        let has_config = device.protocol_features().contains(ProtocolFeatures::CONFIG);
        let mut features = device.features() & !unwanted(has_config) & !of_connection();
        if !device.protocol_features().contains(ProtocolFeatures::INFLIGHT_SHMFD) {
            // If such a process died, nobody would know how far its rings were.
            features &= !(1 << VIRTIO_F_RING_PACKED);
        }
        let shared = Shared {
            session: Mutex::new(session),
            path: path.to_owned(),
            end: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
                .map_err(|error| host("no event can be made")(error.into()))?,
            ended: AtomicBool::new(false),
            config: Mutex::default(),
            generation: AtomicU8::new(0),
            config_size,
        };
        Ok(Self { shared: Arc::new(shared), watcher: None, features, has_config })
    }

    /// Begins with so many queues, and watches from now on.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn begin(&mut self, queues: u16, size: u16) -> Result<(), FrontendError> {
        lock(&self.shared.session).begin(queues, size)?;
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(String::from("vhost-user"));
        let watch = move || {
            confinement::restrict(Role::Watcher);
            shared.watch();
        };
        let watcher = thread.spawn(watch);
        self.watcher = Some(watcher.map_err(host("a connection cannot be watched"))?);
        Ok(())
    }

    /// What the device offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Queues at most.
    #[must_use]
    pub fn queues(&self) -> u16 {
        lock(&self.shared.session).device().queues()
    }

    /// Whether it has a configuration space.
    #[must_use]
    pub fn has_config(&self) -> bool {
        self.has_config
    }

    /// Changes whenever the configuration space may have changed.
    #[must_use]
    pub fn config_generation(&self) -> u8 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    /// Has that told by an event.
    pub fn set_config_call(&self, call: Arc<EventFd>) {
        lock(&self.shared.config).call = Some(call);
    }

    /// The configuration space up to `end`, or as much as is known of it.
    #[must_use]
    pub fn read_config(&self, end: usize) -> Vec<u8> {
        self.shared.read_config(end)
    }

    /// Writes to the configuration space.
    pub fn write_config(&self, offset: u32, data: &[u8]) {
        let result = lock(&self.shared.session).device().set_config(offset, data);
        if let Err(error) = result {
            log::warn!("{}: {error}", self.shared.path.display());
        }
        lock(&self.shared.config).bytes.clear();
    }

    /// The doublewords that the process shares behind its record of requests.
    ///
    /// # Errors
    /// It keeps no such record, or one that is too small.
    pub fn region(&self, words: usize) -> Result<Arc<Region>, FrontendError> {
        lock(&self.shared.session).region(words)
    }

    /// Starts queues, each by its number. If the process is gone, the next one starts them.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn start(
        &self,
        features: u64,
        queues: Vec<(u16, QueueSetup)>,
    ) -> Result<(), FrontendError> {
        let mut session = lock(&self.shared.session);
        let mut result = session.set_features(features);
        for (index, setup) in queues {
            result = result.and(session.start_queue(index, setup));
        }
        self.shared.judge(&mut session, result)
    }

    /// Stops all queues. One of a process that is gone has stopped.
    pub fn stop(&self, reset: bool) {
        let mut session = lock(&self.shared.session);
        let mut result = session.stop_all();
        if reset {
            session.forget(result.is_err());
        }
        let can_reset =
            session.device().protocol_features().contains(ProtocolFeatures::RESET_DEVICE);
        if reset && can_reset && result.is_ok() {
            result = session.reset();
        }
        if let Err(error) = self.shared.judge(&mut session, result) {
            log::warn!("{}: {error}", self.shared.path.display());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Its counter is 0 before.
        let _ = rustix::io::write(&self.shared.end, &1u64.to_ne_bytes());
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

impl Shared {
    /// Whether something failed since the process is gone, which will be made good by the next.
    fn judge(
        &self,
        session: &mut Session,
        result: Result<(), FrontendError>,
    ) -> Result<(), FrontendError> {
        let Err(error) = result else { return Ok(()) };
        let device = session.device();
        let is_gone = match &error {
            FrontendError::Silent { .. } => true,
            FrontendError::Message { source: vhost::Error::VhostUserProtocol(source), .. } => {
                !device.is_connected() || !is_refusal(source)
            }
            _ => false,
        };
        if !is_gone {
            return Err(error);
        }
        log::warn!("{}: {error}; waiting for another process", self.path.display());
        // The watcher sees that, and connects again.
        let _ = device.stream().shutdown(Shutdown::Both);
        Ok(())
    }

    fn read_config(&self, end: usize) -> Vec<u8> {
        let mut config = lock(&self.config);
        if config.bytes.len() >= end.max(1) {
            return config.bytes.clone();
        }
        // Some processes refuse what lies behind their end, and some ignore the offset.
        for size in [end.max(self.config_size), end] {
            let Ok(length) = u32::try_from(size) else { continue };
            if length == 0 {
                continue;
            }
            let result = lock(&self.session).device().config(0, length);
            match result {
                Ok(bytes) => {
                    config.bytes = bytes;
                    break;
                }
                Err(error) => log::debug!("{}: {error}", self.path.display()),
            }
        }
        config.bytes.clone()
    }

    /// The watcher's thread.
    fn watch(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            match self.wait() {
                Ok(Event::End) => return,
                Ok(Event::Message) => self.take_messages(),
                Ok(Event::Lost) => self.reconnect(),
                Err(error) => {
                    log::error!("{}: waiting failed: {error}", self.path.display());
                    thread::sleep(LONGEST);
                }
            }
        }
    }

    fn wait(&self) -> io::Result<Event> {
        // Copies, since others use the session meanwhile.
        let (stream, channel) = {
            let mut session = lock(&self.session);
            let device = session.device();
            let channel = device.channel().map(|fd| fd.try_clone_to_owned()).transpose()?;
            (device.stream().try_clone()?, channel)
        };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP),
        ];
        if let Some(channel) = &channel {
            fds.push(PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN));
        }
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                result => {
                    result?;
                    break;
                }
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(match ready.as_slice() {
            [true, ..] => Event::End,
            [_, true, ..] => Event::Lost,
            _ => Event::Message,
        })
    }

    fn take_messages(&self) {
        let changed = lock(&self.session).device().config_changed();
        match changed {
            Ok(true) => self.tell_config_changed(),
            Ok(false) => {}
            Err(error) => {
                log::warn!("{}: {error}", self.path.display());
                let _ = lock(&self.session).device().stream().shutdown(Shutdown::Both);
                self.reconnect();
            }
        }
    }

    fn tell_config_changed(&self) {
        let mut config = lock(&self.config);
        config.bytes.clear();
        self.generation.fetch_add(1, Ordering::Relaxed);
        if let Some(call) = &config.call {
            let _ = call.write(1);
        }
    }

    /// Waits for a process, as long as it takes.
    fn reconnect(&self) {
        let mut pause = FIRST;
        while !self.ended.load(Ordering::Relaxed) {
            let result = {
                let mut session = lock(&self.session);
                session.reconnect(Duration::ZERO)
            };
            match result {
                Ok(()) => {
                    log::info!("{}: connected again", self.path.display());
                    // Another process may have something else in it.
                    self.tell_config_changed();
                    return;
                }
                Err(FrontendError::Connect { .. }) => {}
                Err(error) => log::warn!("{}: {error}", self.path.display()),
            }
            self.sleep(pause);
            pause = pause.saturating_mul(2).min(LONGEST);
        }
    }

    /// Sleeps, unless it is to end.
    fn sleep(&self, time: Duration) {
        let time = rustix::event::Timespec::try_from(time).ok();
        let end = PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::IN);
        let _ = poll(&mut [end], time.as_ref());
    }
}

/// What the watcher waits for.
enum Event {
    End,
    Lost,
    Message,
}

/// The process answered, with a no.
fn is_refusal(error: &vhost::vhost_user::Error) -> bool {
    use vhost::vhost_user::Error;
    matches!(
        error,
        Error::BackendInternalError
            | Error::FrontendInternalError
            | Error::InvalidOperation(_)
            | Error::FeatureMismatch
            | Error::InvalidParam
            | Error::InactiveFeature(_)
            | Error::InactiveOperation(_)
    )
}
