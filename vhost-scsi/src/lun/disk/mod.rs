//! An emulated disk (SBC-4).
//!
//! Reads and writes take no lock: what else there is to know of the unit is in one word of flags.
//!
//! A command is [refused for now](ready), or begun here: it moves data, is [answered](answer) at
//! once, or is carried out later on the [medium].

mod answer;
mod inquiry;
mod logs;
mod medium;
mod mode;
mod persist;
mod ready;
mod sanitize;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::image::Image;
use crate::image::gate::Gate;
use crate::lun::identity::Identity;
use crate::scsi::bytes::Fields;
use crate::scsi::cdb::{self, Blocks, ByteCheck, Command};
use crate::scsi::reservation::Reservations;
use crate::scsi::{
    Action, Cdb, DataLengths, DeviceType, Direction, ErrorPolicy, LogicalUnit, Reply, Sense,
    Statistics, Transfer, UnitAttention,
};
use mode::ModeParameters;
use sanitize::Sanitizer;

/// Bytes that one command moves at most: the MAXIMUM TRANSFER LENGTH.
const MOST_TRANSFERRED: u64 = 16 << 20;
/// Bytes that WRITE ATOMIC writes at most.
const MOST_ATOMIC: u64 = 1 << 20;
/// Blocks that WRITE SAME writes at most: what its 10-byte form can say.
const MOST_SAME: u32 = 0xffff;
/// Block descriptors in a parameter list of UNMAP at most.
const UNMAP_DESCRIPTORS: u8 = 255;

/// What a disk is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Who it says it is.
    pub identity: Identity,
    /// Bytes in a logical block: 512 or 4096.
    pub block_size: u32,
    /// Bytes in a physical block, where it is to be another than the image's.
    pub physical_block_size: Option<u32>,
    /// It does not rotate.
    pub solid_state: bool,
    /// Its medium can be ejected.
    pub removable: bool,
    /// What is to become of errors of the host.
    pub error_policy: ErrorPolicy,
}

/// The initiator has to be told something.
const ATTENTION: u32 = 1 << 0;
/// A removable medium is out.
const EJECTED: u32 = 1 << 1;
/// START STOP UNIT stopped it.
const STOPPED: u32 = 1 << 2;
/// SANITIZE is under way, or has failed.
const SANITIZING: u32 = 1 << 3;
/// Sense data in descriptor format.
const DESCRIPTOR_SENSE: u32 = 1 << 4;
/// WCE of the caching mode page is off: every write is durable before it is acknowledged.
const WRITE_THROUGH: u32 = 1 << 6;
/// SWP of the control mode page.
const SOFTWARE_WRITE_PROTECT: u32 = 1 << 5;

/// With any of these, a read or a write has to be looked at more closely.
const SPECIAL: u32 = ATTENTION | EJECTED | STOPPED | SANITIZING;

struct State {
    attentions: VecDeque<UnitAttention>,
    mode: ModeParameters,
    reservations: Reservations,
    prevent_removal: bool,
    sanitize_failed: bool,
}

/// An emulated disk.
pub struct Disk {
    this: Weak<Self>,
    image: Arc<dyn Image>,
    options: DiskOptions,
    /// A logical block has 2^`shift` bytes.
    shift: u32,
    flags: AtomicU32,
    /// PROGRESS INDICATION of a SANITIZE under way.
    progress: AtomicU16,
    /// The thread of one whose command has ended at once (IMMED).
    sanitizer: Mutex<Option<Sanitizer>>,
    /// A ring waits for the end of its commands.
    interrupted: AtomicBool,
    state: Mutex<State>,
    /// Its mode parameters are those that a killed process kept.
    goes_on: AtomicBool,
    gate: Gate,
    statistics: Statistics,
}

