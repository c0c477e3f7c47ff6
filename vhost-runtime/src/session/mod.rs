//! One frontend's connection, from its first message to its last.
//!
//! `vhost`'s request handler decodes messages and calls [`handler`]; what it does not do is in
//! [`wire`]; the rings' life is in [`rings`]; device state travels in [`transfer`].

mod handler;
mod rings;
mod transfer;
mod wire;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use crate::device::Device;
use handler::Handler;
use wire::Peeked;

/// A message must arrive whole within this time: a frontend that stalls in the middle is gone.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a session ended otherwise than by the frontend's hanging up.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[from] io::Error),
    /// The frontend broke the protocol.
    #[error("the frontend broke the protocol: {0}")]
    Protocol(ProtocolError),
}

/// Tells the connected frontend of changes; does nothing once it has gone.
#[derive(Clone, Debug, Default)]
pub struct Frontend {
    channel: Arc<Mutex<Option<UnixStream>>>,
}

impl Frontend {
    /// The configuration space has changed (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG). Returns whether
    /// there is somebody to be told.
    pub fn config_changed(&self) -> bool {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = &*channel else { return false };
        match wire::send_config_change(stream) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("the frontend cannot be told of a configuration change: {error}");
                false
            }
        }
    }

    fn set(&self, stream: Option<UnixStream>) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }
}

/// Serves one connection until the frontend hangs up, or `stream` is shut down by someone else.
/// When it returns, all rings have stopped and the device is deactivated.
///
/// # Errors
/// See [`SessionError`]; the device is ready for the next connection all the same.
pub fn serve<D: Device>(stream: UnixStream, device: &Arc<D>) -> Result<(), SessionError> {
    stream.set_nonblocking(false)?;
    let peek = stream.try_clone()?;
    let frontend = Frontend::default();
    let handler = Arc::new(Handler::new(Arc::clone(device)));
    let mut requests = BackendReqHandler::from_stream(stream, Arc::clone(&handler));
    device.connected(frontend.clone());
    let result = serve_messages(&peek, &mut requests, &handler, &frontend);
    handler.disconnect();
    frontend.set(None);
    result
}

fn serve_messages<D: Device>(
    stream: &UnixStream,
    requests: &mut BackendReqHandler<Handler<D>>,
    handler: &Handler<D>,
    frontend: &Frontend,
) -> Result<(), SessionError> {
    loop {
        // A frontend may be silent for days, but not in the middle of a message.
        stream.set_read_timeout(None)?;
        let Some(message) = wire::peek(stream.as_fd())? else { return Ok(()) };
        stream.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
        let owes_reply = message.owes_reply();
        match message {
            Peeked::BackendChannel(channel) => {
                channel.set_nonblocking(true)?;
                frontend.set(Some(channel));
            }
            Peeked::Foreign(header) => {
                wire::take(stream, &header)?;
                if handler.acknowledges() {
                    wire::acknowledge(stream, &header, false)?;
                }
                log::warn!("message {} is not known and was ignored", header.request);
                continue;
            }
            Peeked::Enable(header) => {
                let done = handler.enable(&wire::take(stream, &header)?);
                if handler.acknowledges() {
                    wire::acknowledge(stream, &header, done)?;
                }
                continue;
            }
            Peeked::Known(_) => {}
        }
        match requests.handle_request() {
            Ok(()) => {}
            Err(ProtocolError::Disconnected) => return Ok(()),
            // Refused by the device: said so in the reply, if the frontend wanted one.
            Err(ProtocolError::ReqHandlerError(_)) if !owes_reply => {}
            Err(error) => return Err(SessionError::Protocol(error)),
        }
    }
}

impl Peeked {
    /// A message whose answer is its payload: without one the frontend waits for ever, so the
    /// connection has to end.
    fn owes_reply(&self) -> bool {
        let Self::Known(header) = self else { return false };
        [
            FrontendReq::GET_VRING_BASE,
            FrontendReq::GET_INFLIGHT_FD,
            FrontendReq::SET_LOG_BASE,
            FrontendReq::GET_MAX_MEM_SLOTS,
            FrontendReq::GET_SHARED_OBJECT,
            FrontendReq::GET_SHMEM_CONFIG,
        ]
        .iter()
        .any(|&request| u32::from(request) == header.request)
    }
}

/// Ends a session from another thread: its socket is shut down.
pub fn hang_up(stream: &UnixStream) {
    if let Err(error) = stream.shutdown(std::net::Shutdown::Both) {
        log::debug!("connection {} was gone already: {error}", stream.as_raw_fd());
    }
}
