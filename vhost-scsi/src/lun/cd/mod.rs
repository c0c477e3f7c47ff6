//! An emulated CD or DVD drive (MMC-6) with an ISO image in it, or none.

mod command;
mod event;
mod feature;
mod mode;
mod toc;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::lun::identity::{Identity, vpd};
use crate::scsi::bytes::{Fields, put, truncated};
use crate::scsi::{
    Action, Cdb, DataLengths, DeviceType, Direction, ErrorPolicy, LogicalUnit, Reply, Sense,
    Statistics, Transfer, UnitAttention,
};
use command::Command;
use event::{MediaEvent, media_event};

/// Bytes in a logical block.
pub const BLOCK: u32 = 2048;
/// The same, as lengths of media are counted.
const WIDE_BLOCK: u64 = BLOCK as u64;

/// Bytes that one command reads at most.
const MOST_TRANSFERRED: u64 = 16 << 20;
/// Blocks from which on a medium is a DVD: what no CD holds (99 minutes).
const DVD: u64 = 445_500;

/// Why the medium stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediumError {
    /// The initiator prevents removal; it was asked to let go.
    #[error("the guest has locked the tray; it was asked to eject, try again or use force")]
    Locked,
}

struct State {
    attentions: VecDeque<UnitAttention>,
    /// Told once by GET EVENT STATUS NOTIFICATION.
    event: MediaEvent,
    tray_open: bool,
    prevent_removal: bool,
    /// What START STOP UNIT took out of the drive, to be loaded again by it.
    ejected: Option<Arc<dyn Image>>,
}

/// What moves with the guest to another process.
#[derive(Serialize, Deserialize)]
struct Saved {
    attentions: VecDeque<UnitAttention>,
    tray_open: bool,
    prevent_removal: bool,
}

/// An emulated drive.
pub struct Cd {
    identity: Identity,
    error_policy: ErrorPolicy,
    medium: RwLock<Option<Arc<dyn Image>>>,
    attention: AtomicBool,
    state: Mutex<State>,
    statistics: Statistics,
}

impl Cd {
    /// A drive with a medium, or an empty one.
    #[must_use]
    pub fn new(
        medium: Option<Arc<dyn Image>>,
        identity: Identity,
        error_policy: ErrorPolicy,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            error_policy,
            medium: RwLock::new(medium),
            attention: AtomicBool::new(true),
            state: Mutex::new(State {
                attentions: VecDeque::from([UnitAttention::Reset]),
                event: MediaEvent::None,
                tray_open: false,
                prevent_removal: false,
                ejected: None,
            }),
            statistics: Statistics::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn medium(&self) -> Option<Arc<dyn Image>> {
        self.medium.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_medium(&self, medium: Option<Arc<dyn Image>>) -> Option<Arc<dyn Image>> {
        let mut place = self.medium.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, medium)
    }

    /// The tray is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().tray_open
    }

    /// Takes the medium out, from outside.
    ///
    /// # Errors
    /// The initiator prevents removal, and `force` is not given: it is asked to eject.
    pub fn eject(&self, force: bool) -> Result<Option<Arc<dyn Image>>, MediumError> {
        let mut state = self.state();
        if state.prevent_removal && !force {
            state.event = MediaEvent::EjectRequest;
            return Err(MediumError::Locked);
        }
        state.tray_open = true;
        state.prevent_removal = false;
        state.event = MediaEvent::MediaRemoval;
        let ejected = state.ejected.take();
        Ok(self.set_medium(None).or(ejected))
    }

    /// Puts a medium in and closes the tray.
    ///
    /// # Errors
    /// As [`eject`](Self::eject), if there is another medium.
    pub fn load(
        &self,
        medium: Arc<dyn Image>,
        force: bool,
    ) -> Result<Option<Arc<dyn Image>>, MediumError> {
        let old =
            if self.medium().is_some() { self.eject(force)? } else { self.state().ejected.take() };
        self.set_medium(Some(medium));
        let mut state = self.state();
        state.tray_open = false;
        state.event = MediaEvent::NewMedia;
        drop(state);
        self.attention(UnitAttention::MediumChanged);
        Ok(old)
    }

    /// Blocks of the medium; a last one that is not whole does not count.
    fn blocks(&self) -> Result<u64, Sense> {
        match self.medium() {
            Some(medium) => Ok(medium.len() / WIDE_BLOCK),
            None if self.state().tray_open => Err(Sense::MEDIUM_NOT_PRESENT_TRAY_OPEN),
            None => Err(Sense::MEDIUM_NOT_PRESENT_TRAY_CLOSED),
        }
    }

