//! vhost-net as the network card of stock guests: under QEMU, by libvirt too, under vmm-frontend, and of two
//! guests that it joins.

mod card;
mod frames;
mod iperf;
mod libvirt;
mod migration;
mod offloads;
mod qemu;
mod queues;
mod switch;
mod vmm;
