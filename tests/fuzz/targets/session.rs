//! A frontend, and the driver behind it, that send whatever they like to the SCSI controller.
//!
//! Whatever comes: the session ends when the frontend hangs up, nothing of it stays (threads,
//! descriptors), and the next frontend is served.

#![no_main]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use fuzz::{Ram, memfd};
use libfuzzer_sys::fuzz_target;
use vhost_runtime::session::serve;
use vhost_scsi::image::engine::EngineKind;
use vhost_scsi::image::raw::{CacheMode, Raw};
use vhost_scsi::lun::cd::Cd;
use vhost_scsi::lun::disk::{Disk, DiskOptions};
use vhost_scsi::lun::identity::Identity;
use vhost_scsi::scsi::target::Address;
use vhost_scsi::scsi::{ErrorPolicy, opcode};
use vhost_scsi::virtio::controller::{Controller, ControllerOptions};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The guest's memory: one file, mapped at guest address 0.
const MEMORY: u64 = 0x4_0000;
/// Where the frontend has it.
const USER: u64 = 0x7000_0000;
/// Control, event and one request queue.
const QUEUES: u64 = 3;
/// Descriptors of a queue.
const SIZE: u64 = 16;
/// Bytes of a queue's rings.
const RINGS: u64 = 0x1000;
/// A session ends well before this, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(15);

/// EVENT_IDX, INDIRECT_DESC, VERSION_1, PROTOCOL_FEATURES, HOTPLUG, CHANGE.
const FEATURES: u64 = 1 << 29 | 1 << 28 | 1 << 32 | 1 << 30 | 0b110;
const LOG_ALL: u64 = 1 << 26;
/// Every protocol feature that is offered: MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG,
/// INFLIGHT_SHMFD, RESET_DEVICE, CONFIGURE_MEM_SLOTS, DEVICE_STATE.
const PROTOCOL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 19;

fuzz_target!(|data: &[u8]| {
    let device = controller();
    static BEFORE: OnceLock<usize> = OnceLock::new();
    if BEFORE.get().is_none() {
        // As Rust's own main does: to write to a pipe that nobody reads is an error.
        // SAFETY: a plain setting of the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        session(device, &[]);
    }
    let before = *BEFORE.get_or_init(descriptors);
    session(device, data);
    settle("descriptors", before, descriptors);
    settle("workers", 0, workers);
});

fn controller() -> &'static Arc<Controller> {
    static CONTROLLER: OnceLock<Arc<Controller>> = OnceLock::new();
    CONTROLLER.get_or_init(|| {
        let options = ControllerOptions { queues: 1, engine: EngineKind::Threads };
        let controller = Controller::new(options).expect("a controller");
        let identity = |name: &str| Identity {
            product: String::from("UNIT"),
            serial: None,
            name: name.to_owned(),
            wwn: None,
        };
        let raw = Raw::new(memfd(64 << 10), false, CacheMode::Writeback, true).expect("a disk");
        let disk = |name: &str| DiskOptions {
            identity: identity(name),
            block_size: 512,
            physical_block_size: None,
            solid_state: true,
            removable: true,
            error_policy: ErrorPolicy::default(),
        };
        let ram = Ram::new(64 << 10, false);
        let medium = Arc::new(Ram::new(64 << 10, true));
        let at = |lun| Address { target: 0, lun };
        let units = [
            controller.add(at(0), Disk::new(Arc::new(raw), disk("raw"))),
            controller.add(at(1), Disk::new(Arc::new(ram), disk("ram"))),
            controller.add(at(2), Cd::new(Some(medium), identity("cd"), ErrorPolicy::default())),
        ];
        assert!(units.into_iter().all(|added| added.is_ok_and(|added| added)));
        Arc::new(controller)
    })
}

/// Open descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// Threads of sessions: those that serve queues, and those that move device state.
fn workers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("/proc");
    let is_worker = |thread: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        ["worker-", "serving", "state"].iter().any(|ours| name.starts_with(ours))
    };
    threads.flatten().filter(is_worker).count()
}

/// What threads of the pool still hold is given back a little later.
fn settle(what: &str, most: usize, count: impl Fn() -> usize) {
    let end = Instant::now() + Duration::from_secs(3);
    while count() > most {
        assert!(Instant::now() < end, "{} {what} are left, {most} are right", count());
        thread::sleep(Duration::from_millis(1));
    }
}

