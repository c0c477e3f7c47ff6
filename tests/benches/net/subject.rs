//! Who is measured.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::Error;
use lab::driver::{NET_HEADER, NetDriver, NetOptions, NetPair};
use lab::net::{Header, Namespace, Net, Packets};
use vmm_frontend::frontend::ring::Buffer;

use crate::load::Load;
use crate::{TIME, bare};

/// Where frames go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Into,
    OutOf,
    Between,
}

impl Way {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Way::Into => "into a TAP",
            Way::OutOf => "out of a TAP",
            Way::Between => "between guests",
        }
    }

    pub(crate) fn other(self) -> &'static str {
        match self {
            Way::Into | Way::OutOf => "a bare loop, likewise",
            Way::Between => "two TAPs of a bridge, likewise",
        }
    }
}

/// What was done.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    frames: u64,
    time: Duration,
    /// Of the processes that are not the guest's.
    processor: Duration,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.frames as f64 / self.time.as_secs_f64()
    }

    pub(crate) fn processor(&self) -> f64 {
        self.processor.as_nanos() as f64 / self.frames.max(1) as f64
    }
}

/// A network with an interface.
pub(crate) struct Tap {
    network: Namespace,
}

const NAME: &str = "tap0";

fn options(load: &Load) -> NetOptions {
    NetOptions { size: 256, depth: 256, features: load.features(), ..NetOptions::default() }
}

impl Tap {
    pub(crate) fn new() -> Result<Tap, Error> {
        Ok(Tap { network: Namespace::new()? })
    }

    pub(crate) fn card(&self, features: u64) -> Result<(Net, NetDriver), Error> {
        let net = Net::new()?.arg("--tap").arg(NAME).arg("--queues").arg("1");
        let net = net.start_in(&self.network)?;
        self.up()?;
        let options = NetOptions { depth: 256, features, ..NetOptions::default() };
        let driver = NetDriver::connect(&net.socket(), options)?;
        Ok((net, driver))
    }

    fn up(&self) -> Result<(), Error> {
        self.network.ip("link set tap0 up")
    }

    pub(crate) fn write(&self, load: &Load) -> Result<Run, Error> {
        let (net, mut driver) = self.card(load.features())?;
        let before = processor(&net)?;
        let begun = Instant::now();
        let frames = blast(driver.pair(), load.frame(0xff, 1))?;
        let time = begun.elapsed();
        Ok(Run { frames, time, processor: processor(&net)? - before })
    }

    pub(crate) fn write_bare(&self, load: &Load) -> Result<Run, Error> {
        let mut tap = self.network.enter(|| bare::open(NAME))?;
        self.up()?;
        let before = own_time();
        let begun = Instant::now();
        let frames = bare::write(&mut tap, load);
        Ok(Run { frames, time: begun.elapsed(), processor: own_time() - before })
    }

    pub(crate) fn read(&self, load: &Load) -> Result<Run, Error> {
        let (net, mut driver) = self.card(load.features())?;
        let before = processor(&net)?;
        self.under_load(load, || {
            let begun = Instant::now();
            let frames = absorb(driver.pair(), TIME)?;
            let time = begun.elapsed();
            Ok(Run { frames, time, processor: processor(&net)? - before })
        })
    }

    pub(crate) fn read_bare(&self, load: &Load) -> Result<Run, Error> {
        let mut tap = self.network.enter(|| bare::open(NAME))?;
        rustix::io::ioctl_fionbio(&tap, true).map_err(|error| Error::Io {
            what: "an interface cannot be read".into(),
            source: error.into(),
        })?;
        self.up()?;
        self.under_load(load, || {
            let before = own_time();
            let begun = Instant::now();
            let frames = bare::read(&mut tap);
            Ok(Run { frames, time: begun.elapsed(), processor: own_time() - before })
        })
    }

    /// While the host sends as much as it can.
    fn under_load<T>(
        &self,
        load: &Load,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let packets = Packets::open(&self.network, NAME)?;
        let (_, frame) = load.frame(0xff, 1);
        let header = match load.segmented {
            true => Header::tcp(&vec![0; load.size - 54], 1448)?.0,
            false => Header::default(),
        };
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // It is refused while the interface's queue is full.
                    let _ = packets.send(header, &frame);
                }
            });
            let done = work();
            over.store(true, Ordering::Relaxed);
            done
        })
    }
}

