//! `vhost-usb-spice`: a SPICE server whose clients redirect USB devices to vhost-usb.

use std::ffi::CString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::program::{self, Confinement, ProgramError, Shutdown, Socket};
use vhost_runtime::sandbox::Sandbox;
use vhost_runtime::supervisor::{self, Role};
use vhost_usb::spice::library::{self, Access, LONGEST_PASSWORD, LibraryError, Server};
use vhost_usb::spice::options::Options;
use vhost_usb::spice::port::{Port, PortError, Way};
use vhost_usb::spice::serve::{self, Listener, ServeError};
use vhost_usb::spice::world::World;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("--port {1} of --addr {0}: cannot listen there: {2}")]
    Listen(String, u16, std::io::Error),
    #[error("--password-file {0}: {1}")]
    PasswordFile(PathBuf, std::io::Error),
    #[error(
        "--password-file {0}: its first line must be a password of at most {LONGEST_PASSWORD} bytes"
    )]
    Password(PathBuf),
}

fn main() -> ExitCode {
    program::main("vhost-usb-spice", start)
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    let mut sandbox = Sandbox::new(None);
    program::start_logging(options.verbose);
    program::raise_file_limit()?;
    let ways = options.channel.iter().map(|text| Way::parse(text));
    let ways = ways.collect::<Result<Vec<_>, _>>()?;
    let access = access(options.password_file.as_deref())?;
    let shutdown = Shutdown::new()?;
    let tcp = options.port.map(|port| listen(&options.addr, port)).transpose()?;
    let unix = options.unix.as_deref().map(|path| Socket::listen("--unix", path, false));
    let mut unix = unix.transpose()?;
    let mut sockets: Vec<&mut Socket> = unix.iter_mut().collect();
    let link = match supervisor::start(&mut sockets, &shutdown, options.sandbox, None)? {
        Role::Serve(link) => link,
        Role::Ended(code) => return Ok(ExitCode::from(code)),
    };

    ways.iter().filter_map(Way::connects_to).for_each(|place| place.allow(&mut sandbox));
    let ports = ways.into_iter().map(Port::new).collect::<Result<_, _>>()?;
    let world = World::new(ports).map_err(ServeError::Host)?;
    let mut server = Server::new(world, c"vhost-usb", &access)?;
    if options.sandbox == Confinement::On {
        sandbox.calls(library::calls());
        sandbox.enter().map_err(ProgramError::from)?;
    }
    link.ready(&mut sockets)?;
    let mut listeners = Vec::new();
    if let Some(tcp) = &tcp {
        listeners.push(Listener::tcp(tcp).map_err(ServeError::Host)?);
    }
    if let Some(unix) = &unix {
        listeners.extend(Listener::unix(unix).map_err(ServeError::Host)?);
    }
    serve::serve(&mut server, &listeners, &shutdown, &link)?;
    Ok(ExitCode::SUCCESS)
}

fn listen(host: &str, port: u16) -> Result<TcpListener, Failure> {
    serve::listen(host, port).map_err(|error| Failure::Listen(host.to_owned(), port, error))
}

/// Who may connect; the password is read before the sandbox is entered.
fn access(file: Option<&Path>) -> Result<Access, Failure> {
    let Some(path) = file else { return Ok(Access::Everybody) };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::PasswordFile(path.to_owned(), error))?;
    let line = text.lines().next().unwrap_or_default();
    let wrong = || Failure::Password(path.to_owned());
    if line.is_empty() || line.len() > LONGEST_PASSWORD {
        return Err(wrong());
    }
    CString::new(line).map(Access::Password).map_err(|_| wrong())
}
