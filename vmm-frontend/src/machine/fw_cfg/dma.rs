//! Transfers that a descriptor in guest memory describes.

use vm_memory::{Bytes, GuestAddress};

use super::{Contents, Cursor};
use crate::frontend::memory::AddressSpace;

/// The descriptor: control, length, address, big-endian.
const DESCRIPTOR: usize = 16;

/// Control: what is to be done. The item to select is in the high half.
pub(super) const READ: u32 = 1 << 1;
pub(super) const SKIP: u32 = 1 << 2;
pub(super) const SELECT: u32 = 1 << 3;
pub(super) const WRITE: u32 = 1 << 4;
/// Control, when it is done: it failed; else it is zero.
pub(super) const ERROR: u32 = 1 << 0;

/// Does what the descriptor at `descriptor` says, and says there how it went.
pub(super) fn transfer(
    memory: &AddressSpace,
    descriptor: u64,
    contents: &Contents,
    cursor: &mut Cursor,
) {
    let done = work(memory, descriptor, contents, cursor);
    let control = if done.is_some() { 0 } else { ERROR };
    // Where there is no memory, there is nobody to tell.
    let _ = memory.write_slice(&u32::to_be_bytes(control), GuestAddress(descriptor));
}

/// `None`: it can't be done, or not wholly.
fn work(
    memory: &AddressSpace,
    descriptor: u64,
    contents: &Contents,
    cursor: &mut Cursor,
) -> Option<()> {
    let mut bytes = [0; DESCRIPTOR];
    memory.read_slice(&mut bytes, GuestAddress(descriptor)).ok()?;
    let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = bytes;
    let control = u32::from_be_bytes([c0, c1, c2, c3]);
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).ok()?;
    if control & SELECT != 0 {
        cursor.select(u16::from_be_bytes([c0, c1]));
    }
    if control & READ != 0 {
        let content = cursor.take(contents, length);
        return write(memory, u64::from_be_bytes(address), content, length);
    }
    if control & WRITE != 0 {
        // There is nothing that firmware may change.
        return (length == 0).then_some(());
    }
    if control & SKIP != 0 {
        cursor.take(contents, length);
    }
    Some(())
}

/// Writes `content`, and zeroes behind it, `length` bytes in all.
fn write(memory: &AddressSpace, address: u64, content: &[u8], length: usize) -> Option<()> {
    const ZEROES: [u8; 4096] = [0; 4096];
    memory.write_slice(content, GuestAddress(address)).ok()?;
    let mut written = content.len();
    while let Some(rest) = length.checked_sub(written).filter(|rest| *rest > 0) {
        let zeroes = ZEROES.get(..rest).unwrap_or(&ZEROES);
        let at = address.checked_add(written as u64)?;
        memory.write_slice(zeroes, GuestAddress(at)).ok()?;
        written = written.saturating_add(zeroes.len());
    }
    Some(())
}
