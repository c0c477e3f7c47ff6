//! A physical SCSI unit, passed through: whatever it is, it gets the initiator's CDBs and gives its
//! own answers. Nothing is tried again that the guest should see.

mod calls;
mod limits;
mod sg;
mod timeout;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::image::pool::Pool;
use crate::scsi::bytes::Fields;
use crate::scsi::{
    Action, Cdb, DataLengths, DeviceType, LogicalUnit, Reply, Sense, Statistics, Transfer,
    UnitAttention,
};
use calls::Calls;
pub use calls::Ticket;
use limits::Limits;
pub use sg::{Direction, HostStatus};

/// Commands that sg has under way at once for one open file (SG_MAX_QUEUE in its driver): one more is
/// refused with EDOM.
const COMMANDS: usize = 16;
/// How often a command is sent again for which sg has no room.
const AGAIN: Duration = Duration::from_millis(10);

fn is_short_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EDOM | libc::ENOMEM | libc::EAGAIN | libc::EBUSY))
}

/// Why a unit can't be passed through.
#[derive(Debug, thiserror::Error)]
pub enum PassThroughError {
    /// The host refuses to open it.
    #[error("{path}: cannot be opened: {error}")]
    Open {
        /// Which device.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// It takes no SCSI commands.
    #[error(
        "{path}: takes no SCSI commands ({error}); give a device like /dev/sg0, /dev/sda or /dev/sr0"
    )]
    NotScsi {
        /// Which device.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Status, sense and how much data was moved.
    pub reply: Reply,
    /// Whether it reached the unit at all.
    pub host: HostStatus,
}

/// A physical SCSI unit.
#[derive(Debug)]
pub struct PassThrough {
    file: File,
    name: String,
    device_type: u8,
    limits: Limits,
    statistics: Statistics,
    /// Threads of its own: a unit that does not answer keeps no other waiting.
    pool: Pool,
    calls: Calls,
    /// The last error of the host's that was told.
    complained: AtomicI32,
}

