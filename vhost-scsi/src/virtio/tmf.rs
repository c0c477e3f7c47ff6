//! Task management (SAM-5 7): an order goes to every request worker; it is carried out when the last
//! of the tasks that it is about has ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::layout::Response;
use crate::scsi::target::Address;

/// `subtype` of a task management request (virtio 1.2, 5.6.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    AbortTask,
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    NexusReset,
    UnitReset,
    QueryTask,
    QueryTaskSet,
}

impl Function {
    pub(super) fn from_subtype(subtype: u32) -> Option<Self> {
        Some(match subtype {
            0 => Self::AbortTask,
            1 => Self::AbortTaskSet,
            2 => Self::ClearAca,
            3 => Self::ClearTaskSet,
            4 => Self::NexusReset,
            5 => Self::UnitReset,
            6 => Self::QueryTask,
            7 => Self::QueryTaskSet,
            _ => return None,
        })
    }

    pub(super) fn is_query(self) -> bool {
        matches!(self, Self::QueryTask | Self::QueryTaskSet)
    }

    /// What the driver is told of the tasks that it ends.
    pub(super) fn response(self) -> Response {
        match self {
            Self::NexusReset | Self::UnitReset => Response::Reset,
            _ => Response::Aborted,
        }
    }
}

/// Which tasks an order is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Task(Address, u64),
    Unit(Address),
    Target(u8),
}

impl Selector {
    pub(super) fn matches(self, address: Address, tag: u64) -> bool {
        match self {
            Self::Task(wanted, name) => wanted == address && name == tag,
            Self::Unit(wanted) => wanted == address,
            Self::Target(target) => target == address.target,
        }
    }
}

/// An order, held by whoever has still to do with it. When the last holder lets go of it, the
/// control worker is woken.
pub(super) struct Order {
    pub(super) function: Function,
    pub(super) selector: Selector,
    /// There was such a task.
    found: AtomicBool,
    given_up: Arc<AtomicBool>,
    done: Done,
    token: u64,
}

/// Orders that are carried out, with whether a task was found.
#[derive(Clone)]
pub(super) struct Done {
    list: Arc<Mutex<Vec<(u64, bool)>>>,
    wake: Arc<EventFd>,
}

impl Done {
    pub(super) fn new(wake: Arc<EventFd>) -> Self {
        Self { list: Arc::default(), wake }
    }

    pub(super) fn take(&self) -> Vec<(u64, bool)> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put(&self, token: u64, found: bool) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push((token, found));
        if let Err(error) = self.wake.write(1) {
            log::error!("the control worker cannot be woken: {error}");
        }
    }
}

impl Order {
    pub(super) fn new(function: Function, selector: Selector, token: u64, done: Done) -> Self {
        Self { function, selector, found: false.into(), given_up: Arc::default(), done, token }
    }

    /// To be set when the driver is told that the order can't be carried out: the tasks go on.
    pub(super) fn given_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.given_up)
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Such a task was found.
    pub(super) fn found(&self) {
        self.found.store(true, Ordering::Relaxed);
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.done.put(self.token, *self.found.get_mut());
    }
}
