//! Linux's own boot protocol (Documentation/arch/x86/boot.rst): by the 64-bit entry point of the
//! kernel that is in a bzImage, else by the 32-bit one of what unpacks it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::unpack::unpack;
use super::vmlinux::{Place, Vmlinux};
use super::{
    BootError, BzImage, Entry, KERNEL, Kernel, KernelLoader, Kind, Mode, Range, bzimage, loader,
};
use crate::frontend::memory::AddressSpace;
use crate::machine::layout;

/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// The protocol must have the 32-bit entry point's fields, and say how large the kernel gets.
const OLDEST: u16 = 0x020a;
/// A boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

/// The kernel is where its stub would have put it, which has chosen where it is mapped.
const KASLR_FLAG: u8 = 1 << 1;

/// Where the setup header is in the file.
const HEADER: usize = 0x1f1;

/// Whether a file of that size that begins with `head` is such a kernel, and is all there.
pub(super) fn check(head: &[u8], size: u64) -> Result<(), String> {
    /// Bytes of a unit of "syssize".
    const PARAGRAPH: u64 = 16;
    let mut header = setup_header::default();
    let bytes = head.iter().skip(HEADER);
    header.as_mut_slice().iter_mut().zip(bytes).for_each(|(byte, read)| *byte = *read);
    if header.header != MAGIC {
        return Err(String::from("it has the header of neither"));
    }
    let whole = setup_size(&header) + PARAGRAPH * u64::from(header.syssize);
    match size < whole {
        true => Err(format!("it is cut off: {size} of {whole} bytes are there")),
        false => Ok(()),
    }
}

pub(super) fn load(
    kernel: &mut Kernel,
    memory: &AddressSpace,
    map: &[Range],
) -> Result<Entry, BootError> {
    let mut header = read_header(&mut kernel.file).map_err(|error| kernel.no_kernel(error))?;
    let version = header.version;
    if header.header != MAGIC {
        return Err(kernel.no_kernel("no setup header"));
    }
    if version < OLDEST {
        return Err(kernel.no_kernel(format_args!("boot protocol {version:#x} is too old")));
    }
    let limit = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    kernel.write_command_line(memory, limit)?;

    // It unpacks itself to where it likes to be, or to where it is, and needs that much there; and
    // what is loaded stays, whatever the header says of that.
    let start = header.pref_address.max(header.code32_start.into());
    let end = start.saturating_add(header.init_size.into());
    let end = end.max(u64::from(header.code32_start).saturating_add(kernel.size));
    let inside = |range: &Range| {
        let size = end.saturating_sub(range.start);
        range.kind == Kind::Usable && range.start <= start && size <= range.size
    };
    if !map.iter().any(inside) {
        let size = u64::from(header.init_size).max(kernel.size);
        return Err(BootError::NoRoom { option: KERNEL, size });
    }
    let last = u64::from(header.initrd_addr_max).saturating_add(1);
    if let Some((address, size)) = kernel.load_initrd(memory, map, end, last)? {
        header.ramdisk_image = address;
        header.ramdisk_size = size;
    }
    header.type_of_loader = UNDEFINED_LOADER;
    header.cmd_line_ptr = layout::COMMAND_LINE as u32;

    let unpacked = load_unpacked(kernel, memory, &mut header)?;
    if unpacked.is_none() {
        let high = Some(GuestAddress(layout::HIGH));
        let loaded = BzImage::load(memory, None, &mut kernel.file, high);
        loaded.map_err(|error| match error {
            loader::Error::Bzimage(bzimage::Error::ReadBzImageCompressedKernel) => {
                BootError::NoRoom { option: KERNEL, size: kernel.size }
            }
            error => kernel.refused(&error),
        })?;
    }
    let params = params(header, map);
    memory
        .write_obj(params, GuestAddress(layout::BOOT_PARAMS))
        .map_err(|_| BootError::NoRoom { option: KERNEL, size: size_of_val(&params) as u64 })?;
    let esi = layout::BOOT_PARAMS as u32;
    Ok(match unpacked {
        Some(address) => Entry { mode: Mode::Long, address, esi, ebx: 0 },
        None => Entry { mode: Mode::Protected, address: header.code32_start, esi, ebx: 0 },
    })
}

/// Bytes before what is loaded: the boot sector, and those of "setup_sects".
pub(super) fn setup_size(header: &setup_header) -> u64 {
    const SECTOR: u64 = 512;
    const IF_ZERO: u8 = 4;
    let sectors = if header.setup_sects == 0 { IF_ZERO } else { header.setup_sects };
    (u64::from(sectors) + 1) * SECTOR
}

fn read_header(file: &mut File) -> io::Result<setup_header> {
    let mut header = setup_header::default();
    file.seek(SeekFrom::Start(HEADER as u64))?;
    file.read_exact(header.as_mut_slice())?;
    Ok(header)
}

/// Unpacks the kernel into memory, and moves it unless it is told not to be. Returns its 64-bit
/// entry point, or `None` if that can't be done here.
fn load_unpacked(
    kernel: &mut Kernel,
    memory: &AddressSpace,
    header: &mut setup_header,
) -> Result<Option<u32>, BootError> {
    // With less room than this it would unpack itself elsewhere.
    let place = Place {
        start: header.pref_address,
        size: header.init_size.into(),
        alignment: header.kernel_alignment.into(),
    };
    // It runs where it is loaded if that is above where it likes to be.
    if header.pref_address < header.code32_start.into() {
        return Ok(None);
    }
    let unpacked = unpack(&mut kernel.file, kernel.size, header);
    let Some(mut vmlinux) = unpacked.and_then(|bytes| Vmlinux::parse(bytes, place)) else {
        return Ok(None);
    };
    let Ok(entry) = u32::try_from(vmlinux.entry()) else { return Ok(None) };
    let fixed = kernel.command_line.split_ascii_whitespace().any(|word| word == "nokaslr");
    if !fixed && vmlinux.relocate(place, random().map_err(BootError::NoRandom)?) {
        header.loadflags |= KASLR_FLAG;
    }
    for (address, contents) in vmlinux.contents() {
        memory
            .write_slice(contents, GuestAddress(address))
            .map_err(|_| BootError::NoRoom { option: KERNEL, size: place.size })?;
    }
    Ok(Some(entry))
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The "zero page".
fn params(hdr: setup_header, map: &[Range]) -> boot_params {
    let mut params = boot_params { hdr, acpi_rsdp_addr: layout::TABLES, ..Default::default() };
    let mut count = 0u8;
    let mut table = params.e820_table;
    for (entry, range) in table.iter_mut().zip(map) {
        let Range { start, size, kind } = *range;
        *entry = boot_e820_entry { addr: start, size, r#type: kind as u32 };
        count = count.saturating_add(1);
    }
    params.e820_table = table;
    params.e820_entries = count;
    params
}
