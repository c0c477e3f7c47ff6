use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::*;
use crate::console::{OpenError, Spec};

/// A client with so much room; it notes what it is told.
struct Guest {
    room: AtomicUsize,
    told: Mutex<Vec<String>>,
    input: Mutex<Vec<u8>>,
}

impl Client for Guest {
    fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    fn input(&self, data: &[u8]) {
        self.room.fetch_sub(data.len(), Ordering::Relaxed);
        self.input.lock().unwrap().extend(data);
    }

    fn writable(&self) {
        self.tell("writable");
    }

    fn connected(&self, there: bool) {
        self.tell(if there { "there" } else { "gone" });
    }

    fn line_break(&self) {
        self.tell("break");
    }

    fn resized(&self, columns: u16, rows: u16) {
        self.tell(&format!("{columns}x{rows}"));
    }
}

impl Guest {
    fn tell(&self, what: &str) {
        self.told.lock().unwrap().push(what.to_owned());
    }

    fn told(&self) -> String {
        self.told.lock().unwrap().join(" ")
    }

    fn input(&self) -> String {
        String::from_utf8(self.input.lock().unwrap().clone()).unwrap()
    }
}

fn attach(endpoint: &Endpoint, room: usize) -> (Reactor, Arc<Guest>) {
    let reactor = Reactor::new().unwrap();
    let room = AtomicUsize::new(room);
    let guest = Arc::new(Guest { room, told: Mutex::default(), input: Mutex::default() });
    let client: Arc<dyn Client> = Arc::clone(&guest) as Arc<dyn Client>;
    endpoint.attach(&reactor, Arc::downgrade(&client)).unwrap();
    (reactor, guest)
}

fn quit() -> Handler {
    Arc::new(|| panic!("nobody asked to quit"))
}

fn opened(spec: Spec) -> Result<Endpoint, OpenError> {
    Endpoint::open("--serial", &spec, quit()).map(Option::unwrap)
}

/// A path that nobody else uses.
fn path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("console-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn open_tty(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn nothing_is_there_to_be_off_and_null_takes_everything() {
    assert!(Endpoint::open("--serial", &Spec::Off, quit()).unwrap().is_none());
    let null = opened(Spec::Null).unwrap();
    assert_eq!(null.write(&[0; 2 * CAPACITY]), 2 * CAPACITY);
}

#[test]
fn a_file_is_written_anew_and_whole_when_the_end_comes() {
    let path = path("file");
    std::fs::write(&path, "before").unwrap();
    let file = opened(Spec::File(path.clone())).unwrap();
    let (_reactor, _guest) = attach(&file, 0);
    assert_eq!(file.write(b"hello"), 5);
    drop(file);
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
    let error = opened(Spec::File(path.join("below"))).unwrap_err().to_string();
    let path = path.join("below");
    let path = path.display();
    assert_eq!(
        error,
        format!("--serial file:{path}: cannot be written: Not a directory (os error 20)")
    );
}

#[test]
fn who_writes_faster_than_the_host_is_told_when_to_go_on() {
    let (endpoint, mut there) = Endpoint::pair();
    let (reactor, guest) = attach(&endpoint, 0);
    let mut written = 0;
    loop {
        let taken = endpoint.write(&[7; 1000]);
        written += taken;
        if taken < 1000 {
            break;
        }
    }
    assert_eq!(written, CAPACITY, "nothing goes out while the reactor does not run");
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; written];
        there.read_exact(&mut all).unwrap();
        all
    });
    reactor.run(|| guest.told() == "there").unwrap();
    assert_eq!(guest.told(), "there writable");
    reactor.run(|| !endpoint.0.state().waiting.is_empty()).unwrap();
    assert_eq!(reader.join().unwrap(), vec![7; written]);
}

