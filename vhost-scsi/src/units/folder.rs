//! `--disk FOLDER`: all images in a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::text::Text;
use super::{Kind, UnitError};
use crate::scsi::target::Address;

/// The units that one option names: one, or all in a folder.
pub struct Texts {
    text: Text,
    /// Of a folder's images.
    paths: Option<std::vec::IntoIter<String>>,
    done: bool,
}

impl Texts {
    /// A folder stands for all images in it, in the order of their names' bytes: the regular files
    /// whose names do not begin with a dot, also by way of a symbolic link.
    ///
    /// # Errors
    /// The folder can't be read, or holds no image; or something is given that only one unit can have.
    pub fn of(kind: Kind, text: &str) -> Result<Self, UnitError> {
        let text = Text::parse(kind.option(), text)?;
        if kind != Kind::Disk || !text.path.is_dir() {
            return Ok(Self { text, paths: None, done: false });
        }
        let own = |&(key, _): &(&str, &str)| matches!(key, "serial" | "wwn");
        if let Some((key, value)) = text.pairs().find(own) {
            return Err(text.wrong(key, value, "left out: a folder's disks cannot share it"));
        }
        let (option, path) = (text.option, || text.path.clone());
        let paths = images(&text.path).map_err(|error| UnitError::Folder {
            option,
            path: path(),
            error,
        })?;
        if paths.is_empty() {
            return Err(UnitError::EmptyFolder { option, path: path() });
        }
        Ok(Self { text, paths: Some(paths.into_iter()), done: false })
    }

    /// The next unit's text. The units of a folder have successive LUNs of one target: `before` is
    /// the address that the last one got.
    pub fn next(&mut self, before: Option<Address>) -> Option<String> {
        let Some(paths) = &mut self.paths else {
            return (!std::mem::replace(&mut self.done, true)).then(|| self.text.text.clone());
        };
        let path = paths.next()?;
        let place = before.map_or(Vec::new(), |Address { target, lun }| {
            let lun = lun.saturating_add(1);
            vec![("target", target.to_string()), ("lun", lun.to_string())]
        });
        Some(self.text.write(&path, &place))
    }
}

fn images(folder: &Path) -> io::Result<Vec<String>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        !name.as_encoded_bytes().starts_with(b".") && path.is_file()
    });
    paths.sort();
    let text = |path: PathBuf| {
        path.into_os_string()
            .into_string()
            .map_err(|name| io::Error::other(format!("{}: not UTF-8", name.display())))
    };
    paths.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_images_in_order() {
        let folder = tempfile();
        for name in ["b.img", "a,1.img", ".hidden"] {
            fs::write(folder.join(name), [0; 512]).unwrap();
        }
        fs::create_dir_all(folder.join("folder")).unwrap();
        let path = folder.display().to_string();
        let mut texts = Texts::of(Kind::Disk, &format!("{path},readonly,target=3")).unwrap();
        let first = texts.next(None).unwrap();
        assert_eq!(first, format!("file={path}/a,,1.img,readonly=on,target=3"));
        let second = texts.next(Some(Address { target: 3, lun: 0 })).unwrap();
        assert_eq!(second, format!("file={path}/b.img,readonly=on,target=3,target=3,lun=1"));
        assert_eq!(texts.next(None), None);

        let error = |text: &str| Texts::of(Kind::Disk, text).err().unwrap().to_string();
        assert!(error(&format!("{path},serial=X")).contains("cannot share it"));
        assert!(error(&format!("{path}/folder")).ends_with("there is no image in this folder"));
        fs::remove_dir_all(folder).unwrap();
    }

    fn tempfile() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("folder-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}
