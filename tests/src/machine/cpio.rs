//! An initrd's archive: cpio in its "newc" form (Linux, initramfs-buffer-format).

use std::io;

/// A file in the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) mode: u32,
    pub(super) data: &'a [u8],
}

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;

impl<'a> Entry<'a> {
    pub(super) fn folder(name: &'a str) -> Entry<'a> {
        Entry { name, mode: FOLDER | 0o755, data: &[] }
    }

    pub(super) fn file(name: &'a str, data: &'a [u8]) -> Entry<'a> {
        Entry { name, mode: REGULAR | 0o755, data }
    }
}

/// Writes the entries, in their order, and the trailer.
pub(super) fn write(entries: &[Entry], to: &mut impl io::Write) -> io::Result<()> {
    let trailer = Entry { name: "TRAILER!!!", mode: 0, data: &[] };
    for (inode, entry) in entries.iter().chain([&trailer]).enumerate() {
        let size = u32::try_from(entry.data.len()).map_err(io::Error::other)?;
        let name_size = entry.name.len() + 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, dev and rdev (major, minor), namesize, check
        write!(to, "070701{inode:08x}{:08x}", entry.mode)?;
        write!(to, "{:08x}{:08x}{:08x}{:08x}{size:08x}", 0, 0, 1, 0)?;
        write!(to, "{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}", 0, 0, 0, 0, 0)?;
        to.write_all(entry.name.as_bytes())?;
        // The header has 110 bytes; the name with its NUL, and the data, are padded to 4.
        to.write_all(&[0; 4][..1 + pad(110 + name_size)])?;
        to.write_all(entry.data)?;
        to.write_all(&[0; 4][..pad(entry.data.len())])?;
    }
    Ok(())
}

fn pad(size: usize) -> usize {
    size.next_multiple_of(4) - size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_start_at_multiples_of_four() {
        let mut archive = Vec::new();
        let entries = [Entry::folder("mods"), Entry::file("init", b"#!/x\n")];
        write(&entries, &mut archive).unwrap();
        let starts: Vec<usize> =
            (0..archive.len()).filter(|&at| archive[at..].starts_with(b"070701")).collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|start| start % 4 == 0));
        // 110 + "init\0" = 115, padded to 116: the data follows, and ends in 3 bytes of padding.
        assert_eq!(&archive[starts[1] + 116..][..8], b"#!/x\n\0\0\0");
        assert_eq!(starts[2] - starts[1], 124);
    }
}