#[test]
fn a_socket_serves_one_client_after_the_other() {
    let path = path("socket");
    let socket = opened(Spec::Unix(path.clone())).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (reactor, guest) = attach(&socket, 1000);
    assert_eq!(socket.write(b"nobody listens"), 14);
    let mut first = UnixStream::connect(&path).unwrap();
    let mut second = UnixStream::connect(&path).unwrap();
    first.write_all(b"one ").unwrap();
    second.write_all(b"two").unwrap();
    reactor.run(|| guest.input() != "one ").unwrap();
    assert_eq!(socket.write(b"hello"), 5);
    let mut hello = [0; 5];
    reactor.run(|| !socket.0.state().waiting.is_empty()).unwrap();
    first.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    drop(first);
    reactor.run(|| guest.input() != "one two").unwrap();
    assert_eq!(guest.told(), "there gone writable there");
    assert!(matches!(opened(Spec::Unix(path.clone())), Err(OpenError::Socket(_))), "it is live");
    drop(socket);
    assert!(!path.exists());
}

/// A user's terminal: the user's side, and an endpoint at the other.
fn terminal(quit: Handler) -> (std::fs::File, Endpoint, std::fs::File) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
    let end = || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        End::own(rustix::fs::open(&name, flags, Mode::empty()).unwrap()).unwrap()
    };
    let line = open_tty(Path::new(&name));
    let kind = Kind::Terminal(Terminal::open(&line).unwrap(), quit);
    let endpoint = Endpoint::new(String::from("test"), kind, Some(end()), Some(end())).unwrap();
    (user.into(), endpoint, line)
}

#[test]
fn a_terminal_is_raw_while_it_is_attached_and_as_before_afterwards() {
    let (mut user, endpoint, line) = terminal(quit());
    let is_raw = || !tcgetattr(&line).unwrap().local_modes.contains(LocalModes::ICANON);
    assert!(!is_raw());
    let (reactor, guest) = attach(&endpoint, 1000);
    assert!(!is_raw(), "Ctrl-C works while the machine is being made");
    endpoint.0.pump();
    user.write_all(b"\x03\x1a\r\x01b\x01\x01").unwrap();
    reactor.run(|| guest.input().len() < 4).unwrap();
    assert!(is_raw());
    assert_eq!(guest.input(), "\x03\x1a\r\x01", "no key is the terminal's own");
    assert_eq!(guest.told(), "there break");
    drop(endpoint);
    assert!(!is_raw());
}

#[test]
fn the_escape_key_helps_and_quits() {
    let asked = Arc::new(AtomicUsize::new(0));
    let quits = Arc::clone(&asked);
    let quit = move || {
        quits.fetch_add(1, Ordering::Relaxed);
    };
    let (mut user, endpoint, _line) = terminal(Arc::new(quit));
    let (reactor, guest) = attach(&endpoint, 1000);
    endpoint.0.pump();
    user.write_all(b"\x01h\x01x").unwrap();
    reactor
        .run(|| asked.load(Ordering::Relaxed) == 0 || !endpoint.0.state().waiting.is_empty())
        .unwrap();
    let help = HELP.replace('\n', "\r\n");
    let mut shown = vec![0; help.len()];
    user.read_exact(&mut shown).unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), help);
    assert_eq!(guest.input(), "");
}

#[test]
fn the_escape_key_works_while_the_guest_takes_nothing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let quits = Arc::clone(&asked);
    let quit = move || {
        quits.fetch_add(1, Ordering::Relaxed);
    };
    let (mut user, endpoint, _line) = terminal(Arc::new(quit));
    let (reactor, guest) = attach(&endpoint, 1);
    endpoint.0.pump();
    user.write_all(b"ab\x01bc\x01x").unwrap();
    reactor.run(|| asked.load(Ordering::Relaxed) == 0).unwrap();
    assert_eq!((guest.input(), guest.told()), ("a".to_owned(), "there".to_owned()));
    guest.room.store(1, Ordering::Relaxed);
    endpoint.resume();
    reactor.run(|| guest.input() != "ab").unwrap();
    assert_eq!(guest.told(), "there", "a break condition takes its turn");
    guest.room.store(10, Ordering::Relaxed);
    endpoint.resume();
    reactor.run(|| guest.input() != "abc").unwrap();
    assert_eq!(guest.told(), "there break");
}

