//! The kernel that a bzImage has in itself, unpacked here rather than by the guest, which has to do
//! it on pages that it does not have yet.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use flate2::bufread::GzDecoder;
use linux_loader::loader::bootparam::setup_header;
use lzma_rust2::XzReader;

use super::linux::setup_size;

/// The unpacked size stands behind the payload, little-endian.
const TRAILER: usize = size_of::<u32>();

/// Unpacks what a bzImage of `size` bytes with this header has in itself: an ELF file, and relocations behind it.
/// `None` if that is nothing that is known here: then the guest unpacks it.
pub(super) fn unpack(file: &mut File, size: u64, header: &setup_header) -> Option<Vec<u8>> {
    let unpacked =
        payload(file, size, header).and_then(|payload| decode(&payload, header.init_size));
    match unpacked {
        Ok(unpacked) => Some(unpacked),
        Err(error) => {
            log::debug!("the kernel is left to unpack itself: {error}");
            None
        }
    }
}

/// "payload_offset" and "payload_length" count from the end of the setup sectors (boot.rst).
fn payload(file: &mut File, size: u64, header: &setup_header) -> io::Result<Vec<u8>> {
    let start = setup_size(header) + u64::from(header.payload_offset);
    let length = u64::from(header.payload_length.min(header.init_size));
    let length = length.min(size.saturating_sub(start));
    file.seek(SeekFrom::Start(start))?;
    let mut payload = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(length).read_to_end(&mut payload)?;
    Ok(payload)
}

/// At most `limit` bytes.
fn decode(payload: &[u8], limit: u32) -> io::Result<Vec<u8>> {
    let Some((packed, trailer)) = payload.split_last_chunk::<TRAILER>() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let size = u32::from_le_bytes(*trailer).min(limit);
    let unpacked = match payload {
        // The size is its own end.
        [0x1f, 0x8b, ..] => read(GzDecoder::new(payload), size)?,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(XzReader::new(packed, false), size)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::bulk::decompress(packed, usize::try_from(size).unwrap_or(0))?
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    match u32::try_from(unpacked.len()) == Ok(size) {
        true => Ok(unpacked),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn read(packed: impl Read, size: u32) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    packed.take(size.into()).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"a kernel, a kernel, a kernel";

    fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
        packed.extend((size as u32).to_le_bytes());
        packed
    }

    fn zstd(size: usize) -> Vec<u8> {
        with_size(zstd::bulk::compress(TEXT, 1).unwrap(), size)
    }

    #[test]
    fn what_linux_is_packed_with_is_unpacked() {
        let mut gzip = flate2::read::GzEncoder::new(TEXT, flate2::Compression::fast());
        let mut packed = Vec::new();
        gzip.read_to_end(&mut packed).unwrap();
        assert_eq!(decode(&packed, 100).unwrap(), TEXT);
        // `xz --check=crc32 --x86 --lzma2`, as Linux does.
        let packed = with_size(include_bytes!("test.xz").to_vec(), TEXT.len());
        assert_eq!(decode(&packed, 100).unwrap(), TEXT);
        assert_eq!(decode(&zstd(TEXT.len()), 100).unwrap(), TEXT);
    }

    #[test]
    fn what_is_not_whole_or_has_no_room_is_not() {
        let packed = zstd(TEXT.len());
        for end in 0..packed.len() {
            assert!(decode(&packed[..end], 100).is_err(), "{end}");
        }
        assert!(decode(&zstd(TEXT.len() - 1), 100).is_err());
        assert!(decode(&zstd(TEXT.len() + 1), 100).is_err());
        assert!(decode(&packed, TEXT.len() as u32 - 1).is_err());
        assert!(decode(b"\x04\x22\x4d\x18, or what lz4 begins with", 100).is_err());
    }

    proptest::proptest! {
        /// Whatever a payload is, it is unpacked to its size or refused.
        #[test]
        fn odd_payloads_do_no_harm(
            kind in 0usize..3,
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            let magic: [&[u8]; 3] = [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
            let payload = [magic[kind], &rest].concat();
            if let Ok(unpacked) = decode(&payload, 1 << 16) {
                assert!(unpacked.len() <= 1 << 16);
            }
        }
    }
}
