//! What of a disk outlives this process: reservations and mode parameters, beside the image; and all
//! that the initiator knows, on its way to another process with the guest.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::mode::ModeParameters;
use super::{ATTENTION, Disk, EJECTED, STOPPED};
use crate::scsi::reservation::Reservations;
use crate::scsi::{Reply, Sense, UnitAttention};

/// The note beside the image.
#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    reservations: Reservations,
    /// For a process that takes the place of one that was killed: to others they are not saved.
    #[serde(default)]
    mode: ModeParameters,
}

const VERSION: u32 = 1;

impl Default for Note {
    fn default() -> Self {
        let (reservations, mode) = (Reservations::default(), ModeParameters::default());
        Self { version: VERSION, reservations, mode }
    }
}

impl Note {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let wrong = |what: String| io::Error::other(format!("its reservations: {what}"));
        let note: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if note.version != VERSION {
            return Err(wrong(format!("version {} is not known here", note.version)));
        }
        Ok(note)
    }
}

/// What moves with the guest.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    reservations: Reservations,
    mode: ModeParameters,
    attentions: VecDeque<UnitAttention>,
    prevent_removal: bool,
    sanitize_failed: bool,
    ejected: bool,
    stopped: bool,
}

impl Disk {
    /// Reservations can be kept beside the image.
    pub(super) fn can_persist(&self) -> bool {
        !self.image.read_only() && self.image.note().is_ok()
    }

    /// What a former process kept. Another may have changed it while it had the image.
    pub(super) fn read_note(&self) -> io::Result<()> {
        let goes_on = self.goes_on.swap(false, Ordering::Relaxed);
        let note = match self.image.note() {
            Ok(Some(bytes)) => Note::parse(&bytes)?,
            Ok(None) => Note::default(),
            // As good as what this process knows.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            Err(error) => return Err(error),
        };
        if goes_on && !self.image.read_only() {
            self.set_mode(note.mode);
        }
        let mut state = self.state();
        state.reservations = note.reservations;
        if note.mode != state.mode {
            self.keep_mode(&state.reservations, state.mode);
        }
        Ok(())
    }

    /// Keeps mode parameters, where there is a place for them.
    pub(super) fn keep_mode(&self, reservations: &Reservations, mode: ModeParameters) {
        if let Err(error) = self.write_note(reservations, mode)
            && error.kind() != io::ErrorKind::Unsupported
        {
            let name = &self.options.identity.name;
            log::warn!("{name}: its mode parameters cannot be kept: {error}");
        }
    }

    fn write_note(&self, reservations: &Reservations, mode: ModeParameters) -> io::Result<()> {
        if self.image.read_only() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let note = Note { version: VERSION, reservations: reservations.clone(), mode };
        self.image.set_note(Some(&serde_json::to_vec(&note)?))
    }

    /// PERSISTENT RESERVE OUT: kept before it is acknowledged. An initiator does not notice that
    /// this process was started again, so all are kept, whatever it says of a loss of power.
    pub(super) fn reserve(
        &self,
        action: u8,
        scope_type: u8,
        parameters: &[u8],
    ) -> Result<Reply, Sense> {
        let mut state = self.state();
        let mut reservations = state.reservations.clone();
        let reply = reservations.write(action, scope_type, parameters)?;
        if reservations != state.reservations {
            self.keep(&reservations, state.mode)?;
            state.reservations = reservations;
        }
        Ok(reply)
    }

    fn keep(&self, reservations: &Reservations, mode: ModeParameters) -> Result<(), Sense> {
        match self.write_note(reservations, mode) {
            Ok(()) => Ok(()),
            // SPC-5 5.14.5: APTPL is refused by a unit that can't do it; the rest is as volatile as
            // this process.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                match reservations.persistent() {
                    true => Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST),
                    false => Ok(()),
                }
            }
            Err(error) => {
                let name = &self.options.identity.name;
                log::warn!("{name}: its reservations cannot be kept: {error}");
                Err(Sense::INSUFFICIENT_REGISTRATION_RESOURCES)
            }
        }
    }

    pub(super) fn saved(&self) -> Saved {
        let state = self.state();
        Saved {
            reservations: state.reservations.clone(),
            mode: state.mode,
            attentions: state.attentions.clone(),
            prevent_removal: state.prevent_removal,
            sanitize_failed: state.sanitize_failed,
            ejected: self.has(EJECTED),
            stopped: self.has(STOPPED),
        }
    }

    pub(super) fn restore(&self, saved: Saved) {
        self.set_mode(saved.mode);
        self.set(EJECTED, saved.ejected);
        self.set(STOPPED, saved.stopped);
        self.set(super::SANITIZING, saved.sanitize_failed);
        let mut state = self.state();
        self.set(ATTENTION, !saved.attentions.is_empty());
        state.attentions = saved.attentions;
        state.reservations = saved.reservations;
        state.prevent_removal = saved.prevent_removal;
        state.sanitize_failed = saved.sanitize_failed;
    }
}
