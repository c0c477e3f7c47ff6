//! fio, straight on the files.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::Error;
use serde_json::Value;

use super::load::{Load, Run};
use super::subject::Cache;

pub(crate) fn run(
    files: &[PathBuf],
    load: &Load,
    cache: Cache,
    time: Duration,
) -> Result<Run, Error> {
    let mode = match (load.random, load.write) {
        (true, false) => "randread",
        (true, true) => "randwrite",
        (false, false) => "read",
        (false, true) => "write",
    };
    let mut fio = Command::new("fio");
    fio.args(["--ioengine=io_uring", "--output-format=json", "--time_based", "--norandommap"]);
    // The file's pages stay as they are in the page cache, as they do for the others.
    fio.args(["--invalidate=0", "--overwrite=1", "--random_generator=lfsr", "--gtod_reduce=1"]);
    fio.arg(format!("--rw={mode}"));
    fio.arg(format!("--bs={}", load.block)).arg(format!("--iodepth={}", load.depth));
    // Requests are taken and given in batches, as a ring's are.
    fio.arg(format!("--iodepth_batch_submit={}", load.depth.div_ceil(4)));
    fio.arg("--iodepth_batch_complete_min=1");
    fio.arg(format!("--iodepth_batch_complete_max={}", load.depth));
    fio.arg(format!("--direct={}", u8::from(cache == Cache::Direct)));
    fio.arg(format!("--runtime={}ms", time.as_millis()));
    for (number, file) in files.iter().take(load.queues.into()).enumerate() {
        fio.arg(format!("--name=job{number}")).arg(format!("--filename={}", file.display()));
    }
    let output =
        fio.output().map_err(|source| Error::Io { what: "cannot start fio".into(), source })?;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let jobs = report["jobs"].as_array().cloned().unwrap_or_default();
    let side = if load.write { "write" } else { "read" };
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let mut run = Run { operations: 0, seconds: 0.0, processor: 0.0 };
    for job in &jobs {
        run.operations += job[side]["total_ios"].as_u64().unwrap_or(0);
        let seconds = number(&job[side]["runtime"]) / 1e3;
        run.seconds = run.seconds.max(seconds);
        run.processor += (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0 * seconds;
    }
    match run.operations {
        0 => Err(Error::Failed {
            what: "fio".into(),
            status: output.status,
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
        _ => Ok(run),
    }
}
