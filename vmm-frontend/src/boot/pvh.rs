//! The PVH boot protocol (Xen, docs/misc/pvh.pandoc) of ELF kernels.

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{
    BootError, Elf, Entry, KERNEL, Kernel, KernelLoader, Mode, PvhBootCapability, Range, elf,
    loader,
};
use crate::frontend::memory::AddressSpace;
use crate::machine::layout;

const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

pub(super) fn load(
    kernel: &mut Kernel,
    memory: &AddressSpace,
    map: &[Range],
) -> Result<Entry, BootError> {
    let loaded = Elf::load(memory, None, &mut kernel.file, None);
    let loaded = loaded.map_err(|error| match error {
        // The loader does not tell a file that is cut off from memory that is too small.
        loader::Error::Elf(elf::Error::ReadKernelImage) => kernel.no_kernel(
            "a segment ends beyond the file or beyond the guest's memory, which --memory makes larger",
        ),
        error => kernel.refused(&error),
    })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(kernel.no_kernel("it has no XEN_ELFNOTE_PHYS32_ENTRY"));
    };
    let address =
        u32::try_from(entry.0).map_err(|_| kernel.no_kernel("its entry point is above 4 GiB"))?;
    kernel.write_command_line(memory, usize::MAX)?;

    let mut info = Information { memory, next: layout::BOOT_PARAMS };
    let mut start = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::TABLES,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    if let Some((paddr, size)) =
        kernel.load_initrd(memory, map, loaded.kernel_end, u32::MAX.into())?
    {
        let module =
            hvm_modlist_entry { paddr: paddr.into(), size: size.into(), ..Default::default() };
        start.modlist_paddr = info.put(&module)?;
        start.nr_modules = 1;
    }
    start.memmap_paddr = info.next;
    for &Range { start, size, kind } in map {
        let type_ = kind as u32;
        info.put(&hvm_memmap_table_entry { addr: start, size, type_, reserved: 0 })?;
    }
    let ebx = info.put(&start)? as u32;
    Ok(Entry { mode: Mode::Protected, address, ebx, esi: 0 })
}

/// Structures one after the other, in low memory.
struct Information<'a> {
    memory: &'a AddressSpace,
    next: u64,
}

impl Information<'_> {
    fn put<T: ByteValued>(&mut self, object: &T) -> Result<u64, BootError> {
        let (address, size) = (self.next, size_of::<T>() as u64);
        self.memory
            .write_slice(object.as_slice(), GuestAddress(address))
            .map_err(|_| BootError::NoRoom { option: KERNEL, size })?;
        self.next = address.saturating_add(size);
        Ok(address)
    }
}
