//! SANITIZE (SBC-4 5.30). Overwrite and block erase are carried out on the image, so they are as
//! good as the file system below it: a copy-on-write file system keeps what it keeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Disk, SANITIZING};
use crate::image::pieces;
use crate::scsi::bytes::Fields;
use crate::scsi::{Reply, Sense};

/// Bytes written at a time.
const PIECE: usize = 4 << 20;
/// Bytes erased at a time, which the host may have to write.
const ERASED: usize = 64 << 20;

/// A thread that sanitizes.
pub(super) struct Sanitizer {
    thread: JoinHandle<()>,
    /// It is to end before it is done.
    stop: Arc<AtomicBool>,
}

/// What the medium is filled with.
enum Fill {
    /// Given back to the host, or zeroes.
    Erase,
    /// A pattern, so many times; inverted in every second pass.
    Overwrite { pattern: Vec<u8>, passes: u8, invert: bool },
}

impl Disk {
    pub(super) fn sanitize_overwrite(
        &self,
        immediate: bool,
        parameters: &[u8],
    ) -> Result<Reply, Sense> {
        // SBC-4 table 97: INVERT, OVERWRITE COUNT, and the INITIALIZATION PATTERN.
        let length = usize::from(parameters.u16(2));
        let pattern = parameters.get(4..).ok_or(Sense::PARAMETER_LIST_LENGTH_ERROR)?;
        let passes = parameters.u8(0) & 0x1f;
        if length == 0 || length > self.options.block_size as usize || passes == 0 {
            return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST);
        }
        if pattern.len() != length {
            return Err(Sense::PARAMETER_LIST_LENGTH_ERROR);
        }
        let invert = parameters.bit(0, 7);
        self.sanitize(immediate, Fill::Overwrite { pattern: pattern.to_vec(), passes, invert })
    }

    pub(super) fn sanitize_erase(&self, immediate: bool) -> Result<Reply, Sense> {
        self.sanitize(immediate, Fill::Erase)
    }

    fn sanitize(&self, immediate: bool, fill: Fill) -> Result<Reply, Sense> {
        let state = self.state();
        let before = self.has(SANITIZING);
        self.set(SANITIZING, true);
        drop(state);
        if before {
            return Err(self.sanitize_state()); // both came before the first of them began
        }
        self.progress.store(0, Ordering::Relaxed);
        if !immediate {
            return self.fill(&fill, &self.interrupted).map(|()| Reply::good());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let this = self.this.upgrade().ok_or(Sense::INTERNAL_TARGET_FAILURE)?;
        let work = move |this: Arc<Self>| {
            // The initiator learns of a failure by the sense data of the next command.
            if this.fill(&fill, &stopped).is_err() {
                log::error!("{}: SANITIZE failed", this.options.identity.name);
            }
        };
        let thread = std::thread::Builder::new().name(String::from("sanitize"));
        match thread.spawn(move || work(this)) {
            Ok(thread) => {
                // The one before has ended: while it ran, no other began.
                *self.sanitizer() = Some(Sanitizer { thread, stop });
                Ok(Reply::good())
            }
            Err(_) => {
                self.set(SANITIZING, false);
                Err(Sense::INTERNAL_TARGET_FAILURE)
            }
        }
    }

    fn sanitizer(&self) -> MutexGuard<'_, Option<Sanitizer>> {
        self.sanitizer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The medium is no longer ours: nothing may be written to it. SANITIZE has failed then.
    pub(super) fn end_sanitize(&self) {
        if let Some(Sanitizer { thread, stop }) = self.sanitizer().take() {
            stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }

    fn fill(&self, fill: &Fill, stop: &AtomicBool) -> Result<(), Sense> {
        let result = match fill {
            Fill::Erase => self.erase(stop),
            Fill::Overwrite { pattern, passes, invert } => {
                self.overwrite(pattern, *passes, *invert, stop)
            }
        };
        let result =
            result.and_then(|()| self.image.flush().map_err(|error| self.host_error(&error, true)));
        self.state().sanitize_failed = result.is_err();
        self.set(SANITIZING, result.is_err());
        result.map_err(|_| Sense::SANITIZE_COMMAND_FAILED)
    }

    fn erase(&self, stop: &AtomicBool) -> Result<(), Sense> {
        let length = self.capacity() << self.shift;
        for (at, count) in pieces(0, length, ERASED) {
            go_on(stop)?;
            let erased = self.image.write_zeroes(at, count as u64, true);
            erased.map_err(|error| self.host_error(&error, true))?;
            self.report(at.saturating_add(count as u64), length);
        }
        Ok(())
    }

    fn overwrite(
        &self,
        pattern: &[u8],
        passes: u8,
        invert: bool,
        stop: &AtomicBool,
    ) -> Result<(), Sense> {
        let length = self.capacity() << self.shift;
        // SBC-4 5.30.2.2: the pattern is repeated to fill a block.
        let block_size = self.options.block_size as usize;
        let block: Vec<u8> = pattern.iter().copied().cycle().take(block_size).collect();
        for pass in 0..passes {
            let flip = if invert && pass % 2 == 1 { 0xff } else { 0 };
            let flipped: Vec<u8> = block.iter().map(|byte| byte ^ flip).collect();
            let piece = flipped.repeat((PIECE >> self.shift).max(1));
            let before = length.saturating_mul(pass.into());
            for (at, count) in pieces(0, length, piece.len()) {
                go_on(stop)?;
                self.write(at, piece.get(..count).unwrap_or_default())?;
                let done = before.saturating_add(at).saturating_add(count as u64);
                self.report(done, length.saturating_mul(passes.into()));
            }
        }
        Ok(())
    }

    fn report(&self, done: u64, all: u64) {
        let progress = u128::from(done).saturating_mul(0xffff).checked_div(all.into());
        let progress = u16::try_from(progress.unwrap_or(0)).unwrap_or(u16::MAX);
        self.progress.store(progress, Ordering::Relaxed);
    }

    /// Why other commands are refused meanwhile, or since it failed.
    pub(super) fn sanitize_state(&self) -> Sense {
        if self.state().sanitize_failed {
            Sense::SANITIZE_COMMAND_FAILED
        } else {
            let progress = self.progress.load(Ordering::Relaxed);
            Sense::NOT_READY_SANITIZE_IN_PROGRESS.progress(progress)
        }
    }

    /// EXIT FAILURE MODE: not while it is under way.
    pub(super) fn exit_failure_mode(&self) -> Result<Reply, Sense> {
        let mut state = self.state();
        if self.has(SANITIZING) && !state.sanitize_failed {
            return Err(Sense::NOT_READY_SANITIZE_IN_PROGRESS);
        }
        state.sanitize_failed = false;
        self.set(SANITIZING, false);
        Ok(Reply::good())
    }
}

fn go_on(stop: &AtomicBool) -> Result<(), Sense> {
    if stop.load(Ordering::Relaxed) { Err(Sense::SANITIZE_COMMAND_FAILED) } else { Ok(()) }
}