impl Disk {
    /// A disk on an image.
    #[must_use]
    pub fn new(image: Arc<dyn Image>, options: DiskOptions) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            image,
            shift: options.block_size.max(512).ilog2(),
            options,
            flags: AtomicU32::new(ATTENTION),
            progress: AtomicU16::new(0),
            sanitizer: Mutex::default(),
            interrupted: AtomicBool::new(false),
            state: Mutex::new(State {
                attentions: VecDeque::from([UnitAttention::Reset]),
                mode: ModeParameters::default(),
                reservations: Reservations::default(),
                prevent_removal: false,
                sanitize_failed: false,
            }),
            goes_on: AtomicBool::new(false),
            gate: Gate::default(),
            statistics: Statistics::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    fn set(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!flag, Ordering::AcqRel);
        }
    }

    /// Logical blocks on the medium.
    fn capacity(&self) -> u64 {
        self.image.len() >> self.shift
    }

    fn bytes(&self, blocks: u32) -> u64 {
        u64::from(blocks) << self.shift
    }

    fn physical_block_size(&self) -> u32 {
        let wanted = self.options.physical_block_size;
        wanted.unwrap_or(self.image.limits().physical_block).max(self.options.block_size)
    }

    /// Logical blocks in a physical one.
    fn blocks_per_physical(&self) -> u32 {
        let blocks = self.physical_block_size().checked_div(self.options.block_size);
        blocks.unwrap_or(1).max(1)
    }

    fn fail(&self, sense: Sense) -> Reply {
        sense.reply(self.has(DESCRIPTOR_SENSE))
    }

    fn write_protected(&self) -> Option<Sense> {
        if self.image.read_only() {
            Some(Sense::WRITE_PROTECTED)
        } else if self.has(SOFTWARE_WRITE_PROTECT) {
            Some(Sense::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED)
        } else {
            None
        }
    }

    fn check_writable(&self) -> Result<(), Sense> {
        self.write_protected().map_or(Ok(()), Err)
    }

    /// The byte offset of blocks that lie on the medium.
    fn check_range(&self, blocks: Blocks) -> Result<u64, Sense> {
        let end = blocks.lba.checked_add(blocks.count.into());
        if end.is_none_or(|end| end > self.capacity()) {
            return Err(Sense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE);
        }
        Ok(blocks.lba << self.shift)
    }

    /// As [`check_range`](Self::check_range), for commands that move the blocks' data.
    fn check_transfer(&self, blocks: Blocks) -> Result<u64, Sense> {
        let offset = self.check_range(blocks)?;
        if self.bytes(blocks.count) > MOST_TRANSFERRED {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        Ok(offset)
    }

    fn transfer(
        &self,
        direction: Direction,
        blocks: Blocks,
        data: DataLengths,
    ) -> Result<Action, Sense> {
        let offset = self.check_transfer(blocks)?;
        let length = self.bytes(blocks.count);
        let prepared = match direction {
            Direction::Read => data.room,
            Direction::Write { .. } => data.out,
        };
        Ok(match length {
            0 => Action::Complete(Reply::good()),
            _ if prepared < length => Action::Overrun,
            _ => Action::Transfer(Transfer { direction, offset, length }),
        })
    }

    fn begin(&self, command: Command, data: DataLengths) -> Result<Action, Sense> {
        match command {
            Command::Read(blocks) => self.transfer(Direction::Read, blocks, data),
            Command::Write { blocks, fua } => {
                self.check_writable()?;
                let fua = fua || !self.has_write_cache();
                self.transfer(Direction::Write { fua }, blocks, data)
            }
            Command::SynchronizeCache(blocks) => {
                self.check_range(blocks)?;
                Ok(Action::Flush)
            }
            Command::PreFetch(blocks) => {
                self.check_range(blocks)?;
                Ok(Action::Complete(Reply::good()))
            }
            // Exactly one block of data: less or more is a mistake, not a matter of buffers.
            Command::WriteSame { no_data: false, .. } if data.out != self.bytes(1) => {
                Err(Sense::INVALID_FIELD_IN_CDB)
            }
            command => match self.parameters(command)? {
                None => self.answer(command).map(Action::Complete),
                Some((length, _)) if length as u64 > data.out => Ok(Action::Overrun),
                Some((parameters, exclusive)) => Ok(Action::Defer { parameters, exclusive }),
            },
        }
    }

    /// For commands that take parameters or time: how many bytes of parameters, and whether alone.
    /// What can be refused without them is refused here.
    fn parameters(&self, command: Command) -> Result<Option<(usize, bool)>, Sense> {
        let bytes = |blocks| usize::try_from(self.bytes(blocks)).unwrap_or(usize::MAX);
        let data = |blocks: Blocks| bytes(blocks.count);
        Ok(Some(match command {
            Command::WriteAtomic { blocks, boundary } => {
                self.check_writable()?;
                self.check_transfer(blocks)?;
                let unit = self.blocks_per_physical();
                let aligned =
                    blocks.lba.is_multiple_of(unit.into()) && blocks.count.is_multiple_of(unit);
                if self.bytes(blocks.count) > MOST_ATOMIC || boundary != 0 || !aligned {
                    return Err(Sense::INVALID_FIELD_IN_CDB);
                }
                (data(blocks), true)
            }
            Command::WriteVerify { blocks, .. } => {
                self.check_writable()?;
                self.check_transfer(blocks)?;
                (data(blocks), false)
            }
            Command::Verify { blocks, check } => {
                // SBC-4 5.38: the VERIFICATION LENGTH is constrained by the MAXIMUM TRANSFER LENGTH,
                // data or not. What is read for it could not be interrupted.
                self.check_transfer(blocks)?;
                let length = match check {
                    ByteCheck::None => 0,
                    ByteCheck::Each => data(blocks),
                    ByteCheck::One if blocks.count == 0 => 0,
                    ByteCheck::One => bytes(1),
                };
                (length, false)
            }
            Command::CompareAndWrite { blocks } => {
                self.check_writable()?;
                self.check_range(blocks)?;
                (data(blocks).saturating_mul(2), true)
            }
            Command::OrWrite { blocks } => {
                self.check_writable()?;
                self.check_transfer(blocks)?;
                (data(blocks), true)
            }
            Command::WriteSame { blocks, unmap, no_data } => {
                self.check_writable()?;
                self.check_range(blocks)?;
                let too_many = blocks.count > MOST_SAME;
                if blocks.count == 0 || too_many || unmap && !self.image.limits().discard {
                    return Err(Sense::INVALID_FIELD_IN_CDB);
                }
                (if no_data { 0 } else { bytes(1) }, false)
            }
            Command::Unmap { length } => {
                self.check_writable()?;
                if !self.image.limits().discard {
                    return Err(Sense::INVALID_COMMAND_OPERATION_CODE);
                }
                (length, false)
            }
            Command::GetLbaStatus { lba, .. } => {
                if lba >= self.capacity() {
                    return Err(Sense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE);
                }
                (0, false)
            }
            Command::ModeSelect { length, save, .. } => {
                if save {
                    return Err(Sense::INVALID_FIELD_IN_CDB); // nothing is saved
                }
                (length, false)
            }
            Command::PersistentReserveOut { length, .. } => (length.min(4096), false),
            Command::SanitizeOverwrite { length, .. } => {
                self.check_writable()?;
                (length, true)
            }
            Command::SanitizeBlockErase { .. } => {
                self.check_writable()?;
                (0, true)
            }
            _ => return Ok(None),
        }))
    }
}

