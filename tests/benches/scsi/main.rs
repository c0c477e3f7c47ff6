//! vhost-scsi beside its peers: one driver program, one file, in turns.
//!
//! - vhost-device-scsi, the crate as published;
//! - qemu-storage-daemon's vhost-user-blk;
//! - fio's io_uring straight on the file, with no device in between.
//!
//! `cargo bench --package tests -- [WORD…]` runs the loads with all of the words in their titles.
//! Each load is run in rounds, each subject once a round; ratios are of the same round. The unit of
//! what is compared is named in the table: operations or bytes a second, or time.

mod fio;
mod load;
mod memory;
mod subject;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use lab::{Error, Machine, Tool, benchmark, ensure_tools, program, wanted};

use load::LOADS;
use subject::{Cache, Peer};

/// Bytes of the file, or of each of four.
const SIZE: u64 = 512 << 20;
/// Times that each subject runs each load.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    benchmark(run)
}

/// What the subjects are made of.
struct Bench {
    files: Vec<PathBuf>,
    vhost_scsi: PathBuf,
    vhost_device_scsi: PathBuf,
}

fn run(words: &[String]) -> Result<(), Error> {
    let bench = prepare()?;
    for load in &LOADS {
        let title = |cache: Cache| format!("{}, {}", load.name, cache.name());
        for &cache in load.caches.iter().filter(|&&cache| wanted(&title(cache), words)) {
            let mut table = table::Table::new(load, cache);
            for round in 0..ROUNDS {
                for peer in Peer::ALL {
                    // An order that always is the same would favour one of them.
                    let peer = if round % 2 == 0 { peer } else { peer.mirrored() };
                    let run = bench.measure(peer, load, cache).inspect_err(|_| {
                        eprintln!("benchmark: {} failed at {}", peer.name(), title(cache));
                    })?;
                    if let Some(run) = run {
                        table.add(peer, run);
                    }
                }
            }
            println!("{table}");
        }
    }
    if wanted("memory", words) {
        println!("{}", memory::report(&bench)?);
    }
    Ok(())
}

fn prepare() -> Result<Bench, Error> {
    let folder = Machine::dir().join("bench");
    let failed = |source| Error::Io { what: format!("cannot fill {}", folder.display()), source };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let log = folder.join("log");
    ensure_tools(&[Tool { program: "fio", package: "fio" }], &log)?;
    let files: Vec<PathBuf> = (0..4).map(|n| folder.join(format!("disk{n}.img"))).collect();
    for file in &files {
        if std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == SIZE) {
            continue;
        }
        let mut fill = Command::new("dd");
        fill.args(["if=/dev/urandom", "bs=1M"]).arg(format!("count={}", SIZE >> 20));
        fill.arg("conv=fsync").arg(format!("of={}", file.display()));
        lab::Step::new(format!("filling {}", file.display()), &log).run(fill)?;
    }
    // Into the page cache, so that the first to be measured does not pay for all.
    for file in &files {
        let warmed = std::fs::File::open(file)
            .and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
        warmed.map_err(|source| Error::Io { what: format!("{}", file.display()), source })?;
    }
    Ok(Bench { files, vhost_scsi: program("vhost-scsi")?, vhost_device_scsi: published(&log)? })
}

/// The crate as it is on the registry.
fn published(log: &Path) -> Result<PathBuf, Error> {
    const VERSION: &str = "0.1.0";
    let root = Machine::dir().join("peers");
    let binary = root.join("bin/vhost-device-scsi");
    if !binary.exists() {
        let mut install = lab::cargo();
        install.args(["install", "--quiet", "--locked", "--version", VERSION, "--root"]);
        install.arg(&root).arg("vhost-device-scsi");
        lab::Step::new(format!("building vhost-device-scsi {VERSION}"), log).run(install)?;
    }
    Ok(binary)
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Cache::Page => "page cache",
            Cache::Direct => "O_DIRECT",
        }
    }
}
