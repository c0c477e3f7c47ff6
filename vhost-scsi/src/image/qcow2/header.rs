//! A qcow2 image's header (QEMU, docs/interop/qcow2.rst), checked before anything acts on it: the
//! image may come from anywhere, and imago takes some of it at its word.

use std::io;
use std::ops::Range;

use imago::StorageExt;

use super::storage::HostFile;

/// Why an image can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("it does not begin like a qcow2 image; say format=raw if it is a raw one")]
    NotQcow2,
    #[error("it is a qcow2 image of version {0}; 2 and 3 are supported")]
    Version(u32),
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is encrypted, which is not supported")]
    Encrypted,
    #[error("it was not closed properly: run qemu-img check -r all on it")]
    Dirty,
    #[error("it is marked as corrupt: run qemu-img check -r all on it")]
    Corrupt,
    #[error("it is compressed otherwise than by zlib, which is not supported")]
    Compression,
    #[error("it has subclusters (extended_l2=on), which are not supported")]
    Subclusters,
    #[error("it needs feature {0}, which is not known")]
    Feature(u32),
    #[error(
        "its header does not tell the format of its backing file {0}, which is not guessed: run \
         qemu-img rebase -u -b {0} -F FORMAT on it"
    )]
    NoBackingFormat(String),
    #[error("its backing file {0} has the format {1}; raw and qcow2 are supported")]
    BackingFormat(String, String),
    #[error("its header does not name its external data file")]
    NoDataFile,
    #[error(
        "its external data file is to be a raw image at any time (data_file_raw=on), which is \
         supported for reading only"
    )]
    RawDataFile,
}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// How a backing file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackingFormat {
    Raw,
    Qcow2,
}

/// The header, as far as it matters outside imago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) backing: Option<(String, BackingFormat)>,
    pub(super) data_file: Option<String>,
    raw_data_file: bool,
    pub(super) tables: Tables,
}

/// Where an image keeps what clusters it uses, all in bytes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    /// Logarithm to base 2 of the size in bytes.
    pub(super) cluster_bits: u32,
    /// Logarithm to base 2 of the bits of a reference count.
    pub(super) refcount_order: u32,
    pub(super) l1: Range<u64>,
    pub(super) refcounts: Range<u64>,
}

impl Tables {
    /// What of the header tells where they are.
    pub(super) const HEADER: Range<u64> = 0..LENGTH_3 as u64;

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Logarithm to base 2 of the reference counts in a refcount block, which fills a cluster.
    pub(super) fn block_bits(&self) -> u32 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.refcount_order)
    }
}

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");

/// Lengths of the headers of version 2 and 3.
const LENGTH_2: usize = 72;
const LENGTH_3: usize = 104;

/// Incompatible features.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;

/// An auto-clear feature.
const RAW_EXTERNAL_DATA: u64 = 1 << 1;

/// Extensions of the header.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const FEATURE_NAME: usize = 48;

/// QEMU's limits of the tables that it keeps in memory, in bytes.
const L1_MOST: u64 = 32 << 20;
const REFCOUNT_TABLE_MOST: u64 = 8 << 20;

impl Header {
    /// Reads and checks the header of an image.
    ///
    /// # Errors
    /// What the host said, or a [`HeaderError`].
    pub(super) fn read(file: &HostFile, writable: bool) -> io::Result<Self> {
        use imago::Storage;
        let file_size = file.size()?;
        let mut start = [0; LENGTH_3];
        file.read(&mut start[..], 0)?;
        let cluster_bits = Fields(&start).cluster_bits()?;
        let length = file_size.min(1 << cluster_bits);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read(&mut bytes, 0)?;
        let header = Self::parse(&bytes, file_size)?;
        if header.raw_data_file && writable {
            return Err(HeaderError::RawDataFile.into());
        }
        Ok(header)
    }

