use std::io;
use std::sync::{Arc, Mutex};

use vhost_sound::card::format::Format;
use vhost_sound::card::params::Params;
use vhost_sound::card::port::Port;
use vhost_sound::host::Host;
use vhost_sound::host::loopback;
use vhost_sound::host::null::Null;

use super::request::{GET_CUR, GET_MAX, GET_MIN, GET_RES, SET_CUR};
use super::*;
use crate::device::Device;
use crate::device::emulated::Emulated;
use crate::device::host::{Asked, ask, configure, read, setup, write};
use crate::usb::data::Buffer;
use crate::usb::descriptor::kind;
use crate::usb::setup::request::{GET_DESCRIPTOR, GET_INTERFACE, SET_INTERFACE};

const MUTE: u16 = 0x100;
const VOLUME: u16 = 0x200;
const FREQUENCY: u16 = 0x100;
/// wIndex of the feature units.
const SPEAKER: u16 = 0x200;
const MIC: u16 = 0x500;

/// What the host's end of a stream was asked for.
#[derive(Debug, Default)]
struct Heard {
    prepared: Vec<(u32, u8)>,
    played: Vec<u8>,
    released: usize,
    fails: bool,
}

#[derive(Debug, Default)]
struct Ear(Arc<Mutex<Heard>>);

impl Host for Ear {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        let mut heard = self.0.lock().unwrap();
        if heard.fails {
            return Err(io::Error::other("no"));
        }
        heard.prepared.push((params.rate.hertz(), params.channels));
        Ok(())
    }

    fn play(&mut self, frames: &[u8]) -> io::Result<()> {
        let mut heard = self.0.lock().unwrap();
        assert!(!heard.fails);
        heard.played.extend(frames);
        Ok(())
    }

    /// Samples that count up.
    fn record(&mut self, frames: &mut [u8]) -> io::Result<()> {
        let mut heard = self.0.lock().unwrap();
        for sample in frames.chunks_exact_mut(2) {
            let number = heard.played.len() as u16 / 2;
            sample.copy_from_slice(&number.to_le_bytes());
            heard.played.extend(&*sample);
        }
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().released += 1;
        Ok(())
    }
}

fn config(port: Port) -> StreamConfig {
    let rates = ["5512", "8000", "44100", "48000", "96000"].map(|rate| rate.parse().unwrap());
    StreamConfig {
        name: port.to_string(),
        port,
        formats: vec![Format::U8, Format::S16],
        rates: rates.to_vec(),
        channels: (1, 2),
    }
}

fn device(speed: Speed, streams: Vec<Opened>) -> Emulated<Audio> {
    let mut device = Emulated::new(Audio::new(speed, streams).unwrap(), speed);
    configure(&mut device, 1);
    device
}

fn headset(speed: Speed) -> (Emulated<Audio>, Arc<Mutex<Heard>>, Arc<Mutex<Heard>>) {
    let (speaker, mic) = (Ear::default(), Ear::default());
    let (played, recorded) = (Arc::clone(&speaker.0), Arc::clone(&mic.0));
    let streams: Vec<Opened> =
        vec![(config(Port::Mic), Box::new(mic)), (config(Port::Speaker), Box::new(speaker))];
    (device(speed, streams), played, recorded)
}

fn select(device: &mut dyn Device, interface: u16, alternate: u16) -> Result<(), Answer> {
    write(device, setup(1, SET_INTERFACE, alternate, interface, 0), &[])
}

fn set(device: &mut dyn Device, unit: u16, control: u16, data: &[u8]) -> Result<(), Answer> {
    write(device, setup(0x21, SET_CUR, control, unit, 0), data)
}

fn get(device: &mut dyn Device, request: u8, unit: u16, control: u16) -> Result<Vec<u8>, Answer> {
    read(device, setup(0xa1, request, control, unit, 64))
}

fn set_rate(device: &mut dyn Device, endpoint: u16, hertz: u32) -> Result<(), Answer> {
    write(device, setup(0x22, SET_CUR, FREQUENCY, endpoint, 0), &hertz.to_le_bytes()[..3])
}

