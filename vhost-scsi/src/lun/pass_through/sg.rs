//! Linux's generic SCSI interface, version 3: `SG_IO` (sg.h).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Executed;
use crate::scsi::bytes::Fields;
use crate::scsi::{Cdb, Reply, Status};

const SG_GET_VERSION_NUM: libc::c_ulong = 0x2282;
const SG_SCSI_RESET: libc::c_ulong = 0x2284;
const SG_IO: libc::c_ulong = 0x2285;
const SG_SCSI_RESET_DEVICE: libc::c_int = 1;
/// Fail rather than reset the target, the bus, or the adapter, where others have units too.
const SG_SCSI_RESET_NO_ESCALATE: libc::c_int = 0x100;
const SG_DXFER_NONE: libc::c_int = -1;
const SG_DXFER_TO_DEV: libc::c_int = -2;
const SG_DXFER_FROM_DEV: libc::c_int = -3;
/// Sense bytes that are taken.
const SENSE: u8 = 96;

/// `struct sg_io_hdr`.
#[repr(C)]
struct SgIoHdr {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: libc::c_uchar,
    mx_sb_len: libc::c_uchar,
    iovec_count: libc::c_ushort,
    dxfer_len: libc::c_uint,
    dxferp: *mut libc::c_void,
    cmdp: *const libc::c_uchar,
    sbp: *mut libc::c_uchar,
    timeout: libc::c_uint,
    flags: libc::c_uint,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: libc::c_uchar,
    masked_status: libc::c_uchar,
    msg_status: libc::c_uchar,
    sb_len_wr: libc::c_uchar,
    host_status: libc::c_ushort,
    driver_status: libc::c_ushort,
    resid: libc::c_int,
    duration: libc::c_uint,
    info: libc::c_uint,
}

/// Which way data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not at all.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

/// Whether a command reached its unit, and what became of it on the way (Linux's DID_ codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostStatus {
    /// The unit answered.
    Ok,
    /// There is no unit any more.
    NoConnect,
    /// The way to it was busy.
    Busy,
    /// It did not answer in time.
    TimedOut,
    /// It was aborted.
    Aborted,
    /// It was reset meanwhile.
    Reset,
    /// The transport failed.
    Transport,
    /// The unit failed.
    Target,
    /// A reservation is held by another.
    Nexus,
    /// Anything else.
    Error,
}

impl HostStatus {
    fn from_code(code: libc::c_ushort) -> Self {
        match code {
            0x00 => Self::Ok,
            0x01 | 0x04 => Self::NoConnect,   // also DID_BAD_TARGET
            0x02 | 0x0c | 0x0d => Self::Busy, // DID_BUS_BUSY, DID_IMM_RETRY, DID_REQUEUE
            0x03 => Self::TimedOut,
            0x05 => Self::Aborted,
            0x08 => Self::Reset,
            0x0e | 0x0f | 0x14 => Self::Transport, // disrupted, fail-fast, marginal
            0x10 => Self::Target,
            0x11 => Self::Nexus,
            _ => Self::Error,
        }
    }

    /// Of a refusal of the kernel itself.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => Self::NoConnect,
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM | libc::EDOM) => Self::Busy,
            Some(libc::EINTR) => Self::Aborted, // by a signal of somebody else's
            _ => Self::Error,
        }
    }
}

/// The generic device of a disk, CD or tape; anything else is taken as it is.
pub(super) fn generic_device(path: &Path) -> PathBuf {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(name) = real.file_name() else { return real };
    let folders = ["block", "scsi_tape", "scsi_changer"].map(|class| {
        PathBuf::from("/sys/class").join(class).join(name).join("device/scsi_generic")
    });
    let found = folders.iter().find_map(|folder| std::fs::read_dir(folder).ok()?.next()?.ok());
    found.map_or(real, |entry| Path::new("/dev").join(entry.file_name()))
}

