//! What KVM counts of a machine and of its processors (KVM_GET_STATS_FD), since Linux 5.14.
//!
//! Such a file has a header, descriptors and values (Documentation/virt/kvm/api.rst, 4.133). It is
//! KVM's own; all the same nothing in it is believed that does not fit.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_BASE_MASK, KVM_STATS_BASE_POW2, KVM_STATS_BASE_POW10, KVM_STATS_TYPE_CUMULATIVE,
    KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_LINEAR_HIST, KVM_STATS_TYPE_LOG_HIST,
    KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK, KVM_STATS_UNIT_BOOLEAN, KVM_STATS_UNIT_BYTES,
    KVM_STATS_UNIT_CYCLES, KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_NONE, KVM_STATS_UNIT_SECONDS, KVMIO,
};
use vmm_sys_util::ioctl::ioctl;

/// KVM's own (Documentation/virt/kvm/api.rst, 4.133).
mod request {
    use super::KVMIO;
    vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
}

/// Bytes of the header, and of a descriptor without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More than any KVM has: descriptors, bytes of a name, bytes of all values.
const DESCRIPTORS: usize = 4096;
const NAME: usize = 256;
const VALUES: u64 = 1 << 20;

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// KVM is too old.
    #[error("this KVM tells no statistics: Linux 5.14 or newer does")]
    Lacks,
    /// The host refuses.
    #[error("KVM's statistics cannot be read: {0}")]
    Host(#[from] io::Error),
    /// They make no sense.
    #[error("KVM's statistics cannot be read: {0} is not possible")]
    Malformed(&'static str),
}

/// How a statistic's values come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Cumulative,
    /// It is as of now.
    Instant,
    /// The most that it ever was.
    Peak,
    /// How often values were in ranges of the same size.
    LinearHistogram,
    /// How often values were in ranges of which each is twice as large as the one before.
    LogHistogram,
}

/// What it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Events.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Clock cycles.
    Cycles,
    /// Whether something is so.
    Boolean,
}

/// A statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// KVM's name of it.
    pub name: String,
    /// How its values come about.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// The values are to be multiplied by this number (2 or 10) to the power of `exponent`.
    pub base: u8,
    /// See `base`.
    pub exponent: i16,
    /// The size of a linear histogram's ranges.
    pub bucket_size: u32,
    /// One, or those of a histogram.
    pub values: Vec<u64>,
}

/// The statistics of a machine, or of a processor.
#[derive(Debug)]
pub struct Statistics {
    file: File,
}

impl Statistics {
    /// Those of what a descriptor of KVM stands for.
    ///
    /// # Errors
    /// See [`StatsError`].
    pub fn of(fd: &impl AsRawFd) -> Result<Self, StatsError> {
        // SAFETY: it has no argument.
        let file = unsafe { ioctl(fd, request::KVM_GET_STATS_FD()) };
        if file < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ENOTTY | libc::EINVAL) => StatsError::Lacks,
                _ => error.into(),
            });
        }
        // SAFETY: a fresh descriptor, which nobody else owns.
        Ok(Self { file: unsafe { File::from_raw_fd(file) } })
    }

    /// All of them, but what is of a kind or unit that is not known here.
    ///
    /// # Errors
    /// See [`StatsError`].
    pub fn read(&self) -> Result<Vec<Statistic>, StatsError> {
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, 0)?;
        let name_size = usize_at(&header, 4).filter(|size| (1..=NAME).contains(size));
        let name_size = name_size.ok_or(StatsError::Malformed("the size of a name"))?;
        let count = usize_at(&header, 8).filter(|count| *count <= DESCRIPTORS);
        let count = count.ok_or(StatsError::Malformed("the number of statistics"))?;
        let size = DESCRIPTOR.saturating_add(name_size);
        let mut bytes = vec![0; count.saturating_mul(size)];
        self.file.read_exact_at(&mut bytes, u32_at(&header, 16).unwrap_or(0).into())?;
        let descriptors: Vec<Descriptor> =
            bytes.chunks_exact(size).filter_map(Descriptor::read).collect();

        let end = descriptors.iter().map(Descriptor::end).max().unwrap_or(0);
        let end = usize::try_from(end).ok().filter(|_| end <= VALUES);
        let mut values = vec![0; end.ok_or(StatsError::Malformed("the place of a value"))?];
        self.file.read_exact_at(&mut values, u32_at(&header, 20).unwrap_or(0).into())?;
        Ok(descriptors.into_iter().map(|descriptor| descriptor.with(&values)).collect())
    }
}

/// A statistic without its values, and where those are.
struct Descriptor {
    statistic: Statistic,
    offset: u64,
    count: u16,
}