/// From guest to guest by the switch.
pub(crate) fn switched(load: &Load) -> Result<Run, Error> {
    let net = Net::switch(2)?.arg("--queues").arg("1").start()?;
    let connect = |port| NetDriver::connect(net.port(port), options(load));
    between(&[&net], connect(0)?, connect(1)?, load)
}

/// From guest to guest by a bridge of the host's.
pub(crate) fn bridged(load: &Load) -> Result<Run, Error> {
    let network = Namespace::new()?;
    network.ip("link add br0 type bridge")?;
    network.ip("link set br0 up")?;
    let card = |name: &str| -> Result<Net, Error> {
        let net = Net::new()?.arg("--tap").arg(name).arg("--queues").arg("1");
        let net = net.start_in(&network)?;
        network.ip(&format!("link set {name} master br0 up"))?;
        Ok(net)
    };
    let (a, b) = (card("tap0")?, card("tap1")?);
    let connect = |net: &Net| NetDriver::connect(&net.socket(), options(load));
    between(&[&a, &b], connect(&a)?, connect(&b)?, load)
}

fn between(
    nets: &[&Net],
    mut from: NetDriver,
    mut to: NetDriver,
    load: &Load,
) -> Result<Run, Error> {
    // So that it is known where the other one is.
    let (header, hello) = load.frame(1, 2);
    let hello = &hello[..60];
    to.pair().send([0; NET_HEADER], hello)?;
    while from.pair().receive(Duration::from_secs(1))?.is_some_and(|(_, frame)| frame != hello) {}
    let time =
        |nets: &[&Net]| -> Result<Duration, Error> { nets.iter().map(|net| processor(net)).sum() };
    let before = time(nets)?;
    let (_, frame) = load.frame(2, 1);
    let begun = Instant::now();
    let frames = thread::scope(|scope| {
        let sender = scope.spawn(|| blast(from.pair(), (header, frame)).map(drop));
        let frames = absorb(to.pair(), TIME);
        sender.join().expect("the sender")?;
        frames
    })?;
    Ok(Run { frames, time: begun.elapsed().min(TIME), processor: time(nets)? - before })
}

/// Sends the same frame again and again; returns how often.
fn blast(pair: &mut NetPair, (header, frame): ([u8; NET_HEADER], Vec<u8>)) -> Result<u64, Error> {
    let slots = &mut pair.transmit;
    let mut free = Vec::new();
    while let Some(slot) = slots.claim() {
        slots.write(slots.place(slot).head, &header)?;
        slots.write(slots.place(slot).data, &frame)?;
        free.push(slot);
    }
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < TIME {
        for slot in free.drain(..) {
            let head = Buffer { address: slots.place(slot).head, length: NET_HEADER as u32 };
            let data = slots.data(slot, frame.len());
            slots.add(slot, &[head, data], &[])?;
        }
        slots.publish()?;
        while let Some((slot, _)) = slots.take()? {
            free.push(slot);
            count += 1;
        }
        if free.is_empty() {
            slots
                .ring
                .wait(Duration::from_millis(1))
                .map_err(|source| Error::Io { what: "waiting".into(), source })?;
        }
    }
    Ok(count)
}

/// Receives for a time, and looks at no frame; returns how many there were.
fn absorb(pair: &mut NetPair, time: Duration) -> Result<u64, Error> {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < time {
        count += pair.absorb(Duration::from_millis(1))?;
    }
    Ok(count)
}

/// Processor time of the process that serves.
fn processor(net: &Net) -> Result<Duration, Error> {
    let path = format!("/proc/{}/stat", net.serving()?);
    let failed = |source| Error::Io { what: format!("cannot read {path}"), source };
    let stat = fs::read_to_string(&path).map_err(failed)?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // User and system time, in hundredths of a second.
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

/// How often its threads were put to sleep and woken.
pub(crate) fn wakeups(net: &Net) -> Result<u64, Error> {
    let folder = format!("/proc/{}/task", net.serving()?);
    let failed = |source| Error::Io { what: format!("cannot read {folder}"), source };
    let mut count = 0;
    for task in fs::read_dir(&folder).map_err(failed)? {
        let status = task.and_then(|task| fs::read_to_string(task.path().join("status")));
        let status = status.map_err(failed)?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count += line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(count)
}

fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