fn record(device: &mut dyn Device) -> Vec<u8> {
    let mut packet = Buffer::new(200);
    assert!(matches!(device.data_in(2, &mut packet), Answer::Moved { short: true, .. }));
    packet.data().to_vec()
}

#[test]
fn a_speaker_says_what_it_is() {
    let speaker = StreamConfig {
        rates: vec!["48000".parse().unwrap(), "44100".parse().unwrap()],
        channels: (2, 2),
        ..config(Port::Speaker)
    };
    let mut device = device(Speed::Full, vec![(speaker, Box::<Null>::default())]);
    #[rustfmt::skip]
    let expected = [
        9, 2, 113, 0, 2, 1, 0, 0x80, 50,
        9, 4, 0, 0, 0, 1, 1, 0, 0, // AudioControl
        9, 0x24, 1, 0x00, 0x01, 40, 0, 1, 1,
        12, 0x24, 2, 1, 0x01, 0x01, 0, 2, 3, 0, 0, 0,
        10, 0x24, 6, 2, 1, 1, 3, 0, 0, 0,
        9, 0x24, 3, 3, 0x01, 0x03, 0, 2, 0,
        9, 4, 1, 0, 0, 1, 2, 0, 0, // AudioStreaming
        9, 4, 1, 1, 1, 1, 2, 0, 0,
        7, 0x24, 1, 1, 1, 1, 0,
        14, 0x24, 2, 1, 2, 2, 16, 2, 0x44, 0xac, 0, 0x80, 0xbb, 0,
        9, 5, 0x01, 0x09, 196, 0, 1, 0, 0,
        7, 0x25, 1, 1, 0, 0, 0,
    ];
    let asks = setup(0x80, GET_DESCRIPTOR, u16::from(kind::CONFIGURATION) << 8, 0, 255);
    let said = read(&mut device, asks).unwrap();
    assert_eq!(said, expected);
    assert_eq!(said.len(), 113);
}

#[test]
fn at_high_speed_packets_are_as_far_apart() {
    for (speed, interval) in [(Speed::Full, 1), (Speed::High, 4)] {
        let audio = headset(speed).0.function().descriptors().configuration(speed).cloned();
        let interfaces = audio.unwrap().interfaces;
        let endpoints = interfaces.iter().flat_map(|it| &it.endpoints);
        let found: Vec<_> =
            endpoints.map(|it| (it.endpoint.address(), it.max_packet, it.interval)).collect();
        let of = |address, bytes| (address, bytes, interval);
        assert_eq!(found, [of(1, 196), of(1, 98), of(0x82, 196), of(0x82, 98)]);
    }
}

#[test]
fn samples_arrive_as_they_were_sent() {
    let (mut device, heard, _) = headset(Speed::High);
    assert_eq!(device.data_out(1, &&[1, 2, 3, 4][..]), Answer::Silent, "no packets in setting 0");
    select(&mut device, 1, 1).unwrap();
    let samples: Vec<u8> = (0..1920usize).map(|byte| (byte * 7) as u8).collect();
    for packet in samples.chunks(192) {
        assert_eq!(device.data_out(1, &packet), Answer::moved(192));
    }
    {
        let heard = heard.lock().unwrap();
        assert_eq!((&heard.played, &heard.prepared), (&samples, &vec![(48000, 2)]));
    }
    // A frame that is cut off, and what no packet has room for, are lost.
    device.data_out(1, &&[9; 7][..]);
    assert_eq!(device.data_out(1, &&[8; 1000][..]), Answer::moved(1000));
    assert_eq!(heard.lock().unwrap().played.len(), 1920 + 4 + 196);
    select(&mut device, 1, 0).unwrap();
    assert_eq!(heard.lock().unwrap().released, 1);
    select(&mut device, 1, 2).unwrap();
    device.data_out(1, &&[7; 6][..]);
    let heard = heard.lock().unwrap();
    assert_eq!((heard.played.len(), heard.prepared[1]), (1920 + 4 + 196 + 6, (48000, 1)));
}

