//! MSI (PCI 3.0, 6.8.1): one message, sent by an event that KVM listens to.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::config::Config;
use crate::machine::irq::{Interrupts, Message, Route};

/// Message control, from the capability's start (6.8.1.3).
const CONTROL: usize = 2;
const ENABLE: u16 = 1;
/// Message address, its upper half, and data.
const ADDRESS: usize = 4;
const UPPER_ADDRESS: usize = 8;
const DATA: usize = 12;

/// A function's message.
#[derive(Debug)]
pub struct Msi {
    interrupts: Interrupts,
    /// Where its capability is.
    capability: usize,
    event: Arc<EventFd>,
    /// While it is sent, and whether KVM listens.
    route: Option<Route>,
}

impl Msi {
    /// A message that writes to `event` send once the guest has enabled it, and its capability in
    /// configuration space. `None`: the capability has no room.
    #[must_use]
    pub fn new(interrupts: Interrupts, config: &mut Config, event: Arc<EventFd>) -> Option<Self> {
        let capability = config.add_msi()?;
        Some(Self { interrupts, capability, event, route: None })
    }

    /// What the guest wants to be sent, if it has enabled it: interrupt pins are silent then.
    #[must_use]
    pub fn wanted(&self, config: &Config) -> Option<Message> {
        let field = |offset: usize| self.capability.saturating_add(offset);
        if u16::from_le_bytes(config.get(field(CONTROL))) & ENABLE == 0 {
            return None;
        }
        let low = u32::from_le_bytes(config.get(field(ADDRESS)));
        let high = u32::from_le_bytes(config.get(field(UPPER_ADDRESS)));
        let data = u16::from_le_bytes(config.get(field(DATA)));
        Some(Message { address: u64::from(high) << 32 | u64::from(low), data: data.into() })
    }

    /// Sends this from now on, or nothing. Nobody else listens to the event then.
    pub fn set(&mut self, message: Option<Message>) {
        let done = match (message, &self.route) {
            (None, _) => {
                if let Some(route) = self.route.take() {
                    route.disconnect(&self.event);
                }
                Ok(())
            }
            (Some(message), Some(route)) => route.change(message),
            (Some(message), None) => self.interrupts.route(message).and_then(|route| {
                route.connect(&self.event)?;
                self.route = Some(route);
                Ok(())
            }),
        };
        if let Err(error) = done {
            log::error!("a message-signalled interrupt is not sent: {error}");
        }
    }
}
