//! The Internet checksum (RFC 1071).

use super::offload::Checksum;

/// A sum under way, of whole words but for the last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// With these bytes, of which there is an even number unless they are the last.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let Self(mut sum) = self;
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            // 2^32 words fit; no frame has as many.
            sum = sum.wrapping_add(u64::from(u32::from_be_bytes(*word)));
        }
        let (pairs, rest) = rest.as_chunks::<2>();
        for pair in pairs {
            sum = sum.wrapping_add(u64::from(u16::from_be_bytes(*pair)));
        }
        if let [last] = rest {
            sum = sum.wrapping_add(u64::from(*last) << 8);
        }
        Self(sum)
    }

    /// With this word.
    #[must_use]
    pub fn with_word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(word.into()))
    }

    /// The checksum: the complement of the sum in 16 bits.
    #[must_use]
    pub fn finish(self) -> u16 {
        let Self(mut sum) = self;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff).wrapping_add(sum >> 16);
        }
        // Below 2^16 by now.
        !u16::try_from(sum).unwrap_or(0)
    }
}

/// A checksum as TCP and UDP carry it: UDP's 0 is none.
#[must_use]
pub fn carried(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Does what was left to do: the sum of the pseudo header is where the checksum belongs.
pub fn complete(frame: &mut [u8], checksum: Checksum) {
    let sum = Sum::default().with(frame.get(checksum.start.into()..).unwrap_or_default());
    let place = checksum.place();
    if let Some(field) = frame.get_mut(place..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *field = carried(sum.finish()).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().with(&bytes).finish(), !0xddf2);
        assert_eq!(Sum::default().with(&bytes[..4]).with(&bytes[4..]).finish(), !0xddf2);
        assert_eq!(Sum::default().with(&[0xff]).finish(), !0xff00);
    }

    #[test]
    fn a_checksum_is_completed_over_what_is_behind_its_start() {
        let mut frame = vec![0xaa; 4];
        frame.extend([0, 1, 0xf2, 3, 0, 0, 0xf4, 0xf5, 0xf6, 0xf7]);
        complete(&mut frame, Checksum { start: 4, offset: 4 });
        assert_eq!(frame[8..10], (!0xddf2u16).to_be_bytes());
        complete(&mut frame, Checksum { start: 13, offset: 4 });
    }
}
