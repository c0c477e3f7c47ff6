//! The frontend's requests, one method each.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandler};
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use super::rings::{Addresses, RingError, Rings};
use super::transfer::Transfer;
use crate::device::Device;
use crate::dirty_log::DirtyLog;
use crate::inflight::{Region, Shape};
use crate::memory::{MAX_SLOTS, Memory, RegionSpec};
use crate::state::StateError;

/// What the rings can do.
const RING_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_RESET
    | 1 << VIRTIO_F_RING_PACKED
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX;

const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::DEVICE_STATE);

/// Bytes that a configuration space may have (vhost-user, VHOST_USER_GET_CONFIG).
const CONFIG_SIZE: usize = 256;

/// Says why a request is refused; `vhost` passes the refusal on.
fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    log::error!("{error}");
    Error::ReqHandlerError(io::Error::other(error))
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("features {0:#x} were not offered")]
    Features(u64),
    #[error("the configuration space is read outside its bounds: {size} bytes at {offset:#x}")]
    Config { offset: u32, size: u32 },
    #[error("device state is moved only while no ring runs")]
    Running,
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

struct Connection<D: Device> {
    rings: Rings<D>,
    memory: Arc<Memory>,
    inflight: Option<Arc<Region>>,
    features: u64,
    protocol_features: u64,
    transfer: Option<Transfer>,
}

pub(super) struct Handler<D: Device> {
    device: Arc<D>,
    log: Arc<DirtyLog>,
    connection: Mutex<Connection<D>>,
}

impl<D: Device> Handler<D> {
    pub(super) fn new(device: Arc<D>) -> Self {
        let log = Arc::new(DirtyLog::default());
        let connection = Connection {
            rings: Rings::new(Arc::clone(&device)),
            memory: Arc::new(Memory::empty(Arc::clone(&log))),
            inflight: None,
            features: 0,
            protocol_features: 0,
            transfer: None,
        };
        Self { device, log, connection: Mutex::new(connection) }
    }

    fn shape(&self, region: &VhostUserInflight) -> Shape {
        let (queues, size) = (region.num_queues, region.queue_size);
        Shape { queues, size, words: self.device.shared_words() }
    }

    fn connection(&self) -> MutexGuard<'_, Connection<D>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self) -> u64 {
        let in_order = if self.device.completes_in_order() { 1 << VIRTIO_F_IN_ORDER } else { 0 };
        let rings = (RING_FEATURES | in_order) & !self.device.unwanted_features();
        self.device.features() | rings | LOG_ALL | PROTOCOL_FEATURES
    }

    /// Replies are asked for by flag.
    pub(super) fn acknowledges(&self) -> bool {
        self.connection().protocol_features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// SET_VRING_ENABLE, a ring's number and its new state. `false`: it is refused.
    pub(super) fn enable(&self, payload: &[u8]) -> bool {
        let (words, rest) = payload.as_chunks::<4>();
        let ([index, state], []) = (words, rest) else { return false };
        let (index, state) = (u32::from_ne_bytes(*index), u32::from_ne_bytes(*state));
        state <= 1 && self.set_vring_enable(index, state == 1).is_ok()
    }

    /// The frontend is gone: nothing of the guest is touched any more.
    pub(super) fn disconnect(&self) {
        let mut connection = self.connection();
        connection.rings.stop_all();
        connection.memory = Arc::new(Memory::empty(Arc::clone(&self.log)));
        connection.inflight = None;
        self.device.set_region(None);
        connection.transfer = None;
        self.log.clear();
    }

    fn replace_memory(&self, connection: &mut Connection<D>, memory: Memory) {
        connection.memory = Arc::new(memory);
        connection.rings.set_memory(&connection.memory);
    }
}

impl From<RingError> for Error {
    fn from(error: RingError) -> Self {
        refused(error)
    }
}

impl<D: Device> VhostUserBackendReqHandler for Handler<D> {
    fn set_owner(&self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&self) -> Result<()> {
        self.connection().rings.stop_all();
        self.device.reset();
        Ok(())
    }

