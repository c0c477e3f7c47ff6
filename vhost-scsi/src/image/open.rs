//! Opens an image as the command line or the control interface names it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Image;
use super::qcow2::Qcow2;
use super::raw::{CacheMode, Raw};

/// How an image is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The medium byte by byte.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl Format {
    /// The format of an image that the user did not tell: by the file's name alone, never by its
    /// content, which the guest can write.
    #[must_use]
    pub fn by_name(path: &Path) -> Self {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("qcow2") => Self::Qcow2,
            _ => Self::Raw,
        }
    }
}

/// How to open an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Where it is.
    pub path: PathBuf,
    /// Its format; by its name where there is none.
    pub format: Option<Format>,
    /// It is not to be changed.
    pub read_only: bool,
    /// When written data is durable.
    pub cache: CacheMode,
    /// The guest can give space back to the host.
    pub discard: bool,
}

impl ImageOptions {
    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format.unwrap_or_else(|| Format::by_name(&self.path))
    }
}

/// Why an image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host refuses to open it.
    #[error("{path}: cannot be opened{for_what}: {error}")]
    Open {
        /// Where it is.
        path: PathBuf,
        /// For writing, perhaps.
        for_what: &'static str,
        /// What the host said.
        error: io::Error,
    },
    /// Opened, but no medium.
    #[error("{path}: cannot be used: {error}")]
    Use {
        /// Where it is.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
}

/// Opens an image, and the files that it stands on; nothing is opened later. Its lock is not taken
/// yet.
///
/// # Errors
/// See [`OpenError`].
pub fn open(options: &ImageOptions) -> Result<Arc<dyn Image>, OpenError> {
    use_file(options, open_file(options)?)
}

/// Takes an image that somebody else has opened; its lock is not taken yet.
///
/// # Errors
/// See [`OpenError`].
pub fn take(options: &ImageOptions, file: File) -> Result<Arc<dyn Image>, OpenError> {
    let failed = |error| OpenError::Use { path: options.path.clone(), error };
    let flags = fcntl_getfl(&file).map_err(|error| failed(error.into()))?;
    let access = flags & OFlags::RWMODE;
    let writable = access == OFlags::RDWR;
    let readable = writable || access == OFlags::RDONLY;
    if flags.contains(OFlags::PATH) || !readable || !(writable || options.read_only) {
        let what = if options.read_only { "reading" } else { "reading and writing" };
        return Err(failed(io::Error::other(format!("it was not opened for {what}"))));
    }
    if flags.contains(OFlags::APPEND) {
        // Linux appends then, wherever it is told to write.
        return Err(failed(io::Error::other("it was opened for appending")));
    }
    let mut wanted = flags;
    wanted.set(OFlags::DIRECT, options.cache == CacheMode::None);
    if wanted != flags {
        fcntl_setfl(&file, wanted).map_err(|error| failed(error.into()))?;
    }
    use_file(options, file)
}

fn use_file(options: &ImageOptions, file: File) -> Result<Arc<dyn Image>, OpenError> {
    let ImageOptions { path, format: _, read_only, cache, discard } = options;
    // The guest's reads need no access times, which cost time. Only the file's owner may say so.
    let _ = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::NOATIME));
    let image: io::Result<Arc<dyn Image>> = match options.format() {
        Format::Raw => {
            Raw::new(file, *read_only, *cache, *discard).map(|raw| Arc::new(raw) as Arc<dyn Image>)
        }
        Format::Qcow2 => Qcow2::new(file, path, *read_only, *cache, *discard)
            .map(|qcow2| Arc::new(qcow2) as Arc<dyn Image>),
    };
    image.map_err(|error| OpenError::Use { path: path.clone(), error })
}

