//! Big-endian fields of CDBs, parameter lists and replies. What lies past the end reads as zero and
//! is not written: the lengths were checked before, or the standard says so.

/// Reading fields.
pub trait Fields {
    /// One byte.
    fn u8(&self, at: usize) -> u8;
    /// Two bytes.
    fn u16(&self, at: usize) -> u16;
    /// Three bytes.
    fn u24(&self, at: usize) -> u32;
    /// Four bytes.
    fn u32(&self, at: usize) -> u32;
    /// Eight bytes.
    fn u64(&self, at: usize) -> u64;
    /// One bit of one byte.
    fn bit(&self, at: usize, bit: u32) -> bool {
        self.u8(at) >> bit & 1 != 0
    }
}

impl Fields for [u8] {
    fn u8(&self, at: usize) -> u8 {
        self.get(at).copied().unwrap_or(0)
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    fn u24(&self, at: usize) -> u32 {
        u32::from_be_bytes([0, self.u8(at), self.u8(at + 1), self.u8(at + 2)])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}

/// Writes `field` into `bytes` at `at`.
pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..field.len())) {
        place.copy_from_slice(field);
    }
}

/// `text` as a field of `length` bytes, padded with spaces (SPC-5 4.3.1).
#[must_use]
pub fn ascii(text: &str, length: usize) -> Vec<u8> {
    let mut field: Vec<u8> = text.bytes().take(length).collect();
    field.resize(length, b' ');
    field
}

/// The first `allocation` bytes (SPC-5 4.2.5.6).
#[must_use]
pub fn truncated(mut bytes: Vec<u8>, allocation: usize) -> Vec<u8> {
    bytes.truncate(allocation);
    bytes
}