fn session(device: &Arc<Controller>, data: &[u8]) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    ours.set_nonblocking(true).expect("a socket");
    let (done, ended) = channel();
    let device = Arc::clone(device);
    let serving = thread::Builder::new().name(String::from("serving"));
    let serving = serving.spawn(move || {
        let _ = serve(theirs, &device); // a protocol error is an answer, too
        let _ = done.send(());
    });
    let serving = serving.expect("a thread");
    let mut frontend = Frontend {
        socket: ours,
        memory: memfd(MEMORY),
        kicks: Vec::new(),
        other: Vec::new(),
        stuck: false,
        published: [0; QUEUES as usize],
    };
    let _ = frontend.run(&mut Unstructured::new(data));
    drop(frontend);
    assert!(ended.recv_timeout(PATIENCE).is_ok(), "the session does not end");
    serving.join().expect("no panic");
}

struct Frontend {
    socket: UnixStream,
    memory: File,
    kicks: Vec<OwnedFd>,
    other: Vec<OwnedFd>,
    /// Device state travels through something that is no state: to check it takes its time.
    stuck: bool,
    /// Requests made available on each ring.
    published: [u16; QUEUES as usize],
}

impl Frontend {
    fn run(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if input.ratio(7, 8)? {
            self.greet(input)?;
        }
        while !input.is_empty() {
            self.step(input)?;
            self.drain();
        }
        if input.arbitrary()? {
            self.wait();
        }
        Ok(())
    }

    /// What every frontend begins with.
    fn greet(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let features = FEATURES & !(u64::from(input.arbitrary::<u8>()?) << 24 & !(1 << 30));
        self.send(16, &PROTOCOL.to_ne_bytes(), &[]);
        self.send(2, &features.to_ne_bytes(), &[]);
        self.send(5, &table(0), &[self.memory.as_raw_fd()]);
        for queue in 0..QUEUES {
            if input.ratio(7, 8)? {
                self.start(queue);
            }
        }
        Ok(())
    }

