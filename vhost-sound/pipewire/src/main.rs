//! `vhost-sound-pipewire`: plays and records a stream of vhost-sound's by PipeWire. vhost-sound starts it.
//!
//! - [`server`]: the connection to PipeWire, and what can be found there;
//! - [`stream`]: the stream.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod server;
mod stream;

use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pipewire::loop_::Timeout;
use pipewire::spa::support::system::IoFlags;
use vhost_runtime::program;
use vhost_sound::host::helper::far::{self, StartError};
use vhost_sound::host::helper::ring::{Order, Phase};

use server::{Server, ServerError};
use stream::{Stream, StreamError};

/// How long what was played last may take to be heard: PipeWire's longest quantum, twice, at 48,000 frames a second.
const ECHO: Duration = Duration::from_millis(350);

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the host refuses: {0}")]
    Host(#[from] io::Error),
}

fn main() -> ExitCode {
    program::main("vhost-sound-pipewire", start)
}

fn start() -> Result<ExitCode, Failure> {
    let begun =
        far::start(|options| -> Result<(), Failure> { Ok(Server::connect()?.check(options)?) });
    let Some((options, far)) = begun? else { return Ok(ExitCode::SUCCESS) };
    let server = Server::connect()?;
    let events = server.events();
    let _bell = events.add_io(far.bell(), IoFlags::IN, |_| {});
    let levels = Rc::new(RefCell::new(far.levels()?));
    let mut streams = Streams::default();
    loop {
        streams.follow(far.order(), |order| {
            let made = far.mover().map_err(StreamError::Host);
            let made = made.and_then(|mover| {
                Stream::start(&server, &options, order, mover, Rc::clone(&levels))
            });
            made.inspect_err(|error| log::error!("{}: {error}", options.name)).ok()
        });
        // Not borrowed while the stream is told, which tells what comes of it.
        let wanted = levels.borrow_mut().wanted();
        if let (Some(level), Some(stream)) = (wanted, &streams.now) {
            stream.set_level(&level);
        }
        match streams.next() {
            Some(limit) => events.iterate(Timeout::Finite(limit)),
            None => events.iterate(Timeout::Infinite),
        };
        server.failure()?;
    }
}

/// The stream that is wanted, and those that have ended: what they played last is still to be heard.
#[derive(Default)]
struct Streams {
    now: Option<Stream>,
    /// When it is to rest, if time does not pass for it.
    rests: Option<Instant>,
    ended: Vec<(Instant, Stream)>,
}

impl Streams {
    /// Makes what is wanted, by `start`, if it is not there.
    fn follow(&mut self, order: Option<Order>, start: impl FnOnce(Order) -> Option<Stream>) {
        let now = Instant::now();
        self.ended.retain(|(end, _)| *end > now);
        if order.map(|order| order.generation) != self.now.as_ref().map(Stream::generation) {
            let end = now.checked_add(ECHO);
            self.ended.extend(end.zip(self.now.take()));
            self.now = order.and_then(start);
            self.rests = None;
        }
        let (Some(stream), Some(order)) = (&self.now, order) else { return };
        if order.phase == Phase::Running {
            self.rests = None;
            stream.set_active(true);
        } else if stream.is_active() {
            let end = now.checked_add(ECHO).unwrap_or(now);
            if *self.rests.get_or_insert(end) <= now {
                stream.set_active(false);
                self.rests = None;
            }
        }
    }

    /// How long it is until one is to go, or to rest.
    fn next(&self) -> Option<Duration> {
        let ends = self.ended.iter().map(|(end, _)| *end);
        let end = ends.chain(self.rests).min()?;
        // A loop counts milliseconds.
        Some(end.saturating_duration_since(Instant::now()).saturating_add(Duration::from_millis(1)))
    }
}