impl Descriptor {
    /// `None`: it says something that is not known here.
    fn read(bytes: &[u8]) -> Option<Self> {
        let flags = u32_at(bytes, 0)?;
        let kind = match flags & KVM_STATS_TYPE_MASK {
            KVM_STATS_TYPE_CUMULATIVE => Kind::Cumulative,
            KVM_STATS_TYPE_INSTANT => Kind::Instant,
            KVM_STATS_TYPE_PEAK => Kind::Peak,
            KVM_STATS_TYPE_LINEAR_HIST => Kind::LinearHistogram,
            KVM_STATS_TYPE_LOG_HIST => Kind::LogHistogram,
            _ => return None,
        };
        let unit = match flags & KVM_STATS_UNIT_MASK {
            KVM_STATS_UNIT_NONE => Unit::None,
            KVM_STATS_UNIT_BYTES => Unit::Bytes,
            KVM_STATS_UNIT_SECONDS => Unit::Seconds,
            KVM_STATS_UNIT_CYCLES => Unit::Cycles,
            KVM_STATS_UNIT_BOOLEAN => Unit::Boolean,
            _ => return None,
        };
        let base = match flags & KVM_STATS_BASE_MASK {
            KVM_STATS_BASE_POW10 => 10,
            KVM_STATS_BASE_POW2 => 2,
            _ => return None,
        };
        let [e0, e1, s0, s1] = u32_at(bytes, 4)?.to_le_bytes();
        let name = bytes.get(DESCRIPTOR..)?.split(|byte| *byte == 0).next()?;
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?.to_owned();
        let statistic = Statistic {
            name,
            kind,
            unit,
            base,
            exponent: i16::from_le_bytes([e0, e1]),
            bucket_size: u32_at(bytes, 12)?,
            values: Vec::new(),
        };
        let count = u16::from_le_bytes([s0, s1]);
        Some(Self { statistic, offset: u32_at(bytes, 8)?.into(), count })
    }

    /// Where its values end.
    fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.count).saturating_mul(8))
    }

    fn with(self, values: &[u8]) -> Statistic {
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let own = values.get(start..).unwrap_or_default().as_chunks::<8>().0;
        let own = own.iter().take(self.count.into()).map(|value| u64::from_le_bytes(*value));
        Statistic { values: own.collect(), ..self.statistic }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn usize_at(bytes: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, offset)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const NAME_SIZE: usize = 8;

    fn descriptor(name: &str, flags: u32, exponent: i16, count: u16, offset: u32) -> Vec<u8> {
        let mut bytes = [flags.to_le_bytes(), [0; 4], offset.to_le_bytes(), 7u32.to_le_bytes()];
        bytes[1][..2].copy_from_slice(&exponent.to_le_bytes());
        bytes[1][2..].copy_from_slice(&count.to_le_bytes());
        let mut text = name.as_bytes().to_vec();
        text.resize(NAME_SIZE, 0);
        [bytes.concat(), text].concat()
    }

    fn file(descriptors: &[Vec<u8>], values: &[u64]) -> Vec<u8> {
        let words = [0, NAME_SIZE as u32, descriptors.len() as u32, 24, 32, 0];
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(b"kvm-1\0\0\0");
        bytes.extend(descriptors.concat());
        let data = bytes.len() as u32;
        bytes[20..24].copy_from_slice(&data.to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Statistic>, StatsError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Statistics { file }.read()
    }

    #[test]
    fn statistics_are_read_with_what_they_are() {
        let bytes = file(
            &[
                descriptor("exits", 0, 0, 1, 0),
                descriptor("new", 15, 0, 1, 0),
                descriptor("wait_ns", 0x24, -9, 3, 8),
                descriptor("guest", 0x41, 0, 1, 32),
            ],
            &[5, 1, 2, 3, 1],
        );
        let exits = Statistic {
            name: "exits".into(),
            kind: Kind::Cumulative,
            unit: Unit::None,
            base: 10,
            exponent: 0,
            bucket_size: 7,
            values: vec![5],
        };
        let wait = Statistic {
            name: "wait_ns".into(),
            kind: Kind::LogHistogram,
            unit: Unit::Seconds,
            exponent: -9,
            values: vec![1, 2, 3],
            ..exits.clone()
        };
        let guest = Statistic {
            name: "guest".into(),
            kind: Kind::Instant,
            unit: Unit::Boolean,
            values: vec![1],
            ..exits.clone()
        };
        assert_eq!(read(&bytes).unwrap(), [exits, wait, guest]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = file(&[descriptor("exits", 0, 0, 1, 0)], &[5]);
        let with = |offset: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            read(&bytes).err().map(|error| error.to_string())
        };
        assert_eq!(with(0, 0), None);
        for (offset, value, why) in [
            (4, 0, "the size of a name is not possible"),
            (4, u32::MAX, "the size of a name is not possible"),
            (8, u32::MAX, "the number of statistics is not possible"),
            (16, u32::MAX, "fill whole buffer"),
            (20, u32::MAX, "fill whole buffer"),
            (32 + 8, u32::MAX, "the place of a value is not possible"),
            (32 + 8, 8, "fill whole buffer"),
        ] {
            let error = with(offset, value).unwrap();
            assert!(error.contains(why), "{offset} {value}: {error}");
        }
        assert!(read(&good[..20]).is_err());
    }

    proptest! {
        #[test]
        fn no_file_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
            if small && bytes.len() >= 24 {
                for word in bytes[..24].chunks_exact_mut(4) {
                    word[1..].fill(0);
                }
            }
            let _ = read(&bytes);
        }
    }
}
