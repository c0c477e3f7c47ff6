//! `vhost-sound-alsa`: plays and records a stream of vhost-sound's by ALSA. vhost-sound starts it.
//!
//! - [`device`]: the device, opened for samples of a kind;
//! - [`mixer`]: what is as loud as the guest has it;
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
mod mixer;
mod work;

use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use alsa::poll::pollfd;
use vhost_runtime::program;
use vhost_sound::host::helper::far::{self, Far, StartError};

use device::{Device, DeviceError};
use mixer::Volume;
use work::Work;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the host refuses: {0}")]
    Host(#[from] io::Error),
    #[error("ALSA cannot be waited for: {0}")]
    Alsa(#[from] alsa::Error),
}

/// Milliseconds until a device, or a mixer, that has failed is tried again.
const SECOND: i32 = 1000;

fn main() -> ExitCode {
    program::main("vhost-sound-alsa", start)
}

fn start() -> Result<ExitCode, Failure> {
    let begun = far::start(|options| -> Result<(), Failure> {
        device::check(options)?;
        Ok(mixer::check(options)?)
    });
    let Some((options, far)) = begun? else { return Ok(ExitCode::SUCCESS) };
    let mut volume = Volume::new(&options, &far);
    let mut told = None;
    loop {
        volume.open();
        match far.order() {
            Some(order) => {
                let device = Device::open(&options, &order).map_err(Failure::from);
                let done =
                    device.and_then(|device| Work::new(device, &far, order)?.run(&mut volume));
                if let Err(error) = done {
                    // The device may come back, and the next order may be one that it can do.
                    if told != Some(order.generation) {
                        log::error!("{}: {error}", options.name);
                        told = Some(order.generation);
                    }
                    wait(&far, &mut volume, Some(SECOND))?;
                }
            }
            None => wait(&far, &mut volume, None)?,
        }
    }
}

/// Waits for another order, or for what the mixer has to tell.
fn wait(far: &Far, volume: &mut Volume<'_>, limit: Option<i32>) -> Result<(), Failure> {
    let mut polled = vec![pollfd { fd: far.bell().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    volume.follow();
    polled.extend(volume.descriptors()?);
    // Another look at a mixer that has just gone, too.
    let limit = limit.or(volume.is_missing().then_some(SECOND));
    alsa::poll::poll(&mut polled, limit.unwrap_or(-1))?;
    Ok(())
}
