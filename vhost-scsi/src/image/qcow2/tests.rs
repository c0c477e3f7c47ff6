use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::image::open::{Format, ImageOptions, OpenError, open, take};

mod damaged;
mod killed;
mod random;

const MIB: u64 = 1 << 20;

/// A folder that goes with the test.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Not /tmp: O_DIRECT is refused where that is a tmpfs.
        let scratch = std::env::current_exe().unwrap().parent().unwrap().join("scratch");
        let folder = scratch.join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program).args(arguments).current_dir(&self.0).output().unwrap()
    }

    pub(super) fn qemu_img(&self, arguments: &[&str]) -> String {
        let output = self.run("qemu-img", arguments);
        assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn create(&self, name: &str, options: &str, size: &str) {
        self.qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, name, size]);
    }

    /// `commands` of qemu-io, all of which must succeed.
    fn qemu_io(&self, name: &str, commands: &[&str]) {
        let format = if name.ends_with("qcow2") { "qcow2" } else { "raw" };
        let mut arguments = vec!["-f", format];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        arguments.push(name);
        let output = self.run("qemu-io", &arguments);
        assert!(output.status.success(), "qemu-io {arguments:?}: {output:?}");
    }

    /// Neither errors nor leaks.
    pub(super) fn check(&self, name: &str) {
        self.qemu_img(&["check", "-f", "qcow2", name]);
    }

    fn compare(&self, one: &str, other: &str) {
        self.qemu_img(&["compare", one, other]);
    }

    pub(super) fn options(&self, name: &str) -> ImageOptions {
        ImageOptions {
            path: self.path(name),
            format: Some(Format::Qcow2),
            read_only: false,
            cache: CacheMode::Writeback,
            discard: true,
        }
    }

    pub(super) fn open(&self, name: &str) -> Arc<dyn Image> {
        let image = open(&self.options(name)).unwrap();
        image.acquire().unwrap();
        image
    }

    fn refused(&self, name: &str) -> String {
        let OpenError::Use { error, .. } = open(&self.options(name)).err().unwrap() else {
            panic!("it could not be opened");
        };
        error.to_string()
    }

    fn space(&self, name: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.path(name)).unwrap().blocks() * 512
    }

    fn patch(&self, name: &str, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A number that the environment may set.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A generator that needs no seed from outside (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(setting("QCOW2_SEED", 0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn read(image: &dyn Image, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    image.read_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn qemu_reads_what_we_write() {
    for options in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "compat=0.10",
        "refcount_bits=1",
        "lazy_refcounts=on",
        "data_file=data.bin",
    ] {
        let folder = Folder::new();
        folder.create("a.qcow2", options, "16M");
        for cache in [CacheMode::Writeback, CacheMode::None, CacheMode::Unsafe] {
            let image = open(&ImageOptions { cache, ..folder.options("a.qcow2") }).unwrap();
            image.acquire().unwrap();
            image.write_at(&vec![0x11; 3 << 20], 512).unwrap();
            image.write_at(&[0x22; 512], 15 * MIB).unwrap();
            image.write_at(&[0x33; 1024], 16 * MIB - 1024).unwrap();
            image.write_zeroes(MIB, 1024, false).unwrap();
            assert!(image.write_at(&[0; 512], 16 * MIB - 511).is_err());
            assert!(image.read_at(&mut [0; 512], 16 * MIB - 511).is_err());
            image.release().unwrap();
            folder.check("a.qcow2");
            let expected = [
                "read -P 0 0 512",
                "read -P 0x11 512 1048064",
                "read -P 0 1M 1024",
                "read -P 0x11 1049600 2096640",
                "read -P 0x22 15M 512",
                "read -P 0 15729152 512",
                "read -P 0x33 16776192 1024",
            ];
            folder.qemu_io("a.qcow2", &expected);
        }
    }
}

#[test]
fn we_read_what_qemu_wrote() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=64k", "64M");
    let writes =
        ["write -P 1 0 64k", "write -c -P 2 64k 64k", "write -z 1M 1M", "write -P 3 63M 1M"];
    folder.qemu_io("a.qcow2", &writes);
    let image = folder.open("a.qcow2");
    assert_eq!(read(&*image, 0, 65536), vec![1; 65536]);
    assert_eq!(read(&*image, 65536, 65536), vec![2; 65536], "compressed");
    assert_eq!(read(&*image, 65536 + 512, 1024), vec![2; 1024], "compressed, in part");
    assert_eq!(read(&*image, 2 << 20, 65536), vec![0; 65536]);
    assert_eq!(read(&*image, 63 * MIB, 1 << 20), vec![3; 1 << 20]);
    image.write_at(&[4; 512], 65536 + 512).unwrap();
    image.release().unwrap();
    folder.check("a.qcow2");
    let expected = ["read -P 2 64k 512", "read -P 4 66048 512", "read -P 2 66560 63k"];
    folder.qemu_io("a.qcow2", &expected);
}

#[test]
fn backing_files_are_read_and_left_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.path("sub")).unwrap();
    fs::write(folder.path("base.img"), vec![7; 3 << 20]).unwrap();
    folder.create("sub/middle.qcow2", "backing_file=../base.img,backing_fmt=raw", "8M");
    folder.qemu_io("sub/middle.qcow2", &["write -P 8 1M 64k"]);
    folder.create("top.qcow2", "backing_file=sub/middle.qcow2,backing_fmt=qcow2", "16M");
    let before = fs::read(folder.path("sub/middle.qcow2")).unwrap();

    let image = folder.open("top.qcow2");
    assert_eq!(read(&*image, 0, 65536), vec![7; 65536]);
    assert_eq!(read(&*image, MIB, 65536), vec![8; 65536]);
    assert_eq!(read(&*image, 3 * MIB, 65536), vec![0; 65536], "behind the end of the backing file");
    assert_eq!(image.extent(8 * MIB).unwrap(), Extent { mapped: false, length: 8 * MIB });
    assert!(image.extent(0).unwrap().mapped);
    image.write_at(&[9; 512], MIB + 1024).unwrap();
    image.discard(65536, 65536).unwrap();
    assert_eq!(read(&*image, 65536, 65536), vec![0; 65536], "not what the backing file has");
    image.release().unwrap();

    folder.check("top.qcow2");
    let expected = ["read -P 8 1M 1024", "read -P 9 1049600 512", "read -P 0 64k 64k"];
    folder.qemu_io("top.qcow2", &expected);
    assert_eq!(fs::read(folder.path("sub/middle.qcow2")).unwrap(), before);
    assert_eq!(fs::read(folder.path("base.img")).unwrap(), vec![7; 3 << 20]);
}

#[test]
fn discards_give_space_back_to_the_host() {
    for options in ["cluster_size=64k", "data_file=data.bin"] {
        let folder = Folder::new();
        folder.create("a.qcow2", options, "64M");
        let file = if options.starts_with("data") { "data.bin" } else { "a.qcow2" };
        let image = folder.open("a.qcow2");
        image.write_at(&vec![5; 32 << 20], 0).unwrap();
        image.flush().unwrap();
        assert!(folder.space(file) >= 32 << 20);
        assert!(image.limits().discard && image.limits().discard_granularity == 65536);
        image.discard(512, (32 << 20) - 1024).unwrap();
        assert!(folder.space(file) < 1 << 20, "{} remain", folder.space(file));
        assert_eq!(read(&*image, 0, 512), vec![5; 512]);
        assert_eq!(read(&*image, 512, 1 << 20), vec![0; 1 << 20]);
        assert_eq!(read(&*image, (32 << 20) - 512, 512), vec![5; 512]);
        assert!(!image.extent(MIB).unwrap().mapped);
        image.release().unwrap();
        folder.check("a.qcow2");
    }
}

#[test]
fn snapshots_keep_their_data() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=4k", "8M");
    folder.qemu_io("a.qcow2", &["write -P 1 0 4M", "write -c -P 2 4M 4k"]);
    folder.qemu_img(&["snapshot", "-c", "before", "a.qcow2"]);
    folder.qemu_img(&["convert", "-l", "before", "-O", "raw", "a.qcow2", "before.img"]);
    let image = folder.open("a.qcow2");
    image.write_at(&[3; 512], 1024).unwrap();
    image.write_at(&vec![4; 1 << 20], MIB).unwrap();
    image.write_zeroes(2 * MIB, MIB, false).unwrap();
    image.discard(3 * MIB, 2 * MIB).unwrap();
    image.write_at(&vec![5; 2 << 20], 6 * MIB).unwrap();
    image.release().unwrap();
    folder.check("a.qcow2");
    folder.qemu_img(&["convert", "-l", "before", "-O", "raw", "a.qcow2", "after.img"]);
    folder.compare("before.img", "after.img");
    folder.qemu_io("a.qcow2", &["read -P 3 1024 512", "read -P 4 1M 1M", "read -P 0 2M 3M"]);
}

