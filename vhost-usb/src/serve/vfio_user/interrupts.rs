//! A function's interrupts (Linux's `vfio.h`, VFIO_DEVICE_SET_IRQS): events that the client listens to.
//!
//! INTx is a level, and events have none: it is told once, and masked by that. Once the client unmasks
//! it, by a message or an event of its own, it is told again if it is still asserted.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::wire::SetIrqs;

/// How many indices there are.
pub(super) const INDICES: u32 = 5;
const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
/// To be unplugged: nobody here asks for that.
const REQUEST: u32 = 4;

/// What an index can do.
const EVENTS: u32 = 1 << 0;
const MASKABLE: u32 = 1 << 1;
const AUTOMASKED: u32 = 1 << 2;
const NORESIZE: u32 = 1 << 3;

/// What comes with a request, and what it asks for.
const NO_DATA: u32 = 1 << 0;
const BOOLEANS: u32 = 1 << 1;
const DESCRIPTORS: u32 = 1 << 2;
const DATA: u32 = NO_DATA | BOOLEANS | DESCRIPTORS;
const MASK: u32 = 1 << 3;
const UNMASK: u32 = 1 << 4;
const TRIGGER: u32 = 1 << 5;
const ACTION: u32 = MASK | UNMASK | TRIGGER;

/// Where a function's interrupts go.
#[derive(Default)]
pub(super) struct Interrupts {
    intx: Option<OwnedFd>,
    masked: bool,
    /// Written to when INTx is to be unmasked.
    unmask: Option<Watched>,
    msi: Option<OwnedFd>,
}

/// An event that is waited for.
struct Watched {
    event: OwnedFd,
    epoll: Arc<OwnedFd>,
}

impl Watched {
    fn new(event: OwnedFd, epoll: &Arc<OwnedFd>, number: u64) -> Result<Self, Errno> {
        // It is told of each write, and need not be read.
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&**epoll, &event, EventData::new_u64(number), flags)
            .map_err(|_| Errno::INVAL)?;
        Ok(Self { event, epoll: Arc::clone(epoll) })
    }
}

impl Drop for Watched {
    /// The client has it open, too: closing it is not enough.
    fn drop(&mut self) {
        if let Err(error) = epoll::delete(&*self.epoll, &self.event) {
            log::debug!("an event is waited for still: {error}");
        }
    }
}

/// What a client has sent along.
enum Data {
    /// It means the interrupt; or not.
    Means(bool),
    /// An event, or that there is none any more.
    Event(Option<OwnedFd>),
}

impl Interrupts {
    /// Flags and count of an index. `None`: as in Linux, it is not for a function on a PCI bus.
    pub(super) const fn info(index: u32) -> Option<(u32, u32)> {
        match index {
            INTX => Some((EVENTS | MASKABLE | AUTOMASKED, 1)),
            MSI => Some((EVENTS | NORESIZE, 1)),
            MSIX | REQUEST => Some((0, 0)),
            _ => None,
        }
    }

    /// Does what a client asks for. When its event unmasks INTx, `epoll` says so once with `number`.
    pub(super) fn set(
        &mut self,
        request: SetIrqs<'_>,
        fds: Vec<OwnedFd>,
        epoll: &Arc<OwnedFd>,
        number: u64,
    ) -> Result<(), Errno> {
        let SetIrqs { flags, index, start, count, data } = request;
        let action = flags & ACTION;
        if !(flags & DATA).is_power_of_two() || flags & !(DATA | ACTION) != 0 {
            return Err(Errno::INVAL);
        }
        if (flags & DATA, action, count) == (NO_DATA, TRIGGER, 0) {
            match index {
                INTX => (self.intx, self.unmask, self.masked) = (None, None, false),
                MSI => self.msi = None,
                MSIX..INDICES => {}
                _ => return Err(Errno::INVAL),
            }
            return Ok(());
        }
        if index > MSI || start != 0 || count != 1 {
            return Err(Errno::INVAL);
        }
        let data = match flags & DATA {
            NO_DATA => Data::Means(true),
            BOOLEANS => Data::Means(*data.first().ok_or(Errno::INVAL)? != 0),
            _ => Data::Event(event(fds)?),
        };
        match (index, action, data) {
            (_, _, Data::Means(false)) => {}
            (INTX, TRIGGER, Data::Event(event)) => (self.intx, self.masked) = (event, false),
            (INTX, UNMASK, Data::Event(event)) => {
                self.unmask = None;
                self.unmask = event.map(|event| Watched::new(event, epoll, number)).transpose()?;
            }
            (INTX, MASK, Data::Means(_)) => self.masked = true,
            (INTX, UNMASK, Data::Means(_)) => self.masked = false,
            (MSI, TRIGGER, Data::Event(event)) => self.msi = event,
            // To try the way.
            (INTX, TRIGGER, Data::Means(_)) => signal(self.intx.as_ref()),
            (MSI, TRIGGER, Data::Means(_)) => signal(self.msi.as_ref()),
            _ => return Err(Errno::NOTSUP),
        }
        Ok(())
    }

    /// The client's event has unmasked INTx.
    pub(super) fn unmask(&mut self) {
        self.masked = false;
    }