    fn next_attention(&self) -> Option<Sense> {
        let mut state = self.state();
        let attention = state.attentions.pop_front();
        self.attention.store(!state.attentions.is_empty(), Ordering::Release);
        attention.map(Sense::from)
    }

    fn begin(&self, command: Command, data: DataLengths) -> Result<Action, Sense> {
        let Command::Read { lba, count } = command else {
            return self.answer(command).map(Action::Complete);
        };
        let end = lba.checked_add(count.into());
        if end.is_none_or(|end| end > self.blocks().unwrap_or(0)) {
            self.blocks()?;
            return Err(Sense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE);
        }
        let bytes = |blocks: u64| blocks.saturating_mul(WIDE_BLOCK);
        let length = bytes(count.into());
        Ok(match length {
            0 => Action::Complete(Reply::good()),
            _ if length > MOST_TRANSFERRED => return Err(Sense::INVALID_FIELD_IN_CDB),
            _ if data.room < length => Action::Overrun,
            _ => Action::Transfer(Transfer {
                direction: Direction::Read,
                offset: bytes(lba),
                length,
            }),
        })
    }

    fn answer(&self, command: Command) -> Result<Reply, Sense> {
        let data = |bytes, allocation| Ok(Reply::with(truncated(bytes, allocation)));
        match command {
            Command::TestUnitReady
            | Command::Verify
            | Command::Seek
            | Command::SynchronizeCache => self.blocks().map(|_| Reply::good()),
            Command::SetSpeed => Ok(Reply::good()),
            Command::RequestSense { descriptor, allocation } => {
                let sense = self.next_attention().or(self.blocks().err());
                data(sense.unwrap_or(Sense::NO_SENSE).bytes(descriptor), allocation)
            }
            Command::Inquiry { vpd_page: None, allocation } => data(self.inquiry(), allocation),
            Command::Inquiry { vpd_page: Some(page), allocation } => {
                data(self.vpd_page(page).ok_or(Sense::INVALID_FIELD_IN_CDB)?, allocation)
            }
            Command::ModeSense { ten, page, control, allocation } => {
                let locked = self.state().prevent_removal;
                data(mode::sense(ten, page, control, locked)?, allocation)
            }
            Command::StartStop { load_eject, start } => self.start_stop(load_eject, start),
            Command::PreventAllow { prevent } => {
                self.state().prevent_removal = prevent & 1 != 0;
                Ok(Reply::good())
            }
            Command::ReadCapacity => {
                let last = u32::try_from(self.blocks()?.saturating_sub(1)).unwrap_or(u32::MAX);
                Ok(Reply::with([last.to_be_bytes(), BLOCK.to_be_bytes()].concat()))
            }
            Command::ReadToc { format, msf, track, allocation } => {
                data(toc::read(self.blocks()?, format, msf, track)?, allocation)
            }
            Command::ReadSubChannel { format, allocation } => {
                self.blocks()?;
                data(toc::sub_channel(format)?, allocation)
            }
            Command::ReadDiscInformation { allocation } => {
                self.blocks()?;
                data(toc::disc_information(), allocation)
            }
            Command::ReadTrackInformation { track, allocation } => {
                data(toc::track_information(self.blocks()?, track)?, allocation)
            }
            Command::ReadDvdStructure { format, layer, allocation } => {
                data(toc::dvd_structure(self.blocks()?, format, layer)?, allocation)
            }
            Command::GetConfiguration { wanted, first, allocation } => {
                let blocks = self.blocks().ok();
                let locked = self.state().prevent_removal;
                data(feature::configuration(blocks, wanted, first, locked)?, allocation)
            }
            Command::GetEventStatus { polled, classes, allocation } => {
                if !polled {
                    return Err(Sense::INVALID_FIELD_IN_CDB); // no asynchronous notification
                }
                let present = self.medium().is_some();
                let mut state = self.state();
                let open = state.tray_open;
                // An event is told once, and only where there is room to tell it.
                let event = if classes & event::MEDIA != 0 && allocation >= 8 {
                    std::mem::take(&mut state.event)
                } else {
                    MediaEvent::None
                };
                data(media_event(classes, event, open, present), allocation)
            }
            Command::MechanismStatus { allocation } => {
                let open = if self.state().tray_open { 0x10 } else { 0 };
                data(vec![0, open, 0, 0, 0, 0, 0, 0], allocation)
            }
            Command::Read { .. } => Err(Sense::INTERNAL_TARGET_FAILURE),
        }
    }

    fn inquiry(&self) -> Vec<u8> {
        let mut data = vec![0; 96];
        // CD/DVD, removable, SPC-3, response data format 2; MMC-6 and SAM-3 in the descriptors.
        put(&mut data, 0, &[0x05, 0x80, 0x05, 0x02, 91, 0, 0, 0x02]);
        put(&mut data, 8, &self.identity.inquiry());
        put(&mut data, 58, &[0x00, 0x60, 0x03, 0x00, 0x04, 0xe0]);
        data
    }

