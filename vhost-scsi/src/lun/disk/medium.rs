//! Commands that take their time with the medium, a piece of it at a time.

use super::{Disk, UNMAP_DESCRIPTORS};
use crate::image::pieces;
use crate::scsi::bytes::{Fields, put_length, truncated};
use crate::scsi::cdb::{Blocks, ByteCheck, Command};
use crate::scsi::{Reply, Sense};

/// Bytes looked at or written at a time.
const PIECE: usize = 1 << 20;

impl Disk {
    /// Executes what [`parameters`](Disk::parameters) lets through. The medium may have shrunk since.
    pub(super) fn execute(&self, command: Command, parameters: &[u8]) -> Result<Reply, Sense> {
        match command {
            Command::WriteAtomic { blocks, .. } => {
                self.write(self.check_range(blocks)?, parameters)?;
                self.settle()?;
            }
            Command::WriteVerify { blocks, check } => {
                let offset = self.check_range(blocks)?;
                self.write(offset, parameters)?;
                self.settle()?;
                match check {
                    ByteCheck::None => self.read_through(offset, self.bytes(blocks.count))?,
                    ByteCheck::Each | ByteCheck::One => self.compare(offset, parameters)?,
                }
            }
            Command::Verify { blocks, check } => self.verify(blocks, check, parameters)?,
            Command::CompareAndWrite { blocks } => {
                let offset = self.check_range(blocks)?;
                let (expected, new) = parameters.split_at(parameters.len() / 2);
                self.compare(offset, expected)?;
                self.write(offset, new)?;
                self.settle()?;
            }
            Command::OrWrite { blocks } => {
                let offset = self.check_range(blocks)?;
                let mut data = self.read(offset, parameters.len())?;
                data.iter_mut().zip(parameters).for_each(|(byte, more)| *byte |= more);
                self.write(offset, &data)?;
                self.settle()?;
            }
            Command::WriteSame { blocks, unmap, .. } => {
                self.write_same(blocks, unmap, parameters)?
            }
            Command::Unmap { .. } => self.unmap(parameters)?,
            Command::GetLbaStatus { lba, allocation } => {
                return self.lba_status(lba, allocation);
            }
            Command::ModeSelect { ten, .. } => return self.mode_select(ten, parameters),
            Command::PersistentReserveOut { action, scope_type, .. } => {
                return self.reserve(action, scope_type, parameters);
            }
            Command::SanitizeOverwrite { immediate, .. } => {
                return self.sanitize_overwrite(immediate, parameters);
            }
            Command::SanitizeBlockErase { immediate } => return self.sanitize_erase(immediate),
            _ => return Err(Sense::INTERNAL_TARGET_FAILURE),
        }
        Ok(Reply::good())
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Sense> {
        let mut data = vec![0; length];
        self.image.read_at(&mut data, offset).map_err(|error| self.host_error(&error, false))?;
        Ok(data)
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), Sense> {
        self.image.write_at(data, offset).map_err(|error| self.host_error(&error, true))
    }

    /// Without a write cache nothing is acknowledged before it is durable.
    fn settle(&self) -> Result<(), Sense> {
        if self.has_write_cache() {
            return Ok(());
        }
        self.image.flush().map_err(|error| self.host_error(&error, true))
    }

    /// MISCOMPARE tells where, in bytes from the beginning of the data.
    fn compare(&self, offset: u64, expected: &[u8]) -> Result<(), Sense> {
        for (done, piece) in (0_u64..).step_by(PIECE).zip(expected.chunks(PIECE)) {
            let found = self.read(offset.saturating_add(done), piece.len())?;
            if let Some(at) = found.iter().zip(piece).position(|(a, b)| a != b) {
                let at = done.saturating_add(at as u64);
                return Err(Sense::MISCOMPARE_DURING_VERIFY_OPERATION.at(at));
            }
        }
        Ok(())
    }

    /// That it can be read is all that matters.
    fn read_through(&self, offset: u64, length: u64) -> Result<(), Sense> {
        pieces(offset, length, PIECE).try_for_each(|(at, count)| self.read(at, count).map(drop))
    }

    fn verify(&self, blocks: Blocks, check: ByteCheck, data: &[u8]) -> Result<(), Sense> {
        let offset = self.check_range(blocks)?;
        match check {
            ByteCheck::None => self.read_through(offset, self.bytes(blocks.count)),
            ByteCheck::Each => self.compare(offset, data),
            ByteCheck::One => {
                let block_size = self.options.block_size as usize;
                pieces(offset, self.bytes(blocks.count), block_size)
                    .try_for_each(|(at, _)| self.compare(at, data))
            }
        }
    }

    /// WRITE SAME (SBC-4 5.50): without data, zeroes.
    fn write_same(&self, blocks: Blocks, unmap: bool, block: &[u8]) -> Result<(), Sense> {
        let offset = self.check_range(blocks)?;
        let length = self.bytes(blocks.count);
        let failed = |error| self.host_error(&error, true);
        if block.iter().all(|&byte| byte == 0) {
            self.image.write_zeroes(offset, length, unmap).map_err(failed)?;
            return self.settle();
        }
        // A block that does not read as zeroes can't be deallocated: it is written.
        let most = PIECE.checked_div(block.len()).unwrap_or(1);
        let piece = block.repeat(most.clamp(1, blocks.count.max(1) as usize));
        for (at, count) in pieces(offset, length, piece.len()) {
            self.write(at, piece.get(..count).unwrap_or_default())?;
        }
        self.settle()
    }

    /// UNMAP (SBC-4 5.35): all descriptors are checked before the first is carried out.
    fn unmap(&self, parameters: &[u8]) -> Result<(), Sense> {
        if parameters.is_empty() {
            return Ok(());
        }
        let length = usize::from(parameters.u16(2));
        let descriptors = parameters.get(8..).ok_or(Sense::PARAMETER_LIST_LENGTH_ERROR)?;
        // Whole descriptors only; a list cut short by the parameter list length is not an error.
        let descriptors = descriptors.get(..length.min(descriptors.len())).unwrap_or_default();
        let blocks: Vec<Blocks> = descriptors
            .chunks_exact(16)
            .map(|descriptor| Blocks { lba: descriptor.u64(0), count: descriptor.u32(8) })
            .collect();
        if blocks.len() > UNMAP_DESCRIPTORS.into() {
            return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST);
        }
        for &blocks in &blocks {
            self.check_range(blocks)?;
        }
        for &stretch in blocks.iter().filter(|blocks| blocks.count > 0) {
            let offset = self.check_range(stretch)?;
            self.image
                .discard(offset, self.bytes(stretch.count))
                .map_err(|error| self.host_error(&error, true))?;
        }
        self.settle()
    }

    /// GET LBA STATUS (SBC-4 5.6): as many descriptors as there is room for.
    fn lba_status(&self, lba: u64, allocation: usize) -> Result<Reply, Sense> {
        let room = (allocation.saturating_sub(8) / 16).clamp(1, 1024);
        let mut data = vec![0; 8];
        let mut next = lba;
        for _ in 0..room {
            let left = self.capacity().saturating_sub(next);
            if left == 0 {
                break;
            }
            let extent = self
                .image
                .extent(next << self.shift)
                .map_err(|error| self.host_error(&error, false))?;
            // A block that is mapped in part is mapped.
            let blocks = if extent.mapped {
                extent.length.div_ceil(1 << self.shift)
            } else {
                extent.length >> self.shift
            };
            let mapped = extent.mapped || blocks == 0;
            let blocks = u32::try_from(blocks.clamp(1, left)).unwrap_or(u32::MAX);
            data.extend(next.to_be_bytes());
            data.extend(blocks.to_be_bytes());
            data.extend([u8::from(!mapped), 0, 0, 0]);
            next = next.saturating_add(blocks.into());
        }
        put_length::<4>(&mut data, 0);
        Ok(Reply::with(truncated(data, allocation)))
    }
}
