//! A stream of PipeWire's, which plays or records one of the card's.

use std::cell::{Cell, RefCell};
use std::io::{self, Cursor};
use std::rc::Rc;

use pipewire::keys;
use pipewire::properties::properties;
use pipewire::spa::param::ParamType;
use pipewire::spa::param::audio::{AudioFormat, AudioInfoRaw, MAX_CHANNELS};
use pipewire::spa::pod::serialize::PodSerializer;
use pipewire::spa::pod::{Object, Pod, Value};
use pipewire::spa::sys::{SPA_PROP_channelVolumes, SPA_PROP_mute};
use pipewire::spa::utils::{Direction as Way, SpaTypes};
use pipewire::stream::{StreamFlags, StreamListener, StreamRc, StreamState};
use vhost_sound::card::StreamConfig;
use vhost_sound::card::control::Level;
use vhost_sound::card::format::Format;
use vhost_sound::card::port::Direction;
use vhost_sound::card::silence::silence;
use vhost_sound::host::helper::far::{Levels, Mover, Options};
use vhost_sound::host::helper::ring::Order;

use crate::server::Server;

/// Why it can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("PipeWire has no samples that are {0}")]
    Format(Format),
    #[error("PipeWire refuses the stream: {0}")]
    Refused(#[from] pipewire::Error),
    #[error("PipeWire cannot be told what samples are like")]
    Params,
    #[error("the host refuses: {0}")]
    Host(io::Error),
}

/// The stream.
pub(crate) struct Stream {
    generation: u32,
    name: String,
    is_active: Cell<bool>,
    channels: u8,
    // In this order: a listener goes before what it listens to.
    _listener: StreamListener<Moved>,
    stream: StreamRc,
}

/// What the thread that moves samples has.
struct Moved {
    order: Order,
    direction: Direction,
    mover: Mover,
}

fn set_level(stream: &pipewire::stream::Stream, level: &Level, channels: u8, name: &str) {
    let volumes = level.factors().map(|factor| factor as f32);
    let volumes = volumes.get(..channels.into()).unwrap_or(&volumes);
    let muted = [if level.is_on { 0.0 } else { 1.0 }];
    for (id, values) in [(SPA_PROP_channelVolumes, volumes), (SPA_PROP_mute, &muted)] {
        if let Err(error) = stream.set_control(id, values) {
            log::error!("{name}: its volume cannot be set: {error}");
        }
    }
}

/// What a level is once the host has set a control of it to these values.
fn changed(level: Level, id: u32, values: &[f32]) -> Level {
    let mut level = level;
    if id == SPA_PROP_channelVolumes {
        for (volume, value) in level.volumes.iter_mut().zip(values) {
            *volume = Level::volume(f64::from(*value));
        }
    }
    if id == SPA_PROP_mute {
        level.is_on = values.iter().all(|muted| *muted == 0.0);
    }
    level
}

