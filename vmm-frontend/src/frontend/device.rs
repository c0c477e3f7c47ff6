//! One connection to a device process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
    VhostUserHeaderFlag, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_RING_PACKED;

use super::dirty_log::DirtyLog;
use super::memory::{Memory, shared_file};
use super::ring::{Events, Layout, Ring};
use super::watchdog::Watchdog;
use super::{Base, FrontendError, ProtocolFeatures, host, wire};

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();

/// Regions that fit into one SET_MEM_TABLE.
const TABLE_REGIONS: usize = 32;
/// Queues that the protocol can name in every message.
const QUEUES: u64 = 256;

/// The longest that a device process may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest if it has something to do first: requests, memory, state.
const WORK: Duration = Duration::from_secs(60);

/// What a frontend wants of a device process: it gets what that has of it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Feature bits, of the device and of its rings.
    pub features: u64,
    /// Protocol features.
    pub protocol_features: ProtocolFeatures,
}

impl Wanted {
    /// These feature bits, and every protocol feature that is used here.
    #[must_use]
    pub fn new(features: u64) -> Self {
        let protocol_features = ProtocolFeatures::MQ
            | ProtocolFeatures::LOG_SHMFD
            | ProtocolFeatures::REPLY_ACK
            | ProtocolFeatures::BACKEND_REQ
            | ProtocolFeatures::CONFIG
            | ProtocolFeatures::INFLIGHT_SHMFD
            | ProtocolFeatures::RESET_DEVICE
            | ProtocolFeatures::CONFIGURE_MEM_SLOTS
            | ProtocolFeatures::DEVICE_STATE;
        Self { features, protocol_features }
    }

    /// Without these protocol features.
    #[must_use]
    pub fn without(mut self, unwanted: ProtocolFeatures) -> Self {
        self.protocol_features -= unwanted;
        self
    }
}

/// A ring as the device process is told of it.
#[derive(Clone, Debug)]
pub struct QueueSetup {
    /// Where it lies.
    pub layout: Layout,
    /// Its event descriptors.
    pub events: Events,
}

impl QueueSetup {
    /// That of a driver's ring.
    #[must_use]
    pub fn of(ring: &Ring) -> Self {
        Self { layout: ring.layout(), events: ring.events().clone() }
    }
}

/// What the device process says of its own accord.
#[derive(Default)]
struct Notices {
    config_changed: AtomicBool,
}

impl VhostUserFrontendReqHandler for Notices {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.config_changed.store(true, Ordering::Relaxed);
        Ok(0)
    }
}

/// A connected device process, after feature negotiation.
pub struct Device {
    messages: Frontend,
    stream: UnixStream,
    watchdog: Watchdog,
    features: u64,
    protocol_features: ProtocolFeatures,
    queues: u16,
    channel: Option<FrontendReqHandler<Notices>>,
    notices: Arc<Notices>,
    /// The memory that it knows, as it was described.
    table: Vec<VhostUserMemoryRegionInfo>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("features", &self.features)
            .field("protocol_features", &self.protocol_features)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Connects, and negotiates features.
    ///
    /// # Errors
    /// Nobody listens, or the other end does not speak the protocol.
    pub fn connect(path: &Path, wanted: Wanted) -> Result<Self, FrontendError> {
        let failed = |source| FrontendError::Connect { path: path.to_owned(), source };
        Self::over(connect(path).map_err(failed)?, wanted)
    }

    /// Negotiates features over a connected socket.
    ///
    /// # Errors
    /// The other end does not speak the protocol.
    pub fn over(stream: UnixStream, wanted: Wanted) -> Result<Self, FrontendError> {
        let copy = || stream.try_clone().map_err(host("a socket cannot be duplicated"));
        let watchdog = Watchdog::new(copy()?).map_err(host("no thread can be started"))?;
        let mut device = Self {
            messages: Frontend::from_stream(copy()?, QUEUES),
            stream,
            watchdog,
            features: 0,
            protocol_features: ProtocolFeatures::empty(),
            queues: 1,
            channel: None,
            notices: Arc::default(),
            table: Vec::new(),
        };
        device.negotiate(wanted)?;
        Ok(device)
    }

