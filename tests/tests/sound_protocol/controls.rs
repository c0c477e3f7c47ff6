//! Control elements (virtio 1.3, 5.14.6.10).

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use lab::driver::sound::{BAD_MESSAGE, NOT_SUPPORTED, OK, Sound};
use lab::{Error, Qmp};
use serde_json::{Value, json};
use vhost_runtime::control::client::Client;

use super::common::*;

/// The elements of [`start`]'s card.
const MASTER_VOLUME: u32 = 0;
const MASTER_SWITCH: u32 = 1;
const MIC_VOLUME: u32 = 2;
const MIC_SWITCH: u32 = 3;
/// CTL_NOTIFY, and VIRTIO_SND_CTL_EVT_MASK_VALUE behind the element.
const NOTIFY: u32 = 0x1200;
const VALUE: u32 = 1 << 16;

fn start() -> Result<(Card, Sound), Error> {
    let card = Card::start(
        "--controls --playback speaker,backend=wav:FOLDER/a.wav \
         --capture mic,channels=1,backend=tone",
    )?;
    let sound = card.connect()?;
    Ok((card, sound))
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn request(sound: &mut Sound, request: &[u32]) -> Result<(u32, Vec<u8>), Error> {
    sound.request(&request.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
}

#[test]
fn elements_are_as_alsa_knows_them() -> Result<(), Error> {
    let (_card, mut sound) = start()?;
    let config = sound.session.device().config(0, 16).unwrap();
    assert_eq!(words(&config), [2, 2, 3, 4]);
    // With a hole before the numbers, as Linux has it on 64 bits, and without.
    for (size, numbers) in [(92, 68), (96, 72)] {
        let (status, infos) = request(&mut sound, &[0x300, 0, 4, size])?;
        assert_eq!((status, infos.len()), (OK, 4 * size as usize));
        let expected = [
            ("Master Playback Volume", [0, 2, 1, 0x13, 2, 0], 100),
            ("Master Playback Switch", [0, 4, 0, 0x3, 1, 0], 1),
            ("Mic Capture Volume", [0, 3, 1, 0x13, 1, 0], 100),
            ("Mic Capture Switch", [0, 5, 0, 0x3, 1, 0], 1),
        ];
        for (info, (name, first, most)) in infos.chunks(size as usize).zip(expected) {
            assert_eq!(words(&info[..24]), first, "{name}");
            assert!(info[24..].starts_with(name.as_bytes()) && info[67] == 0, "{name}");
            assert_eq!(words(&info[numbers..][..12]), [0, most, 1], "{name}");
        }
    }
    let scale = [1, 8, (-6000i32).cast_unsigned(), 60 | 1 << 16];
    let (status, metadata) = request(&mut sound, &[0x304, MIC_VOLUME])?;
    assert_eq!((status, words(&metadata)), (OK, scale.to_vec()));
    Ok(())
}

#[test]
fn values_are_checked() -> Result<(), Error> {
    let (_card, mut sound) = start()?;
    assert_eq!(sound.write_control(MASTER_VOLUME, &[70, 0])?, OK);
    let (status, values) = sound.read_control(MASTER_VOLUME)?;
    assert_eq!((status, values.len(), &values[..3]), (OK, 128, &[70, 0, 0][..]));
    for (element, values) in [
        (MASTER_VOLUME, &[70, 101][..]),
        (MASTER_VOLUME, &[u32::MAX, 0]),
        (MASTER_SWITCH, &[2]),
        (4, &[0]),
        (u32::MAX, &[0]),
    ] {
        assert_eq!(sound.write_control(element, values)?, BAD_MESSAGE, "{element} {values:?}");
    }
    for (wrong, status) in [
        (&[0x303, MASTER_VOLUME, 1][..], BAD_MESSAGE),
        (&[0x303, MASTER_VOLUME], BAD_MESSAGE),
        (&[0x302], BAD_MESSAGE),
        (&[0x302, 4], BAD_MESSAGE),
        (&[0x301, MASTER_SWITCH], BAD_MESSAGE),
        (&[0x304, MASTER_SWITCH], BAD_MESSAGE),
        (&[0x305, MASTER_VOLUME, 1, 0], NOT_SUPPORTED),
        (&[0x306, MASTER_VOLUME, 1, 0], NOT_SUPPORTED),
        (&[0x300, 0, 5, 96], BAD_MESSAGE),
        (&[0x300, 0, 4, 88], BAD_MESSAGE),
    ] {
        assert_eq!(sound.words(wrong)?, status, "{wrong:x?}");
    }
    assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [70, 0]);
    assert_eq!(sound.read_control(MASTER_SWITCH)?.1[0], 1);
    // A driver that has not accepted them has none.
    sound.renounce_controls()?;
    assert_eq!(sound.read_control(MASTER_VOLUME)?.0, NOT_SUPPORTED);
    assert_eq!(sound.words(&[0x300, 0, 4, 96])?, NOT_SUPPORTED);
    Ok(())
}

#[test]
fn without_the_option_there_are_none() -> Result<(), Error> {
    let card = Card::start("--playback speaker")?;
    let mut sound = card.connect()?;
    // What is behind the end of a configuration space reads as nothing.
    assert_eq!(words(&sound.session.device().config(0, 16).unwrap()), [1, 1, 2, 0]);
    assert_eq!(sound.read_control(MASTER_VOLUME)?.0, NOT_SUPPORTED);
    // The host has a volume nevertheless.
    let mut client = Client::connect(&card.path("c")).unwrap();
    client.execute("set-volume", json!({ "stream": "speaker", "muted": true }), &[]).unwrap();
    assert_eq!(client.execute("query-streams", json!({}), &[]).unwrap()[0]["muted"], true);
    assert_eq!(sound.event(SECOND / 4)?, None);
    Ok(())
}

#[test]
fn what_is_played_and_recorded_is_as_loud_as_it_is_to_be() -> Result<(), Error> {
    let (card, mut sound) = start()?;
    let samples = noise(8 * PERIOD);
    prepare(&mut sound, 0, PERIOD)?;
    // The left one is 6 dB quieter.
    assert_eq!(sound.write_control(MASTER_VOLUME, &[90, 100])?, OK);
    play(&mut sound, 0, PERIOD, &samples)?;
    end(&mut sound, 0)?;
    let file = fs::read(card.path("a.wav")).unwrap();
    let played = &file[file.len() - samples.len()..];
    let (given, _) = samples.as_chunks();
    let (played, _) = played.as_chunks();
    for (number, (given, played)) in given.iter().zip(played).enumerate() {
        let (given, played) = (i16::from_le_bytes(*given), i16::from_le_bytes(*played));
        let factor = if number % 2 == 0 { 0.501_187 } else { 1.0 };
        assert!((f64::from(given) * factor - f64::from(played)).abs() < 0.6, "{given} {played}");
    }
    let mut heard = |element, value| -> Result<bool, Error> {
        assert_eq!(sound.write_control(element, &[value])?, OK);
        assert_eq!(sound.set(1, PERIOD, [1, 5, 7])?, OK);
        assert_eq!(sound.words(&[PREPARE, 1])?, OK);
        sound.record(1, PERIOD)?;
        assert_eq!(sound.words(&[START, 1])?, OK);
        let moved = sound.recorded()?;
        assert_eq!((moved.status, moved.samples.len()), (OK, PERIOD as usize));
        end(&mut sound, 1)?;
        Ok(moved.samples.iter().any(|byte| *byte != 0))
    };
    assert!(heard(MIC_VOLUME, 100)? && heard(MIC_VOLUME, 50)?);
    assert!(!heard(MIC_VOLUME, 0)?);
    assert!(heard(MIC_VOLUME, 100)? && !heard(MIC_SWITCH, 0)?);
    Ok(())
}

#[test]
fn each_side_is_told_of_what_the_other_does() -> Result<(), Error> {
    let (card, mut sound) = start()?;
    let mut client = Qmp::new(UnixStream::connect(card.path("c")).unwrap())?;
    let volume = json!({ "stream": "speaker", "volume": 40, "muted": true });
    client.execute("set-volume", volume)?;
    let told = client.wait_event("VOLUME_CHANGED", 5 * SECOND)?;
    assert_eq!(told, json!({ "stream": "speaker", "volume": [40, 40], "muted": true }));
    assert_eq!(sound.event(5 * SECOND)?, Some((NOTIFY, MASTER_VOLUME | VALUE)));
    assert_eq!(sound.event(5 * SECOND)?, Some((NOTIFY, MASTER_SWITCH | VALUE)));
    assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [40, 40]);
    assert_eq!(sound.read_control(MASTER_SWITCH)?.1[0], 0);
    // What was so already is no news.
    client.execute("set-volume", json!({ "stream": "speaker", "volume": 40 }))?;
    assert_eq!(sound.write_control(MASTER_SWITCH, &[0])?, OK);
    assert_eq!(sound.event(SECOND / 4)?, None);
    assert_eq!(sound.write_control(MIC_VOLUME, &[7])?, OK);
    let told = client.wait_event("VOLUME_CHANGED", 5 * SECOND)?;
    assert_eq!(told, json!({ "stream": "mic", "volume": [7], "muted": false }));
    assert_eq!(sound.event(5 * SECOND)?, Some((NOTIFY, MIC_VOLUME | VALUE)));
    for volume in [json!(101), json!(256), json!(-1), json!(1u64 << 40), json!(0.5), json!("1")] {
        let volume = json!({ "stream": "speaker", "volume": volume });
        let error = client.execute("set-volume", volume.clone()).unwrap_err().to_string();
        assert!(error.contains("volume is 0 to 100"), "{volume}: {error}");
    }
    for wrong in [json!({ "stream": "speakers", "volume": 1 }), json!({ "volume": 1 })] {
        assert!(client.execute("set-volume", wrong.clone()).is_err(), "{wrong}");
    }
    Ok(())
}