impl Stream {
    pub(crate) fn start(
        server: &Server,
        options: &Options,
        order: Order,
        mover: Mover,
        levels: Rc<RefCell<Levels>>,
    ) -> Result<Self, StreamError> {
        let direction = options.direction();
        let (way, category) = match direction {
            Direction::Playback => (Way::Output, "Playback"),
            Direction::Capture => (Way::Input, "Capture"),
        };
        let hertz = order.rate.hertz();
        let mut properties = properties! {
            *keys::MEDIA_TYPE => "Audio",
            *keys::MEDIA_CATEGORY => category,
            *keys::APP_NAME => "vhost-sound",
            *keys::NODE_NAME => format!("vhost-sound.{}", options.name),
            *keys::NODE_DESCRIPTION => options.name.as_str(),
            *keys::MEDIA_NAME => options.name.as_str(),
            *keys::NODE_LATENCY => format!("{}/{hertz}", quantum(options.latency, hertz)),
        };
        if let Some(target) = &options.target {
            properties.insert(*keys::TARGET_OBJECT, target.as_str());
        }
        let stream = StreamRc::new(server.core.clone(), &options.name, properties)?;
        let moved = Moved { order, direction, mover };
        // What is told on another thread than samples are moved on has nothing of those.
        let (name, told) = (options.name.clone(), Rc::clone(&levels));
        // What is set of a node before it streams, others set anew as they find it.
        let streams = Rc::new(Cell::new(false));
        let is_ready = Rc::clone(&streams);
        let listener = stream
            .add_local_listener_with_user_data(moved)
            .state_changed(move |stream, _, _, state| match state {
                StreamState::Error(error) => log::error!("{name}: {error}"),
                StreamState::Streaming if !is_ready.get() => {
                    let known = told.borrow().known();
                    set_level(stream, &known, order.channels, &name);
                    is_ready.set(true);
                }
                state => log::debug!("{name}: {state:?}"),
            })
            .control_info(move |_, _, id, control| {
                // SAFETY: PipeWire has it, with as many values as it says, until this returns.
                let values = unsafe {
                    control.as_ref().map(|it| match it.values.is_null() {
                        true => &[][..],
                        false => std::slice::from_raw_parts(
                            it.values,
                            usize::try_from(it.n_values).unwrap_or(0),
                        ),
                    })
                };
                // While this process sets it, it knows already.
                if let (Some(values), Ok(mut levels)) = (values, levels.try_borrow_mut())
                    && streams.get()
                {
                    let known = levels.known();
                    levels.tell(changed(known, id, values));
                }
            })
            .process(|stream, moved| moved.process(stream))
            .register()?;
        let format = params(&order)?;
        let mut params = [Pod::from_bytes(&format).ok_or(StreamError::Params)?];
        let flags = StreamFlags::AUTOCONNECT | StreamFlags::MAP_BUFFERS | StreamFlags::RT_PROCESS;
        stream.connect(way, None, flags, &mut params)?;
        let (generation, name) = (order.generation, options.name.clone());
        let (is_active, channels) = (Cell::new(true), order.channels);
        Ok(Self { generation, name, is_active, channels, _listener: listener, stream })
    }

    /// Makes it so loud.
    pub(crate) fn set_level(&self, level: &Level) {
        set_level(&self.stream, level, self.channels, &self.name);
    }

    /// It costs PipeWire something.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.get()
    }

    /// Has it rest, or go on.
    pub(crate) fn set_active(&self, active: bool) {
        if self.is_active.replace(active) != active
            && let Err(error) = self.stream.set_active(active)
        {
            log::error!("{}: {error}", self.name);
        }
    }

    /// Of which order it is.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }
}

/// Frames that PipeWire is to take at once, of those that are heard in so many microseconds. Half of them are one such
/// piece, the other half waits for it to begin. It makes them a power of two that is no more: the nearest one is asked
/// for, since each piece costs the same.
fn quantum(latency: u32, hertz: u32) -> u64 {
    let frames = u64::from(latency).saturating_mul(hertz.into()) / 2_000_000;
    let more = frames.max(1).next_power_of_two();
    // The geometric middle of it and its half.
    if frames.saturating_mul(frames).saturating_mul(2) >= more.saturating_mul(more) {
        more
    } else {
        (more / 2).max(1)
    }
}

