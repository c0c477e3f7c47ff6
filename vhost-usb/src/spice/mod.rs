//! A SPICE server whose clients redirect USB devices, which go on to a guest by usbredir: `vhost-usb-spice`.
//!
//! - [`port`]: a usbredir channel of SPICE's, joined to a socket of vhost-usb's;
//! - [`links`]: connections that have not said yet who they are;
//! - [`events`]: the descriptors and timers that all wait for;
//! - [`world`]: these together, as the library's callbacks reach them;
//! - [`library`]: libspice-server, loaded at run time; all that is unsafe is there;
//! - [`serve`]: the loop;
//! - [`options`], [`manual`]: the program's command line, and what its manual says besides.

pub mod events;
pub mod library;
pub mod links;
pub mod manual;
pub mod options;
pub mod port;
pub mod serve;
pub mod world;
