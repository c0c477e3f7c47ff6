//! Jacks, plugged in and out.

use lab::Error;
use lab::driver::sound::OK;
use vhost_runtime::control::client::Client;

use super::common::*;

#[test]
fn a_driver_is_told_of_jacks() -> Result<(), Error> {
    let card = Card::start("--playback speaker --capture mic")?;
    let mut sound = card.connect()?;
    let (status, jacks) = sound.request(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 24, 0, 0, 0])?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| jacks[at + byte]));
    assert_eq!((status, jacks.len(), word(8), word(32)), (OK, 48, 0x0010_4010, 0x00a0_5020));
    let mut client = Client::connect(&card.path("c")).unwrap();
    for (plugged, code) in [(false, 0x1001), (true, 0x1000)] {
        let jack = serde_json::json!({ "stream": "mic", "plugged": plugged });
        client.execute("set-jack", jack, &[]).unwrap();
        assert_eq!(sound.event(5 * SECOND)?, Some((code, 1)));
    }
    Ok(())
}

fn plug(card: &Card, plugged: bool) {
    let mut client = Client::connect(&card.path("c")).unwrap();
    let jack = serde_json::json!({ "stream": "mic", "plugged": plugged });
    client.execute("set-jack", jack, &[]).unwrap();
}

fn is_plugged(card: &Card) -> bool {
    let mut client = Client::connect(&card.path("c")).unwrap();
    client.execute("query-streams", serde_json::json!({}), &[]).unwrap()[1]["plugged"] == true
}

#[test]
fn a_driver_is_told_of_jacks_that_changed_while_nobody_served_it() -> Result<(), Error> {
    let cards = [(); 2].map(|()| Card::start("--playback speaker --capture mic"));
    let [here, there] = cards;
    let (here, there) = (here?, there?);
    let mut sound = here.connect()?;
    here.replace();
    plug(&here, false);
    sound.reconnect()?;
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1001, 1)));
    // It knows, whoever tells it next.
    here.kill();
    sound.reconnect()?;
    assert_eq!(sound.event(SECOND / 4)?, None);
    sound.session.stop_all().unwrap();
    plug(&here, true);
    sound.migrate(&there.path("s"))?;
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1000, 1)));
    plug(&there, false);
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1001, 1)));
    Ok(())
}

#[test]
fn jacks_migrate() -> Result<(), Error> {
    let cards = [(); 2].map(|()| Card::start("--playback speaker --capture mic"));
    let [here, there] = cards;
    let (here, there) = (here?, there?);
    let mut sound = here.connect()?;
    plug(&here, false);
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1001, 1)));
    sound.migrate(&there.path("s"))?;
    assert!(!is_plugged(&there));
    assert_eq!(sound.event(SECOND / 4)?, None);
    // An older version said nothing of jacks: all were as they are at the start.
    sound.session.stop_all().unwrap();
    let state = sound.session.device().save_state().unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let mut few = state.clone();
    few["state"]["jacks"].as_array_mut().unwrap().pop();
    assert!(sound.session.device().load_state(few.to_string().as_bytes()).is_err());
    assert!(!is_plugged(&there));
    state["state"] = state["state"]["streams"].take();
    sound.session.device().load_state(state.to_string().as_bytes()).unwrap();
    assert!(is_plugged(&there));
    Ok(())
}