#[test]
fn volumes_outlive_a_kill_and_a_migration() -> Result<(), Error> {
    let (card, mut sound) = start()?;
    assert_eq!(sound.write_control(MASTER_VOLUME, &[20, 30])?, OK);
    assert_eq!(sound.write_control(MIC_SWITCH, &[0])?, OK);
    card.kill();
    sound.reconnect()?;
    assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [20, 30]);
    assert_eq!(sound.read_control(MIC_SWITCH)?.1[0], 0);
    sound.session.stop_all().unwrap();
    let state = sound.session.device().save_state().unwrap();
    let (card, mut sound) = start()?;
    sound.session.stop_all().unwrap();
    sound.session.device().load_state(&state).unwrap();
    let mut client = Client::connect(&card.path("c")).unwrap();
    let streams = client.execute("query-streams", json!({}), &[]).unwrap();
    assert_eq!((&streams[0]["volume"], &streams[0]["muted"]), (&json!([20, 30]), &json!(false)));
    assert_eq!((&streams[1]["volume"], &streams[1]["muted"]), (&json!([100]), &json!(true)));
    // Nothing is louder than the loudest; an older version knew of no volumes.
    let mut state: Value = serde_json::from_slice(&state).unwrap();
    state["state"]["streams"][1]["level"]["volumes"][1] = json!(101);
    state["state"]["streams"][0]["level"]["volumes"][0] = json!(21);
    assert!(sound.session.device().load_state(state.to_string().as_bytes()).is_err());
    let streams = client.execute("query-streams", json!({}), &[]).unwrap();
    assert_eq!(streams[0]["volume"], json!([20, 30]), "all of it is taken, or nothing");
    state["state"] = state["state"]["streams"].take();
    for stream in state["state"].as_array_mut().unwrap() {
        stream.as_object_mut().unwrap().remove("level");
    }
    let mut listener = Qmp::new(UnixStream::connect(card.path("c")).unwrap())?;
    sound.session.device().load_state(state.to_string().as_bytes()).unwrap();
    let streams = client.execute("query-streams", json!({}), &[]).unwrap();
    assert_eq!((&streams[0]["volume"], &streams[1]["muted"]), (&json!([100, 100]), &json!(false)));
    let told = listener.wait_event("VOLUME_CHANGED", 5 * SECOND)?;
    assert_eq!(told, json!({ "stream": "speaker", "volume": [100, 100], "muted": false }));
    Ok(())
}

