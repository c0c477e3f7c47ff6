//! The process, and what its functions and registers are.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Process, spawn_listening};
use tempfile::TempDir;
use vfio_user::Client;

const MIB: u64 = 1 << 20;

/// The EHCI controller's function, and its companions'.
pub(crate) const EHCI: u8 = 7;
pub(crate) const FUNCTIONS: [u8; 4] = [EHCI, 0, 1, 2];

/// VFIO's regions.
pub(crate) const BAR_0: u32 = 0;
pub(crate) const BAR_4: u32 = 4;
pub(crate) const CONFIG: u32 = 7;

/// EHCI's registers (EHCI 1.0, 2.3), behind 32 bytes of capability registers.
pub(crate) const USBCMD: u64 = 0x20;
pub(crate) const USBSTS: u64 = 0x24;
pub(crate) const USBINTR: u64 = 0x28;
pub(crate) const ASYNCLISTADDR: u64 = 0x38;
pub(crate) const CONFIGFLAG: u64 = 0x60;

/// The process, with a stick.
pub(crate) struct Bench {
    pub(crate) process: Process,
    pub(crate) folder: TempDir,
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(lab::program("vhost-usb").unwrap());
    command.args(arguments);
    command
}

impl Bench {
    pub(crate) fn new(arguments: &[&str], write: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stick = folder.path().join("stick.img");
        lab::make(&stick, 64 * MIB).unwrap();
        write(&stick);
        let mut command = command(arguments);
        command.arg("--vfio-user").arg(folder.path());
        command.arg("--device").arg(format!("storage,file={}", stick.display()));
        let socket = folder.path().join(if arguments.is_empty() { "7.sock" } else { "0.sock" });
        let process = spawn_listening(command, &socket).unwrap();
        Self { process, folder }
    }

    pub(crate) fn start() -> Self {
        Self::new(&[], |_| ())
    }

    pub(crate) fn socket(&self, function: u8) -> PathBuf {
        self.folder.path().join(format!("{function}.sock"))
    }

    pub(crate) fn client(&self, function: u8) -> Client {
        Client::new(&self.socket(function)).unwrap()
    }

    pub(crate) fn raw(&self, function: u8) -> UnixStream {
        let stream = UnixStream::connect(self.socket(function)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// What QEMU presents functions by.
    pub(crate) fn devices(&self, functions: &[u8]) -> Vec<String> {
        let device = |function: u8| {
            let path = self.socket(function);
            let path = path.display();
            format!(
                r#"{{"driver": "vfio-user-pci", "addr": "5.{function}", "multifunction": true,
                    "socket": {{"type": "unix", "path": "{path}"}}}}"#
            )
        };
        functions.iter().flat_map(|function| [String::from("-device"), device(*function)]).collect()
    }
}

pub(crate) fn read(client: &mut Client, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(BAR_0, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

pub(crate) fn write(client: &mut Client, offset: u64, value: u32) {
    client.region_write(BAR_0, offset, &value.to_le_bytes()).unwrap();
}

pub(crate) fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

pub(crate) fn soon(done: impl FnMut() -> bool) -> bool {
    within(Duration::from_secs(20), done)
}
