//! `vhost-usb`: USB host controllers in a process of their own.

mod ctl;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::control::{self, Events};
use vhost_runtime::program::{self, Confinement, ProgramError, Shutdown, Socket};
use vhost_runtime::sandbox::Sandbox;
use vhost_runtime::supervisor::{self, Role};
use vhost_scsi::confinement;
use vhost_scsi::image::engine::EngineKind;
use vhost_usb::control::Control;
use vhost_usb::controller::host::Host;
use vhost_usb::devices::passed::{self, Passed};
use vhost_usb::devices::redirections::{RedirectError, Redirection};
use vhost_usb::devices::{self, DeviceError, Devices};
use vhost_usb::options::{Options, Verb};
use vhost_usb::physical::broker::{self, Slot};
use vhost_usb::physical::{self, Filter};
use vhost_usb::serve::vfio_user;
use vhost_usb::serve::vhost_user::Server;

use ctl::CtlError;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    #[error(transparent)]
    Ctl(#[from] CtlError),
    #[error("the host's devices cannot be looked for: {0}")]
    Broker(std::io::Error),
    #[error("the controllers cannot be made: {0}")]
    Controllers(std::io::Error),
}

fn main() -> ExitCode {
    program::device_main("vhost-usb", "usb", start)
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    match &options.verb {
        Some(Verb::Ctl(args)) => Ok(ctl::run(args).map(|()| ExitCode::SUCCESS)?),
        None => run(&options),
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    let mut sandbox = Sandbox::new(options.program.fd);
    program::start_logging(options.program.verbose);
    program::raise_file_limit()?;
    let shutdown = Shutdown::new()?;
    let host = Host::new(options.controller).map_err(Failure::Controllers)?;
    let mut vmms = match &options.vfio_user {
        Some(folder) => vfio_user::sockets(folder, &host)?,
        None => vec![Socket::from_args(&options.program)?],
    };
    let mut clients = control::Listener::from_args(&options.program)?;
    let mut sockets: Vec<&mut Socket> = vmms.iter_mut().collect();
    sockets.extend(clients.as_mut().map(control::Listener::socket));
    let texts = options.devices();
    let opened = texts.iter().map(|text| passed::open_once(text));
    let opened = opened.collect::<Result<Vec<_>, DeviceError>>()?;
    let link = match supervisor::start(&mut sockets, &shutdown, options.program.sandbox, None)? {
        Role::Serve(link) => link,
        Role::Ended(code) => {
            if code == 0 {
                // The process that served may not, in its sandbox.
                texts.iter().for_each(|text| devices::clean_up(text));
            }
            return Ok(ExitCode::from(code));
        }
    };

    let host = Arc::new(Mutex::new(host));
    let devices = Devices::new(Arc::clone(&host));
    plug(&devices, &texts, opened)?;
    let redirections = options.redirect.iter().map(|text| Redirection::parse(text));
    for redirection in redirections.collect::<Result<Vec<_>, _>>()? {
        redirection.connects_to().into_iter().for_each(|place| place.allow(&mut sandbox));
        devices.redirect(redirection, None)?;
    }
    let control = Arc::new(Control::new(devices, link.keeper()));
    if options.program.sandbox == Confinement::On {
        confine(sandbox, options)?;
    }
    // Confined already: whoever had this kept may have been taken over by a guest.
    control.restore(link.kept());
    link.ready(&mut sockets)?;
    let events = Events::default();
    if let Some(clients) = &clients {
        let program = control::Program { name: "vhost-usb", version: env!("CARGO_PKG_VERSION") };
        clients.serve(program, control, &events, &shutdown)?;
    }
    match (&options.vfio_user, vmms.as_slice()) {
        (None, [socket]) => {
            let server = Arc::new(Server::new(host));
            program::serve(socket, &shutdown, &events, &link, &server)?;
        }
        _ => vfio_user::serve(&vmms, &shutdown, &events, &link, &host)?,
    }
    if options.program.sandbox == Confinement::Off {
        // Nobody else is there to do it.
        texts.iter().for_each(|text| devices::clean_up(text));
    }
    Ok(ExitCode::SUCCESS)
}

/// Plugs in what the command line names. What is the host's comes from a process that stays outside.
fn plug(devices: &Devices, texts: &[String], opened: Vec<Option<Passed>>) -> Result<(), Failure> {
    let filters = texts.iter().map(|text| devices::of_host(text));
    let filters = filters.collect::<Result<Vec<_>, DeviceError>>()?;
    let of_host: Vec<Filter> = filters.iter().flatten().cloned().collect();
    let slots = if of_host.is_empty() { Vec::new() } else { start_broker(&of_host)? };
    let mut slots = slots.into_iter();
    for ((text, filter), opened) in texts.iter().zip(&filters).zip(opened) {
        let slot = filter.as_ref().and_then(|_| slots.next());
        devices.plug(text, slot.map(Passed::Slot).or(opened))?;
    }
    Ok(())
}

fn start_broker(filters: &[Filter]) -> Result<Vec<Slot>, Failure> {
    broker::start(filters).map_err(Failure::Broker)
}

/// Units and devices are all that it has of the host: units on threads, which need no io_uring.
fn confine(mut sandbox: Sandbox, options: &Options) -> Result<(), ProgramError> {
    let texts = options.devices();
    let pass_through = texts.iter().any(|text| devices::is_pass_through(text));
    let places = texts.iter().filter_map(|text| devices::connects_to(text));
    places.for_each(|place| place.allow(&mut sandbox));
    let control = options.program.control.is_some();
    confinement::allow(&mut sandbox, EngineKind::Threads, pass_through, control);
    if control || texts.iter().any(|text| matches!(devices::of_host(text), Ok(Some(_)))) {
        sandbox.calls(physical::calls());
    }
    Ok(sandbox.enter()?)
}
