//! The process is killed while it works, and another takes its place.

use std::time::Duration;

use lab::driver::{Command, Data, Initiator, InitiatorOptions, Lun, ScsiQueue};
use lab::{Error, Scsi};
use vmm_frontend::frontend::ProtocolFeatures;
use vmm_frontend::frontend::ring::RingFeatures;

use crate::common::{BLOCK, DISK, pattern, read16, write16};

const BLOCKS: u64 = 2048;

/// Pseudo-random numbers (xorshift): the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a slot of the queue is about.
#[derive(Clone, Copy)]
struct Task {
    block: u64,
    /// The version that it writes; `None` for a read.
    writes: Option<u64>,
}

/// Random reads and writes with a queue's whole depth, each block verified against the last write
/// that was acknowledged. A block has one command at a time.
struct Load {
    random: Random,
    versions: Vec<u64>,
    busy: Vec<bool>,
    tasks: Vec<Option<Task>>,
    /// Commands that met a unit attention. A write of them may be on the disk all the same: the
    /// dead process did it, and its successor, which did it again, told that it is new.
    again: Vec<Task>,
    completed: u64,
}

impl Load {
    fn new() -> Load {
        let blocks = BLOCKS as usize;
        Load {
            random: Random(0x1234_5678_9abc_def1),
            versions: vec![0; blocks],
            busy: vec![false; blocks],
            tasks: vec![None; 64],
            again: Vec::new(),
            completed: 0,
        }
    }

    /// Fills the queue.
    fn submit(&mut self, queue: &mut ScsiQueue) -> Result<(), Error> {
        loop {
            let Some(task) = self.again.pop().or_else(|| self.next()) else { continue };
            if !self.send(queue, task)? {
                return queue.slots.publish();
            }
        }
    }

    /// `false`: the queue is full, and the command waits for the next time.
    fn send(&mut self, queue: &mut ScsiQueue, task: Task) -> Result<bool, Error> {
        let Task { block, writes } = task;
        let bytes = pattern(block, writes.unwrap_or(0));
        let (cdb, data) = match writes {
            Some(_) => (write16(block, 1), Data::Out(&bytes)),
            None => (read16(block, 1), Data::In(BLOCK)),
        };
        let command = Command { lun: DISK, tag: block, cdb: &cdb, data };
        let slot = queue.submit(&command)?;
        match slot {
            Some(slot) => self.tasks[slot] = Some(task),
            None => self.again.push(task),
        }
        Ok(slot.is_some())
    }

    /// A random command, for a block that has none.
    fn next(&mut self) -> Option<Task> {
        let block = self.random.below(BLOCKS);
        let place = block as usize;
        if std::mem::replace(&mut self.busy[place], true) {
            return None;
        }
        let writes = (self.random.below(2) == 0).then(|| self.versions[place] + 1);
        Some(Task { block, writes })
    }

    /// Takes a completed command, if there is one.
    fn complete(&mut self, queue: &mut ScsiQueue) -> Result<bool, Error> {
        let Some(done) = queue.take()? else { return Ok(false) };
        let task = self.tasks[done.slot].take().expect("a command completes once");
        let place = task.block as usize;
        let answer = queue.answer(done, if task.writes.is_some() { 0 } else { BLOCK })?;
        let attention = answer.sense_code().is_some_and(|code| code.0 == 6);
        if attention && answer.status == 2 {
            self.again.push(task);
            return Ok(true);
        }
        self.busy[place] = false;
        let data = answer.good();
        match task.writes {
            Some(version) => self.versions[place] = version,
            None => self.check(task.block, &data),
        }
        self.completed += 1;
        Ok(true)
    }

    #[track_caller]
    fn check(&self, block: u64, data: &[u8]) {
        let version = self.versions[block as usize];
        let zeroes = version == 0 && data.iter().all(|&byte| byte == 0);
        if !zeroes && data != pattern(block, version) {
            let found = (0..=version + 1).find(|&other| data == pattern(block, other));
            panic!("block {block} should have version {version} and has {found:?}");
        }
    }

    fn run(&mut self, queue: &mut ScsiQueue, commands: u64) -> Result<(), Error> {
        let end = self.completed + commands;
        while self.completed < end {
            self.submit(queue)?;
            queue.slots.ring.wait(Duration::from_secs(20)).expect("waiting");
            let before = self.completed;
            while self.complete(queue)? {}
            assert!(queue.slots.ring.under_way() < 64);
            assert!(before <= self.completed);
        }
        Ok(())
    }

    fn drain(&mut self, queue: &mut ScsiQueue) -> Result<(), Error> {
        while queue.slots.ring.under_way() > 0 {
            let waited = queue.slots.ring.wait(Duration::from_secs(20)).expect("waiting");
            assert!(waited, "{} commands are lost", queue.slots.ring.under_way());
            while self.complete(queue)? {}
        }
        Ok(())
    }

    /// Every block has what was acknowledged last.
    fn sweep(&mut self, queue: &mut ScsiQueue) -> Result<(), Error> {
        self.drain(queue)?;
        while let Some(task) = self.again.pop() {
            self.send(queue, task)?;
            queue.slots.publish()?;
            self.drain(queue)?;
        }
        for block in 0..BLOCKS {
            let cdb = read16(block, 1);
            let command = Command { lun: DISK, tag: 0, cdb: &cdb, data: Data::In(BLOCK) };
            let data = queue.run(&command)?.good();
            self.check(block, &data);
        }
        Ok(())
    }
}