    fn start(&mut self, queue: u64) {
        let rings = USER + queue * RINGS;
        let index = (queue as u32).to_ne_bytes();
        let address = [rings, rings + 0x400, rings + 0x200, 0];
        let address: Vec<u8> = address.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.send(8, &[index, (SIZE as u32).to_ne_bytes()].concat(), &[]);
        self.send(9, &[&index[..], &[0; 4], &address].concat(), &[]);
        self.send(10, &[index, [0; 4]].concat(), &[]);
        self.send(13, &queue.to_ne_bytes(), &[event()]);
        let kick = event();
        self.send(12, &queue.to_ne_bytes(), &[kick]);
        self.send(18, &[index, 1u32.to_ne_bytes()].concat(), &[]);
        self.published[queue as usize] = 0;
        let _ = self.memory.write_all_at(&[0; RINGS as usize], queue * RINGS);
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let queue = input.int_in_range(0..=QUEUES - 1)?;
        let index = (queue as u32).to_ne_bytes();
        let small: u32 = input.int_in_range(0..=8)?;
        match input.int_in_range(0..=23)? {
            0 => self.garbage(input)?,
            1 | 2 => self.any_message(input)?,
            3 => self.start(queue),
            4 => self.send(11, &[index, [0; 4]].concat(), &[]), // GET_VRING_BASE
            5 => self.send(18, &[index, (small & 1).to_ne_bytes()].concat(), &[]),
            6 => {
                let number = queue | u64::from(input.ratio(1, 8)?) << 8;
                let fd = self.any_fd(input)?;
                let request = *input.choose(&[12, 13, 14])?;
                self.send(request, &number.to_ne_bytes(), &[fd]);
            }
            7 => {
                let (size, offset) = (u64::from(small) * 8, u64::from(small & 1) * 4096);
                let log = memfd(4096 * 3).keep_for(&mut self.other);
                self.send(6, &[size.to_ne_bytes(), offset.to_ne_bytes()].concat(), &[log]);
                self.send(2, &(FEATURES | LOG_ALL).to_ne_bytes(), &[]);
            }
            8 => self.inflight(input)?,
            9 => self.state(input)?,
            10 => {
                let region = table(if input.arbitrary()? { 0 } else { MEMORY });
                let region = [&[0; 8], &region[8..]].concat();
                let request = *input.choose(&[37, 38])?;
                let fds = [self.memory.as_raw_fd()];
                self.send(request, &region, if request == 37 { &fds } else { &[] });
            }
            11 => self.send(5, &table(0), &[self.memory.as_raw_fd()]),
            12 => self.send(34, &[], &[]), // RESET_DEVICE
            13 => {
                let (offset, size) = (small * 4, input.int_in_range(0..=64u32)?);
                let bytes: Vec<u8> =
                    [offset, size, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
                let request = *input.choose(&[24, 25])?;
                self.send(request, &[bytes, vec![small as u8; size as usize]].concat(), &[]);
            }
            14 => {
                let fd = self.any_fd(input)?;
                self.send(21, &[], &[fd]); // SET_BACKEND_REQ_FD
            }
            15 => {
                let at = input.int_in_range(0..=MEMORY - 8)?;
                let bytes: [u8; 8] = input.arbitrary()?;
                let _ = self.memory.write_all_at(&bytes, at);
                self.kick();
            }
            16 => self.kick(),
            17 => self.wait(),
            18 => {
                let features: u64 = input.arbitrary()?;
                self.send(2, &(FEATURES & features | 1 << 30).to_ne_bytes(), &[]);
            }
            _ => self.request(input, queue)?,
        }
        Ok(())
    }

    fn garbage(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let length = input.int_in_range(0..=40)?;
        let bytes = input.bytes(length.min(input.len()))?;
        let _ = self.socket.write(bytes);
        Ok(())
    }

    fn any_message(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let request = input.int_in_range(0..=46)?;
        if request == 43 && self.stuck {
            return Ok(());
        }
        self.stuck |= request == 42;
        let length = input.int_in_range(0..=64)?;
        let payload = input.bytes(length.min(input.len()))?.to_vec();
        let mut fds = Vec::new();
        for _ in 0..input.int_in_range(0..=3)? {
            fds.push(self.any_fd(input)?);
        }
        self.send_with(request, input.int_in_range(0..=15)?, &payload, &fds);
        Ok(())
    }

    /// A descriptor of some kind, right or wrong; it is closed with the session.
    fn any_fd(&mut self, input: &mut Unstructured<'_>) -> Result<RawFd> {
        let fd: OwnedFd = match input.int_in_range(0..=7)? {
            0 => memfd(input.int_in_range(0..=0x4000)?).into(),
            1 => File::open("/dev/null").expect("/dev/null").into(),
            2 => {
                let (one, other) = UnixStream::pair().expect("two sockets");
                self.other.push(other.into());
                one.into()
            }
            3 => {
                let (read, write) = std::io::pipe().expect("a pipe");
                let (kept, other): (OwnedFd, OwnedFd) = if input.arbitrary()? {
                    (read.into(), write.into())
                } else {
                    (write.into(), read.into())
                };
                if input.arbitrary()? {
                    self.other.push(other);
                }
                kept
            }
            4 => File::open("/").expect("/").into(),
            _ => own(event()),
        };
        let raw = fd.as_raw_fd();
        self.other.push(fd);
        Ok(raw)
    }

    fn inflight(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (queues, size): (u16, u16) = (input.int_in_range(0..=4)?, SIZE as u16);
        let words = |length: u64| {
            [&length.to_ne_bytes()[..], &[0; 8], &queues.to_ne_bytes(), &size.to_ne_bytes()]
                .concat()
        };
        if input.ratio(1, 4)? {
            self.send(31, &words(0), &[]);
            return Ok(());
        }
        let file = memfd(0x1000);
        let bytes = input.bytes(input.len().min(48))?;
        let _ = file.write_all_at(bytes, 0);
        let _ = file.write_all_at(&1u16.to_ne_bytes(), 8);
        let fd = file.keep_for(&mut self.other);
        self.send(32, &words(0x1000), &[fd]);
        Ok(())
    }

    /// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE, the pipe closed in between.
    fn state(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let load = input.arbitrary::<bool>()?;
        let mut file = memfd(0);
        if load {
            let state = br#"{"format":1,"device":"vhost-scsi","state":{"version":1,"units":[]}}"#;
            let _ = file.write_all(&state[..input.int_in_range(0..=state.len())?]);
            let _ = file.seek(SeekFrom::Start(0));
        }
        let kind = input.int_in_range(0..=7)?;
        self.stuck = kind < 2;
        let fd = match kind {
            0 => {
                // Never readable, and its other end is the session's own.
                // SAFETY: plain integers.
                let fd = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) });
                let raw = fd.as_raw_fd();
                self.other.push(fd);
                raw
            }
            1 => self.any_fd(input)?,
            _ => file.keep_for(&mut self.other),
        };
        self.send(42, &[u32::from(load).to_ne_bytes(), [0; 4]].concat(), &[fd]);
        if !self.stuck && input.ratio(3, 4)? {
            self.send(43, &[], &[]);
        }
        Ok(())
    }

    /// A request of the driver: a CDB, or a task management function, with its buffers.
    fn request(&mut self, input: &mut Unstructured<'_>, queue: u64) -> Result<()> {
        let mut bytes = vec![0; 51];
        let lun: u8 = input.int_in_range(0..=3)?;
        let address = [1, u8::from(input.ratio(1, 16)?), 0x40, lun, 0, 0, 0, 0];
        if queue == 0 {
            bytes.truncate(24);
            let (kind, function): (u8, u8) =
                (input.ratio(1, 8)?.into(), input.int_in_range(0..=8)?);
            bytes[0] = kind;
            bytes[4] = function;
            bytes[8..16].copy_from_slice(&address);
            bytes[16] = input.int_in_range(0..=3)?;
        } else {
            bytes[..8].copy_from_slice(&address);
            bytes[8] = input.int_in_range(0..=3)?;
            let known = input.choose(opcode::DISK)?;
            let cdb: [u8; 16] = input.arbitrary()?;
            bytes[19..35].copy_from_slice(&cdb);
            bytes[19] = known.code;
            if let Some(action) = known.action {
                bytes[20] = action as u8;
            }
            if input.ratio(7, 8)? && known.code != 0x5f {
                bytes[20] &= 0x1f;
                bytes[21..19 + known.usage.len()].fill(0);
                let count = if known.usage.len() == 16 { 13 } else { known.usage.len() - 2 };
                bytes[19 + count] = cdb[1] & 3;
            }
        }
        let slot = u64::from(self.published[queue as usize]) % (SIZE / 4);
        let buffers = 0x8000 + queue * 0x1_0000 + slot * 0x3000;
        let _ = self.memory.write_all_at(&bytes, buffers);
        let out: u32 = *input.choose(&[0, 0, 0, 512, 1024, 24])?;
        let room: u32 = if out > 0 { 0 } else { *input.choose(&[0, 36, 512, 2048, 255])? };
        let writable = *input.choose(&[108, 108, 108, 16, 12, 1])?;
        let first = (slot * 4) as u16;
        let chain = [
            (buffers, bytes.len() as u32, 0),
            (buffers + 0x400, out, 0),
            (buffers + 0x1000, writable, 2),
            (buffers + 0x1400, room, 2),
        ];
        for (number, (at, length, flags)) in chain.into_iter().enumerate() {
            let number = number as u16;
            let next: u16 = if number < 3 { 1 } else { 0 };
            let mut descriptor = at.to_le_bytes().to_vec();
            descriptor.extend(length.to_le_bytes());
            descriptor.extend((flags | next).to_le_bytes());
            descriptor.extend((first + number + next).to_le_bytes());
            let place = queue * RINGS + 16 * u64::from(first + number);
            let _ = self.memory.write_all_at(&descriptor, place);
        }
        let published = &mut self.published[queue as usize];
        let available = queue * RINGS + 0x200;
        let entry = available + 4 + 2 * (u64::from(*published) % SIZE);
        let _ = self.memory.write_all_at(&first.to_le_bytes(), entry);
        *published = published.wrapping_add(1);
        let _ = self.memory.write_all_at(&published.to_le_bytes(), available + 2);
        self.kick();
        Ok(())
    }

    fn kick(&self) {
        for kick in &self.kicks {
            // SAFETY: eight bytes that outlive the call, to an open eventfd.
            unsafe { libc::write(kick.as_raw_fd(), (&raw const ONE).cast(), 8) };
        }
    }

    fn send(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) {
        self.send_with(request, 1, payload, fds);
    }

    fn send_with(&mut self, request: u32, flags: u32, payload: &[u8], fds: &[RawFd]) {
        let header = [request, flags, payload.len() as u32];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let message = [header, payload.to_vec()].concat();
        // The session may have ended.
        let _ = self.socket.send_with_fds(&[&message[..]], fds);
        for &fd in fds {
            self.keep(fd);
        }
    }

    /// Events made for a message stay with us, to kick and to be closed.
    fn keep(&mut self, fd: RawFd) {
        let known = self.other.iter().chain(&self.kicks).any(|other| other.as_raw_fd() == fd);
        if !known && fd != self.memory.as_raw_fd() {
            self.kicks.push(own(fd));
        }
    }

    /// Answers are not looked at, but make room for others.
    fn drain(&mut self) {
        let mut bytes = [0; 4096];
        while self.socket.read(&mut bytes).is_ok_and(|count| count > 0) {}
    }

    /// Waits for an answer: all that was sent before was handled then.
    fn wait(&mut self) {
        self.drain();
        self.send(1, &[], &[]);
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call. A message cut short gets no answer.
        unsafe { libc::poll(&raw mut poll, 1, 20) };
    }
}

static ONE: u64 = 1;

/// One region of the table: the guest's memory at `guest`.
fn table(guest: u64) -> Vec<u8> {
    let mut bytes = [1u32.to_ne_bytes(), [0; 4]].concat();
    for word in [guest, MEMORY, USER + guest, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

fn event() -> RawFd {
    // SAFETY: plain integers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0, "no descriptor is left");
    fd
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: made by `event`, and owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

trait Kept {
    /// Its number, while `owner` owns it.
    fn keep_for(self, owner: &mut Vec<OwnedFd>) -> RawFd;
}

impl Kept for File {
    fn keep_for(self, owner: &mut Vec<OwnedFd>) -> RawFd {
        let raw = self.as_raw_fd();
        owner.push(self.into());
        raw
    }
}
