//! Who is measured, and the driver that all of them but fio get.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::driver::{
    Block, BlockQueue, BlockRequest, Command as Scsi, Data, Initiator, InitiatorOptions, Lun,
    ScsiQueue,
};
use lab::{Error, Machine, Process, Version, serving, spawn_listening};

use super::load::{Load, Run};
use super::{Bench, SIZE, fio};

/// How long one run takes, after a warm-up of a fifth of it.
const TIME: Duration = Duration::from_secs(2);

/// How the file is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    Page,
    Direct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    VhostScsi,
    VhostDeviceScsi,
    StorageDaemon,
    Fio,
}

impl Peer {
    pub(crate) const ALL: [Peer; 4] =
        [Peer::VhostScsi, Peer::VhostDeviceScsi, Peer::StorageDaemon, Peer::Fio];

    /// The order from behind.
    pub(crate) fn mirrored(self) -> Peer {
        match self {
            Peer::VhostScsi => Peer::Fio,
            Peer::VhostDeviceScsi => Peer::StorageDaemon,
            Peer::StorageDaemon => Peer::VhostDeviceScsi,
            Peer::Fio => Peer::VhostScsi,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::VhostScsi => "vhost-scsi",
            Peer::VhostDeviceScsi => "vhost-device-scsi",
            Peer::StorageDaemon => "qemu-storage-daemon",
            Peer::Fio => "fio, io_uring",
        }
    }
}

impl Bench {
    /// `None`: the peer can't do it.
    pub(crate) fn measure(
        &self,
        peer: Peer,
        load: &Load,
        cache: Cache,
    ) -> Result<Option<Run>, Error> {
        let socket = Machine::dir().join("bench").join("socket");
        // Peers leave theirs behind.
        let _ = std::fs::remove_file(&socket);
        let files = self.files.get(..load.queues.into()).unwrap_or(&self.files);
        match peer {
            Peer::Fio => fio::run(files, load, cache, TIME).map(Some),
            // One queue and no O_DIRECT is all it has.
            Peer::VhostDeviceScsi if load.queues > 1 || cache == Cache::Direct => Ok(None),
            Peer::VhostDeviceScsi => {
                let mut command = Command::new(&self.vhost_device_scsi);
                command.arg("--socket-path").arg(&socket).arg(&files[0]);
                scsi(spawn_listening(command, &socket)?, &socket, load).map(Some)
            }
            Peer::VhostScsi => {
                let command = self.vhost_scsi(&socket, files, cache);
                scsi(spawn_listening(command, &socket)?, &socket, load).map(Some)
            }
            Peer::StorageDaemon => {
                // One process has one disk there: queues share it.
                let command = storage_daemon(&socket, &files[0], cache, load.queues)?;
                block(spawn_listening(command, &socket)?, &socket, load).map(Some)
            }
        }
    }

    pub(crate) fn vhost_scsi(&self, socket: &Path, files: &[PathBuf], cache: Cache) -> Command {
        let mut command = Command::new(&self.vhost_scsi);
        command.arg("--socket-path").arg(socket);
        let cache = if cache == Cache::Direct { "none" } else { "writeback" };
        for file in files {
            let text = format!("{},target=0,cache={cache}", file.display());
            command.arg("--disk").arg(text);
        }
        command
    }
}

pub(crate) fn storage_daemon(
    socket: &Path,
    file: &Path,
    cache: Cache,
    queues: u16,
) -> Result<Command, Error> {
    let mut command = Machine::qemu(Version::Backports)?.program("qemu-storage-daemon");
    let direct = if cache == Cache::Direct { "on" } else { "off" };
    command.arg("--blockdev").arg(format!(
        "driver=file,node-name=disk,filename={},aio=io_uring,cache.direct={direct}",
        file.display()
    ));
    command.args(["--object", "iothread,id=io"]);
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=io,num-queues={queues},\
         addr.type=unix,addr.path={}",
        socket.display()
    ));
    Ok(command)
}

/// One queue's requests, whatever its device is.
trait Requests: Send {
    /// Adds a read or a write of the load; `false`: there is no room.
    fn submit(&mut self, load: &Load, number: u16, offset: u64) -> Result<bool, Error>;
    fn publish(&mut self) -> Result<(), Error>;
    /// Takes a completed one; waits for one if `wait`.
    fn take(&mut self, wait: bool) -> Result<bool, Error>;
}

impl Requests for ScsiQueue {
    fn submit(&mut self, load: &Load, number: u16, offset: u64) -> Result<bool, Error> {
        let lba = u32::try_from(offset / 512).unwrap_or(0).to_be_bytes();
        let [high, low] = u16::try_from(load.block / 512).unwrap_or(0).to_be_bytes();
        let code = if load.write { 0x2a } else { 0x28 };
        let cdb = [code, 0, lba[0], lba[1], lba[2], lba[3], 0, high, low, 0];
        let data = match load.write {
            true => Data::Prepared(load.block),
            false => Data::In(load.block),
        };
        let command = Scsi { lun: Lun::new(0, number), tag: 0, cdb: &cdb, data };
        Ok(ScsiQueue::submit(self, &command)?.is_some())
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.slots.publish()
    }