    /// The header at the beginning of the first cluster, of a file of `file_size` bytes.
    pub(super) fn parse(cluster: &[u8], file_size: u64) -> Result<Self, HeaderError> {
        let fields = Fields(cluster);
        let cluster_bits = fields.cluster_bits()?;
        let version = fields.u32(4)?;
        let (mut incompatible, mut autoclear, mut refcount_order) = (0, 0, 4);
        let mut length = LENGTH_2;
        if version == 3 {
            incompatible = fields.u64(72)?;
            autoclear = fields.u64(88)?;
            refcount_order = fields.u32(96)?;
            length = fields.u32(100)? as usize;
            if length < LENGTH_3 || !length.is_multiple_of(8) {
                return Err(HeaderError::Damaged("its length"));
            }
        }
        Self::check_features(incompatible)?;
        if fields.u32(32)? != 0 {
            return Err(HeaderError::Encrypted);
        }
        if refcount_order > 6 {
            return Err(HeaderError::Damaged("the width of reference counts"));
        }
        let (l1, refcounts) = fields.tables(cluster_bits, file_size)?;
        let tables = Tables { cluster_bits, refcount_order, l1, refcounts };
        let backing_name = fields.backing_name()?;
        let extensions = fields.extensions(length)?;
        let raw_data_file = autoclear & RAW_EXTERNAL_DATA != 0;
        if raw_data_file && incompatible & EXTERNAL_DATA == 0 {
            return Err(HeaderError::Damaged("a raw data file without a data file"));
        }
        let data_file = match incompatible & EXTERNAL_DATA {
            0 => None,
            _ => Some(extensions.data_file.ok_or(HeaderError::NoDataFile)?),
        };
        let backing = match (backing_name, extensions.backing_format.as_deref()) {
            (None, _) => None,
            (Some(name), None) => return Err(HeaderError::NoBackingFormat(name)),
            (Some(name), Some("qcow2")) => Some((name, BackingFormat::Qcow2)),
            (Some(name), Some("raw" | "file" | "host_device")) => Some((name, BackingFormat::Raw)),
            (Some(name), Some(format)) => {
                return Err(HeaderError::BackingFormat(name, format.to_owned()));
            }
        };
        let size = fields.u64(24)?;
        Ok(Self { version, size, backing, data_file, raw_data_file, tables })
    }

    fn check_features(incompatible: u64) -> Result<(), HeaderError> {
        let known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | SUBCLUSTERS;
        let has = |feature| incompatible & feature != 0;
        match incompatible & !known {
            0 if has(CORRUPT) => Err(HeaderError::Corrupt),
            0 if has(DIRTY) => Err(HeaderError::Dirty),
            0 if has(COMPRESSION) => Err(HeaderError::Compression),
            0 if has(SUBCLUSTERS) => Err(HeaderError::Subclusters),
            0 => Ok(()),
            unknown => Err(HeaderError::Feature(unknown.trailing_zeros())),
        }
    }

    /// Whether another header, read later, describes an image in the same files.
    pub(super) fn is_same_image(&self, other: &Self) -> bool {
        let Self { version, backing, data_file, raw_data_file, size: _, tables } = other;
        (self.version, self.tables.cluster_bits) == (*version, tables.cluster_bits)
            && (&self.backing, &self.data_file) == (backing, data_file)
            && self.raw_data_file == *raw_data_file
    }
}

/// Extensions that matter.
#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
}

