//! How many guests run at once on this host, over all test processes.

use std::fs::{self, File, TryLockError};
use std::thread;
use std::time::Duration;

use crate::error::Context;
use crate::{Error, Machine};

/// TCG keeps a core busy for each guest CPU that works: more guests only make each other slow.
const GUESTS: usize = 2;

/// The right to run a guest, given up when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub(super) struct Slot {
    _lock: File,
}

impl Slot {
    /// Waits for a free slot.
    pub(super) fn take() -> Result<Slot, Error> {
        let folder = Machine::dir().join("slots");
        let doing = || format!("cannot use the locks in {}", folder.display());
        fs::create_dir_all(&folder).context(doing)?;
        loop {
            for number in 0..GUESTS {
                let lock = File::create(folder.join(number.to_string())).context(doing)?;
                match lock.try_lock() {
                    Ok(()) => return Ok(Slot { _lock: lock }),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(error).context(doing),
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