    fn negotiate(&mut self, wanted: Wanted) -> Result<(), FrontendError> {
        let offered = self.send("GET_FEATURES", |messages| messages.get_features())?;
        if offered & PROTOCOL_FEATURES != 0 {
            let offered =
                self.send("GET_PROTOCOL_FEATURES", |messages| messages.get_protocol_features())?;
            let protocol = offered & wanted.protocol_features;
            self.send("SET_PROTOCOL_FEATURES", |messages| {
                messages.set_protocol_features(protocol)
            })?;
            self.protocol_features = protocol;
            if protocol.contains(ProtocolFeatures::REPLY_ACK) {
                self.messages.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
        }
        if self.protocol_features.contains(ProtocolFeatures::MQ) {
            let value = self.send("GET_QUEUE_NUM", |messages| messages.get_queue_num())?;
            self.queues = u16::try_from(value)
                .map_err(|_| FrontendError::Answer { message: "GET_QUEUE_NUM", value })?;
        }
        self.send("SET_OWNER", |messages| messages.set_owner())?;
        if self.protocol_features.contains(ProtocolFeatures::BACKEND_REQ) {
            self.open_channel()?;
        }
        self.set_features(offered & (wanted.features | PROTOCOL_FEATURES))
    }

    fn open_channel(&mut self) -> Result<(), FrontendError> {
        let failed = |source| FrontendError::Message {
            message: "SET_BACKEND_REQ_FD",
            source: vhost::Error::VhostUserProtocol(source),
        };
        let mut channel = FrontendReqHandler::new(Arc::clone(&self.notices)).map_err(failed)?;
        channel.set_reply_ack_flag(self.protocol_features.contains(ProtocolFeatures::REPLY_ACK));
        let fd = channel.get_tx_raw_fd();
        self.send("SET_BACKEND_REQ_FD", |messages| messages.set_backend_request_fd(&fd))?;
        self.channel = Some(channel);
        Ok(())
    }

    /// Sends one message by `vhost`'s own methods, and gives a failure its name.
    ///
    /// # Errors
    /// It was refused, or the connection has ended: it does so if there is no answer in time.
    pub fn send<T>(
        &mut self,
        message: &'static str,
        send: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, FrontendError> {
        self.send_within(ANSWER, message, send)
    }

    fn send_within<T>(
        &mut self,
        limit: Duration,
        message: &'static str,
        send: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, FrontendError> {
        let answer = self.watchdog.watch(limit, || send(&mut self.messages));
        answer.map_err(|source| match self.watchdog.has_expired() {
            true => FrontendError::Silent { message, seconds: limit.as_secs() },
            false => FrontendError::Message { message, source },
        })
    }

    /// The connection, for messages that `vhost` can't send.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The channel on which the device process speaks of its own accord, if it has one.
    #[must_use]
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.channel.as_ref()?.as_raw_fd();
        // SAFETY: the channel, which is borrowed, owns it.
        Some(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The features that both ends have.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The rings are packed ones.
    #[must_use]
    pub fn has_packed_rings(&self) -> bool {
        self.features & 1 << VIRTIO_F_RING_PACKED != 0
    }

    /// The protocol features that both ends have.
    #[must_use]
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol_features
    }

    /// Queues that the device has at most.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// The other end is still there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let mut poll =
            libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        let count = unsafe { libc::poll(&raw mut poll, 1, 0) };
        count == 0 || poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) == 0
    }

    /// Acknowledges features (SET_FEATURES).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.send("SET_FEATURES", |messages| messages.set_features(features))?;
        self.features = features;
        Ok(())
    }

