//! Resident memory of an idle process, and the time that it takes to listen.

use std::process::Command;
use std::time::Instant;

use lab::{Error, Machine, spawn_listening};

use super::Bench;
use super::subject::{Cache, family};

pub(crate) fn report(bench: &Bench) -> Result<String, Error> {
    let mut lines = String::from("memory when idle, supervisor and all, and time to listen\n");
    for units in [1, 1000] {
        let socket = Machine::dir().join("bench").join("socket");
        let _ = std::fs::remove_file(&socket);
        let command = many(bench, &socket, units);
        let started = Instant::now();
        let process = spawn_listening(command, &socket)?;
        let time = started.elapsed();
        let sum = |key| family(process.id()).map(|pid| kibibytes(pid, key)).sum::<u64>() as f64;
        lines += &format!(
            "  {units:5} units: {:.1} MiB resident ({:.1} MiB proportional), {:.2} s\n",
            sum("Rss:") / 1024.0,
            sum("Pss:") / 1024.0,
            time.as_secs_f64(),
        );
    }
    Ok(lines)
}

fn many(bench: &Bench, socket: &std::path::Path, units: u32) -> Command {
    let mut command = bench.vhost_scsi(socket, &[], Cache::Page);
    for number in 0..units {
        let (target, lun) = (number / 250, number % 250);
        let file = bench.files[0].display();
        command.arg("--disk").arg(format!("{file},readonly=on,target={target},lun={lun}"));
    }
    command
}

fn kibibytes(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