/// The interface's version; an error for what is no SCSI device.
pub(super) fn version(file: &File) -> io::Result<i32> {
    let mut version: libc::c_int = 0;
    // SAFETY: the request writes one int.
    match unsafe { libc::ioctl(file.as_raw_fd(), SG_GET_VERSION_NUM, &raw mut version) } {
        0 => Ok(version),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Logical unit reset.
pub(super) fn reset_device(file: &File) -> io::Result<()> {
    let mut what = SG_SCSI_RESET_DEVICE | SG_SCSI_RESET_NO_ESCALATE;
    // SAFETY: the request reads one int.
    match unsafe { libc::ioctl(file.as_raw_fd(), SG_SCSI_RESET, &raw mut what) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of a CDB, by its operation code (SPC-5 4.2.5.1). Vendor-specific groups get what is there.
fn cdb_length(cdb: &Cdb) -> u8 {
    match cdb.u8(0) {
        0x7f => cdb.u8(7).saturating_add(8).min(32),
        0x7e => 16,
        code => match code >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            _ => vendor_length(cdb),
        },
    }
}

/// Up to the last byte that is not zero, in one of the usual lengths.
fn vendor_length(cdb: &Cdb) -> u8 {
    let used = cdb.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    [6, 10, 12, 16].into_iter().find(|&length| used <= usize::from(length)).unwrap_or(32)
}

/// Executes a command; the kernel does the only copy where it takes as many segments.
///
/// # Safety
/// The memory of `data` is mapped for as long as the call lasts.
pub(super) unsafe fn execute(
    file: &File,
    cdb: &Cdb,
    direction: Direction,
    data: &[libc::iovec],
    segments: usize,
    timeout: Duration,
) -> io::Result<Executed> {
    let total: usize = data.iter().map(|iovec| iovec.iov_len).sum();
    if data.len() <= segments {
        // SAFETY: as our caller promised.
        return unsafe { send(file, cdb, direction, data, total, timeout) };
    }
    // More pieces than the host's adapter takes: through one of our own.
    let mut bounce = vec![0; total];
    if direction == Direction::Out {
        // SAFETY: as our caller promised.
        unsafe { gather(data, &mut bounce) };
    }
    let iovec = libc::iovec { iov_base: bounce.as_mut_ptr().cast(), iov_len: total };
    // SAFETY: `bounce` outlives the call.
    let executed = unsafe { send(file, cdb, direction, &[iovec], total, timeout) }?;
    if direction == Direction::In {
        // SAFETY: as our caller promised.
        unsafe { scatter(&bounce, data) };
    }
    Ok(executed)
}

/// # Safety
/// The memory of `from` is mapped.
unsafe fn gather(from: &[libc::iovec], to: &mut [u8]) {
    let mut rest = to;
    for iovec in from {
        let (part, others) = std::mem::take(&mut rest).split_at_mut(iovec.iov_len);
        // SAFETY: as our caller promised; `part` is as long.
        unsafe { std::ptr::copy(iovec.iov_base.cast(), part.as_mut_ptr(), part.len()) };
        rest = others;
    }
}

/// # Safety
/// The memory of `to` is mapped.
unsafe fn scatter(from: &[u8], to: &[libc::iovec]) {
    let mut rest = from;
    for iovec in to {
        let (part, others) = rest.split_at(iovec.iov_len);
        // SAFETY: as our caller promised; `part` is as long.
        unsafe { std::ptr::copy(part.as_ptr(), iovec.iov_base.cast(), part.len()) };
        rest = others;
    }
}

/// # Safety
/// The memory of `data` is mapped for as long as the call lasts.
unsafe fn send(
    file: &File,
    cdb: &Cdb,
    direction: Direction,
    data: &[libc::iovec],
    total: usize,
    timeout: Duration,
) -> io::Result<Executed> {
    let mut sense = [0u8; SENSE as usize];
    let direction = match direction {
        _ if total == 0 => SG_DXFER_NONE,
        Direction::None => SG_DXFER_NONE,
        Direction::In => SG_DXFER_FROM_DEV,
        Direction::Out => SG_DXFER_TO_DEV,
    };
    let (iovec_count, dxferp) = match data {
        [] => (0, std::ptr::null_mut()),
        [one] => (0, one.iov_base),
        many => (many.len(), many.as_ptr().cast_mut().cast()),
    };
    let mut header = SgIoHdr {
        interface_id: libc::c_int::from(b'S'),
        dxfer_direction: direction,
        cmd_len: cdb_length(cdb),
        mx_sb_len: SENSE,
        iovec_count: u16::try_from(iovec_count).map_err(io::Error::other)?,
        dxfer_len: u32::try_from(total).map_err(io::Error::other)?,
        dxferp,
        cmdp: cdb.as_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: all pointers of the header lead to memory that outlives the call: `cdb`, `sense`, the
    // list `data`, and what that points to, as our caller promised.
    if unsafe { libc::ioctl(file.as_raw_fd(), SG_IO, &raw mut header) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let sense = sense.get(..usize::from(header.sb_len_wr)).unwrap_or_default().to_vec();
    let left = u64::try_from(header.resid).unwrap_or(0);
    let host = HostStatus::from_code(header.host_status);
    // Some drivers leave the status empty and tell by the sense data alone.
    let status = match header.status {
        0 if !sense.is_empty() && host == HostStatus::Ok => sense_status(&sense),
        status => status,
    };
    let moved = (total as u64).saturating_sub(left);
    Ok(Executed { reply: Reply { status, sense, data: Vec::new(), moved }, host })
}

/// CHECK CONDITION, unless the sense data only informs (NO SENSE, RECOVERED ERROR of a GOOD command).
fn sense_status(sense: &[u8]) -> u8 {
    let key = if sense.u8(0) & 0x7e == 0x72 { sense.u8(1) } else { sense.u8(2) } & 0xf;
    if key <= 1 { Status::Good as u8 } else { Status::CheckCondition as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(bytes: &[u8]) -> Cdb {
        let mut cdb = [0; 32];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    #[test]
    fn lengths_of_cdbs() {
        assert_eq!(cdb_length(&cdb(&[0x12])), 6);
        assert_eq!(cdb_length(&cdb(&[0x28])), 10);
        assert_eq!(cdb_length(&cdb(&[0xa8])), 12);
        assert_eq!(cdb_length(&cdb(&[0x88])), 16);
        assert_eq!(cdb_length(&cdb(&[0x7f, 0, 0, 0, 0, 0, 0, 24])), 32);
        assert_eq!(cdb_length(&cdb(&[0x7f, 0, 0, 0, 0, 0, 0, 255])), 32);
        assert_eq!(cdb_length(&cdb(&[0xc1, 0, 0, 0, 0, 0, 1])), 10);
        assert_eq!(cdb_length(&[0xff; 32]), 32);
    }

    #[test]
    fn a_file_is_no_scsi_device() {
        let null = File::open("/dev/null").unwrap();
        assert!(version(&null).is_err());
    }

    #[test]
    fn the_header_is_as_the_kernel_s() {
        assert_eq!(size_of::<SgIoHdr>(), 88);
    }

    #[test]
    fn pieces_are_gathered_and_scattered() {
        let (mut a, mut b) = ([1u8; 3], [2u8; 2]);
        let list = [
            libc::iovec { iov_base: a.as_mut_ptr().cast(), iov_len: 3 },
            libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 2 },
        ];
        let mut flat = [0; 5];
        // SAFETY: the list leads to `a` and `b`.
        unsafe { gather(&list, &mut flat) };
        assert_eq!(flat, [1, 1, 1, 2, 2]);
        // SAFETY: as above.
        unsafe { scatter(&[5, 6, 7, 8, 9], &list) };
        assert_eq!((a, b), ([5, 6, 7], [8, 9]));
    }
}