/// Opens an image's file, for another process perhaps.
///
/// # Errors
/// The host refuses.
pub fn open_file(options: &ImageOptions) -> Result<File, OpenError> {
    let direct = if options.cache == CacheMode::None { libc::O_DIRECT } else { 0 };
    // To open a FIFO would wait for somebody to write to it.
    if std::fs::metadata(&options.path).is_ok_and(|found| found.file_type().is_fifo()) {
        let error = io::Error::other("it is neither a file nor a block device");
        return Err(OpenError::Use { path: options.path.clone(), error });
    }
    File::options()
        .read(true)
        .write(!options.read_only)
        .custom_flags(direct | libc::O_CLOEXEC)
        .open(&options.path)
        .map_err(|error| OpenError::Open {
            path: options.path.clone(),
            for_what: if options.read_only { "" } else { " for writing" },
            error,
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file that goes with the test.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new(size: u64) -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            // Not /tmp: O_DIRECT is refused where that is a tmpfs.
            let folder = &std::env::current_exe().unwrap().parent().unwrap().join("scratch");
            std::fs::create_dir_all(folder).unwrap();
            let path = folder.join(format!("{}-{number}.img", std::process::id()));
            File::create(&path).unwrap().set_len(size).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }

        pub(crate) fn image(&self, cache: CacheMode) -> Arc<dyn Image> {
            let path = self.0.clone();
            open(&ImageOptions { path, format: None, read_only: false, cache, discard: true })
                .unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_guest_cannot_make_its_raw_disk_a_qcow2() {
        assert_eq!(Format::by_name(Path::new("/x/disk.img")), Format::Raw);
        assert_eq!(Format::by_name(Path::new("/x/disk")), Format::Raw);
        assert_eq!(Format::by_name(Path::new("/x/disk.QCOW2")), Format::Qcow2);
    }

    #[test]
    fn a_passed_file_must_be_open_for_what_is_done() {
        let scratch = Scratch::new(4096);
        let options = |read_only, cache| ImageOptions {
            path: scratch.path().to_owned(),
            format: None,
            read_only,
            cache,
            discard: true,
        };
        let passed =
            |flags| File::options().read(true).custom_flags(flags).open(scratch.path()).unwrap();
        let error = take(&options(false, CacheMode::Writeback), passed(0)).err().unwrap();
        assert!(error.to_string().ends_with("it was not opened for reading and writing"));
        let error = take(&options(true, CacheMode::Writeback), passed(libc::O_PATH)).err().unwrap();
        assert!(error.to_string().ends_with("it was not opened for reading"));
        let appending = File::options().read(true).append(true).open(scratch.path()).unwrap();
        let error = take(&options(false, CacheMode::Writeback), appending).err().unwrap();
        assert!(error.to_string().ends_with("it was opened for appending"));
        for (cache, flags) in [(CacheMode::None, 0), (CacheMode::Writeback, libc::O_DIRECT)] {
            let image = take(&options(true, cache), passed(flags)).unwrap();
            let flags = fcntl_getfl(image.direct().unwrap().fd).unwrap();
            assert_eq!(flags.contains(OFlags::DIRECT), cache == CacheMode::None);
        }
    }

    #[test]
    fn errors_name_the_path() {
        let missing = ImageOptions {
            path: "/nonexistent/disk.img".into(),
            format: None,
            read_only: false,
            cache: CacheMode::Writeback,
            discard: false,
        };
        let error = open(&missing).err().unwrap().to_string();
        assert!(
            error.starts_with("/nonexistent/disk.img: cannot be opened for writing: "),
            "{error}"
        );
        let folder = ImageOptions { path: "/".into(), read_only: true, ..missing.clone() };
        assert!(open(&folder).err().unwrap().to_string().starts_with("/: cannot be used: "));
        let scratch = Scratch::new(0);
        std::fs::remove_file(scratch.path()).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, scratch.path(), mode).unwrap();
        let fifo = ImageOptions { path: scratch.path().into(), read_only: true, ..missing };
        let error = open(&fifo).err().unwrap().to_string();
        assert!(
            error.ends_with("it is neither a file nor a block device"),
            "nobody waits: {error}"
        );
    }
}