    /// Tells whether there is a `new` reason for an interrupt, and whether there is one at all that
    /// INTx may show.
    pub(super) fn tell(&mut self, new: bool, asserted: bool) {
        if self.msi.is_some() {
            if new {
                signal(self.msi.as_ref());
            }
        } else if asserted && !self.masked && self.intx.is_some() {
            self.masked = true;
            signal(self.intx.as_ref());
        }
    }
}

/// The event that came, which nobody waits for.
fn event(fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, Errno> {
    let mut fds = fds.into_iter();
    let (event, None) = (fds.next(), fds.next()) else { return Err(Errno::INVAL) };
    if let Some(event) = &event {
        // Files of a type may have somebody behind them who takes his time.
        if FileType::from_raw_mode(fstat(event)?.st_mode) != FileType::Unknown {
            return Err(Errno::INVAL);
        }
        fcntl_setfl(event, fcntl_getfl(event)? | OFlags::NONBLOCK)?;
    }
    Ok(event)
}

fn signal(event: Option<&OwnedFd>) {
    if let Some(event) = event
        && let Err(error) = rustix::io::write(event.as_fd(), &1u64.to_ne_bytes())
    {
        log::debug!("an interrupt is not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    struct Bench {
        interrupts: Interrupts,
        epoll: Arc<OwnedFd>,
    }

    impl Bench {
        fn new() -> Self {
            let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
            Self { interrupts: Interrupts::default(), epoll }
        }

        fn set(&mut self, index: u32, flags: u32, event: Option<&EventFd>) -> Result<(), Errno> {
            let fds = event.map(|event| rustix::io::dup(borrowed(event)).unwrap());
            let request = SetIrqs { flags, index, start: 0, count: 1, data: &[] };
            self.interrupts.set(request, fds.into_iter().collect(), &self.epoll, 5)
        }
    }

    fn borrowed(event: &EventFd) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: it is open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
    }

    fn event() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn a_pin_is_told_once_until_it_is_unmasked() {
        let (mut bench, pin) = (Bench::new(), event());
        bench.set(INTX, DESCRIPTORS | TRIGGER, Some(&pin)).unwrap();
        bench.interrupts.tell(true, true);
        bench.interrupts.tell(true, true);
        assert_eq!(pin.read().unwrap(), 1);
        bench.set(INTX, NO_DATA | UNMASK, None).unwrap();
        bench.interrupts.tell(false, false);
        assert!(pin.read().is_err(), "it is not asserted");
        bench.interrupts.tell(false, true);
        assert_eq!(pin.read().unwrap(), 1);
    }

    #[test]
    fn an_event_unmasks_as_often_as_it_is_written() {
        let (mut bench, unmask) = (Bench::new(), event());
        bench.set(INTX, DESCRIPTORS | UNMASK, Some(&unmask)).unwrap();
        let told = || {
            let mut ready = Vec::with_capacity(1);
            let at_once = rustix::event::Timespec::default();
            let spare = rustix::buffer::spare_capacity(&mut ready);
            epoll::wait(&*bench.epoll, spare, Some(&at_once)).unwrap();
            ready.iter().map(|event| event.data.u64()).collect::<Vec<_>>()
        };
        assert!(told().is_empty());
        for _ in 0..2 {
            unmask.write(1).unwrap();
            assert_eq!(told(), [5]);
            assert!(told().is_empty());
        }
    }

    #[test]
    fn messages_go_before_the_pin() {
        let (mut bench, pin, message) = (Bench::new(), event(), event());
        bench.set(INTX, DESCRIPTORS | TRIGGER, Some(&pin)).unwrap();
        bench.set(MSI, DESCRIPTORS | TRIGGER, Some(&message)).unwrap();
        bench.interrupts.tell(true, true);
        bench.interrupts.tell(false, true);
        assert_eq!(message.read().unwrap(), 1);
        assert!(pin.read().is_err());
        bench.set(MSI, DESCRIPTORS | TRIGGER, None).unwrap();
        bench.interrupts.tell(false, true);
        assert_eq!(pin.read().unwrap(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut bench = Bench::new();
        for (index, flags) in [
            (INTX, 0),
            (INTX, TRIGGER),
            (INTX, NO_DATA | BOOLEANS | TRIGGER),
            (INTX, BOOLEANS | TRIGGER),
            (INTX, NO_DATA),
            (INTX, NO_DATA | MASK | UNMASK),
            (INTX, DESCRIPTORS | MASK),
            (MSI, NO_DATA | MASK),
            (MSIX, DESCRIPTORS | TRIGGER),
            (u32::MAX, NO_DATA | TRIGGER),
            (INTX, u32::MAX),
        ] {
            assert!(bench.set(index, flags, None).is_err(), "{index} {flags:#x}");
        }
        let few =
            SetIrqs { flags: DESCRIPTORS | TRIGGER, index: MSI, start: 0, count: 1, data: &[] };
        let many = SetIrqs { start: 1, count: u32::MAX, ..few };
        assert!(bench.interrupts.set(many, Vec::new(), &bench.epoll, 5).is_err());
        let file = std::fs::File::open("/dev/null").unwrap().into();
        assert!(bench.interrupts.set(few, vec![file], &bench.epoll, 5).is_err());
    }
}
