//! GET EVENT STATUS NOTIFICATION (MMC-6 6.7).

use crate::scsi::bytes::put;

/// NOTIFICATION CLASS REQUEST: media events.
pub(super) const MEDIA: u8 = 1 << 4;
/// The class's number in an answer.
const MEDIA_CLASS: u8 = 4;

/// What happened to the medium since it was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum MediaEvent {
    #[default]
    None = 0,
    EjectRequest = 1,
    NewMedia = 2,
    MediaRemoval = 3,
}

/// The answer, for the classes that are asked for.
pub(super) fn media_event(classes: u8, event: MediaEvent, open: bool, present: bool) -> Vec<u8> {
    let mut data = vec![0, 2, 0x80, MEDIA]; // NEA: none of these classes
    if classes & MEDIA != 0 {
        let status = u8::from(open) | u8::from(present) << 1;
        put(&mut data, 0, &[0, 6, MEDIA_CLASS]);
        data.extend([event as u8, status, 0, 0]);
    }
    data
}
