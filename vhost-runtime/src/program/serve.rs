//! One VMM after the other.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::{ProgramError, Shutdown, Socket, wait};
use crate::control::Events;
use crate::device::Device;
use crate::session;
use crate::supervisor::Link;

/// Serves the device to one VMM after the other, until SIGTERM, or until the only connection ends.
/// The sandbox has been entered, and the supervisor told that this is [ready](Link::ready).
///
/// # Errors
/// See [`ProgramError`].
pub fn serve<D: Device>(
    socket: &Socket,
    shutdown: &Shutdown,
    events: &Events,
    link: &Link,
    device: &Arc<D>,
) -> Result<(), ProgramError> {
    loop {
        let stream = match socket {
            Socket::Listening { listener, .. } => {
                if !wait(&[listener.as_raw_fd()], shutdown)? {
                    return Ok(());
                }
                match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        log::warn!("a connection was not accepted: {error}");
                        continue;
                    }
                }
            }
            Socket::Connected(stream) => {
                stream.try_clone().map_err(|error| ProgramError::Host { what: "--fd", error })?
            }
            Socket::HandedOver => return Ok(()),
        };
        events.set_connected(true);
        link.attached();
        let ended = serve_connection(stream, shutdown, device);
        events.set_connected(false);
        let ended = ended?;
        if ended == Ended::Shutdown || matches!(socket, Socket::Connected(_)) {
            return Ok(());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Frontend,
    Shutdown,
}

fn serve_connection<D: Device>(
    stream: UnixStream,
    shutdown: &Shutdown,
    device: &Arc<D>,
) -> Result<Ended, ProgramError> {
    log::info!("a VMM is connected");
    let host = |error| ProgramError::Host { what: "a connection cannot be served", error };
    let handle = stream.try_clone().map_err(host)?;
    let over = EventFd::new(0).map_err(host)?;
    let done = over.try_clone().map_err(host)?;
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let session = std::thread::Builder::new().name(String::from("session"));
        session
            .spawn_scoped(scope, || {
                match session::serve(stream, device) {
                    Ok(()) => log::info!("the VMM has disconnected"),
                    Err(_) if stopped.load(Ordering::Relaxed) => {}
                    Err(error) => log::error!("{error}"),
                }
                let _ = done.write(1);
            })
            .map_err(host)?;
        if wait(&[over.as_raw_fd()], shutdown)? {
            return Ok(Ended::Frontend);
        }
        stopped.store(true, Ordering::Relaxed);
        session::hang_up(&handle);
        Ok(Ended::Shutdown)
    })
}
