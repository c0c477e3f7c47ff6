//! Kernels that are none, or odd ones: any file for `--kernel`, in a small guest's memory.
//!
//! Whatever comes: one sentence that names an option, or a guest whose kernel finds all that it is
//! told where it can be, and nothing of it over the kernel.

#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vm_memory::{ByteValued, Bytes, GuestAddress};
use vmm_frontend::boot::{Entry, Kernel, Kind, Range, memory_map};
use vmm_frontend::frontend::memory::Memory;
use vmm_frontend::machine::layout;

/// Memory below the hole, and above it.
const BELOW: u64 = 4 << 20;
const ABOVE: u64 = 1 << 20;
/// Where Linux's header begins in a file, and in the zero page.
const HEADER: usize = 0x1f1;

fuzz_target!(|data: &[u8]| {
    // What is beside the kernel comes last, so that a file of the corpus begins as a kernel does.
    let (kernel, rest) = data.split_at(data.len().saturating_sub(4));
    let _ = run(kernel, &mut Unstructured::new(rest));
});

fn path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn run(bytes: &[u8], rest: &mut Unstructured<'_>) -> Result<()> {
    let size = rest.int_in_range(0..=64)? * (BELOW / 32);
    let initrd = rest.arbitrary::<bool>()?.then(|| memfd(size));
    let text = "x".repeat(rest.int_in_range(0..=2)? * 200);
    // Kernels are large, inputs small.
    let more = rest.int_in_range(0..=64)? * (BELOW / 32);
    let file = memfd(bytes.len() as u64 + more);
    file.write_all_at(bytes, 0).expect("a memfd takes it");

    let option = |said: &str| {
        let known = ["--kernel ", "--kernel: ", "--initrd", "--append: "];
        assert!(known.iter().any(|option| said.starts_with(option)), "{said}");
        assert!(!said.contains('\n'), "{said}");
    };
    let files = (path(&file), initrd.as_ref().map(path));
    let mut kernel = match Kernel::open(&files.0, files.1.as_deref(), &text) {
        Ok(kernel) => kernel,
        Err(error) => {
            option(&error.to_string());
            return Ok(());
        }
    };
    let memory = Memory::new(&[(0, BELOW), (layout::ABOVE, ABOVE)]).expect("memory");
    let map = memory_map(BELOW, ABOVE);
    match kernel.load(memory.space(), &map) {
        Ok(entry) => {
            let guest = Guest { memory: &memory, map: &map, initrd: initrd.map(|_| size) };
            guest.check(entry, bytes, more, &text);
            // As at a reset.
            assert_eq!(kernel.load(memory.space(), &map).ok(), Some(entry), "loaded again");
        }
        Err(error) => option(&error.to_string()),
    }
    Ok(())
}

/// A guest before its first instruction.
struct Guest<'a> {
    memory: &'a Memory,
    map: &'a [Range],
    initrd: Option<u64>,
}

impl Guest<'_> {
    fn read<T: ByteValued>(&self, at: u64) -> T {
        self.memory.space().read_obj(GuestAddress(at)).expect("within memory")
    }

    fn u32(&self, at: u64) -> u64 {
        self.read::<u32>(at).into()
    }

    fn check(&self, entry: Entry, file: &[u8], more: u64, text: &str) {
        if file.starts_with(b"\x7fELF") {
            self.check_pvh(entry, text);
        } else {
            self.check_linux(entry, file, more, text);
        }
    }

    fn check_pvh(&self, entry: Entry, text: &str) {
        let info = u64::from(entry.ebx);
        assert_eq!(self.u32(info), 0x336e_c578, "no start information");
        let modules = self.u32(info + 12);
        assert_eq!(modules, u64::from(self.initrd.is_some()));
        if modules == 1 {
            let module = self.read::<u64>(info + 16);
            self.check_initrd(self.read(module), self.read(module + 8));
        }
        self.check_text(self.read(info + 24), text);
        assert_eq!(self.u32(info + 48), self.map.len() as u64, "ranges");
    }

    fn check_linux(&self, entry: Entry, file: &[u8], more: u64, text: &str) {
        let zero_page = u64::from(entry.esi);
        let (start, size) = (self.u32(zero_page + 0x218), self.u32(zero_page + 0x21c));
        let sectors = match file.get(HEADER).copied().unwrap_or(0) {
            0 => 4,
            sectors => sectors.into(),
        };
        let setup = (sectors + 1) * 512;
        let code = u64::from(entry.address);
        let end = code + file.len() as u64 + more - setup;
        if self.initrd.is_some() {
            self.check_initrd(start, size);
            assert!(start >= end, "an initrd at {start:#x}, a kernel up to {end:#x}");
        }
        let kernel = file.get(setup as usize..).unwrap_or_default();
        let mut loaded = vec![0; kernel.len()];
        let place = GuestAddress(code);
        self.memory.space().read_slice(&mut loaded, place).expect("within memory");
        assert!(loaded == kernel, "something lies over the kernel at {code:#x}");
        self.check_text(self.u32(zero_page + 0x228), text);
    }

    fn check_initrd(&self, start: u64, size: u64) {
        assert_eq!(Some(size), self.initrd);
        let usable = self.map.iter().filter(|range| range.kind == Kind::Usable);
        let mut inside =
            usable.filter(|range| start >= range.start && start + size <= range.start + range.size);
        assert!(inside.next().is_some(), "an initrd of {size:#x} bytes at {start:#x}");
    }

    fn check_text(&self, at: u64, text: &str) {
        let mut bytes = vec![0; text.len() + 1];
        self.memory.space().read_slice(&mut bytes, GuestAddress(at)).expect("within memory");
        assert_eq!(bytes, [text.as_bytes(), b"\0"].concat(), "the command line");
    }
}
