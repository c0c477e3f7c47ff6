//! A controller as the PCI function that a client presents.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use vhost_runtime::pci::{self, Config};
use vhost_runtime::registers::{self, Access};

use super::dma::Dma;
use super::interrupts::{INDICES, Interrupts};
use super::wire::{Request, answer};
use crate::controller::host::Host;
use crate::controller::{Next, Time};

/// VFIO's regions of a PCI function (Linux's `vfio.h`): six BARs, expansion ROM, configuration space, VGA.
const REGIONS: u32 = 9;
const CONFIG: u32 = 7;
/// A region can be read and written, by messages alone.
const ACCESSIBLE: u32 = 0b11;
/// What a device is: it can be reset, and is a PCI function.
const DEVICE: u32 = 0b11;

/// Nanoseconds after which a client that has changed mappings, and said nothing since, has changed them all.
const SETTLED: u64 = 500_000_000;

/// Interrupt pins.
const PINS: usize = 4;

/// A function, with what its client has told.
pub(super) struct Function {
    description: registers::Function,
    /// Its number among the host's.
    number: usize,
    initial: Config,
    config: Config,
    interrupts: Interrupts,
    dma: Dma,
    /// When mappings were changed, if nothing else was said since. QEMU takes all memory away when a part of
    /// it changes, and gives it back at once: the controller must not look for it meanwhile.
    changed: Option<Time>,
    /// The client has said which version it speaks.
    agreed: bool,
}

/// What a region is.
enum Region {
    Config,
    Registers,
    /// It has no bytes.
    Empty,
}

impl Function {
    /// One of a host's functions, by its number among them.
    pub(super) fn new(host: &Host, number: usize) -> Option<Self> {
        let functions = host.functions();
        let description = *functions.get(number)?;
        let mut initial = description.config();
        if functions.len() > 1 {
            initial.set_multifunction();
        }
        // Pins in turn, as functions that work at the same time should have.
        let pin = u8::try_from(number % PINS).ok()?.saturating_add(1);
        initial.set_pin(pin, 0);
        initial.add_msi()?;
        let config = initial.clone();
        let (interrupts, dma) = (Interrupts::default(), Dma::default());
        let (changed, agreed) = (None, false);
        Some(Self { description, number, initial, config, interrupts, dma, changed, agreed })
    }

    /// Its number in the slot.
    pub(super) fn name(&self) -> u8 {
        self.description.number
    }

    /// The client is gone, and what it has told.
    pub(super) fn forget(&mut self, host: &mut Host, now: Time) {
        host.access(self.number, Access::Reset, now);
        self.config = self.initial.clone();
        (self.interrupts, self.dma, self.changed, self.agreed) = Default::default();
    }

    /// Lets the controller do what there is to do.
    pub(super) fn run(&mut self, host: &mut Host, now: Time) -> Next {
        if let Some(settled) = self.changed.map(|time| time.after(SETTLED)) {
            if now < settled {
                return Next::At(settled);
            }
            self.changed = None;
        }
        host.run_one(self.number, now, &self.dma)
    }

    /// Tells the client whether the controller wants an interrupt.
    pub(super) fn interrupt(&mut self, host: &mut Host) {
        let (new, wanted) = (host.take_interrupt(self.number), host.interrupts(self.number));
        self.interrupts.tell(new, wanted && !self.config.intx_disabled());
    }

    /// The client's event has unmasked the pin.
    pub(super) fn unmask(&mut self) {
        self.interrupts.unmask();
    }

    /// Does what the client asks for; the body of the answer.
    pub(super) fn handle(
        &mut self,
        request: Request<'_>,
        fds: Vec<OwnedFd>,
        host: &mut Host,
        now: Time,
        (epoll, event): (&Arc<OwnedFd>, u64),
    ) -> Result<Vec<u8>, Errno> {
        if !self.agreed && !matches!(request, Request::Version { .. }) {
            return Err(Errno::PROTO);
        }
        self.changed = matches!(request, Request::DmaMap(_) | Request::DmaUnmap(_)).then_some(now);
        match request {
            Request::Version { major } => {
                if major != 0 {
                    return Err(Errno::PROTONOSUPPORT);
                }
                self.agreed = true;
                Ok(answer::version())
            }
            Request::DmaMap(map) => {
                let mut fds = fds.into_iter();
                let (fd, None) = (fds.next(), fds.next()) else { return Err(Errno::INVAL) };
                self.dma.map(map, fd).map(|()| Vec::new())
            }
            Request::DmaUnmap(unmap) => self.dma.unmap(unmap).map(|()| answer::unmap(unmap)),
            Request::Info => Ok(answer::info(DEVICE, REGIONS, INDICES)),
            Request::RegionInfo { index } => {
                let size = self.size(&self.region(index)?);
                let flags = if size == 0 { 0 } else { ACCESSIBLE };
                Ok(answer::region_info(index, flags, size))
            }
            Request::IrqInfo { index } => {
                let (flags, count) = Interrupts::info(index).ok_or(Errno::INVAL)?;
                Ok(answer::irq_info(index, flags, count))
            }
            Request::SetIrqs(request) => {
                self.interrupts.set(request, fds, epoll, event)?;
                // What was told may have gone nowhere.
                host.forget_told();
                Ok(Vec::new())
            }
            Request::Read { region, offset, count } => {
                let (place, start) = self.place(region, offset, count)?;
                let mut data = vec![0; count];
                self.read(&place, start, &mut data, host, now);
                Ok(answer::access(region, offset, count, &data))
            }
            Request::Write { region, offset, data } => {
                let (place, start) = self.place(region, offset, data.len())?;
                self.write(&place, start, data, host, now);
                Ok(answer::access(region, offset, data.len(), &[]))
            }
            Request::Reset => {
                self.config = self.initial.clone();
                host.access(self.number, Access::Reset, now);
                Ok(Vec::new())
            }
        }
    }

