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
        u16::from_be_bytes(array(self, at))
    }

    fn u24(&self, at: usize) -> u32 {
        let [high, middle, low] = array(self, at);
        u32::from_be_bytes([0, high, middle, low])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(array(self, at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(array(self, at))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| bytes.u8(at.saturating_add(byte)))
}

/// Writes `field` into `bytes` at `at`.
pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..field.len())) {
        place.copy_from_slice(field);
    }
}

/// Writes into a field of `N` bytes at `at` how many bytes follow it, as most lengths are told.
pub fn put_length<const N: usize>(bytes: &mut [u8], at: usize) {
    let length = bytes.len().saturating_sub(at.saturating_add(N)).to_be_bytes();
    if let Some(field) = length.last_chunk::<N>() {
        put(bytes, at, field);
    }
}

/// MODE DATA LENGTH, which mode parameters begin with: two bytes for MODE SENSE (10), one for MODE
/// SENSE (6) (SPC-5 7.5.6).
pub fn put_mode_data_length(parameters: &mut [u8], ten: bool) {
    if ten {
        put_length::<2>(parameters, 0);
    } else {
        put_length::<1>(parameters, 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_past_the_end_reads_as_zero_and_is_not_written() {
        let mut bytes = [1, 2, 3];
        assert_eq!((bytes.u16(1), bytes.u16(2), bytes.u16(usize::MAX)), (0x0203, 0x0300, 0));
        assert_eq!((bytes.u24(0), bytes.u32(0), bytes.u64(2)), (0x01_0203, 0x0102_0300, 3 << 56));
        put(&mut bytes, 2, &[4, 5]);
        put(&mut bytes, usize::MAX, &[6]);
        assert_eq!(bytes, [1, 2, 3]);
    }

    #[test]
    fn a_length_counts_what_follows_it() {
        let mut page = vec![0xff; 300];
        put_length::<2>(&mut page, 2);
        assert_eq!(page[..5], [0xff, 0xff, 0x01, 0x28, 0xff]);
        put_length::<4>(&mut page, 296);
        assert_eq!(page[296..], [0, 0, 0, 0]);
        put_length::<4>(&mut page, 298); // there is no such field
        assert_eq!(page[296..], [0, 0, 0, 0]);
    }
}
