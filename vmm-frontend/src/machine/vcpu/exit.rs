//! Accesses to ports, which KVM describes in the shared page of a virtual processor.

use kvm_bindings::{KVM_EXIT_IO_IN, kvm_run};

use super::Buses;

/// Answers KVM_EXIT_IO: an access of 1, 2 or 4 bytes, or several of a string instruction, each to
/// the same port.
///
/// # Safety
/// `run` is a processor's shared page of `size` bytes, whose exit reason is KVM_EXIT_IO.
pub(super) unsafe fn port(run: &mut kvm_run, size: usize, buses: &Buses) {
    // SAFETY: the exit reason says that this member is the one that was written.
    let io = unsafe { run.__bindgen_anon_1.io };
    let width = usize::from(io.size);
    let length = width.saturating_mul(usize::try_from(io.count).unwrap_or(usize::MAX));
    let offset = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
    if width == 0 || offset.checked_add(length).is_none_or(|end| end > size) {
        return;
    }
    let page = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: the range was seen to lie in the page, behind the structure, and nobody else touches
    // it while the processor is not running.
    let data = unsafe { std::slice::from_raw_parts_mut(page.add(offset), length) };
    let port = u64::from(io.port);
    for access in data.chunks_exact_mut(width) {
        if u32::from(io.direction) == KVM_EXIT_IO_IN {
            buses.ports.read(port, access);
        } else {
            buses.ports.write(port, access);
        }
    }
}