impl Moved {
    /// Moves what PipeWire wants now, on its own thread.
    fn process(&mut self, stream: &pipewire::stream::Stream) {
        if let Ok(time) = stream.time() {
            self.mover.set_delay(&self.order, bytes(&time, &self.order));
        }
        let Some(mut buffer) = stream.dequeue_buffer() else { return };
        let frame = usize::try_from(self.order.frame()).unwrap_or(usize::MAX);
        let wanted = usize::try_from(buffer.requested()).unwrap_or(usize::MAX);
        let Some(data) = buffer.datas_mut().first_mut() else { return };
        match self.direction {
            Direction::Playback => {
                let mut length = 0;
                if let Some(samples) = data.data() {
                    // 0: as many as there is room for.
                    let frames = samples.len().checked_div(frame).unwrap_or(0);
                    let frames = if wanted == 0 { frames } else { frames.min(wanted) };
                    length = frames.saturating_mul(frame);
                    if let Some(samples) = samples.get_mut(..length) {
                        let taken = self.mover.take(&self.order, samples);
                        silence(self.order.format, samples.get_mut(taken..).unwrap_or_default());
                    }
                }
                let chunk = data.chunk_mut();
                *chunk.offset_mut() = 0;
                *chunk.stride_mut() = i32::try_from(frame).unwrap_or(0);
                *chunk.size_mut() = u32::try_from(length).unwrap_or(0);
            }
            Direction::Capture => {
                let chunk = data.chunk();
                let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
                let (offset, size) = (number(chunk.offset()), number(chunk.size()));
                let end = offset.saturating_add(size);
                if let Some(samples) = data.data().and_then(|samples| samples.get(offset..end)) {
                    self.mover.give(&self.order, samples);
                }
            }
        }
    }
}

/// How many of the stream's bytes there are between it and the device.
fn bytes(time: &pipewire::stream::Time, order: &Order) -> u64 {
    let rate = time.rate();
    let ticks = u64::try_from(time.delay()).unwrap_or(0);
    let frames = ticks
        .saturating_mul(rate.num.into())
        .saturating_mul(order.rate.hertz().into())
        .checked_div(rate.denom.into())
        .unwrap_or(0);
    frames.saturating_add(time.buffered()).saturating_mul(order.frame())
}

/// What its samples are like, as PipeWire is told.
fn params(order: &Order) -> Result<Vec<u8>, StreamError> {
    let mut info = AudioInfoRaw::new();
    info.set_format(format(order.format).ok_or(StreamError::Format(order.format))?);
    info.set_rate(order.rate.hertz());
    info.set_channels(order.channels.into());
    let mut places = [0; MAX_CHANNELS];
    for (place, position) in places.iter_mut().zip(StreamConfig::positions(order.channels)) {
        *place = channel(*position);
    }
    info.set_position(places);
    let object = Object {
        type_: SpaTypes::ObjectParamFormat.as_raw(),
        id: ParamType::EnumFormat.as_raw(),
        properties: info.into(),
    };
    let written = PodSerializer::serialize(Cursor::new(Vec::new()), &Value::Object(object));
    written.map(|(cursor, _)| cursor.into_inner()).map_err(|_| StreamError::Params)
}

fn format(format: Format) -> Option<AudioFormat> {
    Some(match format {
        Format::MuLaw => AudioFormat::ULAW,
        Format::ALaw => AudioFormat::ALAW,
        Format::S8 => AudioFormat::S8,
        Format::U8 => AudioFormat::U8,
        Format::S16 => AudioFormat::S16LE,
        Format::U16 => AudioFormat::U16LE,
        Format::S24_3 => AudioFormat::S24LE,
        Format::U24_3 => AudioFormat::U24LE,
        Format::S24 => AudioFormat::S24_32LE,
        Format::U24 => AudioFormat::U24_32LE,
        Format::S32 => AudioFormat::S32LE,
        Format::U32 => AudioFormat::U32LE,
        Format::Float => AudioFormat::F32LE,
        Format::Float64 => AudioFormat::F64LE,
        _ => return None,
    })
}

/// A channel's place (VIRTIO_SND_CHMAP_*), as `enum spa_audio_channel` has it.
fn channel(position: u8) -> u32 {
    match position {
        2 => 2,  // mono
        3 => 3,  // front left
        4 => 4,  // front right
        5 => 12, // rear left
        6 => 13, // rear right
        7 => 5,  // front center
        8 => 6,  // low frequencies
        9 => 7,  // side left
        10 => 8, // side right
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantum_is_the_power_of_two_that_is_next() {
        for (milliseconds, frames) in [(5, 128), (10, 256), (16, 512), (43, 1024), (200, 4096)] {
            assert_eq!(quantum(milliseconds * 1000, 48_000), frames, "{milliseconds}");
        }
        assert_eq!((quantum(0, 5512), quantum(40_000, 44_100)), (1, 1024));
    }
}