#[test]
fn a_driver_is_told_of_what_changed_while_nobody_served_it() -> Result<(), Error> {
    let (card, mut sound) = start()?;
    card.replace();
    let mut client = Client::connect(&card.path("c")).unwrap();
    let volume = json!({ "stream": "mic", "volume": 40, "muted": true });
    client.execute("set-volume", volume, &[]).unwrap();
    sound.reconnect()?;
    assert_eq!(sound.event(5 * SECOND)?, Some((NOTIFY, MIC_VOLUME | VALUE)));
    assert_eq!(sound.event(5 * SECOND)?, Some((NOTIFY, MIC_SWITCH | VALUE)));
    card.kill();
    sound.reconnect()?;
    assert_eq!(sound.event(SECOND / 4)?, None, "it knows");
    Ok(())
}

#[test]
fn a_guest_drowns_no_client() -> Result<(), Error> {
    let (card, mut sound) = start()?;
    let mut client = Qmp::new(UnixStream::connect(card.path("c")).unwrap())?;
    let begun = Instant::now();
    for number in 0..1000u32 {
        assert_eq!(sound.write_control(MASTER_SWITCH, &[number % 2])?, OK);
    }
    assert_eq!(sound.write_control(MASTER_VOLUME, &[7, 8])?, OK);
    let most = begun.elapsed().as_millis() / 100 + 2;
    let last = json!({ "stream": "speaker", "volume": [7, 8], "muted": false });
    let mut count = 1;
    while client.wait_event("VOLUME_CHANGED", 5 * SECOND)? != last {
        count += 1;
    }
    assert!(count <= most, "{count} events, of {most} at most");
    // What it did last is told, though nothing runs any more when it may be.
    assert_eq!(sound.write_control(MASTER_VOLUME, &[9, 9])?, OK);
    assert_eq!(sound.write_control(MASTER_SWITCH, &[0])?, OK);
    sound.session.stop_all().unwrap();
    let last = json!({ "stream": "speaker", "volume": [9, 9], "muted": true });
    while client.wait_event("VOLUME_CHANGED", 5 * SECOND)? != last {}
    Ok(())
}
