//! What a sample is worth, whatever its format: from -1 to 1.

use super::format::{Format, Linear};

/// What it is worth; 0 in formats that are not linear.
#[must_use]
pub fn read(format: Format, sample: &[u8]) -> f64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(sample).for_each(|(to, from)| *to = *from);
    let [a, b, c, d, ..] = bytes;
    let value = match (format, format.linear()) {
        (Format::Float, _) => f32::from_le_bytes([a, b, c, d]).into(),
        (Format::Float64, _) => f64::from_le_bytes(bytes),
        (_, Some(Linear { bits, is_signed })) => {
            let half = 1i64.wrapping_shl(bits.saturating_sub(1));
            // An unsigned sample is a signed one whose highest bit is the other way round.
            let flip = if is_signed { 0 } else { half };
            let rest = i64::BITS.saturating_sub(bits);
            let value = (i64::from_le_bytes(bytes) ^ flip).wrapping_shl(rest).wrapping_shr(rest);
            value as f64 / half as f64
        }
        _ => 0.0,
    };
    if value.is_finite() { value } else { 0.0 }
}

/// Writes one that is worth so much, or the most that there is. `false`: the format is not linear.
pub fn write(format: Format, value: f64, sample: &mut [u8]) -> bool {
    let mut put = |bytes: &[u8]| sample.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    match (format, format.linear()) {
        (Format::Float, _) => put(&(value as f32).to_le_bytes()),
        (Format::Float64, _) => put(&value.to_le_bytes()),
        (_, Some(Linear { bits, is_signed })) => {
            let half = 1i64.wrapping_shl(bits.saturating_sub(1));
            let scaled = (value * half as f64).round() as i64;
            let scaled = scaled.clamp(half.saturating_neg(), half.saturating_sub(1));
            let number = if is_signed { scaled } else { scaled.saturating_add(half) };
            put(&number.to_le_bytes());
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_written_in_each_linear_format() {
        for (format, expected) in [
            (Format::S16, vec![0, 0x40]),
            (Format::U8, vec![0xc0]),
            (Format::S24_3, vec![0, 0, 0x40]),
            (Format::U24, vec![0, 0, 0xc0, 0]),
            (Format::S32, vec![0, 0, 0, 0x40]),
            (Format::Float, vec![0, 0, 0, 0x3f]),
        ] {
            let mut bytes = vec![0x55; expected.len()];
            assert!(write(format, 0.5, &mut bytes));
            assert_eq!((read(format, &bytes), bytes), (0.5, expected), "{format}");
        }
        let mut sample = [0; 2];
        assert!(write(Format::S16, 7.0, &mut sample) && sample == [0xff, 0x7f]);
        assert!(write(Format::U16, -7.0, &mut sample) && sample == [0, 0]);
        assert!(!write(Format::MuLaw, 0.5, &mut sample) && read(Format::MuLaw, &[3]) == 0.0);
        assert_eq!(read(Format::Float, &f32::NAN.to_le_bytes()), 0.0);
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_again(number in 0..25u8, bytes: [u8; 4]) {
            let format = Format::of_number(number).unwrap();
            let width = usize::from(format.bits() / 8);
            if format.linear().is_some() {
                let mut again = bytes;
                write(format, read(format, &bytes[..width]), &mut again[..width]);
                // What does not count of a sample is written as its sign says.
                proptest::prop_assert_eq!(read(format, &again[..width]), read(format, &bytes[..width]));
            }
        }
    }
}
