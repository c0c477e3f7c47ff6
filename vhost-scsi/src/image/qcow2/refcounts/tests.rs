use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use imago::StorageExt;

use super::*;
use crate::image::qcow2::tests::Folder;
use crate::image::raw::CacheMode;

const COPIED: u64 = 1 << 63;

/// An image that is written to as imago does, but for the counts.
struct Bench {
    folder: Folder,
    tables: Tables,
    file: HostFile,
}

impl Bench {
    fn new(options: &str, cache: CacheMode) -> Self {
        let folder = Folder::new();
        folder.create("a.qcow2", options, "64M");
        let open = || {
            let flags = if cache == CacheMode::None { libc::O_DIRECT } else { 0 };
            let path = folder.path("a.qcow2");
            let file = File::options().read(true).write(true).custom_flags(flags).open(&path);
            HostFile::new(file.unwrap(), path, cache).unwrap()
        };
        let tables = Header::read(&open(), true).unwrap().tables;
        let file = open().counting(tables.clone());
        Self { folder, tables, file }
    }

    fn size(&self) -> u64 {
        1 << self.tables.cluster_bits
    }

    /// A new cluster at the end of the file.
    fn append(&self, bytes: &[u8]) -> u64 {
        let at = self.file.size().unwrap().next_multiple_of(self.size());
        let mut cluster = vec![0; self.size() as usize];
        cluster[..bytes.len()].copy_from_slice(bytes);
        self.file.write(&cluster, at).unwrap();
        at
    }

    fn write_entry(&self, table: &Range<u64>, number: u64, entry: u64) -> io::Result<()> {
        self.file.write(&entry.to_be_bytes().to_vec(), table.start + number * 8)
    }

    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        self.file.read_bytes(at, length).unwrap()
    }

    /// Where the first refcount block is.
    fn block(&self) -> u64 {
        entries(&self.read(self.tables.refcounts.start, 8))[0]
    }

    fn read_block(&self) -> Vec<u8> {
        self.read(self.block(), self.size() as usize)
    }

    /// Every cluster is counted as often as it is referred to.
    fn check(&self) {
        self.folder.check("a.qcow2");
    }
}

fn each_width(test: impl Fn(Bench)) {
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        for cache in [CacheMode::Writeback, CacheMode::None] {
            test(Bench::new(&format!("cluster_size=4k,refcount_bits={bits}"), cache));
        }
    }
}

#[test]
fn an_l2_table_is_counted_before_the_l1_table_refers_to_it() {
    each_width(|bench| {
        for number in 0..20 {
            let l2 = bench.append(&[]);
            bench.write_entry(&bench.tables.l1, number, l2 | COPIED).unwrap();
            bench.check();
        }
    });
}

#[test]
fn a_block_that_was_copied_before_does_not_take_the_count_back() {
    each_width(|bench| {
        let stale = bench.read_block();
        for number in 0..3 {
            let l2 = bench.append(&[]);
            bench.write_entry(&bench.tables.l1, number, l2 | COPIED).unwrap();
        }
        bench.file.write(&stale, bench.block()).unwrap();
        bench.check();
        // What follows was copied after.
        bench.file.write(&stale, bench.block()).unwrap();
        assert_eq!(bench.read_block(), stale, "they were freed again");
    });
}

/// The cluster was freed, which the copy says, and used again; the file says neither yet.
#[test]
fn nor_if_the_file_counted_the_cluster_already() {
    each_width(|bench| {
        let free = bench.read_block();
        let l2 = bench.append(&[]);
        bench.write_entry(&bench.tables.l1, 0, l2 | COPIED).unwrap();
        let used = bench.read_block();
        bench.file.write(&used, bench.block()).unwrap();
        bench.write_entry(&bench.tables.l1, 0, 0).unwrap();
        bench.write_entry(&bench.tables.l1, 1, l2 | COPIED).unwrap();
        bench.file.write(&free, bench.block()).unwrap();
        bench.check();
    });
}

