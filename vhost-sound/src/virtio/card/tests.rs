use serde_json::json;

use super::changes::{CTL_NOTIFY, JACK_DISCONNECTED};
use super::*;
use crate::card::format::Format;
use crate::card::params::{Asked, Params};
use crate::card::port::Port;
use crate::host::Host;
use crate::host::null::Null;

/// One that can't be had any more.
#[derive(Debug)]
struct Gone;

impl Host for Gone {
    fn prepare(&mut self, _params: &Params) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn record(&mut self, _frames: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn card(first: Box<dyn Host>) -> Card {
    let config = |port: Port| StreamConfig {
        name: port.to_string(),
        port,
        formats: vec![Format::S16],
        rates: vec!["48000".parse().unwrap()],
        channels: (1, 2),
    };
    let second: Box<dyn Host> = Box::new(Null::default());
    let streams = vec![(config(Port::Speaker), first), (config(Port::Mic), second)];
    Card::new(streams, Keeper::default()).unwrap()
}

/// One whose streams run, which are as loud as this.
fn state(volume: u8) -> Value {
    let card = card(Box::new(Null::default()));
    for number in 0..2 {
        let asked = Asked {
            buffer_bytes: 1920,
            period_bytes: 960,
            features: 0,
            channels: 1,
            format: 5,
            rate: 7,
        };
        for request in
            [Request::SetParams(number, asked), Request::Prepare(number), Request::Start(number)]
        {
            card.carry_out(request, Instant::now(), &mut Vec::new()).unwrap();
        }
    }
    assert!(card.set_volume("speaker", Some(volume), Some(false)));
    assert!(card.plug("mic", false));
    card.save().unwrap()
}

fn running(card: &Card) -> Vec<bool> {
    card.streams().iter().map(Stream::is_running).collect()
}

#[test]
fn a_state_is_taken_as_a_whole_or_not_at_all() {
    let good = state(40);
    for (place, value) in [
        ("/streams/1/level/volumes/0", json!(101)),
        ("/streams/1/state/set/asked/rate", json!(200)),
        ("/streams/1/name", json!("line-in")),
        ("/streams/1/begun", json!(-1)),
        ("/streams/1", json!({})),
        ("/streams", json!([])),
        ("/jacks", json!([true])),
        ("/told/jacks", json!([])),
        ("/told/levels", json!([])),
        ("/told/levels/0/volumes/0", json!(255)),
    ] {
        let card = card(Box::new(Null::default()));
        let before = card.save().unwrap();
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        assert!(card.load(bad).is_err(), "{place}");
        assert_eq!(card.save().unwrap(), before, "{place}");
    }
    let card = card(Box::new(Null::default()));
    card.load(good.clone()).unwrap();
    assert_eq!(card.save().unwrap(), good);
    assert_eq!(running(&card), [true, true]);
}

#[test]
fn a_host_that_is_gone_holds_up_no_other_stream() {
    let card = card(Box::new(Gone));
    card.load(state(40)).unwrap();
    assert_eq!(running(&card), [true, true]);
    let streams = card.describe();
    assert_eq!((&streams[0]["muted"], &streams[1]["plugged"]), (&json!(true), &json!(false)));
}

#[test]
fn a_driver_is_told_once() {
    let card = card(Box::new(Null::default())).with_controls();
    card.set_features(card.features());
    assert_eq!(card.news(), None);
    card.load(state(40)).unwrap();
    let told: Vec<_> = std::iter::from_fn(|| card.news()).collect();
    let value = 1 << 16;
    assert_eq!(told, [(JACK_DISCONNECTED, 1), (CTL_NOTIFY, value), (CTL_NOTIFY, value | 1)]);
    // It asks.
    card.plug("mic", true);
    let query = |start| Query { start, count: 1, size: 24 };
    let ask = |start| {
        let request = Request::Info(Kind::Jack, query(start));
        card.carry_out(request, Instant::now(), &mut Vec::new()).unwrap();
    };
    ask(1);
    assert_eq!(card.news(), None);
    card.plug("mic", false);
    ask(0);
    assert_eq!(card.news(), Some((JACK_DISCONNECTED, 1)));
}
