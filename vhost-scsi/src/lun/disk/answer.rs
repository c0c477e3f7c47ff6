//! Commands that are answered from what is known of the unit.

use super::{Disk, logs};
use crate::scsi::bytes::{put, truncated};
use crate::scsi::cdb::Command;
use crate::scsi::{Reply, Sense, opcode};

impl Disk {
    /// Commands that need neither the medium nor parameters.
    pub(super) fn answer(&self, command: Command) -> Result<Reply, Sense> {
        let data = |bytes, allocation| Ok(Reply::with(truncated(bytes, allocation)));
        match command {
            Command::TestUnitReady | Command::Reserve | Command::Release => Ok(Reply::good()),
            Command::SendDiagnostic { self_test: true } => Ok(Reply::good()),
            Command::SendDiagnostic { self_test: false } => Err(Sense::INVALID_FIELD_IN_CDB),
            Command::RequestSense { descriptor, allocation } => {
                data(self.request_sense().bytes(descriptor), allocation)
            }
            Command::Inquiry { vpd_page: None, allocation } => data(self.inquiry(), allocation),
            Command::Inquiry { vpd_page: Some(page), allocation } => {
                data(self.vpd_page(page).ok_or(Sense::INVALID_FIELD_IN_CDB)?, allocation)
            }
            Command::ModeSense { ten, descriptors, control, page, subpage, allocation } => {
                data(self.mode_sense(ten, descriptors, control, page, subpage)?, allocation)
            }
            Command::LogSense { page, subpage, allocation } => {
                data(logs::page(page, subpage).ok_or(Sense::INVALID_FIELD_IN_CDB)?, allocation)
            }
            Command::StartStop { load_eject, start, power_condition, .. } => {
                self.start_stop(load_eject, start, power_condition)
            }
            Command::PreventAllow { prevent } => {
                self.state().prevent_removal = prevent & 1 != 0;
                Ok(Reply::good())
            }
            Command::ReadCapacity10 => Ok(Reply::with(self.capacity10())),
            Command::ReadCapacity16 { allocation } => data(self.capacity16(), allocation),
            Command::ReadDefectData { ten, format, allocation } => {
                data(logs::no_defects(ten, format), allocation)
            }
            Command::PersistentReserveIn { action, allocation } => {
                self.state().reservations.read(action, allocation, self.can_persist())
            }
            Command::ReportSupportedOperationCodes { query, allocation } => {
                let report = opcode::report(opcode::DISK, query);
                // It is the reporting options that do not fit.
                data(report.ok_or(Sense::INVALID_FIELD_IN_CDB.in_byte(2))?, allocation)
            }
            Command::ReportSupportedTaskManagement { extended, allocation } => {
                data(logs::task_management(extended), allocation)
            }
            Command::SanitizeExitFailureMode => self.exit_failure_mode(),
            _ => Err(Sense::INTERNAL_TARGET_FAILURE),
        }
    }

    fn capacity10(&self) -> Vec<u8> {
        let last = u32::try_from(self.capacity().saturating_sub(1)).unwrap_or(u32::MAX);
        [last.to_be_bytes(), self.options.block_size.to_be_bytes()].concat()
    }

    fn capacity16(&self) -> Vec<u8> {
        let mut data = vec![0; 32];
        put(&mut data, 0, &self.capacity().saturating_sub(1).to_be_bytes());
        put(&mut data, 8, &self.options.block_size.to_be_bytes());
        let exponent = self.blocks_per_physical().ilog2(); // at most 31
        put(&mut data, 13, &[u8::try_from(exponent).unwrap_or(0)]);
        if self.image.limits().discard {
            put(&mut data, 14, &[0xc0]); // LBPME, LBPRZ
        }
        data
    }
}
