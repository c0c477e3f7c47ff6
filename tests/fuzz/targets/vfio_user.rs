//! A vfio-user client that sends whatever it likes to the USB controllers, with whatever descriptors.
//!
//! Whatever comes: nothing of it stays when it hangs up, and the next client is served.

#![no_main]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_runtime::control::Events;
use vhost_runtime::program::{Confinement, Shutdown, Socket};
use vhost_runtime::supervisor::{self, Role};
use vhost_usb::controller::host::{Host, Kind};
use vhost_usb::devices::Devices;
use vhost_usb::serve::vfio_user::serve;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// EHCI is the last.
const FUNCTIONS: usize = 4;
/// Bytes of the memory that a client may share.
const MEMORY: u64 = 0x4000;
/// The next client is served well before this, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(15);

fuzz_target!(|data: &[u8]| {
    static BEFORE: OnceLock<usize> = OnceLock::new();
    let addresses = served();
    if BEFORE.get().is_none() {
        greet_all(addresses);
    }
    let before = *BEFORE.get_or_init(descriptors);
    let _ = run(addresses, &mut Unstructured::new(data));
    greet_all(addresses);
    let end = Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(Instant::now() < end, "{} descriptors are left, {before} are right", descriptors());
        thread::sleep(Duration::from_millis(1));
    }
});

/// Open descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// The controllers, served by a thread: where their functions are.
fn served() -> &'static [SocketAddr] {
    static SERVED: OnceLock<Vec<SocketAddr>> = OnceLock::new();
    SERVED.get_or_init(|| {
        // As Rust's own main does: to write to a socket that nobody reads is an error.
        // SAFETY: a plain setting of the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let address = |function: usize| {
            let name = format!("fuzz-{}-{function}", std::process::id());
            SocketAddr::from_abstract_name(name).expect("an address")
        };
        let addresses: Vec<_> = (0..FUNCTIONS).map(address).collect();
        let listen = |address| {
            let listener = UnixListener::bind_addr(address).expect("a socket");
            Socket::Listening { listener, path: None, published: None }
        };
        let sockets: Vec<_> = addresses.iter().map(listen).collect();
        let host = Host::new(Kind::EhciWithUhci).expect("a descriptor");
        let host = Arc::new(Mutex::new(host));
        let devices = Devices::new(Arc::clone(&host));
        for device in
            ["gadget-zero", "kbd", "hub,port=3", "tablet,port=3.1", "kbd,port=4,speed=full"]
        {
            devices.plug(device, None).expect("a free port");
        }
        thread::spawn(move || {
            let shutdown = Shutdown::new().expect("signals");
            let role = supervisor::start(&mut [], &shutdown, Confinement::Off, None);
            let Ok(Role::Serve(link)) = role else {
                panic!("no supervisor, and so no other process")
            };
            serve(&sockets, &shutdown, &Events::default(), &link, &host).expect("a server");
        });
        addresses
    })
}

/// Each function answers a new client.
fn greet_all(addresses: &[SocketAddr]) {
    for address in addresses {
        let mut stream = UnixStream::connect_addr(address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(&message(1, 20, &[0; 4])).expect("a server");
        let mut header = [0; 16];
        stream.read_exact(&mut header).expect("an answer");
    }
}

fn message(command: u16, size: usize, body: &[u8]) -> Vec<u8> {
    let mut message = [1, command].map(u16::to_ne_bytes).concat();
    message.extend([size as u32, 0, 0].map(u32::to_ne_bytes).as_flattened());
    message.extend(body);
    message
}

struct Client {
    stream: UnixStream,
    memory: File,
    event: EventFd,
    /// Not its own: who passes that stays connected, whatever becomes of it.
    socket: UnixStream,
}

fn run(addresses: &[SocketAddr], input: &mut Unstructured<'_>) -> Result<()> {
    let mut clients = Vec::new();
    for address in addresses {
        let stream = UnixStream::connect_addr(address).expect("a listener");
        stream.set_nonblocking(true).expect("a socket");
        let event = EventFd::new(EFD_NONBLOCK).expect("an event");
        let (socket, _) = UnixStream::pair().expect("sockets");
        let client = Client { stream, memory: memfd(MEMORY), event, socket };
        if input.ratio(15, 16)? {
            client.send(1, &[0; 4], &[]);
        }
        clients.push(client);
    }
    while !input.is_empty() {
        let client = input.choose_index(clients.len())?;
        if let Some(client) = clients.get_mut(client) {
            client.step(input)?;
            client.drain();
        }
    }
    Ok(())
}

/// Numbers that mean something more often than not.
fn number(input: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match input.int_in_range(0..=7)? {
        0..=3 => input.int_in_range(0..=12)?,
        4 => u32::from(input.arbitrary::<u8>()?) * 0x1000,
        5 => input.int_in_range(0..=0x410)?,
        6 => u32::MAX,
        _ => input.arbitrary()?,
    })
}

impl Client {
    fn send(&self, command: u16, body: &[u8], fds: &[RawFd]) {
        let message = message(command, body.len() + 16, body);
        let _ = self.stream.send_with_fds(&[&message[..]], fds); // it may be full
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let mut words = |count: usize| -> Result<Vec<u8>> {
            let words: Result<Vec<u32>> = (0..count).map(|_| number(input)).collect();
            Ok(words?.into_iter().flat_map(u32::to_ne_bytes).collect())
        };
        match number_of(&mut words)? % 10 {
            // Registers and configuration space.
            0 => self.send(9, &words(4)?, &[]),
            1..=3 => {
                let (mut body, data) = (words(3)?, words(1)?);
                body.extend(4u32.to_ne_bytes());
                body.extend(data);
                self.send(10, &body, &[]);
            }
            4 => {
                // All of memory, where a schedule finds it.
                let page = u64::from(number_of(&mut words)? % 64) * 0x1000;
                let mut body = [24u32, 3].map(u32::to_ne_bytes).concat();
                body.extend([0, page, MEMORY].map(u64::to_ne_bytes).as_flattened());
                self.send(2, &body, &[self.memory.as_raw_fd()]);
            }
            5 => self.send(2, &words(8)?, &[self.memory.as_raw_fd()]),
            6 => self.send(3, &words(6)?, &[]),
            7 => {
                let fds =
                    [self.event.as_raw_fd(), self.memory.as_raw_fd(), self.socket.as_raw_fd()];
                let first = number_of(&mut words)? as usize % (fds.len() + 1);
                self.send(8, &words(6)?, fds.get(first..).unwrap_or_default());
                let _ = self.event.write(1);
            }
            8 => {
                let (place, bytes) = (number_of(&mut words)?, words(8)?);
                let _ = self.memory.write_at(&bytes, u64::from(place) % MEMORY);
            }
            _ => {
                let (command, size, body) =
                    (number_of(&mut words)?, number_of(&mut words)?, words(5)?);
                let size = if size % 4 == 0 { size as usize } else { body.len() + 16 };
                let _ = (&self.stream).write(&message(command as u16, size, &body));
            }
        }
        Ok(())
    }

    fn drain(&mut self) {
        let mut answers = [0; 4096];
        while self.stream.read(&mut answers).is_ok_and(|count| count > 0) {}
    }
}

fn number_of(words: &mut impl FnMut(usize) -> Result<Vec<u8>>) -> Result<u32> {
    let bytes = words(1)?;
    Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
}