fn killed(times: u64, commands: u64, options: InitiatorOptions) -> Result<(), Error> {
    let mut scsi = Scsi::new()?.disk(BLOCKS * BLOCK as u64, "")?.start()?;
    let size = if options.ring.indirect { 64 } else { 128 };
    let options = InitiatorOptions { size, depth: 32, data: 4096, ..options };
    let mut initiator = Initiator::connect(&scsi.socket(), options)?;
    let mut load = Load::new();
    for kill in 0..times {
        let some = commands / 2 + load.random.below(commands);
        load.run(&mut initiator.queues[0], some)?;
        load.submit(&mut initiator.queues[0])?;
        // At once, or when some of that is done.
        for _ in 0..kill % 4 * 100 {
            std::thread::yield_now();
        }
        scsi.restart()?;
        if !initiator.session.keeps_record() {
            while load.complete(&mut initiator.queues[0])? {}
        }
        initiator.reconnect()?;
        // Requests may come while the new process has not caught up.
        load.run(&mut initiator.queues[0], 10)?;
    }
    load.sweep(&mut initiator.queues[0])
}

const WITHOUT_EVENT_INDEX: RingFeatures =
    RingFeatures { event_index: false, indirect: true, packed: false };

#[test]
fn nothing_is_lost_or_repeated_when_the_process_is_killed() -> Result<(), Error> {
    killed(5, 2000, InitiatorOptions::default())
}

#[test]
fn nor_without_event_index() -> Result<(), Error> {
    killed(5, 2000, InitiatorOptions { ring: WITHOUT_EVENT_INDEX, ..InitiatorOptions::default() })
}

#[test]
fn nor_with_packed_rings() -> Result<(), Error> {
    let mut options = InitiatorOptions::default();
    options.ring.packed = true;
    killed(5, 2000, options)?;
    // Their descriptors in the ring itself, of which those that were taken are written over.
    options.ring.indirect = false;
    killed(5, 2000, options)
}

#[test]
#[ignore = "soak: 40 kills, some minutes on a slow host"]
fn nothing_is_lost_or_repeated_when_the_process_is_killed_twenty_times() -> Result<(), Error> {
    let mut options = InitiatorOptions::default();
    killed(20, 50_000, options)?;
    options.ring.packed = true;
    killed(20, 50_000, options)
}

/// The frontend submits again what was under way, to a process that keeps no record.
#[test]
fn a_frontend_may_keep_the_record_itself() -> Result<(), Error> {
    let mut options = InitiatorOptions::default();
    options.wanted = options.wanted.without(ProtocolFeatures::INFLIGHT_SHMFD);
    killed(5, 2000, options)?;
    options.ring.packed = true;
    killed(5, 2000, options)
}

/// A process that dies before it has seen a single request, and frontends that say where the
/// *driver* is (cloud-hypervisor's SET_VRING_BASE after a reconnect): the record knows better.
#[test]
fn requests_that_the_dead_process_had_not_taken_are_done() -> Result<(), Error> {
    had_not_taken(false)?;
    had_not_taken(true)
}

fn had_not_taken(packed: bool) -> Result<(), Error> {
    let mut scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let mut options = InitiatorOptions::default();
    options.ring.packed = packed;
    let mut initiator = Initiator::connect(&scsi.socket(), options)?;
    crate::common::works(&mut initiator.queues[0])?;
    for round in 0..4 {
        scsi.kill();
        let bytes = pattern(round, round);
        for block in 0..4 {
            let cdb = write16(block, 1);
            let command = Command { lun: DISK, tag: 0, cdb: &cdb, data: Data::Out(&bytes) };
            initiator.queues[0].submit(&command)?.expect("a free slot");
        }
        initiator.queues[0].slots.publish()?;
        scsi.restart()?;
        initiator.reconnect()?;
        for _ in 0..4 {
            let done = initiator.queues[0].wait()?;
            initiator.queues[0].slots.release(done.slot);
        }
    }
    crate::common::works(&mut initiator.queues[0])
}

/// A record that is in use says that the initiator knows the units: nothing has happened, for it.
#[test]
fn a_killed_process_is_not_a_power_on() -> Result<(), Error> {
    const TEST_UNIT_READY: [u8; 6] = [0; 6];
    const DRIVE: Lun = Lun::new(1, 0);
    let mut scsi = Scsi::new()?.disk(1 << 20, "")?.arg("--cdrom").arg("empty").start()?;
    let ready = |initiator: &mut Initiator, lun| {
        let answer = initiator.run(lun, &TEST_UNIT_READY, Data::None)?;
        Ok::<_, Error>(answer.sense_code())
    };
    let power_on = Some((0x6, 0x29, 0x01));
    let no_medium = Some((0x2, 0x3a, 0x01));
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    for lun in [DISK, DRIVE] {
        assert_eq!(ready(&mut initiator, lun)?, power_on);
    }
    for _ in 0..2 {
        scsi.restart()?;
        initiator.reconnect()?;
        assert_eq!(ready(&mut initiator, DISK)?, None);
        assert_eq!(ready(&mut initiator, DRIVE)?, no_medium);
    }
    // To another initiator it is one.
    drop(initiator);
    scsi.restart()?;
    let mut initiator = Initiator::connect(&scsi.socket(), InitiatorOptions::default())?;
    assert_eq!(ready(&mut initiator, DISK)?, power_on);
    Ok(())
}