#[test]
fn what_is_recorded_comes_at_its_rate_without_drift() {
    for (hertz, channels) in [(8000, 1), (44100, 2), (48000, 2)] {
        let (mut device, _, heard) = headset(Speed::Full);
        select(&mut device, 2, 3 - u16::from(channels)).unwrap();
        set_rate(&mut device, 0x82, hertz).unwrap();
        let packets: Vec<Vec<u8>> = (0..2000).map(|_| record(&mut device)).collect();
        let frames = packets.iter().map(|packet| packet.len() / usize::from(channels) / 2);
        assert_eq!(frames.clone().sum::<usize>(), 2 * hertz as usize);
        assert!(
            frames
                .clone()
                .all(|frames| frames == hertz as usize / 1000 || hertz == 44100 && frames == 45)
        );
        let heard = heard.lock().unwrap();
        assert_eq!((&heard.prepared, &heard.played), (&vec![(hertz, channels)], &packets.concat()));
    }
}

#[test]
fn rates_are_those_of_the_descriptor() {
    let (mut device, heard, _) = headset(Speed::High);
    let rate = |device: &mut dyn Device| {
        let bytes = read(device, setup(0xa2, GET_CUR, FREQUENCY, 1, 64)).unwrap();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
    };
    assert_eq!(rate(&mut device), 48000);
    select(&mut device, 1, 1).unwrap();
    set_rate(&mut device, 1, 44100).unwrap();
    assert_eq!(rate(&mut device), 44100);
    for (endpoint, wrong) in [(1, 5512), (1, 96000), (1, 44101), (0x81, 8000), (2, 8000)] {
        assert_eq!(set_rate(&mut device, endpoint, wrong), Err(Answer::Stall), "{wrong}");
    }
    let short = write(&mut device, setup(0x22, SET_CUR, FREQUENCY, 1, 0), &[0x40, 0x1f]);
    assert_eq!(short, Err(Answer::Stall));
    device.data_out(1, &&[0; 176][..]);
    set_rate(&mut device, 1, 8000).unwrap();
    device.data_out(1, &&[0; 32][..]);
    assert_eq!(heard.lock().unwrap().prepared, [(44100, 2), (8000, 2)]);
    configure(&mut device, 1);
    assert_eq!(rate(&mut device), 48000);
}

#[test]
fn volume_and_mute_are_each_directions_own() {
    let (mut device, heard, _) = headset(Speed::High);
    let volume = |device: &mut dyn Device, request, unit| {
        let bytes = get(device, request, unit, VOLUME).unwrap();
        i16::from_le_bytes([bytes[0], bytes[1]])
    };
    let all = [GET_CUR, GET_MIN, GET_MAX, GET_RES].map(|it| volume(&mut device, it, SPEAKER));
    assert_eq!(all, [0, -60 * 256, 0, 128]);
    set(&mut device, SPEAKER, VOLUME, &(-20 * 256i16).to_le_bytes()).unwrap();
    assert_eq!(volume(&mut device, GET_CUR, SPEAKER), -20 * 256);
    assert_eq!(volume(&mut device, GET_CUR, MIC), 0);
    select(&mut device, 1, 1).unwrap();
    device.data_out(1, &&[0x10, 0x27, 0xf0, 0xd8][..]);
    assert_eq!(heard.lock().unwrap().played, [0xe8, 3, 0x18, 0xfc]);
    set(&mut device, SPEAKER, MUTE, &[1]).unwrap();
    assert_eq!(get(&mut device, GET_CUR, SPEAKER, MUTE), Ok(vec![1]));
    device.data_out(1, &&[0x10, 0x27, 0xf0, 0xd8][..]);
    assert_eq!(heard.lock().unwrap().played[4..], [0; 4]);
    for (asked, kept) in
        [(100, 0), (-63, 0), (-65, -128), (-0x7fff, -60 * 256), (i16::MIN, i16::MIN)]
    {
        set(&mut device, MIC, VOLUME, &asked.to_le_bytes()).unwrap();
        assert_eq!(volume(&mut device, GET_CUR, MIC), kept);
    }
    select(&mut device, 2, 1).unwrap();
    assert_eq!(record(&mut device), [0; 192]);
    configure(&mut device, 1);
    assert_eq!(get(&mut device, GET_CUR, SPEAKER, MUTE), Ok(vec![0]));
}

