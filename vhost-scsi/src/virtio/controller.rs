//! The controller: its units, which come and go, and whose media are locked while rings run; what it
//! tells the driver and control clients.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use vhost_runtime::control::Events;

use super::control::EventQueue;
use super::layout::Event;
use super::remote::Remote;
use crate::image::Image;
use crate::image::engine::EngineKind;
use crate::image::pool::Pool;
use crate::lun::cd::{Cd, MediumError};
use crate::scsi::target::{Address, Bus, Snapshot};
use crate::scsi::{Direction, LogicalUnit, UnitAttention};

/// Feature bits (virtio 1.2, 5.6.3): units come and go; their parameters change.
pub(super) const VIRTIO_SCSI_F_HOTPLUG: u32 = 1;
pub(super) const VIRTIO_SCSI_F_CHANGE: u32 = 2;

/// How long a lock is waited for when rings start: in a migration the other process may be about to
/// let go of it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is tried meanwhile.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Why a drive's medium was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MediumChangeError {
    /// There is no such unit.
    #[error("there is no such unit")]
    NoUnit,
    /// It is something else.
    #[error("it is no CD or DVD drive")]
    NoDrive,
    /// The guest prevents it.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// The new medium is locked by another process.
    #[error("the image: {0}")]
    Lock(#[from] io::Error),
}

/// How the controller is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// Request queues.
    pub queues: u16,
    /// What moves the data.
    pub engine: EngineKind,
}

/// A SCSI controller.
pub struct Controller {
    pub(super) options: ControllerOptions,
    pub(super) bus: Bus,
    pub(super) pool: Pool,
    /// What control clients are told.
    told: Events,
    pub(super) features: AtomicU64,
    pub(super) events: EventQueue,
    /// The request workers that run.
    remotes: Mutex<Vec<Arc<Remote>>>,
    /// Rings run: media are locked.
    active: Mutex<bool>,
    /// They have run at some time: there is, or was, an initiator.
    pub(super) begun: AtomicBool,
}

