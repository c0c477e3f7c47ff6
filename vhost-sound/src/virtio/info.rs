//! What is told of jacks, streams and channel maps (virtio 1.3, 5.14.6.4.2, 5.14.6.6.2, 5.14.6.7.1).

use super::message::{Kind, Query, Status};
use super::stream::EVT_XRUNS;
use crate::card::StreamConfig;
use crate::card::port::Direction;

/// Channels that a map has a place for.
const POSITIONS: usize = 18;

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
