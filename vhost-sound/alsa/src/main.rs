//! `vhost-sound-alsa`: plays and records a stream of vhost-sound's by ALSA. vhost-sound starts it.
//!
//! - [`device`]: the device, opened for samples of a kind;
//! - [`convert`]: samples made to what the device can have;
//! - [`work`]: what moves samples between it and the card.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod convert;
mod device;
mod work;

use std::io;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::program;
use vhost_sound::host::helper::far::{Far, Options};

use device::{Device, DeviceError};
use work::Work;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("it is started by vhost-sound alone: {0}")]
    Alone(io::Error),
    #[error("the host refuses: {0}")]
    Host(#[from] io::Error),
}

/// How long it takes until a device that has failed is tried again.
const SECOND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

fn main() -> ExitCode {
    program::main("vhost-sound-alsa", start)
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    program::start_logging(0);
    if options.check {
        device::check(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let far = Far::inherited(options.direction()).map_err(Failure::Alone)?;
    let mut told = None;
    loop {
        match far.order() {
            Some(order) => {
                let device = Device::open(&options, &order).map_err(Failure::from);
                let done = device.and_then(|device| Work::new(device, &far, order)?.run());
                if let Err(error) = done {
                    // The device may come back, and the next order may be one that it can do.
                    if told != Some(order.generation) {
                        log::error!("{}: {error}", options.name);
                        told = Some(order.generation);
                    }
                    wait(&far, Some(&SECOND))?;
                }
            }
            None => wait(&far, None)?,
        }
    }
}

/// Waits for another order.
fn wait(far: &Far, limit: Option<&Timespec>) -> Result<(), Failure> {
    poll(&mut [PollFd::from_borrowed_fd(far.bell(), PollFlags::IN)], limit)
        .map_err(io::Error::from)?;
    Ok(())
}
