//! The SCSI target, free of any transport (SAM-5, SPC-5): a CDB and data go in, data and status come out.
//!
//! A transport asks a [`LogicalUnit`] to [`start`](LogicalUnit::start) a command and gets an
//! [`Action`]: the command is either finished at once, or data must move between the medium and the
//! initiator, or it takes its time and must be [`run`](LogicalUnit::run) where blocking is allowed.

pub mod bytes;
pub mod cdb;
pub mod opcode;
pub mod reservation;
pub mod sense;
pub mod statistics;
pub mod target;

pub use sense::Sense;
pub use statistics::Statistics;

/// A command descriptor block as virtio-scsi carries it: at most 32 bytes, padded with zeroes.
pub type Cdb = [u8; 32];

/// SAM-5 5.3.1: how a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The command did what it was asked.
    Good = 0x00,
    /// Sense data tells what went wrong.
    CheckCondition = 0x02,
    /// PRE-FETCH: everything asked for fits the cache.
    ConditionMet = 0x04,
    /// The unit is busy; try again.
    Busy = 0x08,
    /// Another initiator holds a reservation.
    ReservationConflict = 0x18,
    /// The task set is full.
    TaskSetFull = 0x28,
    /// ACA is active.
    AcaActive = 0x30,
    /// Another initiator's command or task management ended this one.
    TaskAborted = 0x40,
}

/// What the initiator gets back, apart from data already moved by a [`Transfer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// SAM status; a raw byte, since a physical unit may answer anything.
    pub status: u8,
    /// Sense data as sent on the wire (fixed or descriptor format); empty without.
    pub sense: Vec<u8>,
    /// Data-in. The transport truncates it to what the initiator has room for and computes the residual.
    pub data: Vec<u8>,
    /// Bytes moved directly into or out of the initiator's memory, by a [`Transfer`] or by a physical unit.
    pub moved: u64,
}

impl Reply {
    /// GOOD, without data.
    #[must_use]
    pub fn good() -> Self {
        Self::with(Vec::new())
    }

    /// GOOD, with data for the initiator.
    #[must_use]
    pub fn with(data: Vec<u8>) -> Self {
        Self { status: Status::Good as u8, sense: Vec::new(), data, moved: 0 }
    }

    /// Another status, without data or sense.
    #[must_use]
    pub fn status(status: Status) -> Self {
        Self { status: status as u8, ..Self::good() }
    }
}

/// How many bytes of data the initiator has prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataLengths {
    /// Data-out: bytes that the initiator sends.
    pub out: u64,
    /// Data-in: bytes that the initiator has room for.
    pub room: u64,
}

/// Direction of a [`Transfer`], as the medium sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Medium to initiator.
    Read,
    /// Initiator to medium.
    Write {
        /// Force unit access: durable before the status is sent.
        fua: bool,
    },
}

/// Data to be moved between the medium and the initiator's buffer, without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// Where on the medium, in bytes. Checked: `offset + length` lies within the medium.
    pub offset: u64,
    /// How much, in bytes. Checked: the initiator's buffer holds it.
    pub length: u64,
}

/// What a logical unit wants done with a command.
#[derive(Debug)]
pub enum Action {
    /// It is finished.
    Complete(Reply),
    /// Move data, then call [`LogicalUnit::finish`].
    Transfer(Transfer),
    /// The CDB asks for more data than the initiator has prepared: the transport says so.
    Overrun,
    /// Flush the medium's caches to stable storage, then call [`LogicalUnit::finish_flush`].
    Flush,
    /// Call [`LogicalUnit::run`] where blocking is allowed.
    Defer {
        /// The first this many bytes of data-out are its parameter data.
        parameters: usize,
        /// No transfer of the same unit may be under way meanwhile (COMPARE AND WRITE, WRITE ATOMIC …).
        exclusive: bool,
    },
    /// Hand the CDB and the initiator's own buffers to the physical unit: call
    /// [`PassThrough::execute`](crate::lun::pass_through::PassThrough::execute) where blocking is allowed.
    PassThrough,
}

/// SPC-5 6.7.2: the PERIPHERAL DEVICE TYPE, as a byte, since a physical unit may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u8);

impl DeviceType {
    /// A disk.
    pub const DIRECT_ACCESS: Self = Self(0x00);
    /// A CD or DVD drive.
    pub const CD_DVD: Self = Self(0x05);
}

/// What is to become of an error of the host (QEMU's `werror=` and `rerror=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// The initiator is told.
    Report,
    /// A full host disk is waited for; the initiator is told of anything else.
    #[default]
    Enospc,
    /// The command waits until the host can do it.
    Stop,
}

