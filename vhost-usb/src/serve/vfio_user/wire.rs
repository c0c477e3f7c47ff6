//! Messages, as libvfio-user's `docs/vfio-user.rst` (0.0) has them: integers in the host's byte order.

use rustix::io::Errno;

/// Bytes of a header.
pub(super) const HEADER: usize = 16;
/// Bytes that a region is read or written by at most.
pub(super) const TRANSFER: usize = 4096;
/// Bytes of the longest message that is taken.
pub(super) const LONGEST: usize = 8192;
/// Descriptors of a message.
pub(super) const FDS: usize = 8;

/// What is answered to VERSION, as JSON.
const CAPABILITIES: &[u8] =
    b"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":4096,\"max_dma_maps\":509}}\0";

const TYPE: u32 = 0xf;
const COMMAND: u32 = 0;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// Commands of a client.
mod command {
    pub(super) const VERSION: u16 = 1;
    pub(super) const DMA_MAP: u16 = 2;
    pub(super) const DMA_UNMAP: u16 = 3;
    pub(super) const GET_INFO: u16 = 4;
    pub(super) const GET_REGION_INFO: u16 = 5;
    pub(super) const GET_IRQ_INFO: u16 = 7;
    pub(super) const SET_IRQS: u16 = 8;
    pub(super) const REGION_READ: u16 = 9;
    pub(super) const REGION_WRITE: u16 = 10;
    pub(super) const RESET: u16 = 13;
}

/// What a message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    id: u16,
    command: u16,
    flags: u32,
}

impl Header {
    /// A command's, with the bytes that follow. `None`: no answer could be understood.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut fields = Fields(bytes.first_chunk::<HEADER>()?);
        let (id, command) = (fields.u16()?, fields.u16()?);
        let (size, flags) = (fields.size()?, fields.u32()?);
        let valid = (HEADER..=LONGEST).contains(&size) && flags & TYPE == COMMAND;
        valid.then_some((Self { id, command, flags }, size.saturating_sub(HEADER)))
    }

    /// What it is answered by, if it wants to be.
    pub(super) fn reply(self, result: Result<Vec<u8>, Errno>) -> Option<Vec<u8>> {
        if self.flags & NO_REPLY != 0 {
            return None;
        }
        let (flags, error, body) = match result {
            Ok(body) => (REPLY, 0, body),
            Err(errno) => (REPLY | ERROR, errno.raw_os_error().unsigned_abs(), Vec::new()),
        };
        let size = u32::try_from(body.len().saturating_add(HEADER)).ok()?;
        let mut reply = Vec::with_capacity(body.len().saturating_add(HEADER));
        reply.extend([self.id, self.command].map(u16::to_ne_bytes).as_flattened());
        reply.extend([size, flags, error].map(u32::to_ne_bytes).as_flattened());
        reply.extend(body);
        Some(reply)
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Version { major: u16 },
    DmaMap(Map),
    DmaUnmap(Unmap),
    Info,
    RegionInfo { index: u32 },
    IrqInfo { index: u32 },
    SetIrqs(SetIrqs<'a>),
    Read { region: u32, offset: u64, count: usize },
    Write { region: u32, offset: u64, data: &'a [u8] },
    Reset,
}

/// Memory that can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) size: u64,
}

/// Memory that can be reached no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) address: u64,
    pub(super) size: u64,
}

/// How interrupts are signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetIrqs<'a> {
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) start: u32,
    pub(super) count: u32,
    pub(super) data: &'a [u8],
}

impl<'a> Request<'a> {
    /// What follows a header.
    pub(super) fn parse(header: Header, body: &'a [u8]) -> Result<Self, Errno> {
        Self::of(header.command, Fields(body)).unwrap_or(Err(Errno::INVAL))
    }

    /// `None`: there is too little of it.
    fn of(command: u16, mut fields: Fields<'a>) -> Option<Result<Self, Errno>> {
        Some(Ok(match command {
            command::VERSION => Self::Version { major: fields.u16()? },
            command::DMA_MAP => {
                let (_argsz, flags) = (fields.u32()?, fields.u32()?);
                let (offset, address, size) = (fields.u64()?, fields.u64()?, fields.u64()?);
                Self::DmaMap(Map { flags, offset, address, size })
            }
            command::DMA_UNMAP => {
                let (argsz, flags) = (fields.u32()?, fields.u32()?);
                let (address, size) = (fields.u64()?, fields.u64()?);
                Self::DmaUnmap(Unmap { argsz, flags, address, size })
            }
            command::GET_INFO => Self::Info,
            command::GET_REGION_INFO => {
                let (_argsz, _flags) = (fields.u32()?, fields.u32()?);
                Self::RegionInfo { index: fields.u32()? }
            }
            command::GET_IRQ_INFO => {
                let (_argsz, _flags) = (fields.u32()?, fields.u32()?);
                Self::IrqInfo { index: fields.u32()? }
            }
            command::SET_IRQS => {
                let (_argsz, flags, index) = (fields.u32()?, fields.u32()?, fields.u32()?);
                let (start, count) = (fields.u32()?, fields.u32()?);
                Self::SetIrqs(SetIrqs { flags, index, start, count, data: fields.0 })
            }
            command::REGION_READ => {
                let (offset, region, count) = (fields.u64()?, fields.u32()?, fields.size()?);
                Self::Read { region, offset, count: Some(count).filter(|it| *it <= TRANSFER)? }
            }
            command::REGION_WRITE => {
                let (offset, region, count) = (fields.u64()?, fields.u32()?, fields.size()?);
                let data = Some(fields.0).filter(|data| data.len() == count)?;
                Self::Write { region, offset, data }
            }
            command::RESET => Self::Reset,
            _ => return Some(Err(Errno::NOTSUP)),
        }))
    }
}

