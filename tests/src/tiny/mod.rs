//! Tiny guests: a few lines of assembly each, which test the machine where no stock kernel boots.
//!
//! They are in `guests`, one file each, and share `runtime.s`. They say on the serial port what they
//! see; a test compares.

mod image;
mod qemu;
mod run;

use std::arch::global_asm;

pub use qemu::by_qemu;
pub use run::{Ended, Machine, with_kvm};

/// A tiny guest.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    name: &'static str,
    /// Its first instruction's offset in the image.
    entry: u32,
}

macro_rules! guests {
    ($($name:ident)*) => {
        global_asm!(
            include_str!("runtime.s"),
            $(include_str!(concat!("guests/", stringify!($name), ".s")),)*
            ".globl tiny_end\ntiny_end:",
            include_str!("rom.s"),
            ".text\n.code64",
            options(att_syntax, raw)
        );

        $(
            #[doc = concat!("That of `guests/", stringify!($name), ".s`.")]
            pub fn $name() -> Guest {
                unsafe extern "C" {
                    #[link_name = concat!("guest_", stringify!($name))]
                    static START: u8;
                }
                let start = (&raw const START).addr();
                let entry = start.wrapping_sub((&raw const tiny_image).addr());
                Guest { name: stringify!($name), entry: entry as u32 }
            }
        )*
    };
}

guests! {
    acpi bars button cpuid hello memory no_emulation no_instruction nobody pci reboot reset_ends scsi smp
    start_info strings timers triple_fault
}

// The assembly's labels: only their addresses mean something.
unsafe extern "C" {
    static tiny_image: u8;
    static tiny_end: u8;
    static tiny_rom: u8;
    static tiny_rom_entry: u8;
    static tiny_rom_end: u8;
}

/// What lies between two labels of the assembly.
fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    let length = end.addr().saturating_sub(start.addr());
    // SAFETY: both are labels of one section, in this order, which is never written to.
    unsafe { std::slice::from_raw_parts(start, length) }
}

impl Guest {
    /// As a kernel by the PVH protocol.
    pub fn kernel(&self) -> Vec<u8> {
        image::kernel(between(&raw const tiny_image, &raw const tiny_end), self.entry)
    }

    /// As the ROM of a machine without other firmware, for guests that need no more than a serial
    /// port.
    pub fn rom(&self) -> Vec<u8> {
        let image = between(&raw const tiny_image, &raw const tiny_end);
        let tail = between(&raw const tiny_rom, &raw const tiny_rom_end);
        let place = (&raw const tiny_rom_entry).addr() - (&raw const tiny_rom).addr();
        image::rom(image, self.entry, tail, place)
    }
}