#[test]
fn what_is_typed_waits_for_a_guest_that_takes_nothing_up_to_a_limit() {
    let (mut user, endpoint, _line) = terminal(quit());
    let (reactor, guest) = attach(&endpoint, 0);
    endpoint.0.pump();
    let all: String = ('a'..='z').cycle().take(2 * TYPED).collect();
    let typed = all.clone();
    let typist = std::thread::spawn(move || user.write_all(typed.as_bytes()).map(|()| user));
    reactor.run(|| endpoint.0.state().typed.len() < TYPED).unwrap();
    guest.room.store(all.len(), Ordering::Relaxed);
    endpoint.resume();
    reactor.run(|| guest.input().len() < all.len()).unwrap();
    assert_eq!(guest.input(), all, "nothing is lost");
    typist.join().unwrap().unwrap();
}

#[test]
fn a_new_size_is_told() {
    let (user, endpoint, _line) = terminal(quit());
    let size = |ws_col, ws_row| {
        let size = Winsize { ws_col, ws_row, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&user, size).unwrap();
    };
    size(80, 25);
    let (reactor, guest) = attach(&endpoint, 0);
    assert_eq!(guest.told(), "there 80x25");
    size(132, 43);
    // SAFETY: the signal is blocked in this thread, and taken by the terminal.
    unsafe { libc::raise(libc::SIGWINCH) };
    reactor.run(|| guest.told() == "there 80x25").unwrap();
    assert_eq!(guest.told(), "there 80x25 132x43");
}

#[test]
fn input_waits_for_room() {
    let (endpoint, mut there) = Endpoint::pair();
    let (reactor, guest) = attach(&endpoint, 3);
    there.write_all(b"abcdef").unwrap();
    reactor.run(|| guest.input().len() < 3).unwrap();
    assert_eq!(guest.input(), "abc");
    guest.room.store(10, Ordering::Relaxed);
    endpoint.resume();
    reactor.run(|| guest.input().len() < 6).unwrap();
    assert_eq!(guest.input(), "abcdef");
}

#[test]
fn a_pseudo_terminal_is_found_by_its_link_and_loses_what_nobody_reads() {
    let path = path("pty");
    let pty = opened(Spec::Pty(Some(path.clone()))).unwrap();
    let (reactor, guest) = attach(&pty, 1000);
    let drained = || pty.0.state().waiting.is_empty();
    for _ in 0..4 {
        assert_eq!(pty.write(&[b'x'; CAPACITY]), CAPACITY);
        reactor.run(|| !drained()).unwrap();
    }
    let mut user = open_tty(&path);
    user.write_all(b"in").unwrap();
    reactor.run(|| guest.input() != "in").unwrap();
    assert_eq!(pty.write(b"out"), 3);
    reactor.run(|| !drained()).unwrap();
    let mut out = [0; 3];
    user.read_exact(&mut out).unwrap();
    assert_eq!(&out, b"out");
    drop(user);
    assert_eq!(pty.write(b"lost"), 4);
    reactor.run(|| !drained()).unwrap();
    let mut user = open_tty(&path);
    user.write_all(b"!").unwrap();
    reactor.run(|| guest.input() != "in!").unwrap();
    drop(pty);
    assert!(path.symlink_metadata().is_err());
}

#[test]
fn a_link_replaces_a_link_and_no_file() {
    let path = path("link");
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    drop(opened(Spec::Pty(Some(path.clone()))).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = opened(Spec::Pty(Some(path.clone()))).unwrap_err();
    let said = "there is a file that is not a symbolic link, remove it or choose another path";
    assert_eq!(error.to_string(), format!("--serial pty:{}: {said}", path.display()));
}
