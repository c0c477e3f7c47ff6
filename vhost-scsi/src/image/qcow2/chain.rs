//! The files of a qcow2 image: itself, its external data file, its backing files. All are opened
//! once and stay open: what stands in a header later opens nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use imago::FormatAccess;

use super::header::{BackingFormat, Header};
use super::storage::HostFile;
use crate::image::lock::{ImageLock, LockedFile};
use crate::image::raw::CacheMode;

/// Images of a chain at most; more are a loop.
const MOST: usize = 64;

/// One file.
struct Part {
    path: PathBuf,
    file: File,
    writable: bool,
    lock: ImageLock,
}

impl Part {
    fn new(file: File, path: PathBuf, writable: bool) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("it is neither a file nor a block device"));
        }
        let lock = ImageLock::new(file.try_clone()?, !writable)?;
        Ok(Self { path, file, writable, lock })
    }

    fn open(path: PathBuf, writable: bool, cache: CacheMode) -> io::Result<Self> {
        let direct = if cache == CacheMode::None { libc::O_DIRECT } else { 0 };
        let file = File::options()
            .read(true)
            .write(writable)
            .custom_flags(direct | libc::O_CLOEXEC | libc::O_NONBLOCK) // it may be a FIFO
            .open(&path)?;
        Self::new(file, path, writable)
    }

    fn storage(&self, cache: CacheMode) -> io::Result<HostFile> {
        HostFile::new(self.file.try_clone()?, self.path.clone(), cache)
    }
}

/// How the bytes of an image are found in its files.
enum Layout {
    Raw,
    Qcow2 { header: Header, data: Option<Part> },
}

struct Layer {
    part: Part,
    layout: Layout,
}

impl Layer {
    fn qcow2(part: Part, cache: CacheMode) -> io::Result<Self> {
        let header = Header::read(&part.storage(cache)?, part.writable)?;
        let data = match &header.data_file {
            None => None,
            Some(name) => {
                let path = resolve(&part.path, name)?;
                let data = Part::open(path.clone(), part.writable, cache);
                Some(data.map_err(|error| about("external data file", &path, &error))?)
            }
        };
        Ok(Self { part, layout: Layout::Qcow2 { header, data } })
    }

    fn backing(&self) -> Option<&(String, BackingFormat)> {
        match &self.layout {
            Layout::Raw => None,
            Layout::Qcow2 { header, .. } => header.backing.as_ref(),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let data = match &self.layout {
            Layout::Raw => None,
            Layout::Qcow2 { data, .. } => data.as_ref(),
        };
        [&self.part].into_iter().chain(data)
    }

    fn access(
        &self,
        backing: Option<FormatAccess<HostFile>>,
        cache: CacheMode,
    ) -> io::Result<FormatAccess<HostFile>> {
        let storage = self.part.storage(cache)?;
        match &self.layout {
            Layout::Raw => imago::raw::Raw::open_image(storage, false).map(FormatAccess::new),
            Layout::Qcow2 { header, data } => {
                let now = Header::read(&storage, self.part.writable)?;
                if !header.is_same_image(&now) {
                    return Err(io::Error::other("it is another image than it was"));
                }
                let writable = self.part.writable;
                let storage = if writable { storage.counting(now.tables) } else { storage };
                let mut image = imago::qcow2::Qcow2::open_image(storage, writable)?;
                image.set_data_file(data.as_ref().map(|data| data.storage(cache)).transpose()?);
                image.set_backing(backing);
                Ok(FormatAccess::new(image))
            }
        }
    }
}

/// An image with all that it stands on.
pub(super) struct Chain {
    /// The image itself first.
    layers: Vec<Layer>,
    cache: CacheMode,
}

impl Chain {
    /// Opens what the image in `file` stands on; `path` is where it is, for relative names.
    ///
    /// # Errors
    /// One sentence of what is wrong with which file.
    pub(super) fn open(
        file: File,
        path: &Path,
        read_only: bool,
        cache: CacheMode,
    ) -> io::Result<Self> {
        let mut layer = Layer::qcow2(Part::new(file, path.to_owned(), !read_only)?, cache)?;
        let mut layers = Vec::new();
        while let Some((name, format)) = layer.backing().cloned() {
            if layers.len() == MOST {
                return Err(io::Error::other(format!("it has more than {MOST} backing files")));
            }
            let path = resolve(&layer.part.path, &name)?;
            layers.push(layer);
            layer = Part::open(path.clone(), false, cache)
                .and_then(|part| match format {
                    BackingFormat::Raw => Ok(Layer { part, layout: Layout::Raw }),
                    BackingFormat::Qcow2 => Layer::qcow2(part, cache),
                })
                .map_err(|error| about("backing file", &path, &error))?;
        }
        layers.push(layer);
        Ok(Self { layers, cache })
    }

