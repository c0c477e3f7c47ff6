//! How a device program is confined, watched and started again, seen from outside.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::driver::{Command as Scsi, Data, Initiator, InitiatorOptions, Lun};
use lab::{Error, Process, serving, spawn, spawn_listening};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// A folder with an image, and the program on it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        lab::make(&folder.path().join("disk.img"), 1 << 20).unwrap();
        Self { folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("scsi.sock")
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    /// The program on the image, without a socket.
    fn command(&self) -> Command {
        let mut command = Command::new(lab::program("vhost-scsi").unwrap());
        command.arg("--disk").arg(self.disk());
        command
    }

    fn with_socket(&self) -> Command {
        let mut command = self.command();
        command.arg("--socket-path").arg(self.socket());
        command
    }

    fn start(&self) -> Process {
        spawn_listening(self.with_socket(), &self.socket()).unwrap()
    }
}

/// GET_FEATURES and its answer: somebody serves.
fn is_served(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(SECONDS(10))).unwrap();
    let request = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
    let mut answer = [0; 20];
    stream.write_all(&request).is_ok() && stream.read_exact(&mut answer).is_ok()
}

fn connect(socket: &Path) -> UnixStream {
    UnixStream::connect(socket).unwrap()
}

fn status(pid: u32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// It is gone, or nobody has asked yet how it ended.
fn is_gone(pid: u32) -> bool {
    status(pid, "State").is_none_or(|state| state.starts_with('Z'))
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: it takes two integers.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// The serving process, once it is another than `before`.
fn next_serving(supervisor: u32, before: u32) -> u32 {
    let mut now = before;
    let found = within(SECONDS(10), || {
        now = serving(supervisor).unwrap_or(before);
        now != before
    });
    assert!(found, "no other process serves");
    now
}

#[test]
fn the_serving_process_is_confined() {
    let bench = Bench::new();
    let supervisor = bench.start();
    let pid = serving(supervisor.id()).unwrap();
    let has = |key| status(pid, key).unwrap();
    assert_eq!(has("Seccomp"), "2");
    assert_eq!(has("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(has(set), "0000000000000000", "{set}");
    }
    assert_eq!(has("Threads"), "1");
    // A service that has no network of its own has not the host's either.
    let network = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    // SAFETY: it has no arguments.
    if unsafe { libc::geteuid() } == 0 {
        assert_ne!(network(pid), network(std::process::id()));
    }
    assert!(is_served(&mut connect(&bench.socket())));
}

#[test]
fn inherited_files_are_closed() {
    let bench = Bench::new();
    let secret = fs::File::open("/etc/passwd").unwrap();
    // SAFETY: dup makes a descriptor that programs inherit; it is closed below.
    let inherited = unsafe { libc::dup(secret.as_raw_fd()) };
    let process = bench.start();
    // SAFETY: it is ours, see above.
    unsafe { libc::close(inherited) };
    let pid = serving(process.id()).unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let names: Vec<PathBuf> =
        open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(names.contains(&bench.disk()), "{names:?}");
    assert!(!names.contains(&PathBuf::from("/etc/passwd")), "{names:?}");
}

#[test]
fn a_killed_process_is_replaced() {
    let bench = Bench::new();
    let supervisor = bench.start();
    let mut first = connect(&bench.socket());
    assert!(is_served(&mut first));
    let mut pid = serving(supervisor.id()).unwrap();
    for signal in [libc::SIGKILL, libc::SIGABRT, libc::SIGSYS] {
        kill(pid, signal);
        // The socket listens all the time: this waits, and is served.
        assert!(is_served(&mut connect(&bench.socket())));
        pid = next_serving(supervisor.id(), pid);
        assert_eq!(status(pid, "Seccomp").as_deref(), Some("2"));
    }
    assert_eq!(first.read(&mut [0]).map_err(|error| error.kind()).unwrap_or(0), 0);
}

#[test]
fn nobody_outlives_the_supervisor() {
    let bench = Bench::new();
    let mut supervisor = bench.start();
    let pid = serving(supervisor.id()).unwrap();
    supervisor.kill().unwrap();
    // It may still be about to die.
    let _next = bench.start();
    assert!(within(SECONDS(5), || is_gone(pid)));
}

#[test]
fn a_polite_end_is_quick_and_clean() {
    for (signal, connected) in
        [(libc::SIGTERM, false), (libc::SIGINT, false), (libc::SIGTERM, true)]
    {
        let bench = Bench::new();
        let mut supervisor = bench.start();
        let pid = serving(supervisor.id()).unwrap();
        let mut stream = connect(&bench.socket());
        if connected {
            assert!(is_served(&mut stream));
        }
        supervisor.signal(signal).unwrap();
        let ended = supervisor.wait_within(SECONDS(1)).unwrap().expect("it ends within a second");
        assert_eq!(ended.code(), Some(0));
        assert!(is_gone(pid));
        assert!(!bench.socket().exists());
    }
    // Who finds the serving process and ends that ends both.
    let bench = Bench::new();
    let mut supervisor = bench.start();
    kill(serving(supervisor.id()).unwrap(), libc::SIGTERM);
    assert_eq!(supervisor.wait_within(SECONDS(1)).unwrap().unwrap().code(), Some(0));
    assert!(!bench.socket().exists());
}

#[test]
fn who_asks_twice_for_the_end_of_a_process_that_hangs_has_it() {
    let bench = Bench::new();
    let mut supervisor = bench.start();
    let pid = serving(supervisor.id()).unwrap();
    kill(pid, libc::SIGSTOP);
    supervisor.signal(libc::SIGTERM).unwrap();
    assert!(supervisor.wait_within(Duration::from_millis(200)).unwrap().is_none());
    supervisor.signal(libc::SIGTERM).unwrap();
    let ended = supervisor.wait_within(SECONDS(1)).unwrap().expect("it ends within a second");
    assert_eq!(ended.code(), Some(1));
    assert!(is_gone(pid) && !bench.socket().exists());
}

/// The log may be on the disk that the host lives on.
#[test]
fn a_frontend_cannot_fill_the_log() {
    const UNKNOWN: [u32; 3] = [4711, 1, 0];
    let bench = Bench::new();
    let log = bench.folder.path().join("log");
    let mut command = bench.with_socket();
    command.stderr(fs::File::create(&log).unwrap());
    let _program = spawn_listening(command, &bench.socket()).unwrap();
    let mut stream = connect(&bench.socket());
    let messages = UNKNOWN.map(u32::to_ne_bytes).concat().repeat(20_000);
    stream.write_all(&messages).unwrap();
    assert!(is_served(&mut stream));
    let said = fs::read_to_string(&log).unwrap();
    let unknown = said.lines().filter(|line| line.contains("message 4711 is not known")).count();
    assert!((4_096..8_000).contains(&unknown), "{unknown} lines");
    assert!(said.contains("(one line like it a second from here on, until they are fewer)"));
}

/// What a program printed to standard error, and how it ended.
fn fails(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_bad_setting_is_one_sentence_and_no_restart() {
    let bench = Bench::new();
    let mut command = bench.with_socket();
    command.args(["--disk", "/nonexistent/disk.img"]);
    let (code, said) = fails(command);
    assert_eq!(code, Some(1));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("--disk /nonexistent/disk.img: cannot be opened"), "{said}");
    assert!(!bench.socket().exists(), "it never listened");

    let mut command = bench.command();
    command.args(["--socket-path", "/nonexistent/scsi.sock"]);
    let (code, said) = fails(command);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("--socket-path /nonexistent/scsi.sock: there is no folder"), "{said}");

    let _first = bench.start();
    let (code, said) = fails(bench.with_socket());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("another process listens there"), "{said}");
}

#[test]
fn who_dies_again_and_again_is_given_up() {
    let bench = Bench::new();
    let mut command = bench.with_socket();
    command.stderr(Stdio::piped());
    let mut supervisor = spawn_listening(command, &bench.socket()).unwrap();
    let mut pid = 0;
    for _ in 0..5 {
        pid = next_serving(supervisor.id(), pid);
        kill(pid, libc::SIGKILL);
    }
    let ended = supervisor.wait_within(SECONDS(5)).unwrap().expect("it gives up");
    assert_eq!(ended.code(), Some(1));
    let mut said = String::new();
    supervisor.pipes().stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("killed by signal 9 5 times before a VMM was served"), "{said}");
    assert!(!bench.socket().exists());
}

