//! What the kernel takes its time for: seconds, with a device that does not answer. It is done on a thread
//! of a device's own, in order.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::libusb::{Handle, UsbError};
use crate::device::remote::backend::Id;
use crate::usb::Endpoint;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Reset,
    /// Interfaces of the configuration before are released, and those of this one claimed.
    SetConfiguration {
        value: u8,
        before: Vec<u8>,
        after: Vec<u8>,
    },
    SetInterface {
        interface: u8,
        alternate: u8,
    },
    ClearHalt(Endpoint),
}

/// It is done, for a transfer or for nobody; or a transfer could not be begun.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: Option<Id>,
    pub(super) errand: Option<Errand>,
    pub(super) result: Result<(), UsbError>,
}

#[derive(Debug)]
struct Shared {
    done: Mutex<Vec<Done>>,
    wake: EventFd,
}

impl Shared {
    fn tell(&self, done: Done) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        // A counter that is full is readable as well.
        let _ = self.wake.write(1);
    }
}

/// The thread, which is started when there is something to do, and ends when this is dropped. The device is
/// given back to the host's drivers then.
pub(super) struct Errands {
    orders: Orders,
    shared: Arc<Shared>,
}

enum Orders {
    /// The thread is not there yet; with the interfaces that are claimed.
    None(Arc<Handle>, Vec<u8>),
    To(Sender<(Option<Id>, Errand)>),
}

impl Errands {
    /// For a device some of whose interfaces are claimed.
    pub(super) fn new(handle: Arc<Handle>, claimed: Vec<u8>) -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { done: Mutex::default(), wake });
        Ok(Self { orders: Orders::None(handle, claimed), shared })
    }

    fn start(handle: Arc<Handle>, claimed: Vec<u8>, shared: Arc<Shared>) -> io::Result<Orders> {
        let (orders, received) = channel();
        let name = String::from("usb errands");
        let run = move || run(&handle, claimed, &received, &shared);
        thread::Builder::new().name(name).spawn(run)?;
        Ok(Orders::To(orders))
    }

    pub(super) fn send(&mut self, id: Option<Id>, errand: Errand) {
        if let Orders::None(handle, claimed) = &self.orders {
            let shared = Arc::clone(&self.shared);
            match Self::start(Arc::clone(handle), claimed.clone(), shared) {
                Ok(orders) => self.orders = orders,
                Err(error) => {
                    log::error!("no thread for a device of the host's: {error}");
                    let result = Err(UsbError::Busy);
                    return self.shared.tell(Done { id, errand: Some(errand), result });
                }
            }
        }
        if let Orders::To(orders) = &self.orders {
            // The thread ends after this.
            let _ = orders.send((id, errand));
        }
    }

    /// A transfer could not be begun: that is found with what is done.
    pub(super) fn refuse(&self, id: Id, error: UsbError) {
        self.shared.tell(Done { id: Some(id), errand: None, result: Err(error) });
    }

    /// Readable when something is done.
    pub(super) fn event(&self) -> RawFd {
        self.shared.wake.as_raw_fd()
    }

    pub(super) fn take(&self) -> Vec<Done> {
        let _ = self.shared.wake.read(); // however often it was written
        std::mem::take(&mut *self.shared.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn run(
    handle: &Handle,
    mut claimed: Vec<u8>,
    orders: &Receiver<(Option<Id>, Errand)>,
    shared: &Shared,
) {
    for (id, errand) in orders {
        let result = match &errand {
            Errand::Reset => handle.reset(),
            Errand::SetConfiguration { value, before, after } => {
                for interface in before {
                    // It may not have been claimed.
                    let _ = handle.release(*interface);
                }
                claimed.clear();
                let set = handle.set_configuration(*value);
                let claim = after.iter().try_for_each(|interface| {
                    handle.claim(*interface).map(|()| claimed.push(*interface))
                });
                set.and(claim)
            }
            Errand::SetInterface { interface, alternate } => {
                handle.set_alternate(*interface, *alternate)
            }
            Errand::ClearHalt(endpoint) => handle.clear_halt(*endpoint),
        };
        shared.tell(Done { id, errand: Some(errand), result });
    }
    give_back(handle, &claimed);
}

fn give_back(handle: &Handle, claimed: &[u8]) {
    for interface in claimed {
        // Of a device that has gone, there is nothing to give back.
        let _ = handle.release(*interface).and_then(|()| handle.give_back(*interface));
    }
}

impl Drop for Errands {
    fn drop(&mut self) {
        if let Orders::None(handle, claimed) = &self.orders {
            give_back(handle, claimed);
        }
    }
}