impl LogicalUnit for Disk {
    fn start(&self, cdb: &Cdb, data: DataLengths) -> Action {
        let command = cdb::parse(cdb);
        if self.has(SPECIAL)
            && let Some(sense) = self.obstacle(cdb.u8(0), &command)
        {
            return Action::Complete(self.fail(sense));
        }
        match command.and_then(|command| self.begin(command, data)) {
            Ok(action) => action,
            Err(sense) => Action::Complete(self.fail(sense)),
        }
    }

    fn run(&self, cdb: &Cdb, parameters: &[u8]) -> Reply {
        // Parsed again: no command waits in between in a form that could be mistaken for another's.
        match cdb::parse(cdb).and_then(|command| self.execute(command, parameters)) {
            Ok(reply) => reply,
            Err(sense) => self.fail(sense),
        }
    }

    fn finish(&self, transfer: &Transfer, result: io::Result<()>) -> Reply {
        match result {
            Ok(()) => Reply { moved: transfer.length, ..Reply::good() },
            Err(error) => {
                let write = transfer.direction != Direction::Read;
                self.fail(self.host_error(&error, write).at(transfer.offset >> self.shift))
            }
        }
    }

    fn finish_flush(&self, result: io::Result<()>) -> Reply {
        match result {
            Ok(()) => Reply::good(),
            Err(error) => self.fail(self.host_error(&error, true)),
        }
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::DIRECT_ACCESS
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn attention(&self, what: UnitAttention) {
        let mut state = self.state();
        if !state.attentions.contains(&what) {
            state.attentions.push_back(what);
        }
        self.set(ATTENTION, true);
    }

    fn reset(&self) {
        let mut state = self.state();
        if state.mode != ModeParameters::default() {
            state.mode = ModeParameters::default();
            self.keep_mode(&state.reservations, state.mode);
        }
        state.prevent_removal = false;
        self.set(DESCRIPTOR_SENSE | SOFTWARE_WRITE_PROTECT | WRITE_THROUGH | STOPPED, false);
        drop(state);
        self.attention(UnitAttention::UnitReset);
    }

    fn goes_on(&self) {
        let mut state = self.state();
        self.goes_on.store(true, Ordering::Relaxed);
        state.attentions.retain(|&attention| attention != UnitAttention::Reset);
        self.set(ATTENTION, !state.attentions.is_empty());
    }

    fn taken_into_use(&self) -> io::Result<()> {
        self.read_note()
    }

    fn out_of_use(&self) {
        self.end_sanitize();
    }

    fn interrupt(&self, on: bool) {
        self.interrupted.store(on, Ordering::Relaxed);
    }

    fn save(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self.saved())
    }

    fn load(&self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        self.restore(serde_json::from_value(state)?);
        Ok(())
    }

    fn image(&self) -> Option<Arc<dyn Image>> {
        Some(Arc::clone(&self.image))
    }

    fn gate(&self) -> Option<&Gate> {
        Some(&self.gate)
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.options.error_policy
    }
}

impl Disk {
    /// What an error of the host is to the initiator.
    fn host_error(&self, error: &io::Error, write: bool) -> Sense {
        log::warn!(
            "{}: {}: {error}",
            self.options.identity.name,
            if write { "write" } else { "read" }
        );
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Sense::SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
            Some(libc::EROFS | libc::EPERM | libc::EBADF) if write => Sense::WRITE_PROTECTED,
            _ if write => Sense::WRITE_ERROR,
            _ => Sense::UNRECOVERED_READ_ERROR,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
