//! What of a disk outlives this process: reservations, beside the image; and the rest of what the
//! initiator knows, on its way to another process with the guest.

use std::collections::VecDeque;
use std::io;

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
}

const VERSION: u32 = 1;

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
    pub(super) fn read_reservations(&self) -> io::Result<()> {
        let bytes = match self.image.note() {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.state().reservations = Reservations::default();
                return Ok(());
            }
            // As good as what this process knows.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            Err(error) => return Err(error),
        };
        let wrong = |what: String| io::Error::other(format!("its reservations: {what}"));
        let note: Note =
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if note.version != VERSION {
            return Err(wrong(format!("version {} is not known here", note.version)));
        }
        self.state().reservations = note.reservations;
        Ok(())
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
            self.keep(&reservations)?;
            state.reservations = reservations;
        }
        Ok(reply)
    }

    fn keep(&self, reservations: &Reservations) -> Result<(), Sense> {
        let note = Note { version: VERSION, reservations: reservations.clone() };
        let bytes = serde_json::to_vec(&note).map_err(|_| Sense::INTERNAL_TARGET_FAILURE)?;
        let kept = match self.image.read_only() {
            false => self.image.set_note(Some(&bytes)),
            true => Err(io::ErrorKind::Unsupported.into()),
        };
        match kept {
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
