//! Where things are in the guest: physical addresses, ports and interrupt lines.
//!
//! Memory lies below the hole that PCI and the interrupt controllers need, and goes on above 4 GiB.

/// The real-mode interrupt vectors, the BIOS data area and what firmware would use begin at 0; the
/// kernel's own memory map says that a machine's first page is not to be used.
pub const LOW_END: u64 = 0x9_fc00;
/// What a kernel is told: Linux's boot parameters, or PVH's start information; at most a few pages.
pub const BOOT_PARAMS: u64 = 0x7000;
/// The descriptor table that a kernel starts with.
pub const GDT: u64 = 0x6000;
/// The page tables that a kernel starts with in 64-bit mode, six pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes for it, with its NUL.
pub const COMMAND_LINE_SIZE: usize = 0x1_0000;
/// ACPI tables, where the search for the RSDP finds them (ACPI 6.5, 5.2.5.1).
pub const TABLES: u64 = 0xe_0000;
/// Bytes for them.
pub const TABLES_SIZE: u64 = 0x1_0000;
/// Memory goes on above what the ISA bus and the BIOS once had.
pub const HIGH: u64 = 0x10_0000;

/// Memory ends here, and goes on at [`ABOVE`].
pub const HOLE: u64 = 0xc000_0000;
/// BARs of less than 4 GiB.
pub const PCI: (u64, u64) = (0xc000_0000, 0xe000_0000);
/// More of them, where firmware puts them.
pub const PCI_HIGH: (u64, u64) = (0xf000_0000, 0xfec0_0000);
/// The last PCI bus, and the only one. Linux looks at each place of each bus that there may be more.
pub const LAST_BUS: u8 = 0;
/// The configuration space of all buses (PCI Firmware 3.3, 4.1).
pub const ECAM: u64 = 0xe000_0000;
/// Bytes of it.
pub const ECAM_SIZE: u64 = (LAST_BUS as u64 + 1) << 20;
/// The interrupt controllers, as KVM has them.
pub const IO_APIC: u32 = 0xfec0_0000;
/// See [`IO_APIC`].
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page, and three pages behind it, that KVM needs for itself on some processors
/// (KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR).
pub const KVM_PAGES: u64 = 0xfeff_c000;
/// Bytes of them.
pub const KVM_PAGES_SIZE: u64 = 4 * 4096;
/// Memory goes on.
pub const ABOVE: u64 = 0x1_0000_0000;

/// The power management registers (ACPI 6.5, 4.8.3): events, control, timer, general events.
pub mod pm {
    /// PM1a event block: status and enable.
    pub const EVENT: u16 = 0x600;
    /// PM1a control block.
    pub const CONTROL: u16 = 0x604;
    /// The timer of 3.579545 MHz.
    pub const TIMER: u16 = 0x608;
    /// General-purpose event block 0: status and enable.
    pub const GPE0: u16 = 0x620;
    /// Bytes of it.
    pub const GPE0_LEN: u8 = 8;
    /// The system control interrupt.
    pub const SCI: u8 = 9;
    /// What SLP_TYP is for S5.
    pub const S5: u8 = 5;
}

/// What firmware is told of the machine: selector, data, and DMA, in 12 ports.
pub const FW_CFG: u16 = 0x510;
/// Messages of firmware.
pub const DEBUG: u16 = 0x402;
/// The registers by which the guest learns of PCI devices that come and go.
pub mod hotplug {
    /// Their first port.
    pub const PORT: u16 = 0x610;
    /// Bytes of them.
    pub const SIZE: u8 = 12;
    /// The general-purpose event that says that there is something new in them.
    pub const EVENT: u8 = 2;
}

/// The first serial port.
pub const SERIAL: u16 = 0x3f8;
/// Its interrupt line.
pub const SERIAL_IRQ: u8 = 4;
/// The real-time clock, index and data.
pub const RTC: u16 = 0x70;
/// Its interrupt line.
pub const RTC_IRQ: u8 = 8;
/// PCI's mechanism #1, address and data.
pub const PCI_CONFIG: u16 = 0xcf8;
/// The reset register, between the two.
pub const RESET: u16 = 0xcf9;
/// What is written to it.
pub const RESET_VALUE: u8 = 0x06;
/// INTA#–INTD# of all devices are these eight inputs of the I/O APIC.
pub const INTX: [u32; 8] = [16, 17, 18, 19, 20, 21, 22, 23];