/// Small clusters on a device of large sectors: what imago writes is padded with what it read.
#[test]
fn a_padded_write_does_not_take_the_count_back() {
    let bench = Bench::new("cluster_size=512", CacheMode::Writeback);
    let refcounts = Refcounts::new(bench.tables.clone());
    let l2 = bench.append(&[]);
    let stale = bench.read(0, 8192);
    for _ in 0..2 {
        let mut padded = stale.clone();
        let entry = bench.tables.l1.start as usize;
        padded[entry..entry + 8].copy_from_slice(&(l2 | COPIED).to_be_bytes());
        refcounts.write(&bench.file, &mut padded, 0).unwrap();
        bench.check();
    }
}

#[test]
fn a_refcount_block_is_counted_before_the_refcount_table_refers_to_it() {
    for cache in [CacheMode::Writeback, CacheMode::None] {
        // 64 counts in a block.
        let bench = Bench::new("cluster_size=512,refcount_bits=64", cache);
        let first = bench.append(&[]);
        assert!(first < 60 * 512, "{first} is of the first block");
        bench.write_entry(&bench.tables.refcounts, 1, first).unwrap();
        bench.check();
        // One that counts itself does so by what is written now.
        bench.file.write(&vec![0; 512], 127 * 512).unwrap();
        let second = bench.append(&1_u64.to_be_bytes());
        assert_eq!(second, 128 * 512);
        bench.write_entry(&bench.tables.refcounts, 2, second).unwrap();
        bench.check();
        let l2 = bench.append(&[]);
        bench.write_entry(&bench.tables.l1, 0, l2 | COPIED).unwrap();
        bench.check();
    }
}

#[test]
fn tables_are_followed_to_where_the_header_says() {
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let bench = Bench::new("cluster_size=64k", cache);
        let Tables { l1, refcounts, .. } = bench.tables.clone();
        let moved = |table: &Range<u64>| {
            let bytes = bench.read(table.start, (table.end - table.start) as usize);
            let start = bench.append(&bytes);
            start..start + table.end - table.start
        };
        let (new_l1, new_refcounts) = (moved(&l1), moved(&refcounts));
        let mut header = bench.read(0, 72);
        header[40..48].copy_from_slice(&new_l1.start.to_be_bytes());
        header[48..56].copy_from_slice(&new_refcounts.start.to_be_bytes());
        bench.file.write(&header, 0).unwrap();
        let l2 = bench.append(&[]);
        bench.write_entry(&new_l1, 0, l2 | COPIED).unwrap();
        // The old ones are plain clusters now.
        bench.file.write(&vec![0xff; 65536], l1.start).unwrap();
        bench.file.write(&vec![0xff; 65536], refcounts.start).unwrap();
        // They are still counted, though, which is a leak and nothing worse.
        bench.folder.qemu_img(&["check", "-q", "-r", "leaks", "-f", "qcow2", "a.qcow2"]);
        bench.check();
    }
}

#[test]
fn what_can_not_be_counted_is_not_referred_to() {
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let bench = Bench::new("cluster_size=4k", cache);
        let l2 = bench.append(&[]);
        let before = fs::read(bench.folder.path("a.qcow2")).unwrap();
        let refused = |table: &Range<u64>, entry: u64| {
            let error = bench.write_entry(table, 1, entry).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{entry:#x}: {error}");
            assert!(fs::read(bench.folder.path("a.qcow2")).unwrap() == before, "{entry:#x}");
        };
        let Tables { l1, refcounts, .. } = &bench.tables;
        let file_size = bench.file.size().unwrap();
        for entry in [l2 + 512, file_size, 1 << 55, L1_OFFSET, l2 | 1 << 54] {
            refused(l1, entry | COPIED);
        }
        for entry in [l2 + 512, file_size, BLOCK_OFFSET, 1 << 63] {
            refused(refcounts, entry);
        }

        // Blocks that can't be: none, behind the end, not at a cluster, and where no table reaches.
        let file = File::options().write(true).open(bench.folder.path("a.qcow2")).unwrap();
        for block in [0, file_size, BLOCK_OFFSET, bench.block() + 512] {
            file.write_all_at(&block.to_be_bytes(), refcounts.start).unwrap();
            let error = bench.write_entry(l1, 0, l2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{block:#x}: {error}");
            assert_eq!(bench.read(l1.start, 8), [0; 8], "{block:#x}");
        }
        file.set_len(1 << 40).unwrap();
        let error = bench.write_entry(l1, 0, 1 << 39).unwrap_err();
        assert!(error.to_string().contains("no refcount block"), "{error}");
    }
}