/// Integers, one behind the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }
}

/// Answers' bodies.
pub(super) mod answer {
    use super::{CAPABILITIES, Unmap};

    fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    /// VERSION: 0.0, and what can be taken.
    pub(in super::super) fn version() -> Vec<u8> {
        [&[0; 4], CAPABILITIES].concat()
    }

    /// DMA_UNMAP: what was asked for.
    pub(in super::super) fn unmap(unmap: Unmap) -> Vec<u8> {
        let mut body = words([unmap.argsz, unmap.flags]);
        body.extend([unmap.address, unmap.size].map(u64::to_ne_bytes).as_flattened());
        body
    }

    /// DEVICE_GET_INFO.
    pub(in super::super) fn info(flags: u32, regions: u32, irqs: u32) -> Vec<u8> {
        words([16, flags, regions, irqs])
    }

    /// DEVICE_GET_REGION_INFO: a region without capabilities, that can't be mapped.
    pub(in super::super) fn region_info(index: u32, flags: u32, size: u64) -> Vec<u8> {
        let mut body = words([32, flags, index, 0]);
        body.extend([size, 0].map(u64::to_ne_bytes).as_flattened());
        body
    }

    /// DEVICE_GET_IRQ_INFO.
    pub(in super::super) fn irq_info(index: u32, flags: u32, count: u32) -> Vec<u8> {
        words([16, flags, index, count])
    }

    /// REGION_READ with its data, REGION_WRITE without.
    pub(in super::super) fn access(region: u32, offset: u64, count: usize, data: &[u8]) -> Vec<u8> {
        let mut body = offset.to_ne_bytes().to_vec();
        body.extend(words([region, u32::try_from(count).unwrap_or(0)]));
        body.extend(data);
        body
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u16, size: u32, flags: u32) -> Vec<u8> {
        let mut bytes = [7, command].map(u16::to_ne_bytes).concat();
        bytes.extend([size, flags, 0].map(u32::to_ne_bytes).concat());
        bytes
    }

    fn request(command: u16, body: &[u8]) -> Result<Request<'_>, Errno> {
        Request::parse(Header { id: 0, command, flags: 0 }, body)
    }

    #[test]
    fn a_header_has_a_size_that_can_be() {
        let parsed = Header::parse(&header(9, 32, 0));
        assert_eq!(parsed, Some((Header { id: 7, command: 9, flags: 0 }, 16)));
        for size in [0, 15, LONGEST as u32 + 1, u32::MAX] {
            assert_eq!(Header::parse(&header(9, size, 0)), None, "{size}");
        }
        assert_eq!(Header::parse(&header(9, 32, REPLY)), None);
        assert_eq!(Header::parse(&header(9, 32, 0)[..15]), None);
    }

    #[test]
    fn answers_have_their_command_and_error() {
        let (header, _) = Header::parse(&header(9, 32, 0)).unwrap();
        let fine = header.reply(Ok(vec![1, 2])).unwrap();
        assert_eq!(
            fine,
            [&[7, 0, 9, 0, 18, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &[1, 2][..]].concat()
        );
        let failed = header.reply(Err(Errno::INVAL)).unwrap();
        assert_eq!(failed, [7, 0, 9, 0, 16, 0, 0, 0, 33, 0, 0, 0, 22, 0, 0, 0]);
        assert_eq!(Header { flags: NO_REPLY, ..header }.reply(Ok(vec![])), None);
    }

    #[test]
    fn data_are_as_long_as_they_say() {
        let access = |count: u32, data: &[u8]| {
            let mut body = 4u64.to_ne_bytes().to_vec();
            body.extend([7, count].map(u32::to_ne_bytes).concat());
            body.extend(data);
            body
        };
        let body = access(2, &[1, 2]);
        let write = Request::Write { region: 7, offset: 4, data: &[1, 2] };
        assert_eq!(request(command::REGION_WRITE, &body), Ok(write));
        assert_eq!(request(command::REGION_WRITE, &access(3, &[1, 2])), Err(Errno::INVAL));
        assert_eq!(request(command::REGION_READ, &access(u32::MAX, &[])), Err(Errno::INVAL));
        let read = Request::Read { region: 7, offset: 4, count: 8 };
        assert_eq!(request(command::REGION_READ, &access(8, &[])), Ok(read));
    }

    #[test]
    fn what_is_not_known_is_not_supported() {
        for unknown in [0, 6, 11, 12, 14, 15, 16, 17, u16::MAX] {
            assert_eq!(request(unknown, &[0; 64]), Err(Errno::NOTSUP), "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(command in 0u16..20, body in any::<Vec<u8>>()) {
            let _ = request(command, &body);
        }
    }
}
