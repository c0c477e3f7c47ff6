//! A device's state on its way to another process (SET_DEVICE_STATE_FD): JSON in an envelope that
//! names format, device and version, and is refused if any of them is not understood.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The envelope's version.
const FORMAT: u32 = 1;
/// Bytes that a state may have.
const LIMIT: u64 = 64 << 20;

/// Why a state can't be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Could not be written or read.
    #[error("device state cannot be transferred")]
    Transfer(#[from] io::Error),
    /// Not a state of ours.
    #[error("device state cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of another version of this program.
    #[error("device state has format {0}; this program knows {FORMAT}")]
    Format(u32),
    /// Of another device.
    #[error("device state is of {found}, not of {wanted}")]
    Device {
        /// Whose state it is.
        found: String,
        /// Whose it should be.
        wanted: &'static str,
    },
    /// Of a device that is configured differently.
    #[error("device state does not fit: {0}")]
    Mismatch(String),
    /// The thread that moved it is gone.
    #[error("device state was not transferred")]
    Interrupted,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u32,
    device: String,
    state: Value,
}

/// Writes `state` and closes the pipe.
///
/// # Errors
/// See [`StateError`].
pub fn write(mut pipe: impl Write, device: &str, state: Value) -> Result<(), StateError> {
    let envelope = Envelope { format: FORMAT, device: device.to_owned(), state };
    pipe.write_all(&serde_json::to_vec(&envelope)?)?;
    Ok(())
}

/// Reads a state to the pipe's end.
///
/// # Errors
/// See [`StateError`].
pub fn read(pipe: impl Read, device: &'static str) -> Result<Value, StateError> {
    let mut bytes = Vec::new();
    pipe.take(LIMIT).read_to_end(&mut bytes)?;
    let envelope: Envelope = serde_json::from_slice(&bytes)?;
    if envelope.format != FORMAT {
        return Err(StateError::Format(envelope.format));
    }
    if envelope.device != device {
        return Err(StateError::Device { found: envelope.device, wanted: device });
    }
    Ok(envelope.state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memfd;
    use std::fs::File;
    use std::io::{Seek, SeekFrom};

    fn file(bytes: &[u8]) -> File {
        let mut file = memfd(0);
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let mut pipe = memfd(0);
        let state = serde_json::json!({"reservation": [1, 2]});
        write(pipe.try_clone().unwrap(), "vhost-x", state.clone()).unwrap();
        pipe.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(read(pipe, "vhost-x").unwrap(), state);
    }

    #[test]
    fn a_foreign_state_is_refused() {
        let foreign = file(br#"{"format":1,"device":"vhost-y","state":{}}"#);
        assert!(matches!(read(foreign, "vhost-x"), Err(StateError::Device { .. })));
        let newer = file(br#"{"format":2,"device":"vhost-x","state":{}}"#);
        assert!(matches!(read(newer, "vhost-x"), Err(StateError::Format(2))));
        let noise = file(b"\0\0\0");
        assert!(matches!(read(noise, "vhost-x"), Err(StateError::Malformed(_))));
        let cut = file(br#"{"format":1,"device":"vhost-x","#);
        assert!(matches!(read(cut, "vhost-x"), Err(StateError::Malformed(_))));
    }
}
