//! vhost-net as its frontends, its host's interfaces and its peers see it: DPDK's driver, and one of our own
//! that breaks the rules.

mod broker;
mod common;
mod control;
mod host;
mod hostile;
mod switch;
mod tap;
