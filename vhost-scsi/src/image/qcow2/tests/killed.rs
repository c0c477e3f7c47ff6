//! Processes that are killed while they write. The guest goes on with another one, so all that was
//! answered is there, flushed or not, and QEMU finds no error in the image.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::*;
use crate::image::qcow2::storage::BEFORE_WRITE;

const BLOCK: u64 = 4096;

/// Where the disk is discarded; before it, blocks are written.
const DISCARDED: u64 = 512 * MIB;
const SIZE: u64 = 2 * DISCARDED;

/// Where a block is. There are more L2 tables than a process makes in its life here.
fn place(block: u64) -> u64 {
    block * 37 % (DISCARDED / 65536) * 65536
}

fn content(block: u64) -> Vec<u8> {
    vec![block as u8 | 1; BLOCK as usize]
}

/// The process that is killed: writes until then, and tells what is done.
#[test]
#[ignore = "a part of other tests"]
fn writer() {
    let Ok(path) = std::env::var("QCOW2_WRITER") else { return };
    let threads = setting("QCOW2_THREADS", 1);
    let path = PathBuf::from(path);
    let folder = std::mem::ManuallyDrop::new(Folder(path.parent().unwrap().to_owned()));
    let image = folder.open(path.file_name().unwrap().to_str().unwrap());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let image = &image;
            scope.spawn(move || {
                for number in 0..DISCARDED / 65536 / threads {
                    let block = number * threads + thread;
                    image.write_at(&content(block), place(block)).unwrap();
                    println!("done {block}");
                    if number % 16 == 15 {
                        // Clusters of some L2 tables go, and tables come for others.
                        let elsewhere = DISCARDED + place(block) / 8 * 7;
                        image.write_at(&[0xff; 128 << 10], elsewhere).unwrap();
                        image.discard(elsewhere, 5 * MIB + 512).unwrap();
                    }
                }
            });
        }
    });
}