#[test]
fn a_process_for_debuggers_is_alone_and_free() {
    let bench = Bench::new();
    let mut command = bench.with_socket();
    command.arg("--sandbox=off");
    let mut process = spawn_listening(command, &bench.socket()).unwrap();
    assert!(serving(process.id()).is_none());
    assert_eq!(
        status(process.id(), "Seccomp").unwrap(),
        status(std::process::id(), "Seccomp").unwrap()
    );
    assert!(is_served(&mut connect(&bench.socket())));
    process.signal(libc::SIGTERM).unwrap();
    assert_eq!(process.wait_within(SECONDS(1)).unwrap().unwrap().code(), Some(0));
    assert!(!bench.socket().exists());
}

/// What a guest does, under each engine and cache mode: a call that the sandbox does not let through
/// is a command that fails here.
#[test]
fn every_engine_serves_in_the_sandbox() {
    const READ_CAPACITY_16: [u8; 16] = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    const SYNCHRONIZE_CACHE: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const GET_LBA_STATUS: [u8; 16] = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    // Eight blocks at LBA 8; the flags are FUA or UNMAP.
    let ten = |code, flags| [code, flags, 0, 0, 0, 8, 0, 0, 8, 0];
    let write_same = |flags| [0x93, flags, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
    for engine in ["io-uring", "threads"] {
        for cache in ["writeback", "none", "unsafe"] {
            // Not /tmp: O_DIRECT is refused where that is a tmpfs.
            let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
            let folder = tempfile::tempdir_in(folder).unwrap();
            let (disk, socket) = (folder.path().join("disk.img"), folder.path().join("s"));
            lab::make(&disk, 1 << 20).unwrap();
            let mut command = Command::new(lab::program("vhost-scsi").unwrap());
            command.args(["--aio", engine, "--disk"]);
            command.arg(format!("{},cache={cache}", disk.display()));
            command.arg("--socket-path").arg(&socket);
            let supervisor = spawn_listening(command, &socket).unwrap();
            let first = serving(supervisor.id());
            for _ in 0..2 {
                let mut initiator =
                    Initiator::connect(&socket, InitiatorOptions::default()).unwrap();
                // A new start is told once, whatever is asked first.
                let ask = Scsi { lun: Lun::new(0, 0), tag: 0, cdb: &[0; 6], data: Data::None };
                initiator.queues[0].run(&ask).unwrap();
                let mut run = |cdb: &[u8], data| {
                    let command = Scsi { lun: Lun::new(0, 0), tag: 0, cdb, data };
                    initiator.queues[0].run(&command).unwrap().good()
                };
                assert_eq!(run(&READ_CAPACITY_16, Data::In(32))[4..8], 2047u32.to_be_bytes());
                let written: Vec<u8> = (0..4096u16).map(|number| number as u8).collect();
                run(&ten(0x2a, 0), Data::Out(&written));
                run(&SYNCHRONIZE_CACHE, Data::Out(&[]));
                assert_eq!(run(&ten(0x28, 0), Data::In(4096)), written);
                run(&ten(0x2a, 8), Data::Out(&written)); // FUA
                run(&GET_LBA_STATUS, Data::In(32));
                run(&write_same(8), Data::Out(&[0; 512])); // UNMAP
                assert_eq!(run(&ten(0x28, 0), Data::In(4096)), [0; 4096]);
                run(&write_same(0), Data::Out(&[7; 512]));
                assert_eq!(run(&ten(0x28, 0), Data::In(4096)), [7; 4096]);
                initiator.session.stop(2).unwrap();
            }
            assert_eq!(serving(supervisor.id()), first, "{engine}, {cache}: it died");
        }
    }
}

#[test]
fn capabilities_are_printed_without_a_socket() {
    for device in ["scsi", "usb", "net", "sound"] {
        let program = lab::program(&format!("vhost-{device}")).unwrap();
        let output = Command::new(program).arg("--print-capabilities").output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{device}: {output:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["type"], device);
    }
}

/// Has a program find `fd` as its descriptor 3, and told so as by `systemd`.
fn pass(command: &mut Command, fd: OwnedFd, systemd: bool) {
    if systemd {
        command.env("LISTEN_FDS", "1");
    }
    // SAFETY: between fork and exec, async-signal-safe calls alone: dup2(2) and fcntl(2).
    unsafe {
        command.pre_exec(move || match libc::dup2(fd.as_raw_fd(), 3) {
            3 if fd.as_raw_fd() != 3 => Ok(()),
            3 => {
                libc::fcntl(3, libc::F_SETFD, 0);
                Ok(())
            }
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// The same program, started by a shell that knows its own process id.
fn as_systemd(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(command.get_program());
    shell.args(command.get_args());
    shell
}

#[test]
fn systemd_passes_the_socket_and_is_told_once() {
    let bench = Bench::new();
    let notify = bench.folder.path().join("notify");
    let told = UnixDatagram::bind(&notify).unwrap();
    let listener = UnixListener::bind(bench.socket()).unwrap();
    let mut command = as_systemd(&bench.command());
    command.env("NOTIFY_SOCKET", &notify);
    pass(&mut command, listener.into(), true);
    let mut supervisor = spawn(command).unwrap();

    told.set_read_timeout(Some(SECONDS(10))).unwrap();
    let mut message = [0; 64];
    let length = told.recv(&mut message).unwrap();
    assert_eq!(String::from_utf8_lossy(&message[..length]).trim(), "READY=1");
    assert!(is_served(&mut connect(&bench.socket())));

    let pid = serving(supervisor.id()).unwrap();
    kill(pid, libc::SIGKILL);
    assert!(is_served(&mut connect(&bench.socket())));
    next_serving(supervisor.id(), pid);
    told.set_nonblocking(true).unwrap();
    let again = told.recv(&mut message).map_err(|error| error.kind());
    assert_eq!(again, Err(ErrorKind::WouldBlock));

    supervisor.signal(libc::SIGTERM).unwrap();
    assert_eq!(supervisor.wait_within(SECONDS(1)).unwrap().unwrap().code(), Some(0));
    assert!(bench.socket().exists(), "it is systemd's");
}

#[test]
fn a_connection_that_was_passed_ends_with_its_process() {
    let bench = Bench::new();
    let start = || {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut command = bench.command();
        command.args(["--fd", "3"]).stderr(Stdio::null());
        pass(&mut command, theirs.into(), false);
        let process = spawn(command).unwrap(); // which drops the command, and our copy of the socket
        assert!(is_served(&mut ours));
        (process, ours)
    };
    let (mut process, ours) = start();
    drop(ours);
    assert_eq!(process.wait_within(SECONDS(5)).unwrap().unwrap().code(), Some(0));

    let (mut process, mut ours) = start();
    kill(serving(process.id()).unwrap(), libc::SIGKILL);
    assert_eq!(process.wait_within(SECONDS(5)).unwrap().unwrap().code(), Some(1));
    assert_eq!(ours.read(&mut [0]).unwrap_or(0), 0);
}

/// Kilobytes of a process that are its own, with its share of what it has in common.
fn proportional(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn it_is_small_and_starts_quickly() -> Result<(), Error> {
    lab::program("vhost-scsi")?;
    for (units, limit) in [(1, 8 << 10), (1000, 40 << 10)] {
        let bench = Bench::new();
        let mut command = bench.with_socket();
        let shared = bench.folder.path().join("shared.img");
        lab::make(&shared, 1 << 20)?;
        for number in 1..units {
            let place = format!("target={},lun={}", number / 250, number % 250);
            command.arg("--disk").arg(format!("{},readonly=on,{place}", shared.display()));
        }
        let started = Instant::now();
        let supervisor = spawn_listening(command, &bench.socket())?;
        let took = started.elapsed();
        let pid = serving(supervisor.id()).unwrap();
        let both = proportional(supervisor.id()) + proportional(pid);
        eprintln!(
            "{units} units: {:.2} s; supervisor {} (Pss {} KiB), serving {} (Pss {} KiB)",
            took.as_secs_f32(),
            status(supervisor.id(), "VmRSS").unwrap(),
            proportional(supervisor.id()),
            status(pid, "VmRSS").unwrap(),
            proportional(pid),
        );
        assert!(both < limit, "{both} KiB");
    }
    Ok(())
}