    fn region(&self, index: u32) -> Result<Region, Errno> {
        match index {
            CONFIG => Ok(Region::Config),
            index if index == u32::from(self.description.bar) => Ok(Region::Registers),
            ..REGIONS => Ok(Region::Empty),
            _ => Err(Errno::INVAL),
        }
    }

    fn size(&self, region: &Region) -> u64 {
        match region {
            Region::Config => pci::SIZE as u64,
            Region::Registers => self.description.size.into(),
            Region::Empty => 0,
        }
    }

    /// Where an access is. All of it is inside of the region.
    fn place(&self, index: u32, offset: u64, count: usize) -> Result<(Region, u16), Errno> {
        let region = self.region(index)?;
        let end = u64::try_from(count).ok().and_then(|count| offset.checked_add(count));
        if end.is_none_or(|end| end > self.size(&region)) {
            return Err(Errno::INVAL);
        }
        Ok((region, u16::try_from(offset).map_err(|_| Errno::INVAL)?))
    }

    fn read(&mut self, region: &Region, offset: u16, data: &mut [u8], host: &Host, now: Time) {
        match region {
            Region::Config => {
                self.config.set_interrupt_status(host.interrupts(self.number));
                self.config.read(offset.into(), data);
            }
            Region::Registers => {
                let start = u32::from(offset);
                let words = (start & !3..).step_by(4);
                let words =
                    words.flat_map(|word| host.register(self.number, word, now).to_le_bytes());
                let skipped = usize::from(offset % 4);
                data.iter_mut().zip(words.skip(skipped)).for_each(|(to, from)| *to = from);
            }
            Region::Empty => {}
        }
    }

    fn write(&mut self, region: &Region, offset: u16, data: &[u8], host: &mut Host, now: Time) {
        match region {
            Region::Config => self.config.write(offset.into(), data),
            Region::Registers => Access::writes(offset, data).for_each(|access| {
                host.access(self.number, access, now);
            }),
            Region::Empty => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::event::epoll;

    use super::super::wire::{HEADER, Header, LONGEST, Unmap};
    use super::*;
    use crate::controller::host::Kind;

    /// The host's functions, and where events are waited for.
    fn functions() -> (Host, Vec<Function>, Arc<OwnedFd>) {
        let host = Host::new(Kind::EhciWithUhci).unwrap();
        let functions = (0..4).map(|number| Function::new(&host, number).unwrap()).collect();
        (host, functions, Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()))
    }

    fn header(command: u16) -> Header {
        let mut bytes = [1, command].map(u16::to_ne_bytes).concat();
        bytes.extend([HEADER as u32, 0, 0].map(u32::to_ne_bytes).as_flattened());
        Header::parse(&bytes).unwrap().0
    }

    /// Numbers that may mean something, and such that can't.
    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..12, 0u32..0x420, Just(u32::MAX), any::<u32>()]
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_is_answered(
            messages in prop::collection::vec(
                (0usize..4, 1u16..15, prop::collection::vec(number(), 0..12)),
                1..60,
            ),
        ) {
            let (mut host, mut functions, epoll) = functions();
            for function in &mut functions {
                function.agreed = true;
            }
            for (number, command, words) in messages {
                let body: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
                let header = header(command);
                let function = &mut functions[number];
                let result = Request::parse(header, &body).and_then(|request| {
                    function.handle(request, Vec::new(), &mut host, Time(5), (&epoll, 1))
                });
                function.run(&mut host, Time(6));
                function.interrupt(&mut host);
                let reply = header.reply(result).unwrap();
                prop_assert!((HEADER..=LONGEST).contains(&reply.len()));
            }
        }
    }

    #[test]
    fn a_controller_waits_until_mappings_have_changed() {
        let (mut host, mut functions, epoll) = functions();
        let mut ehci = functions.remove(3);
        ehci.agreed = true;
        let ask = |ehci: &mut Function, host: &mut Host, request, now| {
            ehci.handle(request, Vec::new(), host, now, (&epoll, 1)).unwrap();
        };
        let write = |offset, data| Request::Write { region: 0, offset, data };
        // It runs its asynchronous schedule, which is nowhere.
        let unmap = Unmap { argsz: 0, flags: 0, address: 0, size: 4096 };
        ask(&mut ehci, &mut host, write(0x20, &[0x21, 0, 0, 0]), Time(1));
        ask(&mut ehci, &mut host, Request::DmaUnmap(unmap), Time(2));
        let halted = |host: &Host| host.register(3, 0x24, Time(2)) & 1 << 12 != 0;
        assert_eq!(ehci.run(&mut host, Time(3)), Next::At(Time(2 + SETTLED)));
        assert!(!halted(&host));
        // Whatever the client says after that.
        ask(&mut ehci, &mut host, Request::Info, Time(4));
        assert_eq!(ehci.run(&mut host, Time(5)), Next::Never);
        assert!(halted(&host));
    }

    #[test]
    fn nothing_is_done_before_the_version_is_agreed() {
        let (mut host, mut functions, epoll) = functions();
        let mut ask = |request| {
            functions[0].handle(request, Vec::new(), &mut host, Time(5), (&epoll, 1)).err()
        };
        assert_eq!(ask(Request::Info), Some(Errno::PROTO));
        assert_eq!(ask(Request::Version { major: 1 }), Some(Errno::PROTONOSUPPORT));
        assert_eq!(ask(Request::Info), Some(Errno::PROTO));
        assert_eq!(ask(Request::Version { major: 0 }), None);
        assert_eq!(ask(Request::Info), None);
    }
}