/// Kills a process that writes to `a.qcow2` once it has told of some blocks.
fn kill_a_writer(folder: &Folder, threads: u64, told: u64) {
    let test = ["--exact", "image::qcow2::tests::killed::writer", "--ignored", "--nocapture"];
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(test)
        .env("QCOW2_WRITER", folder.path("a.qcow2"))
        .env("QCOW2_THREADS", threads.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.filter_map(|line| {
        line.rsplit_once("done ").and_then(|(_, number)| number.parse::<u64>().ok())
    });
    let mut done: Vec<u64> = lines.by_ref().take(told as usize).collect();
    writer.kill().unwrap();
    writer.wait().unwrap();
    done.extend(lines);
    assert!(done.len() as u64 >= told, "the writer failed: {done:?}");

    let check = folder.run("qemu-img", &["check", "-f", "qcow2", "a.qcow2"]);
    assert!(matches!(check.status.code(), Some(0 | 3)), "{check:?}"); // 3: only leaks
    let image = folder.open("a.qcow2");
    for block in done {
        let bytes = read(&*image, place(block), BLOCK as usize);
        assert!(bytes == content(block), "block {block} is lost");
    }
}

/// Kills some writers to copies of the image `new.qcow2`.
fn kill_writers(folder: &Folder) {
    let mut random = Random::new();
    for _ in 0..setting("QCOW2_KILLS", 1) {
        for threads in [1, 4] {
            fs::copy(folder.path("new.qcow2"), folder.path("a.qcow2")).unwrap();
            kill_a_writer(folder, threads, random.below(400) + 1);
        }
    }
}

fn kill_writers_to_new(options: &str) {
    let folder = Folder::new();
    folder.create("new.qcow2", options, &SIZE.to_string());
    kill_writers(&folder);
}

#[test]
fn a_new_image() {
    kill_writers_to_new("cluster_size=4k");
}

#[test]
fn counts_of_a_bit() {
    kill_writers_to_new("cluster_size=4k,refcount_bits=1");
}

/// 64 clusters to a refcount block, and 64 of those to a cluster of the refcount table.
#[test]
fn the_refcount_table_grows() {
    kill_writers_to_new("cluster_size=512,refcount_bits=64");
}

/// All L2 tables and clusters are shared, and are copied before they are written to.
#[test]
fn a_snapshot() {
    let folder = Folder::new();
    folder.create("new.qcow2", "cluster_size=4k", &SIZE.to_string());
    let writes = (0..DISCARDED / MIB).step_by(2).map(|at| format!("write -q -P 7 {at}M 64k"));
    let writes: Vec<String> = writes.collect();
    folder.qemu_io("new.qcow2", &writes.iter().map(String::as_str).collect::<Vec<_>>());
    folder.qemu_img(&["snapshot", "-c", "before", "new.qcow2"]);
    kill_writers(&folder);
}

/// A compressed cluster is freed when it is written to.
#[test]
fn compressed_clusters() {
    let folder = Folder::new();
    create_compressed(&folder, "new.qcow2", (0..2000).map(place).filter(|at| at / MIB % 4 < 2));
    kill_writers(&folder);
}

/// An image with blocks that fill most of a cluster even when they are compressed.
fn create_compressed(folder: &Folder, name: &str, places: impl Iterator<Item = u64>) {
    use std::os::unix::fs::FileExt;
    let image = File::create(folder.path("raw.img")).unwrap();
    image.set_len(SIZE).unwrap();
    let mut random = Random::new();
    for at in places {
        let bytes: Vec<u8> = (0..3500).map(|_| random.below(256) as u8).collect();
        image.write_all_at(&bytes, at).unwrap();
    }
    let options = ["-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "raw.img", name];
    folder.qemu_img(&[&["convert", "-c"], &options[..]].concat());
}

/// Before each single write to the file, as one writer makes them, QEMU finds no error in it.
fn check_each_write(folder: &Folder, work: impl FnOnce(&dyn Image)) {
    let image = folder.open("a.qcow2");
    let path = folder.path("a.qcow2");
    let (send, receive) = std::sync::mpsc::channel();
    let look = move || {
        let mut check = Command::new("qemu-img");
        let check = check.args(["check", "-U", "-f", "qcow2"]).arg(&path).output().unwrap();
        send.send(check).unwrap();
    };
    BEFORE_WRITE.set(Some(Box::new(look)));
    work(&*image);
    image.release().unwrap();
    BEFORE_WRITE.take();
    for (number, check) in receive.iter().enumerate() {
        assert!(matches!(check.status.code(), Some(0 | 3)), "before write {number}: {check:?}");
    }
    folder.check("a.qcow2");
}

#[test]
fn a_discard_that_needs_l2_tables_is_whole_at_each_write() {
    for options in ["cluster_size=4k", "cluster_size=512,refcount_bits=64", "compat=0.10"] {
        let folder = Folder::new();
        folder.create("a.qcow2", options, &SIZE.to_string());
        check_each_write(&folder, |image| {
            // One L2 table, of 2 MiB with clusters of 4 KiB; the discard needs two more.
            image.write_at(&[1; 16 * 4096], 2 * MIB - 16 * 4096).unwrap();
            image.discard(2 * MIB - 15 * 4096, 64 << 10).unwrap();
            image.write_at(&[1; 16 * 4096], 2 * MIB - 16 * 4096).unwrap();
            image.write_zeroes(2 * MIB - 15 * 4096 + 512, 64 << 10, false).unwrap();
            image.write_at(&[1; 4096], 64 * MIB).unwrap();
        });
    }
}

#[test]
fn clusters_of_a_snapshot_are_whole_at_each_write() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=4k", &SIZE.to_string());
    folder.qemu_io("a.qcow2", &["write -q 1M 2M"]);
    folder.qemu_img(&["snapshot", "-c", "before", "a.qcow2"]);
    check_each_write(&folder, |image| {
        image.write_at(&[1; 5 * 4096], 2 * MIB - 4096 - 512).unwrap();
        image.discard(MIB + 512, 3 * MIB).unwrap();
        image.write_at(&[1; 4096], 64 * MIB).unwrap();
    });
}

#[test]
fn compressed_clusters_are_whole_at_each_write() {
    let folder = Folder::new();
    create_compressed(&folder, "a.qcow2", (0..8).map(|block| block * 4096));
    check_each_write(&folder, |image| {
        // All eight in one go, into the next L2 table, which takes the place of one of them.
        for at in 0..4 {
            image.write_at(&[1; 2 * 4096], at * 2 * 4096).unwrap();
        }
        image.write_at(&[1; 4096], 2 * MIB).unwrap();
    });
    let folder = Folder::new();
    let places = (0..8).map(|block| 2 * MIB - 8 * 4096 + block * 4096);
    create_compressed(&folder, "a.qcow2", places);
    check_each_write(&folder, |image| {
        image.write_at(&[1; 16 * 4096], 2 * MIB - 8 * 4096).unwrap();
    });
}

#[test]
fn a_refcount_table_that_grows_is_whole_at_each_write() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=512,refcount_bits=64", "16M");
    let clusters = || fs::read(folder.path("a.qcow2")).unwrap()[56..60].to_vec();
    folder.qemu_io("a.qcow2", &["write -q 0 1888k"]);
    assert_eq!(clusters(), [0, 0, 0, 1]);
    check_each_write(&folder, |image| {
        for block in 0..40 {
            image.write_at(&[1; 4096], 2 * MIB + block * 4096).unwrap();
        }
    });
    assert_eq!(clusters(), [0, 0, 0, 2]);
}
