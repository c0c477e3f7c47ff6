use std::io::{BufRead, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use super::*;
use client::{Client, ClientError};

/// A device with two commands.
struct Fake;

impl Commands for Fake {
    fn names(&self) -> &'static [&'static str] {
        &["echo", "read"]
    }

    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError> {
        match name {
            "echo" => Ok(Value::Object(arguments)),
            _ => {
                let texts = fds.into_iter().map(|fd| {
                    let mut text = String::new();
                    std::fs::File::from(fd).read_to_string(&mut text).map(|_| text)
                });
                let texts: Result<Vec<String>, _> = texts.collect();
                Ok(json!(texts.map_err(ControlError::failed)?))
            }
        }
    }
}

struct Fixture {
    path: PathBuf,
    events: Events,
    shutdown: Shutdown,
    _listener: Listener,
}

impl Fixture {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("control-{}-{number}", std::process::id()));
        let mut socket = Socket::listen("--control", &path, true).unwrap();
        socket.publish().unwrap();
        let listener = Listener { socket };
        let (events, shutdown) = (Events::default(), Shutdown::new().unwrap());
        let program = Program { name: "fake", version: "1.2.3" };
        listener.serve(program, Arc::new(Fake), &events, &shutdown).unwrap();
        Self { path, events, shutdown, _listener: listener }
    }

    fn connect(&self) -> Raw {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Raw { stream: BufReader::new(stream) }
    }

    fn negotiated(&self) -> Raw {
        let mut raw = self.connect();
        assert!(raw.line().contains("\"QMP\""));
        assert_eq!(raw.ask("{\"execute\":\"qmp_capabilities\"}"), "{\"return\":{}}");
        raw
    }
}

/// A client that sends what it likes.
struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, text: &str) -> String {
        self.send(text.as_bytes());
        self.line()
    }
}

fn file(text: &str) -> std::fs::File {
    let name = std::env::temp_dir().join(format!("control-file-{}-{text}", std::process::id()));
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&name)
        .unwrap();
    std::fs::remove_file(name).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn a_session_goes_as_qmp_says() {
    let fixture = Fixture::new();
    let mut raw = fixture.connect();
    let greeting: Value = serde_json::from_str(&raw.line()).unwrap();
    assert_eq!(greeting["QMP"]["version"]["qemu"]["minor"], 2);
    assert_eq!(greeting["QMP"]["capabilities"], json!([]));
    let refused = raw.ask("{\"execute\":\"query-status\",\"id\":1}");
    assert!(refused.contains("CommandNotFound") && refused.contains("\"id\":1"), "{refused}");
    assert_eq!(
        raw.ask("{\"execute\":\"qmp_capabilities\",\"id\":[2]}"),
        "{\"id\":[2],\"return\":{}}"
    );
    assert!(raw.ask("{\"execute\":\"qmp_capabilities\"}").contains("negotiated already"));
    assert_eq!(raw.ask("{\"execute\":\"query-status\"}"), "{\"return\":{\"connected\":false}}");
    assert!(raw.ask("{\"execute\":\"query-commands\"}").contains("{\"name\":\"echo\"}"));
    assert!(raw.ask("{\"execute\":\"query-version\"}").contains("fake 1.2.3"));
    for name in ["query-version", "query-commands", "query-status"] {
        let said = raw.ask(&format!("{{\"execute\":\"{name}\",\"arguments\":{{\"x\":1}}}}"));
        assert!(said.contains("Parameter 'x' is unexpected"), "{said}");
    }
    assert!(raw.ask("{\"execute\":\"rm\"}").contains("there is no command rm"));
    // Concatenated, and spread over lines.
    raw.send(
        b"{\"execute\":\"echo\",\"id\":1}{\"execute\":\n\"echo\",\"arguments\":\r\n{\"a\":1}}",
    );
    assert_eq!(raw.line(), "{\"id\":1,\"return\":{}}");
    assert_eq!(raw.line(), "{\"return\":{\"a\":1}}");
}