    fn get_features(&self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(refused(Refusal::Features(features & !self.offered())));
        }
        let mut connection = self.connection();
        connection.features = features;
        self.device.set_features(features & !(LOG_ALL | PROTOCOL_FEATURES));
        self.log.enable(features & LOG_ALL != 0);
        if features & PROTOCOL_FEATURES == 0 {
            connection.rings.enable_all();
        }
        connection.rings.sync(); // from the answer on, every write is logged
        Ok(())
    }

    fn set_mem_table(
        &self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let table = regions.iter().zip(files).map(|(region, file)| RegionSpec {
            guest: region.guest_phys_addr,
            size: region.memory_size,
            user: region.user_addr,
            offset: region.mmap_offset,
            file,
        });
        let memory = Memory::new(table, Arc::clone(&self.log)).map_err(refused)?;
        self.replace_memory(&mut self.connection(), memory);
        Ok(None)
    }

    fn set_vring_num(&self, index: u32, size: u32) -> Result<()> {
        let Connection { rings, features, .. } = &mut *self.connection();
        Ok(rings.set_size(index, size, *features)?)
    }

    fn set_vring_addr(
        &self,
        index: u32,
        _flags: VhostUserVringAddrFlags, // the used ring is logged like all of guest memory
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let addresses = Addresses { descriptors, available, used };
        Ok(self.connection().rings.set_addresses(index, addresses)?)
    }

    fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        let Connection { rings, features, .. } = &mut *self.connection();
        Ok(rings.set_base(index, base, *features)?)
    }

    fn get_vring_base(&self, index: u32) -> Result<VhostUserVringState> {
        let base = self.connection().rings.stop(index)?;
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&self, index: u8, fd: Option<File>) -> Result<()> {
        let connection = &mut *self.connection();
        let Connection { rings, memory, inflight, features, .. } = connection;
        Ok(rings.set_kick(index.into(), fd, memory, inflight.as_ref(), *features)?)
    }

    fn set_vring_call(&self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.connection().rings.set_call(index.into(), fd)?)
    }

    fn set_vring_err(&self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.connection().rings.set_error(index.into(), fd)?)
    }

    fn get_protocol_features(&self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&self, features: u64) -> Result<()> {
        if features & !PROTOCOL.bits() != 0 {
            return Err(refused(Refusal::Features(features & !PROTOCOL.bits())));
        }
        self.connection().protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&self) -> Result<u64> {
        Ok(self.device.queues().into())
    }

    fn set_vring_enable(&self, index: u32, enable: bool) -> Result<()> {
        Ok(self.connection().rings.enable(index, enable)?)
    }

    fn get_config(&self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let outside = || refused(Refusal::Config { offset, size });
        let mut config = self.device.config();
        let start = usize::try_from(offset).map_err(|_| outside())?;
        let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
        let end = end.filter(|&end| end <= CONFIG_SIZE).ok_or_else(outside)?;
        // A frontend that knows a longer layout reads zeroes past the end. It is not refused:
        // `vhost`'s own frontend waits for ever for the payload of a refusal.
        config.resize(end, 0);
        config.get(start..end).map(<[u8]>::to_vec).ok_or_else(outside)
    }

    fn set_config(&self, offset: u32, buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.device.set_config(offset, buf).map_err(refused)
    }

    fn set_gpu_socket(&self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(refused(Refusal::Unsupported("GPU_SET_SOCKET")))
    }

    fn get_shared_object(&self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(refused(Refusal::Unsupported("GET_SHARED_OBJECT")))
    }

    fn get_inflight_fd(&self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let shape = self.shape(wanted);
        let (file, size) = Region::create(shape).map_err(refused)?;
        Ok((VhostUserInflight::new(size, 0, wanted.num_queues, wanted.queue_size), file))
    }

    fn set_inflight_fd(&self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        let VhostUserInflight { mmap_size, mmap_offset, .. } = *inflight;
        let region = Region::map(&file, self.shape(inflight), mmap_size, mmap_offset);
        let region = region.map_err(refused)?;
        self.device.set_region(Some(Arc::clone(&region)));
        self.connection().inflight = Some(region);
        Ok(())
    }

    fn get_max_mem_slots(&self) -> Result<u64> {
        Ok(MAX_SLOTS as u64)
    }

    fn add_mem_region(
        &self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        let mut connection = self.connection();
        let spec = RegionSpec {
            guest: region.guest_phys_addr,
            size: region.memory_size,
            user: region.user_addr,
            offset: region.mmap_offset,
            file: fd,
        };
        let memory = connection.memory.with(spec).map_err(refused)?;
        self.replace_memory(&mut connection, memory);
        Ok(None)
    }

    fn remove_mem_region(&self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let mut connection = self.connection();
        let (guest, size, user) = (region.guest_phys_addr, region.memory_size, region.user_addr);
        let memory = connection.memory.without(guest, size, user).map_err(refused)?;
        self.replace_memory(&mut connection, memory);
        Ok(())
    }

    /// The state moves on a thread of its own: the frontend may read the pipe only after our answer.
    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        fd: File,
    ) -> Result<Option<File>> {
        let mut connection = self.connection();
        if connection.rings.any_running() {
            return Err(refused(Refusal::Running));
        }
        let name = self.device.name();
        let transfer = match direction {
            VhostTransferStateDirection::SAVE => {
                Transfer::save(fd, name, self.device.save().map_err(refused)?)
            }
            VhostTransferStateDirection::LOAD => Transfer::load(fd, name),
        };
        connection.transfer = Some(transfer.map_err(refused)?);
        Ok(None)
    }

    fn check_device_state(&self) -> Result<()> {
        let transfer = self.connection().transfer.take();
        let transfer = transfer.ok_or_else(|| refused(StateError::Interrupted))?;
        match transfer.finish().map_err(refused)? {
            Some(state) => self.device.load(state).map_err(refused),
            None => Ok(()),
        }
    }

    fn get_shmem_config(&self) -> Result<VhostUserShMemConfig> {
        Err(refused(Refusal::Unsupported("GET_SHMEM_CONFIG")))
    }

    fn set_log_base(&self, log: &VhostUserLog, file: File) -> Result<()> {
        self.log.set_base(&file, log.mmap_size, log.mmap_offset).map_err(refused)?;
        self.connection().rings.sync();
        Ok(())
    }
}
