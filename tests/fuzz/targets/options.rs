//! Descriptions of units as on the command line.
//!
//! Whatever text comes: a unit, or one sentence that names the option. Nothing is opened but a file
//! of this target's own, so that no path of the host is touched.

#![no_main]

use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_scsi::scsi::target::LUNS;
use vhost_scsi::units::{Addresses, Kind, Unit};

fuzz_target!(|data: &[u8]| {
    static PATH: OnceLock<String> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let file = memfd(1 << 20);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::mem::forget(file); // open as long as the process lives
        path
    });
    let text = String::from_utf8_lossy(data);
    let mut addresses = Addresses::default();
    for line in text.lines() {
        let (is_disk, rest) = match line.strip_prefix('c') {
            Some(rest) => (false, rest),
            None => (true, line),
        };
        // A NUL can't be on a command line.
        let rest = rest.replace('\0', "");
        // The path is given, the rest is not: an own path would be the host's.
        let text = match rest.strip_prefix("empty") {
            Some(keys) if !is_disk => format!("empty,{keys}"),
            _ => format!("{path},{rest}"),
        };
        if text.contains(",,") {
            continue; // a doubled comma would lengthen the path
        }
        let kind = if is_disk { Kind::Disk } else { Kind::Cdrom };
        let option = if is_disk { "--disk " } else { "--cdrom " };
        let placed = Unit::parse(kind, &text)
            .and_then(|unit| unit.open(None))
            .and_then(|opened| opened.place(&mut addresses));
        match placed {
            Ok(placed) => assert!(placed.address.lun < LUNS),
            Err(error) => {
                let said = error.to_string();
                assert!(said.starts_with(option), "{said}");
            }
        }
    }
});
