use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use super::*;
use crate::channel::Channel;
use crate::channel::place::Place;
use crate::device::Device;
use crate::device::host::is_ready;
use crate::redirect::device::Redirect;

const HELLO: usize = 12 + 64 + 4;

fn redirect(place: Place, serves: bool) -> Redirect {
    Redirect::new("test".into(), Channel::new(place, serves).unwrap(), None)
}

/// Gives it its turns until something is so.
fn until(device: &mut Redirect, mut so: impl FnMut(&mut Redirect) -> bool) {
    let begun = Instant::now();
    while !so(device) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        if is_ready(device) {
            device.turn();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // Nothing is left to be done: nobody is woken in vain.
    device.turn();
    assert!(!is_ready(device));
}

fn greeted(stream: &mut impl Read) {
    let mut bytes = [0; HELLO];
    stream.read_exact(&mut bytes).unwrap();
    assert!(bytes[12..].starts_with(b"vhost-usb "));
}

#[test]
fn a_host_that_connects_brings_its_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usb");
    // What a process has left that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let mut device = redirect(Place::Unix(path.clone()), true);
    for _ in 0..2 {
        assert!(!device.is_present() && device.find(0).is_none());
        let mut host = UnixStream::connect(&path).unwrap();
        host.write_all(&stick()).unwrap();
        until(&mut device, |device| device.is_present());
        greeted(&mut host);
        assert!(device.take_change() && !device.take_change());
        assert!(device.find(0).is_some());
        device.reset();
        let mut reset = [0; 16];
        host.read_exact(&mut reset).unwrap();
        assert_eq!(reset[0], 3);
        drop(host);
        until(&mut device, |device| !device.is_present());
        assert!(device.take_change());
    }
}

#[test]
fn nobody_else_is_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usb");
    let _first = Channel::new(Place::Unix(path.clone()), true).unwrap();
    assert!(Channel::new(Place::Unix(path), true).is_err());
    let file = folder.path().join("disk.img");
    std::fs::write(&file, "precious").unwrap();
    assert!(Channel::new(Place::Unix(file.clone()), true).is_err());
    assert_eq!(std::fs::read(file).unwrap(), b"precious");
}

#[test]
fn a_host_is_looked_for_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usb");
    let mut device = redirect(Place::Unix(path.clone()), false);
    assert!(is_ready(&device));
    device.turn();
    assert!(!is_ready(&device), "not at once again");
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        listener.set_nonblocking(true).unwrap();
        let mut accepted = None;
        until(&mut device, |_| {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (mut host, _) = accepted.unwrap();
        host.set_nonblocking(false).unwrap();
        greeted(&mut host);
        host.write_all(&stick()).unwrap();
        until(&mut device, |device| device.is_present());
        // What means nothing ends the connection.
        host.write_all(&said(99, 0, &[])).unwrap();
        until(&mut device, |device| !device.is_present());
        assert_eq!(host.read(&mut [0; 9]).unwrap(), 0);
    }
}

#[test]
fn a_network_leads_there_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut device = redirect(Place::Tcp(vec![address]), false);
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    until(&mut device, |_| {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut host, _) = accepted.unwrap();
    host.set_nonblocking(false).unwrap();
    until(&mut device, |_| true);
    greeted(&mut host);
    host.write_all(&stick()).unwrap();
    until(&mut device, |device| device.is_present());

    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut device = redirect(Place::Tcp(vec![unused]), true);
    let mut host = TcpStream::connect(unused).unwrap();
    host.write_all(&stick()).unwrap();
    until(&mut device, |device| device.is_present());
    greeted(&mut host);
}

#[test]
fn what_another_process_has_made_is_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usb");
    let listener = UnixListener::bind(&path).unwrap();
    let mut device = passed(listener.into());
    for _ in 0..2 {
        let mut host = UnixStream::connect(&path).unwrap();
        host.write_all(&stick()).unwrap();
        until(&mut device, |device| device.is_present());
        greeted(&mut host);
        drop(host);
        until(&mut device, |device| !device.is_present());
    }

    let (ours, mut host) = UnixStream::pair().unwrap();
    // As the process that has passed it, perhaps.
    let _copy = ours.try_clone().unwrap();
    let mut device = passed(ours.into());
    host.write_all(&stick()).unwrap();
    until(&mut device, |device| device.is_present());
    greeted(&mut host);
    drop(host);
    // There is no other after that, and nothing to wake up for.
    until(&mut device, |device| !device.is_present());
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!is_ready(&device));

    let (ours, mut host) = UnixStream::pair().unwrap();
    let _copy = ours.try_clone().unwrap();
    let mut device = passed(ours.into());
    host.write_all(&said(99, 0, &[])).unwrap();
    until(&mut device, |_| host.set_nonblocking(true).is_ok());
    assert!(!is_ready(&device));
    host.set_nonblocking(false).unwrap();
    host.read_to_end(&mut Vec::new()).expect("it is told that this is the end");

    assert!(Channel::passed(tempfile::tempfile().unwrap().into()).is_err());
    assert!(Channel::passed(UnixDatagram::unbound().unwrap().into()).is_err());
}

fn passed(fd: OwnedFd) -> Redirect {
    Redirect::new("test".into(), Channel::passed(fd).unwrap(), None)
}

#[test]
fn a_host_that_takes_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usb");
    let mut device = redirect(Place::Unix(path.clone()), true);
    let mut host = UnixStream::connect(&path).unwrap();
    host.write_all(&stick()).unwrap();
    until(&mut device, |device| device.is_present());
    let mut rounds: usize = 0;
    while device.is_present() {
        let data = vec![u8::try_from(rounds % 256).unwrap(); 20_000];
        device.data_out(2, &&data[..]);
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(rounds > 200, "{rounds}");
}
