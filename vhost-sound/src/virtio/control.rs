//! The control elements at work (virtio 1.3, 5.14.6.10).

use std::sync::atomic::{AtomicBool, Ordering};

use super::info;
use super::message::{Control, Status};
use super::stream::Stream;
use crate::card::StreamConfig;
use crate::card::control::{Element, LOWEST, Level, Quantity, STEP, elements};

/// VIRTIO_SND_F_CTLS.
pub(super) const F_CTLS: u64 = 1;
/// Bytes of a `virtio_snd_ctl_value`.
const VALUE: usize = 512;
/// VIRTIO_SND_CTL_EVT_MASK_VALUE as a bit, behind an event's element.
const MASK_VALUE: u32 = 1 << 16;
/// SNDRV_CTL_TLVT_DB_SCALE; and a step's bit that says that the lowest value is silent.
const DB_SCALE: u32 = 1;
const MUTE: u32 = 1 << 16;

/// The elements that are offered: none, perhaps.
#[derive(Debug, Default)]
pub(super) struct Controls {
    elements: Vec<Element>,
    /// The driver knows of them.
    negotiated: AtomicBool,
}

impl Controls {
    /// Those of these streams.
    pub(super) fn of(streams: &[StreamConfig]) -> Self {
        Self { elements: elements(streams), negotiated: AtomicBool::new(false) }
    }

    pub(super) fn features(&self) -> u64 {
        if self.elements.is_empty() { 0 } else { F_CTLS }
    }

    pub(super) fn set_features(&self, features: u64) {
        self.negotiated.store(features & self.features() != 0, Ordering::Relaxed);
    }

    /// How many there are. `None`: they are not offered.
    pub(super) fn count(&self) -> Option<usize> {
        Some(self.elements.len()).filter(|count| *count > 0)
    }

    /// What can be asked for is there if it was negotiated alone.
    fn elements(&self) -> Result<&[Element], Status> {
        match self.negotiated.load(Ordering::Relaxed) {
            true => Ok(&self.elements),
            false => Err(Status::NotSupported),
        }
    }

    fn element(&self, number: u32) -> Result<&Element, Status> {
        let place = usize::try_from(number).map_err(|_| Status::BadMessage)?;
        self.elements()?.get(place).ok_or(Status::BadMessage)
    }

    /// What is told of each in `size` bytes; `function` is that of a stream.
    pub(super) fn tell(
        &self,
        function: impl Fn(usize) -> u32,
        size: u32,
    ) -> Result<Vec<Vec<u8>>, Status> {
        let elements = self.elements()?.iter();
        Ok(elements.map(|it| info::control(function(it.stream), it, size)).collect())
    }

    /// Carries out what is asked of an element.
    pub(super) fn carry_out(
        &self,
        number: u32,
        control: &Control,
        streams: &mut [Stream],
    ) -> Result<Vec<u8>, Status> {
        let element = self.element(number)?;
        let stream = streams.get_mut(element.stream).ok_or(Status::BadMessage)?;
        match (control, element.quantity) {
            (Control::Read, _) => {
                let values = element.read(&stream.level());
                let mut bytes: Vec<u8> = values.flat_map(u32::to_le_bytes).collect();
                bytes.resize(VALUE, 0);
                Ok(bytes)
            }
            (Control::Write(values), _) => {
                let level = element.write(stream.level(), values.as_slice());
                stream.set_level(level.ok_or(Status::BadMessage)?);
                Ok(Vec::new())
            }
            (Control::TlvRead, Quantity::Volume) => Ok(scale()),
            // None is an enumeration, and a switch has no metadata.
            (Control::EnumItems | Control::TlvRead, _) => Err(Status::BadMessage),
            (Control::TlvChange, _) => Err(Status::NotSupported),
        }
    }

    /// The event's data of an element that shows something else than what the driver knows, which it then does.
    ///
    /// What the driver has changed itself is told as well: so Linux tells its other programs.
    pub(super) fn changed(&self, known: &mut [Level], streams: &[Stream]) -> Option<u32> {
        let elements = self.elements().ok()?;
        for (number, element) in (0..u32::from(u16::MAX)).zip(elements) {
            let stream = streams.get(element.stream);
            if let (Some(known), Some(stream)) = (known.get_mut(element.stream), stream)
                && element.read(known).ne(element.read(&stream.level()))
            {
                let values: Vec<u32> = element.read(&stream.level()).collect();
                *known = element.write(*known, &values)?;
                return Some(number | MASK_VALUE);
            }
        }
        None
    }
}

/// The volume of each channel that a stream can have.
pub(super) fn volumes(stream: &Stream) -> Vec<u8> {
    let most = stream.config.channels.1.into();
    stream.level().volumes.into_iter().take(most).collect()
}

/// How many decibels a volume is, as ALSA has it.
fn scale() -> Vec<u8> {
    let value = [LOWEST.to_le_bytes(), (u32::from(STEP) | MUTE).to_le_bytes()].concat();
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    [&DB_SCALE.to_le_bytes()[..], &length.to_le_bytes(), &value].concat()
}