    /// The header of the image itself, as it is now.
    ///
    /// # Errors
    /// It can't be read, or is not a qcow2 header any more.
    pub(super) fn header(&self) -> io::Result<Header> {
        let top = self.layers.first().ok_or(io::ErrorKind::NotFound)?;
        Header::read(&top.part.storage(self.cache)?, top.part.writable)
    }

    /// The image's own file.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn file(&self) -> io::Result<&File> {
        self.layers.first().map(|top| &top.part.file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file with the data of the image itself.
    ///
    /// # Errors
    /// What the host said.
    pub(super) fn data(&self) -> io::Result<HostFile> {
        let top = self.layers.first().ok_or(io::ErrorKind::NotFound)?;
        top.parts().last().unwrap_or(&top.part).storage(self.cache)
    }

    /// What [`lock`](Self::lock) locks.
    pub(super) fn locked_files(&self) -> Vec<LockedFile> {
        self.parts().map(|part| part.lock.locked()).collect()
    }

    /// Keeps others from writing to any of the files, and from reading what is written to.
    ///
    /// # Errors
    /// Somebody else does.
    pub(super) fn lock(&self) -> io::Result<()> {
        for part in self.parts() {
            if let Err(error) = part.lock.take() {
                let _ = self.unlock(); // what is not held is not given back either
                return Err(about("file", &part.path, &error));
            }
        }
        Ok(())
    }

    /// Gives all locks back.
    ///
    /// # Errors
    /// What the host said, of one of them.
    pub(super) fn unlock(&self) -> io::Result<()> {
        let mut result = Ok(());
        for part in self.parts() {
            result = result.and(part.lock.give_back());
        }
        result
    }

    /// Reads the metadata of all images.
    ///
    /// # Errors
    /// One sentence of what is wrong with which file.
    pub(super) fn access(&self) -> io::Result<FormatAccess<HostFile>> {
        let mut backing = None;
        for layer in self.layers.iter().rev() {
            let access = layer.access(backing, self.cache);
            backing = Some(access.map_err(|error| about("file", &layer.part.path, &error))?);
        }
        backing.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.layers.iter().flat_map(Layer::parts)
    }
}

fn about(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Where a file is that an image's header names, as QEMU finds it: relative to the folder of the
/// image's path as it was given, links not followed.
fn resolve(image: &Path, name: &str) -> io::Result<PathBuf> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    let protocol = name.split_once('/').map_or(name, |(first, _)| first).contains(':');
    if protocol || name.is_empty() {
        return Err(io::Error::other(format!("its header names {name:?}, which is not a path")));
    }
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_qemu_finds_them() {
        let found = |name| resolve(Path::new("/images/a.qcow2"), name).ok();
        assert_eq!(found("base.img"), Some("/images/base.img".into()));
        assert_eq!(found("../base.img"), Some("/images/../base.img".into()));
        assert_eq!(found("/base.img"), Some("/base.img".into()));
        assert_eq!(found("file:base.img"), Some("/images/base.img".into()));
        assert_eq!(found("b:1/x"), None);
        assert_eq!(found("./b:1"), Some("/images/./b:1".into()));
        assert_eq!(found("json:{\"driver\":\"raw\"}"), None);
        assert_eq!(found("nbd://host/x"), None);
        assert_eq!(resolve(Path::new("a.qcow2"), "b").ok(), Some("b".into()));
    }
}