/// Access to fields that may not be there.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&self, offset: usize, length: usize) -> Result<&'a [u8], HeaderError> {
        let end = offset.checked_add(length);
        end.and_then(|end| self.0.get(offset..end)).ok_or(HeaderError::Damaged("it is cut off"))
    }

    fn u32(&self, offset: usize) -> Result<u32, HeaderError> {
        let bytes = self.bytes(offset, 4)?.try_into();
        bytes.map(u32::from_be_bytes).map_err(|_| HeaderError::Damaged("it is cut off"))
    }

    fn u64(&self, offset: usize) -> Result<u64, HeaderError> {
        let bytes = self.bytes(offset, 8)?.try_into();
        bytes.map(u64::from_be_bytes).map_err(|_| HeaderError::Damaged("it is cut off"))
    }

    fn text(&self, offset: usize, length: usize) -> Result<String, HeaderError> {
        let text = String::from_utf8(self.bytes(offset, length)?.to_vec()).ok();
        let text = text.filter(|text| !text.is_empty() && !text.contains('\0'));
        text.ok_or(HeaderError::Damaged("a name that is no text"))
    }

    /// Of a header of a known version.
    fn cluster_bits(&self) -> Result<u32, HeaderError> {
        match (self.u32(0), self.u32(4)) {
            (Ok(MAGIC), Ok(2 | 3)) => {}
            (Ok(MAGIC), Ok(version)) => return Err(HeaderError::Version(version)),
            _ => return Err(HeaderError::NotQcow2),
        }
        let bits = self.u32(20)?;
        if !(9..=21).contains(&bits) {
            return Err(HeaderError::Damaged("the size of clusters"));
        }
        Ok(bits)
    }

    /// L1 table and refcount table lie within the file, behind the header, and L1 covers the disk.
    fn tables(
        &self,
        cluster_bits: u32,
        file_size: u64,
    ) -> Result<(Range<u64>, Range<u64>), HeaderError> {
        let within = |offset: u64, bytes: u64| {
            let aligned = offset.trailing_zeros() >= cluster_bits && offset != 0;
            let end = offset.checked_add(bytes).filter(|end| aligned && *end <= file_size);
            end.map(|end| offset..end)
        };
        let l1_bytes = u64::from(self.u32(36)?) * 8;
        let l1 = match l1_bytes {
            0 => Some(0..0),
            1..=L1_MOST => within(self.u64(40)?, l1_bytes),
            _ => None,
        };
        let l1 = l1.ok_or(HeaderError::Damaged("where the L1 table is"))?;
        let refcount_bytes = u64::from(self.u32(56)?) << cluster_bits;
        let refcounts = match refcount_bytes {
            1..=REFCOUNT_TABLE_MOST => within(self.u64(48)?, refcount_bytes),
            _ => None,
        };
        let refcounts = refcounts.ok_or(HeaderError::Damaged("where the refcount table is"))?;
        // An L2 table fills a cluster with entries of 8 bytes.
        let l2_entries = u128::from(l1_bytes / 8) << cluster_bits.saturating_sub(3);
        let covered = l2_entries << cluster_bits;
        let size = self.u64(24)?;
        if u128::from(size) > covered || size > 1 << 62 {
            return Err(HeaderError::Damaged("the size of the disk"));
        }
        Ok((l1, refcounts))
    }

    fn backing_name(&self) -> Result<Option<String>, HeaderError> {
        let (offset, length) = (self.u64(8)?, self.u32(16)?);
        if offset == 0 || length == 0 {
            return Ok(None);
        }
        if length > 1023 {
            return Err(HeaderError::Damaged("the length of the backing file's name"));
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.text(offset, length as usize).map(Some)
    }

    fn extensions(&self, mut offset: usize) -> Result<Extensions, HeaderError> {
        let mut found = Extensions::default();
        loop {
            let kind = self.u32(offset)?;
            let length = self.u32(offset.saturating_add(4))? as usize;
            let data = offset.saturating_add(8);
            self.bytes(data, length)?;
            match kind {
                END => return Ok(found),
                BACKING_FORMAT => found.backing_format = Some(self.text(data, length)?),
                DATA_FILE_NAME => found.data_file = Some(self.text(data, length)?),
                FEATURE_NAMES if !length.is_multiple_of(FEATURE_NAME) => {
                    return Err(HeaderError::Damaged("the names of features"));
                }
                _ => {}
            }
            offset = data.saturating_add(length.next_multiple_of(8));
        }
    }
}