#[test]
fn there_is_nothing_else_to_control() {
    let (mut device, ..) = headset(Speed::High);
    for (request, unit, control) in [
        (GET_CUR, SPEAKER, VOLUME | 1),
        (GET_CUR, SPEAKER, 0x300),
        (GET_MIN, SPEAKER, MUTE),
        (GET_CUR, SPEAKER | 1, VOLUME),
        (GET_CUR, 0x100, VOLUME),
        (SET_CUR, SPEAKER, VOLUME),
        (0x85, SPEAKER, VOLUME),
    ] {
        assert_eq!(get(&mut device, request, unit, control), Err(Answer::Stall), "{control:x}");
    }
    for (control, data) in [(VOLUME, &[0][..]), (VOLUME, &[0; 3]), (MUTE, &[]), (MUTE, &[0, 0])] {
        assert_eq!(set(&mut device, SPEAKER, control, data), Err(Answer::Stall));
    }
    let min = write(&mut device, setup(0x21, 2, VOLUME, SPEAKER, 0), &[0, 0]);
    assert_eq!(min, Err(Answer::Stall));
    let vendors = read(&mut device, setup(0xc1, GET_CUR, VOLUME, SPEAKER, 2));
    assert_eq!(vendors, Err(Answer::Stall));
}

#[test]
fn a_host_that_fails_does_not_stop_the_guest() {
    let (mut device, played, recorded) = headset(Speed::High);
    (played.lock().unwrap().fails, recorded.lock().unwrap().fails) = (true, true);
    select(&mut device, 1, 1).unwrap();
    select(&mut device, 2, 1).unwrap();
    for _ in 0..3 {
        assert_eq!(device.data_out(1, &&[1; 192][..]), Answer::moved(192));
        assert_eq!(record(&mut device), [0; 192]);
    }
    select(&mut device, 1, 0).unwrap();
    assert_eq!(played.lock().unwrap().released, 0, "nothing was prepared");
}

#[test]
fn there_is_no_packet_without_room_for_it() {
    let (mut device, ..) = headset(Speed::High);
    select(&mut device, 2, 1).unwrap();
    assert_eq!(device.data_in(2, &mut Buffer::new(191)), Answer::Babble);
    assert_eq!(device.data_in(1, &mut Buffer::new(192)), Answer::Silent);
}

#[test]
fn what_is_played_to_a_loopback_is_recorded() {
    let (near, far) = loopback::cable();
    let streams: Vec<Opened> =
        vec![(config(Port::Headphone), Box::new(near)), (config(Port::LineIn), Box::new(far))];
    let mut device = device(Speed::Full, streams);
    select(&mut device, 1, 1).unwrap();
    select(&mut device, 2, 1).unwrap();
    assert_eq!(record(&mut device), [0; 192]);
    let packet: Vec<u8> = (0..192).collect();
    device.data_out(1, &&packet[..]);
    assert_eq!(record(&mut device), packet);
}

/// Another process's device is as this one is, and one that is told nonsense as it began.
#[test]
fn another_process_goes_on_with_it() {
    let (mut device, ..) = headset(Speed::High);
    select(&mut device, 1, 2).unwrap();
    set_rate(&mut device, 1, 44100).unwrap();
    set(&mut device, SPEAKER, VOLUME, &(-1024i16).to_le_bytes()).unwrap();
    set(&mut device, MIC, MUTE, &[1]).unwrap();
    let mut words = Vec::new();
    device.note(&mut |word| words.push(word));
    let (mut next, heard, _) = headset(Speed::High);
    next.reset();
    next.goes_on(&mut words.iter().copied());
    assert_eq!(next.address(), 1);
    let setting = read(&mut next, setup(0x81, GET_INTERFACE, 0, 1, 1));
    assert_eq!(setting, Ok(vec![2]));
    assert_eq!(get(&mut next, GET_CUR, SPEAKER, VOLUME), Ok((-1024i16).to_le_bytes().to_vec()));
    assert_eq!(get(&mut next, GET_CUR, MIC, MUTE), Ok(vec![1]));
    assert_eq!(next.data_out(1, &&[0; 88][..]), Answer::moved(88));
    assert_eq!(heard.lock().unwrap().prepared, [(44100, 1)]);
    let mut again = Vec::new();
    next.note(&mut |word| again.push(word));
    assert_eq!(again, words);
}