#[test]
fn descriptors_belong_to_the_commands_that_name_them() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.path).unwrap();
    let (one, two, three) = (file("one"), file("two"), file("three"));
    let fds = [one.as_fd(), two.as_fd()];
    assert_eq!(client.execute("read", json!({}), &fds).unwrap(), json!(["one", "two"]));

    // Passed before the command, by way of white space, as qemu.qmp does.
    let mut raw = fixture.negotiated();
    scm::send(raw.stream.get_ref(), b" ", &[three.as_fd()]).unwrap();
    assert_eq!(raw.ask("{\"execute\":\"read\"}"), "{\"return\":[]}");
    let read = "{\"execute\":\"read\",\"arguments\":{\"fds\":1}}";
    assert_eq!(raw.ask(read), "{\"return\":[\"three\"]}");
    assert!(raw.ask(read).contains("1 are named, 0 were passed"));
}

#[test]
fn events_come_to_all_who_have_negotiated() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.negotiated(), fixture.negotiated());
    let mut silent = fixture.connect();
    fixture.events.set_connected(true);
    for raw in [&mut one, &mut two] {
        let event: Value = serde_json::from_str(&raw.line()).unwrap();
        assert_eq!(event["event"], "VMM_CONNECTED");
        assert!(event["timestamp"]["seconds"].as_u64().unwrap() > 0);
    }
    assert!(one.ask("{\"execute\":\"query-status\"}").contains("\"connected\":true"));
    assert!(silent.line().contains("\"QMP\""));
    let answer = silent.ask("{\"execute\":\"qmp_capabilities\"}");
    assert_eq!(answer, "{\"return\":{}}", "no event before it");
}

#[test]
fn garbage_is_answered_and_harms_nobody() {
    let fixture = Fixture::new();
    let mut good = fixture.negotiated();
    let mut bad = fixture.negotiated();
    assert!(bad.ask("GET / HTTP/1.1\r\n").contains("no JSON object"));
    assert!(bad.ask("{\"execute\"}\n").contains("no JSON"));
    bad.send(b"{\"execute\":\"\xff\"}\n");
    assert!(bad.line().contains("no JSON"), "not UTF-8");
    assert_eq!(bad.ask("{\"execute\":\"echo\"}"), "{\"return\":{}}", "it goes on");
    // Too long a message ends the connection.
    let long = format!("{{\"execute\":\"{}", "x".repeat(message::LIMIT));
    assert!(bad.ask(&long).contains("may have 65536 bytes"));
    assert_eq!(bad.line(), "");
    assert_eq!(good.ask("{\"execute\":\"echo\"}"), "{\"return\":{}}");
}

#[test]
fn unclaimed_descriptors_end_a_connection() {
    let fixture = Fixture::new();
    let mut raw = fixture.negotiated();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(); scm::MOST];
    scm::send(raw.stream.get_ref(), b" ", &fds).unwrap();
    assert_eq!(raw.ask("{\"execute\":\"echo\"}"), "{\"return\":{}}");
    scm::send(raw.stream.get_ref(), b" ", &fds).unwrap();
    assert!(raw.line().contains("too many descriptors"));
}

