//! Where the structures of a virtio function are: all in one BAR (virtio 1.3, 4.1.4).

use crate::pci::config::Config;

/// The BAR.
pub(super) const BAR: usize = 0;
/// Bytes of it.
pub(super) const BAR_SIZE: u32 = 0x1_0000;
const PAGE: u32 = 0x1000;
const COMMON: u32 = 0;
const ISR: u32 = PAGE;
const DEVICE: u32 = 2 * PAGE;
const NOTIFY_AT: u32 = 3 * PAGE;
/// Offset of the notification addresses.
pub(super) const NOTIFY: u64 = NOTIFY_AT as u64;
/// Bytes from one queue's to the next.
pub(super) const NOTIFY_STRIDE: u64 = 4;
/// The most queues.
pub(super) const QUEUES: usize = 1024;
/// The MSI-X table.
pub(super) const TABLE: u32 = 4 * PAGE;
/// Its pending bits.
pub(super) const PENDING: u32 = 12 * PAGE;

/// What is at an offset of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    Common,
    Isr,
    Device,
    Notify,
    Table,
    Pending,
}

/// Which structure an offset is in, and where in it.
pub(super) fn structure(offset: u64) -> Option<(Structure, u64)> {
    let starts = [
        (PENDING, Structure::Pending),
        (TABLE, Structure::Table),
        (NOTIFY_AT, Structure::Notify),
        (DEVICE, Structure::Device),
        (ISR, Structure::Isr),
        (COMMON, Structure::Common),
    ];
    starts.into_iter().find_map(|(start, it)| Some((it, offset.checked_sub(start.into())?)))
}

/// A vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 9;
/// Of a `virtio_pci_cap`, from its start.
pub(super) const CAPABILITY_BAR: usize = 4;
pub(super) const CAPABILITY_OFFSET: usize = 8;
pub(super) const CAPABILITY_LENGTH: usize = 12;
/// The data of the window into the BAR, from its capability's start.
pub(super) const WINDOW_DATA: usize = 16;

/// Adds the capabilities that lead to the structures; returns the offset of the window's.
pub(super) fn add_capabilities(config: &mut Config, queues: usize) -> Option<usize> {
    const COMMON_CFG: u8 = 1;
    const NOTIFY_CFG: u8 = 2;
    const ISR_CFG: u8 = 3;
    const DEVICE_CFG: u8 = 4;
    const PCI_CFG: u8 = 5;
    let stride = NOTIFY_STRIDE as u32;
    let notify = u32::try_from(queues).ok()?.max(1) * stride;
    for (kind, offset, length) in
        [(COMMON_CFG, COMMON, 0x38), (ISR_CFG, ISR, 1), (DEVICE_CFG, DEVICE, PAGE)]
    {
        config.add_capability(VENDOR_SPECIFIC, &capability(kind, offset, length, None), &[])?;
    }
    let body = capability(NOTIFY_CFG, NOTIFY_AT, notify, Some(stride));
    config.add_capability(VENDOR_SPECIFIC, &body, &[])?;
    // BAR, offset, length and data are the guest's to write.
    let mut writable = [0u8; 18];
    for (place, bits) in writable.iter_mut().enumerate() {
        let place = place + 2;
        *bits = if place == CAPABILITY_BAR || place >= CAPABILITY_OFFSET { 0xff } else { 0 };
    }
    config.add_capability(VENDOR_SPECIFIC, &capability(PCI_CFG, 0, 0, Some(0)), &writable)
}

/// What follows the link to the next capability (`struct virtio_pci_cap`).
fn capability(kind: u8, offset: u32, length: u32, more: Option<u32>) -> Vec<u8> {
    let size = if more.is_some() { 20 } else { 16 };
    let mut body = vec![size, kind, BAR as u8, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more.iter().flat_map(|more| more.to_le_bytes()));
    body
}