#[test]
fn one_process_uses_an_image_at_a_time() {
    let folder = Folder::new();
    folder.create("base.qcow2", "cluster_size=64k", "1M");
    folder.create("a.qcow2", "backing_file=base.qcow2,backing_fmt=qcow2", "1M");
    let write = |name| folder.run("qemu-io", &["-c", "write 0 512", name]).status.success();
    let image = open(&folder.options("a.qcow2")).unwrap();
    assert!(write("a.qcow2"), "it is not locked before it is used");
    assert!(image.read_at(&mut [0; 512], 0).is_err(), "nor read");
    image.acquire().unwrap();
    assert!(!write("a.qcow2") && !write("base.qcow2"));
    let other = open(&folder.options("a.qcow2")).unwrap();
    assert_eq!(other.acquire().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    image.release().unwrap();
    other.acquire().unwrap();
    other.release().unwrap();
    assert!(write("a.qcow2") && write("base.qcow2"));

    let mut holder = Command::new("qemu-io")
        .arg(folder.path("a.qcow2"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It asks for a command once it has the image.
    holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert!(!write("a.qcow2"));
    let error = image.acquire().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(error.to_string().ends_with("a.qcow2: another process holds it"), "{error}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    image.acquire().unwrap();
}

#[test]
fn what_another_process_did_before_is_seen() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=64k", "1M");
    let (one, two) =
        (open(&folder.options("a.qcow2")).unwrap(), open(&folder.options("a.qcow2")).unwrap());
    one.acquire().unwrap();
    one.write_at(&[6; 4096], 8192).unwrap();
    one.release().unwrap();
    folder.qemu_img(&["resize", "-q", "a.qcow2", "3G"]);
    assert_eq!(one.refresh().unwrap(), 3 << 30);
    two.acquire().unwrap();
    assert_eq!(two.len(), 3 << 30);
    assert_eq!(read(&*two, 8192, 4096), vec![6; 4096]);
    two.write_at(&[7; 4096], (3 << 30) - 4096).unwrap();
    two.release().unwrap();
    one.acquire().unwrap();
    assert_eq!(read(&*one, (3 << 30) - 4096, 4096), vec![7; 4096]);
    one.release().unwrap();
    folder.check("a.qcow2");

    folder.qemu_img(&["rebase", "-u", "-F", "raw", "-b", "/etc/hostname", "a.qcow2"]);
    let error = one.acquire().unwrap_err().to_string();
    assert!(error.ends_with("a.qcow2: it is another image than it was"), "{error}");
    folder.qemu_img(&["rebase", "-u", "-b", "", "a.qcow2"]);
    one.acquire().unwrap();
}

#[test]
fn an_open_file_is_taken() {
    let folder = Folder::new();
    fs::write(folder.path("base.img"), [7; 4096]).unwrap();
    folder.create("a.qcow2", "backing_file=base.img,backing_fmt=raw", "1M");
    let file = File::options().read(true).write(true).open(folder.path("a.qcow2")).unwrap();
    let image = take(&folder.options("a name.qcow2"), file).unwrap();
    fs::rename(folder.path("a.qcow2"), folder.path("b.qcow2")).unwrap();
    fs::remove_file(folder.path("base.img")).unwrap();
    image.acquire().unwrap();
    assert_eq!(read(&*image, 0, 4096), vec![7; 4096]);
}

#[test]
fn what_is_not_supported_is_refused_with_a_reason() {
    let folder = Folder::new();
    let refused = |name: &str, options: &str, reason: &str| {
        folder.create(name, options, "1M");
        let error = folder.refused(name);
        assert!(error.contains(reason), "{error}");
    };
    fs::write(folder.path("base.img"), [0; 4096]).unwrap();
    refused("zstd.qcow2", "compression_type=zstd", "compressed otherwise than by zlib");
    refused("sub.qcow2", "extended_l2=on", "subclusters");
    refused("rawdata.qcow2", "data_file=raw.bin,data_file_raw=on", "data_file_raw=on");
    let reading = ImageOptions { read_only: true, ..folder.options("rawdata.qcow2") };
    open(&reading).unwrap();
    let secret = ["--object", "secret,id=s,data=abc", "-o"];
    let encrypted = ["encrypt.format=luks,encrypt.key-secret=s", "luks.qcow2", "1M"];
    folder.qemu_img(&[&["create", "-q", "-f", "qcow2"], &secret[..], &encrypted[..]].concat());
    assert_eq!(folder.refused("luks.qcow2"), "it is encrypted, which is not supported");

    folder.create("a.qcow2", "cluster_size=64k", "1M");
    for (bits, reason) in [
        (1_u64, "not closed properly"),
        (3, "marked as corrupt"),
        (1 << 40 | 2, "feature 40"),
        (4, "does not name its external data file"),
    ] {
        folder.patch("a.qcow2", 72, &bits.to_be_bytes());
        let error = folder.refused("a.qcow2");
        assert!(error.contains(reason), "{error}");
    }
    folder.patch("a.qcow2", 4, &4_u32.to_be_bytes());
    assert_eq!(
        folder.refused("a.qcow2"),
        "it is a qcow2 image of version 4; 2 and 3 are supported"
    );
    fs::write(folder.path("raw.qcow2"), [0; 4096]).unwrap();
    assert!(folder.refused("raw.qcow2").contains("say format=raw"));

    folder.create("gone.qcow2", "backing_file=base.img,backing_fmt=raw", "1M");
    fs::remove_file(folder.path("base.img")).unwrap();
    let error = folder.refused("gone.qcow2");
    assert!(error.contains("base.img: No such file"), "{error}");
}

/// The guest of a raw backing file could have written a qcow2 header into it.
#[test]
fn the_format_of_a_backing_file_is_never_guessed() {
    let folder = Folder::new();
    folder.create("base", "cluster_size=64k", "1M");
    folder.create("a.qcow2", "backing_file=base,backing_fmt=raw", "1M");
    let image = folder.open("a.qcow2");
    assert_eq!(read(&*image, 0, 4), b"QFI\xfb");
    image.release().unwrap();
    // The extension with the format becomes one that nobody knows.
    let bytes = fs::read(folder.path("a.qcow2")).unwrap();
    let found = bytes.windows(4).position(|window| window == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    folder.patch("a.qcow2", found as u64, b"none");
    let error = folder.refused("a.qcow2");
    assert!(error.contains("backing file base, which is not guessed"), "{error}");
}

#[test]
fn a_loop_of_backing_files_is_refused() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=64k", "1M");
    folder.create("b.qcow2", "backing_file=a.qcow2,backing_fmt=qcow2", "1M");
    folder.qemu_img(&["rebase", "-u", "-F", "qcow2", "-b", "b.qcow2", "a.qcow2"]);
    assert_eq!(folder.refused("a.qcow2"), "it has more than 64 backing files");
}

#[test]
fn threads_share_clusters() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=64k", "8M");
    let image = folder.open("a.qcow2");
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let image = &image;
            scope.spawn(move || {
                // Every fourth block is this thread's.
                for round in 0..400_u64 {
                    let offset = (round * 7 % 512 * 4 + thread) * 4096;
                    let fill = (thread * 16 + round % 15 + 1) as u8;
                    image.write_at(&[fill; 4096], offset).unwrap();
                    if round % 5 == 0 {
                        image.write_zeroes(offset, 2048, round % 2 == 0).unwrap();
                    }
                    if round % 7 == 0 {
                        image.flush().unwrap();
                    }
                    let zeroes = if round % 5 == 0 { 2048 } else { 0 };
                    let bytes = read(&**image, offset, 4096);
                    assert!(bytes[..zeroes].iter().all(|&byte| byte == 0), "{thread} {round}");
                    assert!(bytes[zeroes..].iter().all(|&byte| byte == fill), "{thread} {round}");
                }
            });
        }
    });
    image.release().unwrap();
    folder.check("a.qcow2");
}