    fn vpd_page(&self, page: u8) -> Option<Vec<u8>> {
        let content = match page {
            0x00 if self.identity.serial.is_some() => vec![0x00, 0x80, 0x83],
            0x00 => vec![0x00, 0x83],
            0x80 => self.identity.serial_number()?,
            0x83 => self.identity.designators(),
            _ => return None,
        };
        Some(vpd(0x05, page, &content))
    }

    /// START STOP UNIT (MMC-6 6.42).
    fn start_stop(&self, load_eject: bool, start: bool) -> Result<Reply, Sense> {
        if !load_eject {
            return Ok(Reply::good());
        }
        if !start {
            if self.state().prevent_removal {
                return Err(Sense::MEDIUM_REMOVAL_PREVENTED);
            }
            let medium = self.set_medium(None);
            let mut state = self.state();
            state.tray_open = true;
            state.event = MediaEvent::MediaRemoval;
            state.ejected = medium.or(state.ejected.take());
            return Ok(Reply::good());
        }
        let mut state = self.state();
        if std::mem::take(&mut state.tray_open) {
            let ejected = state.ejected.take();
            drop(state);
            if let Some(medium) = ejected {
                self.set_medium(Some(medium));
                self.state().event = MediaEvent::NewMedia;
                self.attention(UnitAttention::MediumChanged);
            }
        }
        Ok(Reply::good())
    }
}

impl LogicalUnit for Cd {
    fn start(&self, cdb: &Cdb, data: DataLengths) -> Action {
        // MMC-6 4.1.5: GET CONFIGURATION and GET EVENT STATUS NOTIFICATION do not take attentions.
        let takes = !matches!(cdb.u8(0), 0x12 | 0x03 | 0x46 | 0x4a);
        if takes
            && self.attention.load(Ordering::Acquire)
            && let Some(sense) = self.next_attention()
        {
            return Action::Complete(sense.reply(false));
        }
        match command::parse(cdb).and_then(|command| self.begin(command, data)) {
            Ok(action) => action,
            Err(sense) => Action::Complete(sense.reply(false)),
        }
    }

    fn run(&self, _cdb: &Cdb, _parameters: &[u8]) -> Reply {
        Sense::INTERNAL_TARGET_FAILURE.reply(false) // `start` defers nothing
    }

    fn finish(&self, transfer: &Transfer, result: io::Result<()>) -> Reply {
        match result {
            Ok(()) => Reply { moved: transfer.length, ..Reply::good() },
            Err(error) => {
                log::warn!("{}: read: {error}", self.identity.name);
                Sense::UNRECOVERED_READ_ERROR.at(transfer.offset / WIDE_BLOCK).reply(false)
            }
        }
    }

    fn finish_flush(&self, _result: io::Result<()>) -> Reply {
        Reply::good()
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::CD_DVD
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn cd(&self) -> Option<&Cd> {
        Some(self)
    }

    fn attention(&self, what: UnitAttention) {
        let mut state = self.state();
        if !state.attentions.contains(&what) {
            state.attentions.push_back(what);
        }
        self.attention.store(true, Ordering::Release);
    }

    fn reset(&self) {
        self.state().prevent_removal = false;
        self.attention(UnitAttention::UnitReset);
    }

    fn goes_on(&self) {
        let mut state = self.state();
        state.attentions.retain(|&attention| attention != UnitAttention::Reset);
        self.attention.store(!state.attentions.is_empty(), Ordering::Release);
    }

    fn save(&self) -> Result<serde_json::Value, serde_json::Error> {
        let state = self.state();
        serde_json::to_value(Saved {
            attentions: state.attentions.clone(),
            tray_open: state.tray_open,
            prevent_removal: state.prevent_removal,
        })
    }

    fn load(&self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        let saved: Saved = serde_json::from_value(state)?;
        let medium = if saved.tray_open { self.set_medium(None) } else { None };
        let mut state = self.state();
        self.attention.store(!saved.attentions.is_empty(), Ordering::Release);
        state.attentions = saved.attentions;
        state.tray_open = saved.tray_open;
        state.prevent_removal = saved.prevent_removal;
        state.ejected = medium.or(state.ejected.take());
        Ok(())
    }

    fn image(&self) -> Option<Arc<dyn Image>> {
        self.medium()
    }

    fn locked_image(&self) -> Option<Arc<dyn Image>> {
        self.medium().or_else(|| self.state().ejected.clone())
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.error_policy
    }
}

#[cfg(test)]
mod tests;