impl PassThrough {
    /// Opens `/dev/sgN`, or the generic device of `/dev/sdX`, `/dev/srN`, `/dev/stN` and the like.
    ///
    /// # Errors
    /// See [`PassThroughError`].
    pub fn open(path: &Path) -> Result<File, PassThroughError> {
        let generic = sg::generic_device(path);
        let failed = |error| PassThroughError::Open { path: path.to_owned(), error };
        let file = File::options().read(true).write(true).open(&generic);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                File::open(&generic).map_err(failed)? // a read-only device takes commands that read
            }
            other => other.map_err(failed)?,
        };
        Ok(file)
    }

    /// Takes an opened generic device; `path` is its name in messages.
    ///
    /// # Errors
    /// See [`PassThroughError`].
    pub fn new(file: File, path: &Path) -> Result<Arc<Self>, PassThroughError> {
        let not_scsi = |error| PassThroughError::NotScsi { path: path.to_owned(), error };
        sg::version(&file).map_err(not_scsi)?;
        let mut unit = Self::unknown(file, path);
        unit.device_type = unit.inquire().map_err(not_scsi)?;
        Ok(Arc::new(unit))
    }

    fn unknown(file: File, path: &Path) -> Self {
        Self {
            limits: Limits::read(&file),
            file,
            name: path.display().to_string(),
            device_type: 0x1f,
            statistics: Statistics::default(),
            pool: Pool::of(COMMANDS),
            calls: Calls::new(),
            complained: AtomicI32::new(0),
        }
    }

    /// A unit whose host knows no command, for tests.
    #[cfg(test)]
    pub(crate) fn that_answers_nothing() -> Arc<Self> {
        let path = Path::new("/dev/null");
        Arc::new(Self::unknown(File::open(path).expect("/dev/null"), path))
    }

    /// PERIPHERAL DEVICE TYPE, by INQUIRY.
    fn inquire(&self) -> io::Result<u8> {
        let mut cdb: Cdb = [0; 32];
        crate::scsi::bytes::put(&mut cdb, 0, &[0x12, 0, 0, 0, 36, 0]);
        let mut data = [0; 36];
        let iovec = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        // SAFETY: `data` outlives the call.
        let executed = unsafe { self.execute(self.ticket(), &cdb, Direction::In, &[iovec]) };
        if executed.host != HostStatus::Ok || executed.reply.status != 0 {
            return Err(io::Error::other("it does not answer INQUIRY"));
        }
        Ok(data.u8(0) & 0x1f)
    }

    /// Where [`execute`](Self::execute) is to be called, in the order of arrival.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// For a command that arrives now: a reset later on ends it.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.calls.ticket()
    }

    /// Hands a command to the unit and waits for it, or for a reset.
    ///
    /// # Safety
    /// The memory of `data` is mapped for as long as the call lasts.
    pub unsafe fn execute(
        &self,
        ticket: Ticket,
        cdb: &Cdb,
        direction: Direction,
        data: &[libc::iovec],
    ) -> Executed {
        let ended = |host| Executed { reply: Reply::good(), host };
        let Some(call) = self.calls.enter(ticket) else { return ended(HostStatus::Reset) };
        let timeout = timeout::of(self.device_type, cdb.u8(0));
        let started = Instant::now();
        loop {
            let segments = self.limits.segments;
            // SAFETY: as our caller promised.
            let executed =
                unsafe { sg::execute(&self.file, cdb, direction, data, segments, timeout) };
            match executed {
                Ok(executed) => return executed,
                _ if call.is_called_back() => return ended(HostStatus::Reset),
                // No memory for the data, or commands that were called back keep their places. A
                // driver that is told so tries a few times at once, and gives up.
                Err(error) if is_short_of_room(&error) && started.elapsed() < timeout => {
                    std::thread::sleep(AGAIN);
                }
                Err(error) => {
                    self.complain(&error);
                    return ended(HostStatus::of(&error));
                }
            }
        }
    }

    /// Once for each kind: a unit that is gone refuses every command.
    fn complain(&self, error: &io::Error) {
        let kind = error.raw_os_error().unwrap_or(0);
        if self.complained.swap(kind, Ordering::Relaxed) != kind {
            log::warn!("{}: {error}", self.name);
        }
    }

    /// Rewrites the answer to INQUIRY for block limits, so that the guest's commands fit the host's.
    /// `None`: it can stay as it is.
    #[must_use]
    pub fn adjust(&self, cdb: &Cdb, answer: &[u8]) -> Option<Vec<u8>> {
        let is_block_limits = cdb.u8(0) == 0x12 && cdb.bit(1, 0) && cdb.u8(2) == 0xb0;
        (is_block_limits && answer.u8(1) == 0xb0)
            .then(|| self.limits.apply(answer))
            .filter(|adjusted| adjusted != answer)
    }
}

impl LogicalUnit for PassThrough {
    fn start(&self, _cdb: &Cdb, _data: DataLengths) -> Action {
        Action::PassThrough
    }

    fn run(&self, _cdb: &Cdb, _parameters: &[u8]) -> Reply {
        Sense::INTERNAL_TARGET_FAILURE.reply(false) // `start` asks for nothing of the kind
    }

    fn finish(&self, _transfer: &Transfer, _result: io::Result<()>) -> Reply {
        Sense::INTERNAL_TARGET_FAILURE.reply(false)
    }

    fn finish_flush(&self, _result: io::Result<()>) -> Reply {
        Sense::INTERNAL_TARGET_FAILURE.reply(false)
    }

    fn device_type(&self) -> DeviceType {
        DeviceType(self.device_type)
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn attention(&self, _what: UnitAttention) {
        // The unit tells its own.
    }

    /// Once it is reset, it executes none of the commands from before any more.
    fn reset(&self) {
        match sg::reset_device(&self.file) {
            Ok(()) => self.calls.call_back(),
            Err(error) => log::warn!("{}: logical unit reset: {error}", self.name),
        }
    }

    fn image(&self) -> Option<Arc<dyn Image>> {
        None
    }

    fn pass_through(&self) -> Option<&PassThrough> {
        Some(self)
    }
}
