//! vhost-usb's controllers over vfio-user: under QEMU, and with a client of another project.

mod clients;
mod common;
mod functions;
mod guests;