    /// Tells of guest memory: what is new and what is gone where the device has memory slots, else
    /// the whole table.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_memory(&mut self, memory: &Memory) -> Result<(), FrontendError> {
        let table = memory.table();
        if self.protocol_features.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            return self.set_slots(table);
        }
        if table.len() > TABLE_REGIONS {
            return Err(FrontendError::Lacks(format!("memory slots for {} regions", table.len())));
        }
        self.send_within(WORK, "SET_MEM_TABLE", |messages| messages.set_mem_table(&table))?;
        self.table = table;
        Ok(())
    }

    fn set_slots(&mut self, table: Vec<VhostUserMemoryRegionInfo>) -> Result<(), FrontendError> {
        let slots = self.send("GET_MAX_MEM_SLOTS", |messages| messages.get_max_mem_slots())?;
        if table.len() as u64 > slots {
            return Err(FrontendError::Lacks(format!("memory slots for {} regions", table.len())));
        }
        let same = |a: &VhostUserMemoryRegionInfo, b: &VhostUserMemoryRegionInfo| {
            (a.guest_phys_addr, a.memory_size, a.userspace_addr)
                == (b.guest_phys_addr, b.memory_size, b.userspace_addr)
        };
        let old = std::mem::take(&mut self.table);
        for gone in old.iter().filter(|region| !table.iter().any(|other| same(region, other))) {
            self.send_within(WORK, "REM_MEM_REG", |messages| messages.remove_mem_region(gone))?;
        }
        for new in table.iter().filter(|region| !old.iter().any(|other| same(region, other))) {
            self.send_within(WORK, "ADD_MEM_REG", |messages| messages.add_mem_region(new))?;
        }
        self.table = table;
        Ok(())
    }

    /// Starts a ring: the device goes on from `base`.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn start_queue(
        &mut self,
        queue: u16,
        setup: &QueueSetup,
        base: Base,
        memory: &Memory,
    ) -> Result<(), FrontendError> {
        let Layout { size, descriptors, available, used, .. } = setup.layout;
        let user = |guest| memory.user_address(guest).ok_or(FrontendError::Queue(queue));
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: user(descriptors)?,
            used_ring_addr: user(used)?,
            avail_ring_addr: user(available)?,
            log_addr: None,
        };
        let Events { kick, call, error } = &setup.events;
        let index = usize::from(queue);
        self.send("SET_VRING_NUM", |messages| messages.set_vring_num(index, size))?;
        self.set_base(queue, base)?;
        self.send("SET_VRING_ADDR", |messages| messages.set_vring_addr(index, &addresses))?;
        self.send("SET_VRING_CALL", |messages| messages.set_vring_call(index, call))?;
        self.send("SET_VRING_ERR", |messages| messages.set_vring_err(index, error))?;
        self.send("SET_VRING_KICK", |messages| messages.set_vring_kick(index, kick))?;
        if self.features & PROTOCOL_FEATURES != 0 {
            self.enable_queue(queue, true)?;
        }
        Ok(())
    }

    fn set_base(&mut self, queue: u16, base: Base) -> Result<(), FrontendError> {
        let message = "SET_VRING_BASE";
        if let Base::Split(index) = base {
            return self.send(message, |messages| messages.set_vring_base(queue.into(), index));
        }
        let acknowledged = self.protocol_features.contains(ProtocolFeatures::REPLY_ACK);
        let stream = self.stream.try_clone().map_err(host("a socket cannot be duplicated"))?;
        let base = base.value();
        self.send(message, |_| wire::set_vring_base(&stream, queue, base, acknowledged))
    }

    /// Lets a started ring be served, or not (SET_VRING_ENABLE).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn enable_queue(&mut self, queue: u16, enabled: bool) -> Result<(), FrontendError> {
        let index = usize::from(queue);
        self.send("SET_VRING_ENABLE", |messages| messages.set_vring_enable(index, enabled))
    }

    /// Stops a ring when its last request is done; returns where to go on (GET_VRING_BASE).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn stop_queue(&mut self, queue: u16) -> Result<Base, FrontendError> {
        let message = "GET_VRING_BASE";
        let base =
            self.send_within(WORK, message, |messages| messages.get_vring_base(queue.into()))?;
        let impossible = FrontendError::Answer { message, value: base.into() };
        Base::parse(base, self.has_packed_rings()).ok_or(impossible)
    }

    /// Reads `length` bytes of the configuration space.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn config(&mut self, offset: u32, length: u32) -> Result<Vec<u8>, FrontendError> {
        let space = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let flags = VhostUserConfigFlags::empty();
        let (_, bytes) =
            self.send("GET_CONFIG", |messages| messages.get_config(offset, length, flags, &space))?;
        Ok(bytes)
    }

    /// Writes to the configuration space.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FrontendError> {
        let flags = VhostUserConfigFlags::WRITABLE;
        self.send("SET_CONFIG", |messages| messages.set_config(offset, flags, bytes))
    }

    /// The configuration space changed since this was asked last.
    ///
    /// # Errors
    /// The device process broke the protocol on its own channel.
    pub fn config_changed(&mut self) -> Result<bool, FrontendError> {
        let failed = |source| FrontendError::Message {
            message: "a message of the device process",
            source: vhost::Error::VhostUserProtocol(source),
        };
        if let Some(channel) = &mut self.channel {
            while is_readable(channel).map_err(host("waiting failed"))? {
                channel.handle_request().map_err(failed)?;
            }
        }
        Ok(self.notices.config_changed.swap(false, Ordering::Relaxed))
    }

    /// Gives the device the log of dirty pages (SET_LOG_BASE); [`set_logging`](Self::set_logging)
    /// makes it use it.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_log(&mut self, log: &DirtyLog) -> Result<(), FrontendError> {
        if !self.protocol_features.contains(ProtocolFeatures::LOG_SHMFD) {
            return Err(FrontendError::Lacks(String::from("LOG_SHMFD")));
        }
        self.send("SET_LOG_BASE", |messages| messages.set_log_base(0, log.region()))
    }

    /// Lets the device log what it writes, or not (VHOST_F_LOG_ALL).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_logging(&mut self, on: bool) -> Result<(), FrontendError> {
        self.set_features(if on { self.features | LOG_ALL } else { self.features & !LOG_ALL })
    }

    /// Stops all rings and resets the device (RESET_DEVICE).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn reset(&mut self) -> Result<(), FrontendError> {
        self.send_within(WORK, "RESET_DEVICE", |messages| messages.reset_device())
    }

    /// The device's state beyond its rings, while none of them runs.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn save_state(&mut self) -> Result<Vec<u8>, FrontendError> {
        let failed = host("device state cannot be read");
        let mut file = self.transfer(VhostTransferStateDirection::SAVE, Vec::new())?;
        let mut state = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(&failed)?;
        file.read_to_end(&mut state).map_err(&failed)?;
        Ok(state)
    }

    /// Gives the device another one's state, while none of its rings runs.
    ///
    /// # Errors
    /// See [`FrontendError`]: it does not fit this device, for one.
    pub fn load_state(&mut self, state: &[u8]) -> Result<(), FrontendError> {
        self.transfer(VhostTransferStateDirection::LOAD, state.to_vec()).map(drop)
    }

    /// Moves state through a file of ours, which needs no second thread as a pipe would.
    fn transfer(
        &mut self,
        direction: VhostTransferStateDirection,
        content: Vec<u8>,
    ) -> Result<File, FrontendError> {
        let failed = host("device state cannot be transferred");
        let mut file = shared_file(0).map_err(&failed)?;
        file.write_all(&content).map_err(&failed)?;
        file.seek(SeekFrom::Start(0)).map_err(&failed)?;
        let copy = OwnedFd::from(file.try_clone().map_err(&failed)?);
        let phase = VhostTransferStatePhase::STOPPED;
        let own = self.send("SET_DEVICE_STATE_FD", |messages| {
            messages.set_device_state_fd(direction, phase, copy)
        })?;
        // The device process may prefer a pipe of its own.
        if let Some(mut pipe) = own {
            match direction {
                VhostTransferStateDirection::LOAD => {
                    pipe.write_all(&content).map_err(&failed)?;
                }
                VhostTransferStateDirection::SAVE => {
                    io::copy(&mut pipe, &mut file).map_err(&failed)?;
                }
            }
        }
        self.send_within(WORK, "CHECK_DEVICE_STATE", |messages| messages.check_device_state())?;
        Ok(file)
    }
}

/// Connects, unless whoever listens has no place for one more for too long.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(ANSWER))?;
    match rustix::net::connect(&socket, &address) {
        Err(rustix::io::Errno::AGAIN) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        result => Ok(result.map(|()| UnixStream::from(socket))?),
    }
}

fn is_readable(fd: &impl AsRawFd) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        count if count < 0 => Err(io::Error::last_os_error()),
        count => Ok(count > 0 && poll.revents & libc::POLLIN != 0),
    }
}
