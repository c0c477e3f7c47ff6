//! A client of `--qmp` that sends what it likes, in pieces as it likes.
//!
//! Whatever comes: a greeting, then for each object one answer, the same however the bytes were cut;
//! and nothing stays of a client that has hung up. Commands get as far as their arguments: there is
//! no machine.

#![no_main]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, Events, Listener, Program};
use vhost_runtime::program::Shutdown;
use vmm_frontend::control::Control;
use vmm_frontend::cpu::expansion::{Kind, expand};
use vmm_frontend::cpu::host::{Capabilities, Host, Native};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const NEGOTIATE: &str = "{\"execute\":\"qmp_capabilities\"}";
/// Commands, up to their first argument.
const COMMANDS: [&str; 9] = [
    "{\"execute\":\"query-cpu-model-expansion\",\"arguments\":{",
    "{\"execute\":\"query-stats\",\"arguments\":{",
    "{\"execute\":\"query-stats-schemas\",\"arguments\":{",
    "{\"execute\":\"device_add\",\"arguments\":{",
    "{\"execute\":\"device_del\",\"arguments\":{",
    "{\"execute\":\"query-status\",\"arguments\":{",
    "{\"execute\":\"query-commands\",\"id\":[1,{}],\"arguments\":{",
    "{\"execute\":\"quit\",\"id\":null,\"arguments\":{",
    "{\"execute\":\"qmp_capabilities\",\"arguments\":{",
];
/// Arguments of commands.
const ARGUMENTS: [&str; 29] = [
    "\"type\":\"full\"",
    "\"type\":\"static\"",
    "\"model\":{\"name\":\"EPYC\"}",
    "\"model\":{\"name\":\"host\",\"props\":{\"avx\":true,\"sse\":false}}",
    "\"model\":{\"name\":\"Haswell-v1\",\"props\":{\"xsave\":false}}",
    "\"model\":{\"name\":\"Opteron_G5\",\"props\":{\"pcid\":1}}",
    "\"model\":{\"name\":\"Nehalem\",\"props\":{\"avx512f\":true}}",
    "\"target\":\"vm\"",
    "\"target\":\"vcpu\"",
    "\"vcpus\":[\"/machine/unattached/device[0]\"]",
    "\"providers\":[{\"provider\":\"kvm\",\"names\":[\"exits\"]}]",
    "\"provider\":\"kvm\"",
    "\"driver\":\"vhost-user-scsi-pci\"",
    "\"driver\":\"vhost-user-net-pci\"",
    "\"driver\":\"vhost-user-blk-pci\"",
    "\"driver\":\"vhost-user-snd-pci\"",
    "\"driver\":\"vhost-user-device-pci\"",
    "\"id\":\"d0\"",
    "\"id\":\"\"",
    "\"socket\":\"s\"",
    "\"num-queues\":2",
    "\"num_queues\":0",
    "\"queue-size\":128",
    "\"virtio-id\":4",
    "\"enable\":[\"oob\"]",
    "\"enable\":[]",
    "\"fds\":0",
    "\"fds\":1",
    "\"fds\":-1",
];
/// What JSON is made of, and what it may not be made of.
const WORDS: [&str; 32] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    "\r\n",
    "\t ",
    "1",
    "-1",
    "65536",
    "1e999",
    "0.1",
    "null",
    "true",
    "\"\"",
    "}}",
    "\"execute\":",
    "{\"execute\":\"",
    "\"id\":",
    "\"arguments\":{",
    "\"fds\":",
    "\"driver\":\"",
    "\"\\u0000\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "{\"\":{\"\":{\"\":",
    "[[[[[[[[",
    "\u{e9}",
    "vhost-user-scsi-pci",
];
/// Bytes of a message that is too long, by several words that are a whole run.
const FLOOD: usize = 9 << 10;
/// A message may have these (`control::message`).
const LIMIT: usize = 64 << 10;
/// A client is served well before this, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(15);

fuzz_target!(|data: &[u8]| {
    let server = server();
    let mut pieces = Vec::new();
    let _ = read(&mut Unstructured::new(data), &mut pieces);
    let answers = server.serve(&pieces);
    check(&answers, &pieces);

    let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
    // Which command descriptors are for depends on when they came; one that is too long is not read
    // to its end.
    if whole.len() <= LIMIT && pieces.iter().all(|piece| !piece.descriptor) {
        let again = server.serve(&[Piece { bytes: whole, descriptor: false }]);
        assert_eq!(said(&answers), said(&again), "in {} pieces, and whole", pieces.len());
    }
});

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is sent at once, and a descriptor beside it.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    descriptor: bool,
}

fn read(input: &mut Unstructured<'_>, pieces: &mut Vec<Piece>) -> Result<()> {
    if !input.ratio(1, 8)? {
        pieces.push(Piece { bytes: NEGOTIATE.into(), descriptor: false });
    }
    while !input.is_empty() {
        let mut piece = Piece { bytes: Vec::new(), descriptor: input.ratio(1, 16)? };
        for _ in 0..input.int_in_range(1..=8)? {
            match input.int_in_range(0..=15)? {
                0 => piece.bytes.extend(std::iter::repeat_n(input.arbitrary::<u8>()?, FLOOD)),
                1 => piece.bytes.push(input.arbitrary()?),
                2..=7 => piece.bytes.extend(input.choose(&WORDS)?.as_bytes()),
                _ => piece.bytes.extend(command(input)?.as_bytes()),
            }
        }
        pieces.push(piece);
    }
    Ok(())
}

