//! A virtio device that another process serves over vhost-user.
//!
//! - [`kind`]: what is known of each type of device.

mod kind;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Device, Queue, StartError};
use crate::frontend::memory::Memory;
use crate::frontend::ring::{Events, Layout};
use crate::frontend::{FrontendError, Link, QueueSetup};
pub use kind::{Kind, UnknownKind};

/// What is wanted of a device.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which device it is.
    pub kind: Kind,
    /// The socket that its process listens on.
    pub path: PathBuf,
    /// Queues, all of them; by default as many as its process and the machine have use for.
    pub queues: Option<u16>,
    /// The most descriptors of a queue, a power of two.
    pub queue_size: u16,
    /// Processors of the machine, for which a device with several queues has one each.
    pub processors: u16,
}

/// Why a device can't be had.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// Nobody listens.
    #[error(transparent)]
    Connect(FrontendError),
    /// It does not speak the protocol, or not all of it that is needed.
    #[error("{path}: {source}")]
    Process {
        /// Its socket.
        path: PathBuf,
        /// What went wrong.
        source: FrontendError,
    },
    /// It can't be used.
    #[error("{path}: the process there {lack}")]
    Unfit {
        /// Its socket.
        path: PathBuf,
        /// What it can't do.
        lack: String,
    },
}

impl VhostUserError {
    /// That of the process at `path`.
    fn of(path: &Path) -> impl Fn(FrontendError) -> Self {
        move |source| match source {
            FrontendError::Connect { .. } => Self::Connect(source),
            source => Self::Process { path: path.to_owned(), source },
        }
    }
}

/// The device.
#[derive(Debug)]
pub struct VhostUser {
    kind: Kind,
    sizes: Vec<u16>,
    link: Link,
    /// What the VMM offers itself, since the process leaves it to its frontend.
    own_features: u64,
    /// The configuration space of a process that has none.
    own_config: Option<Vec<u8>>,
}

impl VhostUser {
    /// Connects to the process.
    ///
    /// # Errors
    /// See [`VhostUserError`].
    pub fn connect(settings: &Settings, memory: &Memory) -> Result<Self, VhostUserError> {
        let Settings { kind, path, queue_size, processors, .. } = settings;
        let unfit = |lack: String| VhostUserError::Unfit { path: path.clone(), lack };
        let unwanted = |has_config| kind.unwanted(has_config);
        let link = Link::connect(path, unwanted, kind.config_size(), memory);
        let mut link = link.map_err(VhostUserError::of(path))?;
        let own_config = match link.has_config() {
            true => None,
            false => Some(kind.default_config(*processors).ok_or_else(|| {
                unfit(format!("has no configuration space (CONFIG), which a {kind} device needs"))
            })?),
        };
        let config = match &own_config {
            Some(config) => config.clone(),
            None => link.read_config(kind.config_size()),
        };
        let most = kind.most_queues(link.queues());
        let wanted = kind.queues(&config, link.features(), *processors, most);
        let queues = settings.queues.unwrap_or(wanted);
        if queues == 0 || queues > most {
            return Err(unfit(format!("has {most} queues at most, not {queues}")));
        }
        link.begin(queues, *queue_size).map_err(VhostUserError::of(path))?;
        let sizes = vec![*queue_size; queues.into()];
        let own_features = if own_config.is_some() { kind.own_features() } else { 0 };
        Ok(Self { kind: *kind, sizes, link, own_features, own_config })
    }
}

impl Device for VhostUser {
    fn id(&self) -> u16 {
        self.kind.id()
    }

    fn features(&self) -> u64 {
        self.link.features() | self.own_features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&mut self, offset: u32, data: &mut [u8]) {
        data.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        let config = match &self.own_config {
            Some(config) => config.clone(),
            None => self.link.read_config(end),
        };
        for (to, from) in data.iter_mut().zip(config.iter().skip(start)) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        if self.own_config.is_none() {
            self.link.write_config(offset, data);
        }
    }

    fn config_generation(&self) -> u8 {
        self.link.config_generation()
    }

    fn set_config_call(&mut self, call: Arc<EventFd>) {
        self.link.set_config_call(call);
    }

    fn start(&mut self, features: u64, queues: Vec<Queue>) -> Result<(), StartError> {
        let queues: Result<Vec<_>, FrontendError> =
            queues.iter().map(|queue| Ok((queue.index, setup(queue)?))).collect();
        self.link.start(features & !self.own_features, queues?)?;
        Ok(())
    }

    fn stop(&mut self, reset: bool) {
        self.link.stop(reset);
    }
}

/// A queue as a device process is told of it.
fn setup(queue: &Queue) -> Result<QueueSetup, FrontendError> {
    let Queue { size, descriptors, available, used, .. } = *queue;
    let layout = Layout { size, descriptors, available, used, tables: 0 };
    let error = EventFd::new(EFD_NONBLOCK)
        .map_err(|source| FrontendError::Host { what: "no event can be made", source })?;
    let (kick, call) = (Arc::clone(&queue.kick), Arc::clone(&queue.call));
    Ok(QueueSetup { layout, events: Events { kick, call, error: Arc::new(error) } })
}