impl Controller {
    /// A controller without units.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(options: ControllerOptions) -> io::Result<Self> {
        Ok(Self {
            options,
            bus: Bus::default(),
            pool: Pool::default(),
            told: Events::default(),
            features: AtomicU64::new(0),
            events: EventQueue::new()?,
            remotes: Mutex::default(),
            active: Mutex::new(false),
            begun: AtomicBool::new(false),
        })
    }

    /// Has it tell control clients of errors and of the guest's opening a tray.
    #[must_use]
    pub fn with_events(self, told: Events) -> Self {
        Self { told, ..self }
    }

    /// The host could not do what a guest's command needed.
    pub(super) fn io_error(
        &self,
        Address { target, lun }: Address,
        direction: Direction,
        error: &io::Error,
        waits: bool,
    ) {
        self.told.send("BLOCK_IO_ERROR", || {
            json!({
                "target": target,
                "lun": lun,
                "operation": if direction == Direction::Read { "read" } else { "write" },
                "action": if waits { "wait" } else { "report" },
                "nospace": matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)),
                "reason": error.to_string(),
            })
        });
    }

    /// A drive's tray has moved, or has been told to.
    pub(super) fn tray_moved(&self, Address { target, lun }: Address, open: bool) {
        self.told.send(
            "DEVICE_TRAY_MOVED",
            || json!({ "target": target, "lun": lun, "tray-open": open }),
        );
    }

    /// Its units.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn engine(&self) -> EngineKind {
        self.options.engine
    }

    fn has(&self, feature: u32) -> bool {
        self.features.load(Ordering::Relaxed) >> feature & 1 != 0
    }

    pub(super) fn remotes(&self) -> MutexGuard<'_, Vec<Arc<Remote>>> {
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn active(&self) -> MutexGuard<'_, bool> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a unit while the guest runs or before. `Ok(false)`: there is one already.
    ///
    /// # Errors
    /// Its image is locked by another process.
    pub fn add(&self, address: Address, unit: Arc<dyn LogicalUnit>) -> io::Result<bool> {
        if let Some(image) = unit.locked_image() {
            self.check_free(address, image.as_ref())?;
        }
        let active = self.lock(unit.locked_image().as_ref())?;
        if *active {
            unit.taken_into_use()?;
        }
        let added = if self.begun.load(Ordering::Relaxed) {
            self.bus.insert(address, unit)
        } else {
            self.bus.place(address, unit)
        };
        drop(active);
        if added {
            self.tell(Event::Added(address));
        }
        Ok(added)
    }

    /// No other unit keeps this image from being used: found out when rings start, it would keep the
    /// guest from starting.
    fn check_free(&self, address: Address, image: &dyn Image) -> io::Result<()> {
        let files = image.locked_files();
        for (other, unit) in self.bus.snapshot().iter() {
            // At its own address is the medium that is to be changed.
            let Some(its) = unit.locked_image().filter(|_| other != address) else { continue };
            let Address { target, lun } = other;
            let others = its.locked_files();
            if files.iter().any(|file| others.iter().any(|other| file.conflicts(*other))) {
                return Err(io::Error::other(format!(
                    "target {target} lun {lun} has it too, which only readonly units can"
                )));
            }
        }
        Ok(())
    }

    /// Locks an image that is to be used, if rings run, which they go on doing, or not, while the
    /// result is kept. Who used it before may be about to let go of it.
    fn lock(&self, image: Option<&Arc<dyn Image>>) -> io::Result<MutexGuard<'_, bool>> {
        let deadline = Instant::now().checked_add(LOCK_PATIENCE);
        loop {
            let active = self.active();
            let Some(image) = image.filter(|_| *active) else { return Ok(active) };
            match image.acquire() {
                Ok(()) => return Ok(active),
                Err(error) if is_over(deadline, &error) => return Err(error),
                Err(_) => drop(active),
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    /// Takes a unit away. Its image is flushed and unlocked when its last command has ended.
    /// `false`: there is none.
    pub fn remove(&self, address: Address) -> bool {
        let Some(unit) = self.bus.remove(address) else { return false };
        self.tell(Event::Removed(address));
        if let Some(image) = unit.locked_image().filter(|_| *self.active()) {
            self.remotes().iter().for_each(|remote| remote.refresh());
            self.pool.run(move || {
                // Commands under way hold it.
                unit.interrupt(true);
                unit.out_of_use();
                wait_until_alone(&unit);
                release_all(&[image]);
            });
        }
        true
    }

    /// Takes the medium out of a drive. Its image is unlocked when the last command has ended.
    ///
    /// # Errors
    /// See [`MediumChangeError`].
    pub fn eject(&self, address: Address, force: bool) -> Result<(), MediumChangeError> {
        let active = self.active();
        let old = drive(&self.bus.snapshot(), address)?.eject(force)?;
        self.tray_moved(address, true);
        self.retire(old.filter(|_| *active));
        Ok(())
    }

    /// Puts a medium into a drive, in place of what was in it.
    ///
    /// # Errors
    /// See [`MediumChangeError`].
    pub fn load(
        &self,
        address: Address,
        medium: Arc<dyn Image>,
        force: bool,
    ) -> Result<(), MediumChangeError> {
        let snapshot = self.bus.snapshot();
        let cd = drive(&snapshot, address)?;
        self.check_free(address, medium.as_ref())?;
        let active = self.lock(Some(&medium))?;
        let old = cd.load(Arc::clone(&medium), force).inspect_err(|_| {
            if *active {
                release_all(&[medium]);
            }
        })?;
        self.tray_moved(address, false);
        self.retire(old.filter(|_| *active));
        Ok(())
    }

    /// Unlocks an image that no unit has any more, when the last command on it has ended.
    fn retire(&self, image: Option<Arc<dyn Image>>) {
        let Some(image) = image else { return };
        self.pool.run(move || {
            wait_until_alone(&image);
            release_all(&[image]);
        });
    }

    /// Reads a unit's size again, or changes it first to `wanted` bytes, and tells the guest.
    /// `Ok(None)`: there is no such unit, or it has no medium.
    ///
    /// # Errors
    /// What the host said.
    pub fn resize(&self, address: Address, wanted: Option<u64>) -> io::Result<Option<u64>> {
        let snapshot = self.bus.snapshot();
        let Some(unit) = snapshot.unit(address) else { return Ok(None) };
        let Some(image) = unit.image() else { return Ok(None) };
        if let Some(size) = wanted {
            let active = self.active();
            if !*active {
                image.acquire()?;
            }
            let resized = image.resize(size);
            if !*active {
                image.release()?;
            }
            resized?;
        }
        let size = image.refresh()?;
        unit.attention(UnitAttention::CapacityChanged);
        self.tell(Event::CapacityChanged(address));
        Ok(Some(size))
    }

    /// Only a driver that runs wants to know; what it has not read is forgotten with its rings.
    fn tell(&self, event: Event) {
        let wanted = match event {
            Event::CapacityChanged(_) => VIRTIO_SCSI_F_CHANGE,
            _ => VIRTIO_SCSI_F_HOTPLUG,
        };
        if self.has(wanted) {
            self.events.push(event);
        }
    }

    pub(super) fn acquire_all(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let deadline = Instant::now().checked_add(LOCK_PATIENCE);
        let snapshot = self.bus.snapshot();
        let mut held = Vec::new();
        for (address, unit) in snapshot.iter() {
            let Some(image) = unit.locked_image() else { continue };
            while let Err(error) = image.acquire() {
                if is_over(deadline, &error) {
                    release_all(&held);
                    return Err(refused(address, &error).into());
                }
                std::thread::sleep(LOCK_PAUSE);
            }
            held.push(image);
            if let Err(error) = unit.taken_into_use() {
                release_all(&held);
                return Err(refused(address, &error).into());
            }
        }
        Ok(())
    }
}

fn refused(Address { target, lun }: Address, error: &io::Error) -> String {
    format!("target {target} lun {lun}: its image: {error}")
}

/// A lock that is not waited for any longer.
fn is_over(deadline: Option<Instant>, error: &io::Error) -> bool {
    let again = error.kind() == io::ErrorKind::ResourceBusy;
    !again || deadline.is_none_or(|deadline| Instant::now() >= deadline)
}

/// Waits until nobody else holds it.
fn wait_until_alone<T: ?Sized>(held: &Arc<T>) {
    while Arc::strong_count(held) > 1 {
        std::thread::sleep(LOCK_PAUSE);
    }
}

fn drive(snapshot: &Snapshot, address: Address) -> Result<&Cd, MediumChangeError> {
    let unit = snapshot.unit(address).ok_or(MediumChangeError::NoUnit)?;
    unit.cd().ok_or(MediumChangeError::NoDrive)
}

pub(super) fn release_all(images: &[Arc<dyn Image>]) {
    for image in images {
        if let Err(error) = image.release() {
            log::error!("an image cannot be flushed or unlocked: {error}");
        }
    }
}
