//! `vhost-usb`: USB host controllers in a process of their own.

use std::process::ExitCode;
use std::sync::Arc;

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::control::{self, Events};
use vhost_runtime::program::{self, Confinement, ProgramError, Shutdown, Socket};
use vhost_runtime::sandbox::Sandbox;
use vhost_runtime::supervisor::{self, Role};
use vhost_scsi::confinement;
use vhost_scsi::image::engine::EngineKind;
use vhost_usb::control::Control;
use vhost_usb::controller::host::Host;
use vhost_usb::devices::{DeviceError, Devices};
use vhost_usb::options::Options;
use vhost_usb::serve::vhost_user::Server;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn main() -> ExitCode {
    start().unwrap_or_else(|failure| {
        eprintln!("vhost-usb: {failure}");
        ExitCode::FAILURE
    })
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    if options.program.print_capabilities {
        println!("{{\n  \"type\": \"usb\"\n}}");
        return Ok(ExitCode::SUCCESS);
    }
    let sandbox = Sandbox::new(options.program.fd);
    program::start_logging(options.program.verbose);
    program::raise_file_limit()?;
    let shutdown = Shutdown::new()?;
    let mut socket = Socket::from_args(&options.program)?;
    let mut clients = control::Listener::from_args(&options.program)?;
    let mut sockets = vec![&mut socket];
    sockets.extend(clients.as_mut().map(control::Listener::socket));
    let link = match supervisor::start(&mut sockets, &shutdown, options.program.sandbox)? {
        Role::Serve(link) => link,
        Role::Ended(code) => return Ok(ExitCode::from(code)),
    };

    let events = Events::default();
    let (mut host, mut devices) = (Host::new(options.controller), Devices::default());
    for text in &options.device {
        devices.plug(&mut host, text)?;
    }
    let server = Arc::new(Server::new(host));
    if options.program.sandbox == Confinement::On {
        confine(sandbox)?;
    }
    link.ready(&mut sockets)?;
    if let Some(clients) = &clients {
        let program = control::Program { name: "vhost-usb", version: env!("CARGO_PKG_VERSION") };
        clients.serve(program, Arc::new(Control::new(Arc::new(devices))), &events, &shutdown)?;
    }
    program::serve(&socket, &shutdown, &events, &link, &server)?;
    Ok(ExitCode::SUCCESS)
}

/// Images are all that it has of the host: on threads, which need no io_uring.
fn confine(mut sandbox: Sandbox) -> Result<(), ProgramError> {
    confinement::allow(&mut sandbox, EngineKind::Threads, false, false);
    Ok(sandbox.enter()?)
}
