//! What is sent.

use lab::driver::{NET_HEADER, NetOptions};

/// A kind of frames.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// Bytes of a frame.
    pub(crate) size: usize,
    /// It is cut into segments by who takes it last.
    pub(crate) segmented: bool,
}

pub(crate) const PLAIN: u64 = NetOptions::MRG_RXBUF;

pub(crate) const LOADS: [Load; 3] = [
    Load { name: "60 bytes", size: 60, segmented: false },
    Load { name: "1514 bytes", size: 1514, segmented: false },
    Load { name: "64 KiB to be cut", size: 65226, segmented: true },
];

impl Load {
    pub(crate) fn bits(&self) -> f64 {
        self.size as f64 * 8.0
    }

    /// Features that are negotiated for it.
    pub(crate) fn features(&self) -> u64 {
        if self.segmented { PLAIN | NetOptions::OFFLOADS } else { PLAIN }
    }

    /// A frame from one station to another, and its header.
    pub(crate) fn frame(&self, to: u8, from: u8) -> ([u8; NET_HEADER], Vec<u8>) {
        let mut header = [0; NET_HEADER];
        let mut frame = if self.segmented {
            let payload = vec![0x5a; self.size - 54];
            let (cut, frame) = lab::net::Header::tcp(&payload, 1448).expect("it fits");
            let ([a, b], [c, d]) = (cut.header_size.to_le_bytes(), cut.segment_size.to_le_bytes());
            header = [cut.flags, cut.gso_type, a, b, c, d, 34, 0, 16, 0, 0, 0];
            frame
        } else {
            let mut frame = vec![0x5a; self.size];
            // An experimental protocol (IEEE 802), which no host answers.
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            frame
        };
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, to]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from]);
        (header, frame)
    }
}
