//! `vhost-sound`: a sound card in a process of its own.

mod ctl;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::control::{self, Events};
use vhost_runtime::program::{self, Confinement, ProgramError, Shutdown, Socket};
use vhost_runtime::sandbox::Sandbox;
use vhost_runtime::supervisor::{self, Role};
use vhost_sound::control::Manager;
use vhost_sound::host::helper::process::Helpers;
use vhost_sound::options::{Options, Verb};
use vhost_sound::streams::{self, StreamError};
use vhost_sound::virtio::card::Card;

use ctl::CtlError;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Ctl(#[from] CtlError),
    #[error("what starts helpers cannot be started: {0}")]
    Helpers(io::Error),
    #[error("the card cannot be made: {0}")]
    Card(io::Error),
}

fn main() -> ExitCode {
    program::device_main("vhost-sound", "sound", start)
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    match &options.verb {
        Some(Verb::Ctl(args)) => Ok(ctl::run(args).map(|()| ExitCode::SUCCESS)?),
        None => run(&options),
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    let sandbox = Sandbox::new(options.program.fd);
    program::start_logging(options.program.verbose);
    let mut vmm = Socket::from_args(&options.program)?;
    let mut clients = control::Listener::from_args(&options.program)?;
    let mut helpers = Helpers::default();
    let streams = streams::open(&options.playback, &options.capture, &mut helpers)?;
    // Helpers live as long as somebody has the channel.
    let (broker, _channel) = helpers.start().map_err(Failure::Helpers)?.unzip();
    let shutdown = Shutdown::new()?;
    let mut sockets = vec![&mut vmm];
    sockets.extend(clients.as_mut().map(control::Listener::socket));
    let link = match supervisor::start(&mut sockets, &shutdown, options.program.sandbox, broker)? {
        Role::Serve(link) => link,
        Role::Ended(code) => return Ok(ExitCode::from(code)),
    };
    let events = Events::default();
    let mut card = Card::new(streams, link.keeper()).map_err(Failure::Card)?;
    card = card.with_events(events.clone());
    if options.controls {
        card = card.with_controls();
    }
    let card = Arc::new(card);
    if options.program.sandbox == Confinement::On {
        sandbox.enter().map_err(ProgramError::from)?;
    }
    // Confined already: whoever had this kept may have been taken over by a guest.
    card.restore(&link.kept());
    link.ready(&mut sockets)?;
    if let Some(clients) = &clients {
        let program = control::Program { name: "vhost-sound", version: env!("CARGO_PKG_VERSION") };
        let manager = Arc::new(Manager::new(Arc::clone(&card)));
        clients.serve(program, manager, &events, &shutdown)?;
    }
    program::serve(&vmm, &shutdown, &events, &link, &card)?;
    Ok(ExitCode::SUCCESS)
}