    fn take(&mut self, wait: bool) -> Result<bool, Error> {
        let done = if wait { Some(self.wait()?) } else { ScsiQueue::take(self)? };
        let Some(done) = done else { return Ok(false) };
        assert_eq!((done.response, done.status), (0, 0), "{done:?}");
        self.slots.release(done.slot);
        Ok(true)
    }
}

impl Requests for BlockQueue {
    fn submit(&mut self, load: &Load, _number: u16, offset: u64) -> Result<bool, Error> {
        let (sector, length) = (offset / 512, load.block);
        let request = match load.write {
            true => BlockRequest::Write { sector, length },
            false => BlockRequest::Read { sector, length },
        };
        Ok(BlockQueue::submit(self, request)?.is_some())
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.slots.publish()
    }

    fn take(&mut self, wait: bool) -> Result<bool, Error> {
        let done = if wait { Some(self.wait()?) } else { BlockQueue::take(self)? };
        let Some(done) = done else { return Ok(false) };
        assert_eq!(done.status, 0, "{done:?}");
        self.slots.release(done.slot);
        Ok(true)
    }
}

fn scsi(process: Process, socket: &Path, load: &Load) -> Result<Run, Error> {
    let options = InitiatorOptions {
        queues: load.queues,
        depth: load.depth,
        data: u32::try_from(load.block).unwrap_or(0),
        ..InitiatorOptions::default()
    };
    let mut initiator = Initiator::connect(socket, options)?;
    let queues = std::mem::take(&mut initiator.queues);
    let mut queues: Vec<ScsiQueue> = queues.into_iter().collect();
    for queue in &mut queues {
        // Power on is told once by every unit.
        for number in 0..load.queues {
            let lun = Lun::new(0, number);
            let command = Scsi { lun, tag: 0, cdb: &[0; 6], data: Data::None };
            queue.run(&command)?;
        }
    }
    drive(&process, queues, load)
}

fn block(process: Process, socket: &Path, load: &Load) -> Result<Run, Error> {
    let data = u32::try_from(load.block).unwrap_or(0);
    let mut block = Block::connect(socket, load.queues, load.depth, data)?;
    let queues = std::mem::take(&mut block.queues);
    drive(&process, queues, load)
}

/// Drives all queues, a thread each: some time to warm up, then what counts.
fn drive(process: &Process, queues: Vec<impl Requests>, load: &Load) -> Result<Run, Error> {
    let pid = process.id();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(queues)
            .map(|(number, mut queue)| scope.spawn(move || work(&mut queue, load, number)))
            .collect();
        std::thread::sleep(TIME / 5);
        let before = processor_time(pid);
        let started = Instant::now();
        let mut operations = 0;
        for thread in threads {
            operations += thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let processor = processor_time(pid) - before;
        Ok(Run { operations, seconds: started.elapsed().as_secs_f64(), processor })
    })
}

/// Operations that were completed after the warm-up.
fn work(queue: &mut impl Requests, load: &Load, number: u16) -> Result<u64, Error> {
    let blocks = SIZE / load.block as u64;
    // xorshift: any sequence does that no cache foresees.
    let mut random = 0x9e37_79b9_7f4a_7c15u64 + u64::from(number);
    let mut next = 0;
    let mut offset = || {
        if !load.random {
            next = (next + 1) % blocks;
            return next * load.block as u64;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % blocks * load.block as u64
    };
    for _ in 0..load.depth {
        queue.submit(load, number, offset())?;
    }
    queue.publish()?;
    let (count_from, end) = (Instant::now() + TIME / 5, Instant::now() + TIME / 5 + TIME);
    let mut counted = 0;
    // As many threads as processors do not leave one to the device: they have to wait.
    let wait = load.queues > 1;
    loop {
        let mut done = 0;
        while queue.take(wait && done == 0)? {
            done += 1;
            queue.submit(load, number, offset())?;
        }
        if done == 0 {
            std::hint::spin_loop();
            continue;
        }
        queue.publish()?;
        let now = Instant::now();
        if now >= end {
            break;
        }
        counted += if now >= count_from { done } else { 0 };
    }
    // What is still under way leads into memory that is about to go.
    for _ in 0..load.depth {
        queue.take(true)?;
    }
    Ok(counted)
}

/// A process, and the one that it supervises, if it does.
pub(crate) fn family(pid: u32) -> impl Iterator<Item = u32> {
    serving(pid).into_iter().chain([pid])
}

/// User and system time of a process, with the one that it supervises, in seconds.
fn processor_time(pid: u32) -> f64 {
    let ticks: u64 = family(pid).map(ticks).sum();
    // SAFETY: sysconf(3) takes a number and touches no memory of ours.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks as f64 / hertz as f64
}

fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may have anything in it: utime is field 14, stime 15.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}
