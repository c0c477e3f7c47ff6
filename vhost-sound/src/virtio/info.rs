//! What is told of jacks, streams, channel maps and control elements (virtio 1.3, 5.14.6.4.2, 5.14.6.6.2, 5.14.6.7.1,
//! 5.14.6.10.1).

use super::message::{Kind, Query, Status};
use super::stream::EVT_XRUNS;
use crate::card::StreamConfig;
use crate::card::control::{Element, LOUDEST, Quantity};
use crate::card::port::Direction;

/// Channels that a map has a place for.
const POSITIONS: usize = 18;
/// Bytes of a control element's name, and of all that is told of it where its numbers of 64 bits are aligned.
const NAME: usize = 44;
const ALIGNED: u32 = 96;
/// VIRTIO_SND_CTL_ROLE_*, behind the direction's bit.
const ROLE_VOLUME: u32 = 1 << 1;
const ROLE_MUTE: u32 = 2 << 1;
/// VIRTIO_SND_CTL_TYPE_*.
const BOOLEAN: u32 = 0;
const INTEGER: u32 = 1;
/// VIRTIO_SND_CTL_ACCESS_*, as bits.
const READ_WRITE: u32 = 0b11;
const TLV_READ: u32 = 1 << 4;

/// A stream's jack. `function` is the number of the PCM device in Linux, here and below.
pub(super) fn jack(function: u32, stream: &StreamConfig, connected: bool) -> Vec<u8> {
    let mut bytes = function.to_le_bytes().to_vec();
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(stream.port.configuration_default(function).to_le_bytes());
    bytes.extend(stream.port.capabilities().to_le_bytes());
    bytes.extend([u8::from(connected), 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// A stream.
pub(super) fn pcm(function: u32, stream: &StreamConfig) -> Vec<u8> {
    let bits = |numbers: &mut dyn Iterator<Item = u8>| {
        numbers.fold(0u64, |bits, number| bits | 1u64.checked_shl(number.into()).unwrap_or(0))
    };
    let formats = bits(&mut stream.formats.iter().map(|format| format.number()));
    let rates = bits(&mut stream.rates.iter().map(|rate| rate.number()));
    let (least, most) = stream.channels;
    let mut bytes = function.to_le_bytes().to_vec();
    bytes.extend(EVT_XRUNS.to_le_bytes());
    bytes.extend(formats.to_le_bytes());
    bytes.extend(rates.to_le_bytes());
    bytes.extend([stream.direction().number(), least, most, 0, 0, 0, 0, 0]);
    bytes
}

/// Where the channels of streams of one direction are.
pub(super) fn chmap(function: u32, direction: Direction, channels: u8) -> Vec<u8> {
    let mut positions = StreamConfig::positions(channels).to_vec();
    positions.resize(POSITIONS, 0);
    let mut bytes = function.to_le_bytes().to_vec();
    bytes.extend([direction.number(), channels]);
    bytes.extend(positions);
    bytes
}

/// A control element, for a driver that has room for `size` bytes of it.
pub(super) fn control(function: u32, element: &Element, size: u32) -> Vec<u8> {
    let (role, kind, access, most) = match element.quantity {
        Quantity::Volume => (ROLE_VOLUME, INTEGER, READ_WRITE | TLV_READ, LOUDEST.into()),
        Quantity::Switch => (ROLE_MUTE, BOOLEAN, READ_WRITE, 1u32),
    };
    let role = role | u32::from(element.direction.number());
    let count = u32::try_from(element.count).unwrap_or(u32::MAX);
    let words = [function, role, kind, access, count, element.index];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // Its end is a zero.
    let name = element.name.bytes().take(NAME.saturating_sub(1)).chain(std::iter::repeat(0));
    bytes.extend(name.take(NAME));
    // The standard's structures have no holes (1.4), but Linux's has one where a compiler makes it.
    if size == ALIGNED {
        bytes.extend([0; 4]);
    }
    // The least, the most and the step; three numbers of 64 bits would have room.
    bytes.extend([0, most, 1, 0, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
    bytes
}

/// Answers a query of items of which each takes `bytes`.
pub(super) fn answer(kind: Kind, items: &[Vec<u8>], query: Query) -> Result<Vec<u8>, Status> {
    let size = items.first().map_or(0, Vec::len);
    let place = |number: u32| usize::try_from(number).map_err(|_| Status::BadMessage);
    let (start, count) = (place(query.start)?, place(query.count)?);
    let end = start.checked_add(count).ok_or(Status::BadMessage)?;
    let asked = items.get(start..end).ok_or(Status::BadMessage)?;
    if place(query.size)? != size {
        log::debug!("a driver takes {} bytes of each {kind:?}, which has {size}", query.size);
        return Err(Status::BadMessage);
    }
    Ok(asked.concat())
}
