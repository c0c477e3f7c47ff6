//! The process that serves is killed, or another one takes its place elsewhere.

use std::fs;

use lab::Error;
use lab::driver::sound::{IO_ERROR, OK};

use super::common::*;

#[test]
fn playback_goes_on_after_a_kill() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    prepare(&mut sound, 0, PERIOD)?;
    let samples = noise(40 * PERIOD);
    let mut periods = samples.chunks(PERIOD as usize);
    for period in periods.by_ref().take(4) {
        sound.play(0, period)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    for number in 0..40 {
        assert_eq!(sound.played()?.status, OK);
        if let Some(period) = periods.next() {
            sound.play(0, period)?;
        }
        if number % 10 == 5 {
            card.kill();
            sound.reconnect()?;
        }
    }
    end(&mut sound, 0)?;
    // A period that was under way may be there twice.
    let file = fs::read(card.path("a.wav")).unwrap();
    assert!(file.len() >= 68 + samples.len() && file.ends_with(&samples[36 * PERIOD as usize..]));
    Ok(())
}

#[test]
fn a_stream_whose_file_is_spoilt_holds_no_guest_up() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    prepare(&mut sound, 0, PERIOD)?;
    for _ in 0..4 {
        sound.play(0, &noise(PERIOD))?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    assert_eq!(sound.played()?.status, OK);
    fs::write(card.path("a.wav"), vec![b'?'; 1000]).unwrap();
    card.kill();
    sound.reconnect()?;
    for _ in 0..20 {
        sound.play(0, &noise(PERIOD))?;
        sound.played()?;
    }
    assert_eq!(sound.played()?.status, IO_ERROR);
    end(&mut sound, 0)?;
    assert_eq!(sound.words(&[PREPARE, 0])?, IO_ERROR);
    fs::write(card.path("a.wav"), []).unwrap();
    assert_eq!(sound.words(&[PREPARE, 0])?, OK);
    Ok(())
}

#[test]
fn playback_goes_on_where_it_was_on_another_host() -> Result<(), Error> {
    let start = || Card::start("--playback speaker,backend=raw:FOLDER/raw");
    let cards = [start()?, start()?];
    let mut sound = cards[0].connect()?;
    prepare(&mut sound, 0, LONG)?;
    let samples = noise(16 * LONG);
    let mut periods = samples.chunks(LONG as usize);
    for period in periods.by_ref().take(8) {
        sound.play(0, period)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    for number in 0..16 {
        assert_eq!(sound.played()?.status, OK);
        if let Some(period) = periods.next() {
            sound.play(0, period)?;
        }
        if number == 7 {
            // In the middle of one.
            std::thread::sleep(SECOND / 50);
            sound.migrate(&cards[1].path("s"))?;
        }
    }
    end(&mut sound, 0)?;
    let [here, there] = cards.each_ref().map(|card| fs::read(card.path("raw")).unwrap());
    assert!(here.len() > 8 * LONG as usize && here.len() % LONG as usize != 0, "{}", here.len());
    assert!([here, there].concat() == samples);
    Ok(())
}

#[test]
fn a_card_with_other_streams_refuses_a_guests_state() -> Result<(), Error> {
    let [source, other] = ["--playback speaker", "--playback line-out"].map(Card::start);
    let (source, other) = (source?, other?);
    let refused = source.connect()?.migrate(&other.path("s"));
    assert!(refused.is_err_and(|error| error.to_string().contains("CHECK_DEVICE_STATE")));
    Ok(())
}
