//! Whether the unit is ready, and what its initiator has to be told first.

use super::{ATTENTION, Disk, EJECTED, SANITIZING, STOPPED};
use crate::scsi::cdb::Command;
use crate::scsi::{Reply, Sense};

impl Disk {
    /// START STOP UNIT (SBC-4 5.31).
    pub(super) fn start_stop(
        &self,
        load_eject: bool,
        start: bool,
        power_condition: u8,
    ) -> Result<Reply, Sense> {
        if power_condition != 0 {
            return Ok(Reply::good()); // every power condition is the same here
        }
        if !load_eject {
            self.set(STOPPED, !start);
        } else if !self.options.removable {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        } else if !start && self.state().prevent_removal {
            return Err(Sense::MEDIUM_REMOVAL_PREVENTED);
        } else {
            self.set(EJECTED, !start);
        }
        Ok(Reply::good())
    }

    /// What REQUEST SENSE tells: a unit attention, which is over then, or why the unit is not ready.
    pub(super) fn request_sense(&self) -> Sense {
        if let Some(attention) = self.next_attention() {
            return attention;
        }
        self.not_ready().unwrap_or(Sense::NO_SENSE)
    }

    fn not_ready(&self) -> Option<Sense> {
        if self.has(EJECTED) {
            return Some(Sense::MEDIUM_NOT_PRESENT);
        }
        if self.has(SANITIZING) {
            return Some(self.sanitize_state());
        }
        self.has(STOPPED).then_some(Sense::NOT_READY_INITIALIZING_COMMAND_REQUIRED)
    }

    pub(super) fn next_attention(&self) -> Option<Sense> {
        let mut state = self.state();
        let attention = state.attentions.pop_front();
        self.set(ATTENTION, !state.attentions.is_empty());
        attention.map(Sense::from)
    }

    /// What stands before a command while any of [`SPECIAL`](super::SPECIAL) is set.
    pub(super) fn obstacle(&self, code: u8, command: &Result<Command, Sense>) -> Option<Sense> {
        const INQUIRY: u8 = 0x12;
        const REQUEST_SENSE: u8 = 0x03;
        if code == INQUIRY || code == REQUEST_SENSE {
            return None;
        }
        if self.has(ATTENTION)
            && let Some(sense) = self.next_attention()
        {
            return Some(sense);
        }
        match command {
            Ok(command) if !needs_medium(command) => None,
            Ok(Command::SanitizeExitFailureMode) => None,
            Ok(_) => self.not_ready(),
            Err(_) => None,
        }
    }
}

/// Commands that an empty, stopped or sanitizing unit can't do.
fn needs_medium(command: &Command) -> bool {
    !matches!(
        command,
        Command::Inquiry { .. }
            | Command::RequestSense { .. }
            | Command::StartStop { .. }
            | Command::PreventAllow { .. }
            | Command::ModeSense { .. }
            | Command::ModeSelect { .. }
            | Command::LogSense { .. }
            | Command::PersistentReserveIn { .. }
            | Command::PersistentReserveOut { .. }
            | Command::Reserve
            | Command::Release
            | Command::ReportSupportedOperationCodes { .. }
            | Command::ReportSupportedTaskManagement { .. }
    )
}