#[test]
fn only_what_fits_is_a_stream() {
    let host = || Box::<Null>::default();
    let error = |streams| Audio::new(Speed::Full, streams).err().unwrap();
    assert_eq!(error(vec![]), AudioError::Streams);
    let twice: Vec<Opened> = vec![(config(Port::Mic), host()), (config(Port::LineIn), host())];
    assert_eq!(error(twice), AudioError::Streams);
    for (wrong, why) in [
        (StreamConfig { channels: (1, 3), ..config(Port::Mic) }, AudioError::Channels),
        (StreamConfig { channels: (0, 1), ..config(Port::Mic) }, AudioError::Channels),
        (StreamConfig { formats: vec![Format::U8], ..config(Port::Mic) }, AudioError::Format),
        (
            StreamConfig { rates: vec!["96000".parse().unwrap()], ..config(Port::Mic) },
            AudioError::Rates,
        ),
    ] {
        assert_eq!(error(vec![(wrong, host())]), why);
    }
}

proptest::proptest! {
    /// Whatever a host asks for, in whatever order.
    #[test]
    fn any_request_is_answered(
        asked in proptest::collection::vec(proptest::prelude::any::<Asked>(), 0..40),
        settings in 0..3u16,
    ) {
        for speed in [Speed::High, Speed::Full] {
            let (mut device, ..) = headset(speed);
            select(&mut device, 1, settings).unwrap();
            select(&mut device, 2, settings).unwrap();
            ask(&mut device, &asked);
        }
    }

    /// Whatever a control is set to, it is then within what it can be, and its samples are no louder.
    #[test]
    fn any_setting_is_one_that_there_is(
        request: u8, control: u16, unit: u16, data in proptest::collection::vec(0..=255u8, 0..4),
        request_type in proptest::sample::select(vec![0x21, 0x22]), sample: i16,
    ) {
        let (mut device, heard, _) = headset(Speed::High);
        select(&mut device, 1, 1).unwrap();
        let _ = write(&mut device, setup(request_type, request, control, unit, 0), &data);
        let _ = write(&mut device, setup(request_type, SET_CUR, control & 0x300, SPEAKER, 0), &data);
        let volume = get(&mut device, GET_CUR, SPEAKER, VOLUME).unwrap();
        let volume = i16::from_le_bytes([volume[0], volume[1]]);
        assert!((-60 * 256..=0).contains(&volume) && volume % 128 == 0 || volume == i16::MIN);
        let [low, high] = sample.to_le_bytes();
        device.data_out(1, &&[low, high, low, high][..]);
        let played = heard.lock().unwrap().played.clone();
        let loud = i16::from_le_bytes([played[0], played[1]]);
        assert!(loud.unsigned_abs() <= sample.unsigned_abs());
        assert!(volume != 0 || loud == sample || loud == 0);
    }

    /// Whatever another process is said to have noted.
    #[test]
    fn any_note_is_read(mut words in proptest::collection::vec(proptest::prelude::any::<u32>(), 0..6)) {
        let (mut device, ..) = headset(Speed::High);
        if let Some(first) = words.first_mut() {
            *first = *first & 0x3ff | 0xb075_0000;
        }
        device.goes_on(&mut words.into_iter());
        device.data_out(1, &&[1; 192][..]);
        let volume = get(&mut device, GET_CUR, SPEAKER, VOLUME).unwrap();
        assert_eq!(volume.len(), 2);
    }
}
