//! The host's sound system, by a program that has its library: `vhost-sound-alsa` or `vhost-sound-pipewire`, one
//! process for each stream. So the process that serves the guest needs no library, and may be in a sandbox; and what
//! it has given goes on to be heard while it is killed and started again.
//!
//! - [`ring`]: the memory that both have, with the samples;
//! - [`near`]: this end of it, which is a [`Host`](super::Host);
//! - [`far`]: the helper's;
//! - [`process`]: who starts helpers, and starts them again.

pub mod far;
pub mod near;
pub mod process;
pub mod ring;

/// Nanoseconds of CLOCK_MONOTONIC, which is the same for all processes.
fn nanoseconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