/// What is to become of errors of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Of writes.
    pub write: OnError,
    /// Of reads.
    pub read: OnError,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        Self { write: OnError::Enospc, read: OnError::Report }
    }
}

impl ErrorPolicy {
    /// Whether the command is to be tried again later.
    #[must_use]
    pub fn waits(&self, direction: Direction, error: &std::io::Error) -> bool {
        let policy = if direction == Direction::Read { self.read } else { self.write };
        match policy {
            OnError::Report => false,
            OnError::Enospc => {
                matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            OnError::Stop => true,
        }
    }
}

/// What happened to a unit that its initiator has to be told at its next command (SAM-5 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UnitAttention {
    /// POWER ON OCCURRED / BUS RESET: the controller was reset (29h/00h..02h).
    Reset,
    /// LOGICAL UNIT RESET (29h/03h BUS DEVICE RESET FUNCTION OCCURRED).
    UnitReset,
    /// The medium's size changed (2Ah/09h CAPACITY DATA HAS CHANGED).
    CapacityChanged,
    /// A removable medium was changed (28h/00h).
    MediumChanged,
    /// Units came or went (3Fh/0Eh REPORTED LUNS DATA HAS CHANGED).
    LunsChanged,
    /// Commands of this initiator were cleared (2Fh/00h).
    CommandsCleared,
    /// Mode parameters changed (2Ah/01h).
    ModeParametersChanged,
}

/// A logical unit: disk, CD or physical unit. One initiator (virtio-scsi has no more).
///
/// All methods take `&self`: the queues' workers call them concurrently. Reads and writes must not
/// take a lock on their way.
pub trait LogicalUnit: Send + Sync {
    /// Parses the command and either answers it or says what has to be done for it. Never blocks.
    fn start(&self, cdb: &Cdb, data: DataLengths) -> Action;

    /// Executes a command for which [`start`](Self::start) returned [`Action::Defer`]. May block.
    fn run(&self, cdb: &Cdb, parameters: &[u8]) -> Reply;

    /// Ends a [`Transfer`]: `result` is what the host said.
    fn finish(&self, transfer: &Transfer, result: std::io::Result<()>) -> Reply;

    /// Ends an [`Action::Flush`].
    fn finish_flush(&self, result: std::io::Result<()>) -> Reply;

    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// What it has done; the transport counts.
    fn statistics(&self) -> &Statistics;

    /// Something happened that the initiator has to be told.
    fn attention(&self, what: UnitAttention);

    /// Logical unit reset: back to default parameters, except persistent ones; then a unit attention.
    fn reset(&self);

    /// Its initiator knows it from another process, which was killed: no power on is told.
    fn goes_on(&self) {}

    /// Its medium is locked for it from now on: what is kept beside it is read.
    ///
    /// # Errors
    /// It can't be read, or understood.
    fn taken_into_use(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Its medium is about to be unlocked: what it does of its own accord ends before this returns.
    fn out_of_use(&self) {}

    /// Commands that take very long end early while this is on: their ring is to stop.
    fn interrupt(&self, on: bool) {
        let _ = on;
    }

    /// What its initiator knows of it and no medium keeps, for another process to go on with.
    ///
    /// # Errors
    /// It can't be put into words.
    fn save(&self) -> Result<serde_json::Value, serde_json::Error> {
        Ok(serde_json::Value::Null)
    }

    /// Takes what [`save`](Self::save) gave in another process.
    ///
    /// # Errors
    /// It is not of a unit of this kind.
    fn load(&self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        serde_json::from_value(state) // nothing
    }

    /// The medium that transfers move data from and to; `None` for a physical unit or an empty drive.
    fn image(&self) -> Option<std::sync::Arc<dyn crate::image::Image>>;

    /// The medium that is locked for it while rings run: also one that the initiator has ejected, and
    /// may load again.
    fn locked_image(&self) -> Option<std::sync::Arc<dyn crate::image::Image>> {
        self.image()
    }

    /// What keeps transfers away from commands that must be alone; `None` where there are none.
    fn gate(&self) -> Option<&crate::image::gate::Gate> {
        None
    }

    /// What is to become of host errors.
    fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::default()
    }

    /// The drive, if it is an emulated CD or DVD drive.
    fn cd(&self) -> Option<&crate::lun::cd::Cd> {
        None
    }

    /// The physical unit behind it, if it is one.
    fn pass_through(&self) -> Option<&crate::lun::pass_through::PassThrough> {
        None
    }
}
