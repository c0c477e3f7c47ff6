//! Clients that break the rules, and such that come and go.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Output, Stdio};
use std::time::Duration;

use lab::serving;
use vfio_user::Client;

use crate::common::{
    ASYNCLISTADDR, BAR_0, BAR_4, Bench, CONFIG, CONFIGFLAG, EHCI, command, read, soon, write,
};

/// A message, with a size that may be another than its own.
fn message(command: u16, size: u32, body: &[u8]) -> Vec<u8> {
    let mut message = [1, command].map(u16::to_ne_bytes).concat();
    message.extend([size, 0, 0].map(u32::to_ne_bytes).concat());
    message.extend(body);
    message
}

fn version() -> Vec<u8> {
    message(1, 16 + 4, &[0; 4])
}

/// Sends this; the error of the answer, `None` if the connection ends.
fn error(stream: &mut UnixStream, message: &[u8]) -> Option<u32> {
    stream.write_all(message).ok()?;
    let mut header = [0; 16];
    stream.read_exact(&mut header).ok()?;
    let field = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    stream.read_exact(&mut vec![0; field(4) as usize - 16]).ok()?;
    Some(field(12))
}

#[test]
fn a_client_that_breaks_the_rules_harms_nobody_else() {
    const EINVAL: Option<u32> = Some(libc::EINVAL as u32);
    const ENOTSUP: Option<u32> = Some(libc::EOPNOTSUPP as u32);
    let bench = Bench::start();
    let process = serving(bench.process.id()).unwrap();
    let mut good = bench.client(EHCI);

    let access = |region: u32, offset: u64, count: u32| {
        [&offset.to_ne_bytes()[..], &region.to_ne_bytes(), &count.to_ne_bytes()].concat()
    };
    let mut client = bench.raw(0);
    assert_eq!(error(&mut client, &message(4, 32, &[0; 16])), Some(libc::EPROTO as u32));
    assert_eq!(error(&mut client, &version()), Some(0));
    for (region, offset, count) in [
        (CONFIG, 0, u32::MAX),
        (CONFIG, 0, 257),
        (CONFIG, 256, 1),
        (CONFIG, u64::MAX, 2),
        (BAR_4, 0x20, 1),
        (BAR_4, 0x1f, 2),
        (BAR_0, 0, 1),
        (99, 0, 1),
        (u32::MAX, 0, 1),
    ] {
        let read = message(9, 32, &access(region, offset, count));
        assert_eq!(error(&mut client, &read), EINVAL, "{region} {offset:#x} {count:#x}");
    }
    let lies = message(10, 36, &[access(CONFIG, 0, 4096), vec![0; 4]].concat());
    assert_eq!(error(&mut client, &lies), EINVAL);
    let mapped = [[8u32, 3].map(u32::to_ne_bytes).concat(), vec![0xff; 24]].concat();
    assert_eq!(error(&mut client, &message(2, 48, &mapped)), EINVAL);
    assert_eq!(error(&mut client, &message(3, 40, &[0xff; 24])), ENOTSUP);
    assert_eq!(error(&mut client, &message(8, 36, &[0xff; 20])), EINVAL);
    assert_eq!(error(&mut client, &message(5, 48, &[0xff; 32])), EINVAL);
    // What is not known is passed over, whole.
    for unknown in [0, 6, 11, 16, 99] {
        assert_eq!(error(&mut client, &message(unknown, 80, &[1; 64])), ENOTSUP, "{unknown}");
    }
    assert_eq!(error(&mut client, &message(9, 32, &access(CONFIG, 0, 256))), Some(0));

    // Sizes that no message has.
    for size in [0, 15, 1 << 20, u32::MAX] {
        let mut client = bench.raw(1);
        assert_eq!(error(&mut client, &message(1, size, &[0; 64])), None, "{size}");
    }
    // Half a message, and answers that nobody takes.
    let mut half = bench.raw(2);
    half.write_all(&version()[..18]).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let read = message(9, 32, &access(CONFIG, 0, 256));
    while client.write_all(&read).is_ok() {}
    // A second client.
    let mut second = bench.raw(EHCI);
    assert_eq!(error(&mut second, &version()), None);

    assert_eq!(read_size(&mut good), 0x20);
    drop((client, half));
    assert!(soon(|| error(&mut bench.raw(0), &version()) == Some(0)), "another is served");
    assert_eq!(serving(bench.process.id()), Some(process), "it has not died");
}

/// CAPLENGTH.
fn read_size(client: &mut Client) -> u32 {
    read(client, 0) & 0xff
}

#[test]
fn a_new_client_finds_the_controllers_as_at_power_on() {
    let bench = Bench::start();
    let mut client = bench.client(EHCI);
    write(&mut client, ASYNCLISTADDR, 0x1_0000);
    write(&mut client, CONFIGFLAG, 1);
    drop(client);
    let found = soon(|| {
        Client::new(&bench.socket(EHCI)).is_ok_and(|mut client| {
            (read(&mut client, ASYNCLISTADDR), read(&mut client, CONFIGFLAG)) == (0, 0)
        })
    });
    assert!(found);
}

#[test]
fn a_process_that_was_killed_is_followed_by_one_that_serves() {
    let bench = Bench::start();
    let _client = bench.client(EHCI);
    let before = serving(bench.process.id()).unwrap();
    send(libc::SIGKILL, before);
    assert!(soon(|| {
        Client::new(&bench.socket(EHCI)).is_ok_and(|mut client| read_size(&mut client) == 0x20)
    }));
    assert_ne!(serving(bench.process.id()), Some(before));
}

fn send(signal: i32, process: u32) {
    // SAFETY: it takes two integers.
    assert_eq!(unsafe { libc::kill(process.cast_signed(), signal) }, 0);
}

#[test]
fn serial_ports_outlive_their_peers_and_their_process() {
    let folder = tempfile::tempdir().unwrap();
    let (link, path) = (folder.path().join("pty"), folder.path().join("peer"));
    let serials = [("pty", &link), ("unix", &path)];
    let serials = serials.map(|(key, path)| format!("serial,{key}={}", path.display()));
    let [terminal, socket] = &serials;
    let bench = Bench::new(&["--device", terminal, "--device", socket], |_| ());
    let open = || fs::File::options().read(true).write(true).open(&link);
    for _ in 0..2 {
        let _client = bench.client(EHCI);
        drop(open().unwrap());
        // From within the sandbox.
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(soon(|| listener.accept().is_ok()));
        fs::remove_file(&path).unwrap();
        let before = serving(bench.process.id()).unwrap();
        send(libc::SIGKILL, before);
        assert!(soon(|| serving(bench.process.id()).is_some_and(|now| now != before)));
        assert!(soon(|| open().is_ok()));
    }
    send(libc::SIGTERM, bench.process.id());
    assert!(soon(|| !link.is_symlink()));
}

/// How the program ends that was told this.
fn refused(arguments: &[&str]) -> Output {
    command(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    for (arguments, sentence) in [
        (
            &["--vfio-user", "/nowhere"][..],
            "vhost-usb: --vfio-user /nowhere: there is no such folder, make it first\n",
        ),
        (
            &["--vfio-user", "/tmp", "--socket-path", "/tmp/usb.sock"],
            "vhost-usb: the argument '--vfio-user <DIR>' cannot be used with '--socket-path <PATH>'\n",
        ),
    ] {
        let output = refused(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stderr), sentence);
    }
}