#[test]
fn clients_are_bounded_and_stalled_ones_let_others_be() {
    let fixture = Fixture::new();
    let mut clients: Vec<Raw> = (1..CLIENTS).map(|_| fixture.negotiated()).collect();
    for client in &mut clients {
        client.send(b"{\"execute\":"); // and nothing more
    }
    let mut last = fixture.negotiated();
    assert_eq!(last.ask("{\"execute\":\"echo\"}"), "{\"return\":{}}");
    assert!(fixture.connect().line().contains("16 clients are connected"));
    match Client::connect(&fixture.path) {
        Err(ClientError::Refused(why)) => assert!(why.contains("16 clients"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Who stalls in the middle of a message is given up.
    for client in &mut clients {
        assert!(client.line().contains("not complete within 10 s"));
    }
    assert_eq!(last.ask("{\"execute\":\"echo\"}"), "{\"return\":{}}", "it was silent for as long");
}

#[test]
fn who_does_not_read_is_given_up_and_events_go_on() {
    let fixture = Fixture::new();
    let deaf = fixture.negotiated();
    let mut good = fixture.negotiated();
    let big = "x".repeat(4096);
    for number in 0..2000u32 {
        fixture.events.send("BIG", || json!({ "number": number, "text": big }));
        if number % 100 == 0 {
            while !good.line().contains(&format!("\"number\":{number},")) {}
        }
    }
    drop(deaf);
}

/// Whoever asks a machine to end is told that it has, though the process ends then.
#[test]
fn what_was_sent_has_left_once_it_is_flushed() {
    let fixture = Fixture::new();
    let mut raw = fixture.negotiated();
    for number in 0..20 {
        fixture.events.send("LAST", || json!({ "number": number }));
        fixture.events.flush(Duration::from_secs(30));
        let stream = raw.stream.get_ref();
        stream.set_nonblocking(true).unwrap();
        assert!(raw.line().contains(&format!("\"number\":{number}}}")), "it is there already");
    }
    drop(raw);
    fixture.events.send("LAST", || json!({}));
    fixture.events.flush(Duration::from_secs(30));
}

/// What a client hears of a process that says this much, and then nothing. `None`: it does not even accept.
fn heard(name: &str, says: Option<&str>) -> String {
    let path = std::env::temp_dir().join(format!("control-{name}-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap(); // one client may wait
    let first = UnixStream::connect(&path).unwrap();
    std::thread::scope(|scope| {
        let ask = || Client::connect(&path)?.execute("query-status", json!({}), &[]);
        let client = scope.spawn(ask);
        let accepted = says.map(|says| {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(says.as_bytes()).unwrap();
            stream
        });
        let error = client.join().unwrap().unwrap_err();
        drop((first, accepted));
        std::fs::remove_file(&path).unwrap();
        error.to_string()
    })
}

#[test]
fn a_process_that_says_nothing_is_given_up_by_its_client() {
    let greeting = "{\"QMP\":{}}\n";
    let both = format!("{greeting}{{\"return\":{{}}}}\n");
    std::thread::scope(|scope| {
        for (name, says, expected) in [
            ("deaf", None, "cannot be reached: timed out"),
            ("mute", Some(""), "cannot be reached: timed out"),
            ("curt", Some(greeting), "cannot be reached: timed out"),
            ("busy", Some(both.as_str()), "the process has not answered for 10 s"),
        ] {
            scope.spawn(move || {
                let heard = heard(name, says);
                assert!(heard.contains(expected), "{name}: {heard}");
            });
        }
    });
}

#[test]
fn quit_ends_the_program() {
    let fixture = Fixture::new();
    let mut raw = fixture.negotiated();
    assert_eq!(raw.ask("{\"execute\":\"quit\"}"), "{\"return\":{}}");
    let (one, _two) = UnixStream::pair().unwrap();
    assert!(
        !crate::program::wait(&[std::os::fd::AsRawFd::as_raw_fd(&one)], &fixture.shutdown).unwrap()
    );
}

#[test]
fn only_its_user_may_connect() {
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;
    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        program: ProgramArgs,
    }
    let path = std::env::temp_dir().join(format!("control-mode-{}", std::process::id()));
    let options = Options::parse_from(["x", "--control", &path.display().to_string()]);
    let mut listener = Listener::from_args(&options.program).unwrap().unwrap();
    listener.socket().publish().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Listener::from_args(&options.program).err().unwrap().to_string();
    assert!(again.starts_with("--control ") && again.contains("another process listens"));
    drop(listener);
    assert!(!path.exists());
}
