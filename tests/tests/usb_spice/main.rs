//! `vhost-usb-spice`: devices that SPICE clients redirect.

mod common;
mod guest;
mod peers;