/// A command as it should be, but for its arguments.
fn command(input: &mut Unstructured<'_>) -> Result<String> {
    let command = *input.choose(&COMMANDS)?;
    let mut arguments = Vec::new();
    for _ in 0..input.int_in_range(0..=5)? {
        arguments.push(*input.choose(&ARGUMENTS)?);
    }
    Ok(format!("{command}{}}}}}", arguments.join(",")))
}

/// A greeting, and then answers, at most one for each object or line.
fn check(answers: &[u8], pieces: &[Piece]) {
    let text = std::str::from_utf8(answers).expect("JSON is UTF-8");
    let mut lines = text.split_terminator("\r\n");
    let greeting: Value = serde_json::from_str(lines.next().expect("a greeting")).expect("JSON");
    assert!(greeting["QMP"]["version"].is_object(), "{greeting}");
    let count = |byte: u8| {
        let all = pieces.iter().flat_map(|piece| &piece.bytes);
        all.filter(|other| **other == byte).count()
    };
    let most = count(b'{') + count(b'\n') + pieces.len() + 1;
    for (number, line) in lines.enumerate() {
        assert!(number < most, "{number} answers: {text}");
        let answer: Map<String, Value> = serde_json::from_str(line).expect("an object");
        match (answer.get("return"), answer.get("error")) {
            (Some(_), None) => {}
            (None, Some(error)) => {
                assert!(error["class"].is_string() && error["desc"].is_string(), "{line}");
            }
            _ => panic!("neither an answer nor an error: {line}"),
        }
    }
}

/// The commands of a machine that has ended, but for models, which need none.
struct Models {
    control: Control,
    host: Host,
}

impl Models {
    fn new() -> Self {
        let entry = |function, eax, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx,
            ..Default::default()
        };
        let entries = [entry(0, 7, 0), entry(1, 0x806f8, u32::MAX), entry(7, 0, u32::MAX)];
        let supported = CpuId::from_entries(&entries).expect("few entries");
        let native = Native { brand: [b'x'; 48], leaf_7: (0, 0, 0, 0) };
        let capabilities =
            Capabilities { tsc_deadline: true, feature_msrs: Vec::new(), tsc_khz: None, native };
        Self { control: Control::default(), host: Host::new(&supported, capabilities) }
    }
}

impl Commands for Models {
    fn names(&self) -> &'static [&'static str] {
        self.control.names()
    }

    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        fds: Vec<OwnedFd>,
    ) -> std::result::Result<Value, ControlError> {
        if name == "query-cpu-model-expansion"
            && let Some(model) = arguments.get("model")
            && let Some(name) = model["name"].as_str()
        {
            let none = Map::new();
            let props = model["props"].as_object().unwrap_or(&none);
            let full = arguments.get("type") == Some(&json!("full"));
            let kind = if full { Kind::Full } else { Kind::Static };
            return expand(kind, name, props, &self.host).map_err(ControlError::failed);
        }
        self.control.execute(name, arguments, fds)
    }
}

struct Server {
    /// The socket, by a descriptor, since its name is gone.
    path: PathBuf,
    idle: usize,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        // Signals are taken from the thread that asks for that.
        let start = thread::spawn(|| {
            let name = std::env::temp_dir().join(format!("fuzz-control-{}", std::process::id()));
            let mut listener = Listener::new("--qmp", &name).expect("a socket");
            listener.socket().publish().expect("a socket");
            let program = Program { name: "fuzz", version: "0.1.0" };
            let shutdown = Shutdown::new().expect("signals");
            let commands = Arc::new(Models::new());
            listener.serve(program, commands, &Events::default(), &shutdown).expect("a thread");
            let socket = File::options().read(true).custom_flags(libc::O_PATH).open(&name);
            let socket = socket.expect("it is there");
            fs::remove_file(&name).expect("it is there");
            let path = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
            std::mem::forget((listener, shutdown, socket)); // as long as the process lives
            path
        });
        let path = start.join().expect("a server");
        let mut server = Server { path, idle: 0 };
        server.connect(&[]);
        thread::sleep(Duration::from_millis(100));
        server.idle = descriptors();
        server
    })
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

impl Server {
    /// Serves a client that sends `pieces`, and sees that nothing of it stays.
    fn serve(&self, pieces: &[Piece]) -> Vec<u8> {
        let answers = self.connect(pieces);
        let start = Instant::now();
        while descriptors() != self.idle {
            assert!(start.elapsed() < PATIENCE, "{} descriptors stay", descriptors());
            thread::yield_now();
        }
        answers
    }

    fn connect(&self, pieces: &[Piece]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.path).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let mut answers = Vec::new();
        for piece in pieces {
            if send(&mut stream, piece, &mut answers).is_err() {
                break; // it was given up
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        match stream.read_to_end(&mut answers) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it hangs"),
            // What it had not read when it gave up is a reset for us.
            _ => answers,
        }
    }
}

/// Sends a piece, and waits until it was read, for it to be read alone.
fn send(stream: &mut UnixStream, piece: &Piece, answers: &mut Vec<u8>) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut rest = &piece.bytes[..];
    if piece.descriptor && !rest.is_empty() {
        let file = memfd(0);
        let sent = stream.send_with_fd(rest, file.as_raw_fd())?;
        rest = &rest[sent..];
    }
    let start = Instant::now();
    loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
            Ok(count) => answers.extend(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match stream.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if rest.is_empty() && unread(stream)? == 0 {
            return stream.set_nonblocking(false);
        }
        assert!(start.elapsed() < PATIENCE, "it hangs");
        thread::yield_now();
    }
}

/// How much of what was sent was not read yet (unix(7), SIOCOUTQ).
fn unread(stream: &UnixStream) -> io::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the call writes an int, which outlives it.
    match unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}
