//! A virtio device on PCI whose driver is hostile: registers, configuration space, and rings in a
//! small guest's memory.
//!
//! Whatever comes: registers that say what virtio says they may, a device that leaves memory alone
//! before it is started and after it was stopped, and nothing of it left when it is gone. It needs
//! /dev/kvm, for interrupts; nothing is run there.

#![no_main]

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};
use vmm_frontend::frontend::memory::Memory;
use vmm_frontend::machine::irq::Interrupts;
use vmm_frontend::machine::vm::{self, Vm};
use vmm_frontend::pci::Function;
use vmm_frontend::reactor::{Reactor, Watch};
use vmm_frontend::virtio::console::{Console, Endpoint, Port};
use vmm_frontend::virtio::pci::{VirtioPci, Wiring};
use vmm_frontend::virtio::rng::Rng;
use vmm_frontend::virtio::{Device, queue};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Two regions of memory, with a gap.
const REGIONS: [(u64, u64); 2] = [(0, 0x8000), (0x1_0000, 0x4000)];
/// Where a queue has its rings, if its driver keeps to the rules: so many bytes for each of four.
const RINGS: u64 = 0x1000;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xc00;
/// Descriptors of such a queue.
const SIZE: u16 = 16;
/// Rounds of the reactor, which are enough for the longest work.
const ROUNDS: usize = 8;

/// Offsets in the BAR: common configuration, interrupt status, the device's, notifications, MSI-X.
const COMMON: u64 = 0;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const STARTS: [u64; 6] = [COMMON, 0x1000, DEVICE, NOTIFY, 0x4000, 0xc000];
/// In the common configuration (virtio 1.3, 4.1.4.3).
const STATUS: u64 = 0x14;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1c;
const FEATURES_OK: u8 = 8;
const VERSION_1: u64 = 1 << 32;

fuzz_target!(|data: &[u8]| {
    let Some(host) = host() else { return };
    let before = *host.descriptors.get_or_init(|| {
        // What is made once is made now.
        let _ = run(host, &mut Unstructured::new(&[0; 64]));
        descriptors()
    });
    let _ = run(host, &mut Unstructured::new(data));
    assert_eq!(descriptors(), before, "descriptors stay");
    assert_eq!(format!("{:?}", host.interrupts), host.idle, "interrupts stay");
});

/// What inputs share: KVM takes its time to make it.
struct Host {
    vm: Arc<Vm>,
    memory: Memory,
    interrupts: Interrupts,
    /// The interrupts without a device.
    idle: String,
    descriptors: OnceLock<usize>,
}

fn host() -> Option<&'static Host> {
    static HOST: OnceLock<Option<Host>> = OnceLock::new();
    let make = || {
        let kvm = vm::open().map_err(|error| eprintln!("nothing is tried: {error}")).ok()?;
        let memory = Memory::new(&REGIONS).expect("memory");
        let vm = Arc::new(Vm::new(&kvm, memory.clone()).expect("a machine"));
        let interrupts = Interrupts::new(Arc::clone(&vm));
        let idle = format!("{interrupts:?}");
        Some(Host { vm, memory, interrupts, idle, descriptors: OnceLock::new() })
    };
    HOST.get_or_init(make).as_ref()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// What is at the host's end of a port: it takes as much as it has room for.
#[derive(Default)]
struct End(AtomicUsize);

impl Endpoint for End {
    fn write(&self, bytes: &[u8]) -> usize {
        let room = self.0.load(Ordering::Relaxed).min(bytes.len());
        self.0.fetch_sub(room, Ordering::Relaxed);
        room
    }

    fn changed(&self) {}
}

struct Guest<'a> {
    host: &'a Host,
    reactor: Reactor,
    bell: EventFd,
    rung: Arc<AtomicBool>,
    _watch: Watch,
    function: Arc<VirtioPci>,
    queues: u16,
    ports: Vec<Port>,
    end: Arc<End>,
    /// It was stopped by the machine, not by the driver.
    paused: bool,
}

fn run(host: &Host, input: &mut Unstructured<'_>) -> Result<()> {
    for (start, size) in REGIONS {
        let zeroes = vec![0; size as usize];
        host.memory.space().write_slice(&zeroes, GuestAddress(start)).expect("mapped");
    }
    let mut guest = Guest::new(host, input.int_in_range(0..=3)?);
    while !input.is_empty() {
        guest.step(input)?;
        guest.check();
    }
    Ok(())
}

impl<'a> Guest<'a> {
    fn new(host: &'a Host, kind: u8) -> Self {
        let reactor = Reactor::new().expect("a reactor");
        let bell = EventFd::new(EFD_NONBLOCK).expect("an event");
        let rung = Arc::new(AtomicBool::new(false));
        let ring = Arc::clone(&rung);
        let ring = Arc::new(move || ring.store(true, Ordering::Relaxed));
        let watch = reactor.watch_event(&bell, ring).expect("a watch");
        let memory = queue::memory(&host.memory, Arc::default()).expect("mapped");
        let end = Arc::new(End::default());
        let endpoint = || Arc::clone(&end) as Arc<dyn Endpoint>;
        let (device, ports): (Box<dyn Device>, _) = if kind == 0 {
            (Box::new(Rng::new(reactor.clone(), memory)), Vec::new())
        } else {
            let named = vec![(String::from("agent"), endpoint())];
            let named = if kind & 2 == 0 { Vec::new() } else { named };
            let first = (kind & 1 == 1).then(endpoint);
            let console = Console::new(reactor.clone(), memory, first, named).expect("few ports");
            let ports = vec![console.port(0), console.port(1)];
            (Box::new(console), ports)
        };
        let queues = device.queue_sizes().len() as u16;
        let (vm, interrupts) = (Arc::clone(&host.vm), host.interrupts.clone());
        let wiring = Wiring { vm, interrupts, reactor: reactor.clone(), pin: (1, 16) };
        let function = VirtioPci::new(device, wiring).expect("a device");
        let (_watch, paused) = (watch, false);
        Self { host, reactor, bell, rung, _watch, function, queues, ports, end, paused }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        // Of a machine that is stopped only the host's side does something.
        match input.int_in_range(0..=19)? {
            step if self.paused => match step {
                0..=9 => self.pause_or_resume(),
                _ => self.host_end(input)?,
            },
            0 => self.bring_up(input)?,
            1 => self.reset(),
            2 => {
                self.function.reset();
                self.check_stopped();
            }
            3 => self.pause_or_resume(),
            4 => {
                let place = (!input.ratio(1, 4)?).then_some(0xc000_0000);
                self.function.moved(0, place);
            }
            5 => self.config(input)?,
            6 => self.enable_messages(input)?,
            7..=9 => self.register(input)?,
            10 | 11 => self.common(input)?,
            12 => self.host_end(input)?,
            13 => self.poke(input)?,
            14..=16 => self.chains(input)?,
            17 => self.control(input)?,
            _ => self.kick(input)?,
        }
        Ok(())
    }

    fn read(&self, offset: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.read_bar(0, offset, &mut bytes[..length]);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, value: u64, length: usize) {
        self.function.write_bar(0, offset, &value.to_le_bytes()[..length]);
    }

    fn reset(&mut self) {
        self.write(STATUS, 0, 1);
        assert_eq!(self.read(STATUS, 1), 0, "status after a reset");
        self.check_stopped();
    }

    fn pause_or_resume(&mut self) {
        self.paused = !self.paused;
        if self.paused {
            self.function.pause();
            self.check_stopped();
        } else {
            self.function.resume();
        }
    }

    /// Has the reactor do what is to be done.
    fn serve(&self) {
        for _ in 0..ROUNDS {
            self.rung.store(false, Ordering::Relaxed);
            self.bell.write(1).expect("a bell");
            self.reactor.run(|| !self.rung.load(Ordering::Relaxed)).expect("it waits");
        }
    }

    fn memory(&self) -> Vec<Vec<u8>> {
        let read = |(start, size)| {
            let mut bytes = vec![0; size as usize];
            self.host.memory.space().read_slice(&mut bytes, GuestAddress(start)).expect("mapped");
            bytes
        };
        REGIONS.map(read).into()
    }

    /// It touches no memory.
    fn check_stopped(&self) {
        let before = self.memory();
        for queue in 0..self.queues {
            self.write(NOTIFY + 4 * u64::from(queue), queue.into(), 2);
        }
        for port in &self.ports {
            let _ = port.input(b"input");
        }
        self.serve();
        assert!(self.memory() == before, "memory was written after the device was stopped");
    }

    /// What virtio says of the registers (4.1.4.3).
    fn check(&self) {
        let size = self.read(QUEUE_SIZE, 2);
        assert!(size == 0 || size.is_power_of_two(), "a queue of {size}");
        assert!(self.read(QUEUE_ENABLE, 2) <= 1);
        assert_eq!(self.read(0x12, 2), u64::from(self.queues));
        let accepted = self.read(0x0c, 4);
        if self.read(STATUS, 1) as u8 & FEATURES_OK != 0 {
            self.write(0x0c, !accepted, 4);
            assert_eq!(self.read(0x0c, 4), accepted, "features after FEATURES_OK");
        }
        // The last vector's mask is the only bit of its word; behind the table there is nothing.
        let vectors = u64::from(self.queues) + 1;
        assert!(self.read(0x4000 + 16 * (vectors - 1) + 12, 4) <= 1);
        assert_eq!(self.read(0x4000 + 16 * vectors, 8), 0);
    }

    /// As a driver does that keeps to the rules, or nearly.
    fn bring_up(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        self.write(STATUS, 0, 1);
        self.write(STATUS, 1, 1);
        self.write(STATUS, 3, 1);
        let offered = (0..2).fold(0, |all, half| {
            self.write(0x00, half, 4);
            all | self.read(0x04, 4) << (32 * half)
        });
        let wanted = match input.int_in_range(0..=7)? {
            0 => input.arbitrary()?,
            1 | 2 => offered & input.arbitrary::<u64>()? | VERSION_1,
            _ => offered,
        };
        for half in 0..2 {
            self.write(0x08, half, 4);
            self.write(0x0c, wanted >> (32 * half) & 0xffff_ffff, 4);
        }
        self.write(STATUS, 11, 1);
        for queue in 0..self.queues {
            self.write(0x16, queue.into(), 2);
            self.write(QUEUE_SIZE, SIZE.into(), 2);
            self.write(0x1a, queue.into(), 2);
            let base = rings(queue);
            for (register, offset) in [(0x20, 0), (0x28, AVAILABLE), (0x30, USED)] {
                let odd = input.ratio(1, 32)?;
                let place = if odd { input.arbitrary()? } else { base + offset };
                self.write(register, place, if odd { 4 } else { 8 });
            }
            self.write(QUEUE_ENABLE, u64::from(!input.ratio(1, 16)?), 2);
        }
        self.write(STATUS, 15, 1);
        Ok(())
    }

    /// The configuration space, where the window into the BAR is.
    fn config(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let length = *input.choose(&[1, 2, 4])?;
        let offset = match input.int_in_range(0..=3)? {
            0 => 4 * input.int_in_range(0..=63)?,
            // virtio_pci_cfg_cap, behind four capabilities: its BAR, offset, length, data.
            _ => 0x84 + 4 * input.int_in_range(0..=5)?,
        };
        let offset = offset + length * input.int_in_range(0..=4 / length - 1)?;
        let mut bytes: [u8; 4] = input.arbitrary()?;
        if input.arbitrary()? {
            self.function.write_config(offset, &bytes[..length]);
        } else {
            self.function.read_config(offset, &mut bytes[..length]);
        }
        Ok(())
    }

    fn enable_messages(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let mut at = 0;
        self.function.with_config(&mut |config| {
            at = usize::from(config.get::<1>(0x34)[0]);
            for _ in 0..48 {
                let [id, next] = config.get(at);
                if id == 0x11 || next == 0 {
                    break;
                }
                at = next.into();
            }
        });
        let control = [0, 1 << 15, 1 << 15, 3 << 14][input.choose_index(4)?];
        self.function.write_config(at + 2, &u16::to_le_bytes(control));
        for vector in 0..u64::from(self.queues) + 1 {
            let entry = 0x4000 + 16 * vector;
            self.write(entry, 0xfee0_0000, 8);
            self.write(entry + 8, 0x41, 4);
            self.write(entry + 12, input.int_in_range(0..=1)?, 4);
        }
        Ok(())
    }

    /// Any register.
    fn register(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let start = *input.choose(&STARTS)?;
        let within = if input.ratio(1, 8)? { 0xffff } else { 0x3f };
        let offset = start + input.int_in_range(0..=within)?;
        let length = *input.choose(&[1, 2, 4, 8])?;
        if input.arbitrary()? {
            self.write(offset, input.arbitrary()?, length);
        } else {
            self.read(offset, length);
        }
        Ok(())
    }

    /// A register of the common configuration, by its own width.
    fn common(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let registers = [
            (0x00, 4),
            (0x08, 4),
            (0x0c, 4),
            (0x10, 2),
            (0x14, 1),
            (0x16, 2),
            (0x18, 2),
            (0x1a, 2),
            (0x1c, 2),
            (0x20, 4),
            (0x24, 4),
            (0x28, 8),
            (0x30, 8),
        ];
        let (offset, length) = *input.choose(&registers)?;
        let value =
            if input.arbitrary()? { input.int_in_range(0..=15)? } else { input.arbitrary()? };
        self.write(offset, value, length);
        Ok(())
    }

    fn host_end(&self, input: &mut Unstructured<'_>) -> Result<()> {
        self.end.0.store(input.int_in_range(0..=0x2000)?, Ordering::Relaxed);
        if self.ports.is_empty() {
            return Ok(());
        }
        let port = input.choose(&self.ports)?;
        match input.int_in_range(0..=3)? {
            0 => port.set_open(input.arbitrary()?),
            1 => port.resize(input.arbitrary()?, input.arbitrary()?),
            2 => port.room(),
            _ => {
                let wanted = port.wanted();
                let bytes = vec![0x41; input.int_in_range(0..=0x1000)?];
                let taken = port.input(&bytes);
                assert!(taken >= wanted.min(bytes.len()), "{taken} taken, {wanted} wanted");
                assert!(taken <= bytes.len());
            }
        }
        Ok(())
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is outside memory is no driver's to write.
        let _ = self.host.memory.space().write_slice(bytes, GuestAddress(address));
    }

    fn poke(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let address = input.int_in_range(0..=0x1_4000)?;
        let bytes: [u8; 8] = input.arbitrary()?;
        self.put(address, &bytes);
        Ok(())
    }

    fn queue(&self, input: &mut Unstructured<'_>) -> Result<u16> {
        input.int_in_range(0..=self.queues - 1)
    }

    /// Descriptors, and some of them offered.
    fn chains(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let queue = self.queue(input)?;
        let base = rings(queue);
        for _ in 0..input.int_in_range(1..=4)? {
            let index = input.int_in_range(0..=SIZE - 1)?;
            let address: u64 = match input.int_in_range(0..=7)? {
                0 => input.arbitrary()?,
                1 => input.int_in_range(0x7f00..=0x1_0100)?,
                _ => 0x1_0000 + input.int_in_range(0..=0x3fff)?,
            };
            let length: u32 = match input.int_in_range(0..=7)? {
                0 => input.arbitrary()?,
                _ => input.int_in_range(0..=0x400)?,
            };
            let (flags, next) = (input.int_in_range(0..=7u16)?, input.int_in_range(0..=SIZE)?);
            let rest = [flags.to_le_bytes(), next.to_le_bytes()].concat();
            let bytes = [&address.to_le_bytes()[..], &length.to_le_bytes(), &rest].concat();
            self.put(base + 16 * u64::from(index), &bytes);
            self.offer(queue, index);
        }
        if input.ratio(1, 16)? {
            self.put(base + AVAILABLE + 2, &input.arbitrary::<u16>()?.to_le_bytes());
        }
        self.kick(input)
    }

    fn offer(&self, queue: u16, head: u16) {
        let available = GuestAddress(rings(queue) + AVAILABLE + 2);
        let index: u16 = self.host.memory.space().read_obj(available).expect("mapped");
        let slot = available.0 + 2 + 2 * u64::from(index % SIZE);
        self.put(slot, &head.to_le_bytes());
        self.put(available.0, &index.wrapping_add(1).to_le_bytes());
    }

    /// A message from the driver of a console with ports (5.3.6.2).
    fn control(&self, input: &mut Unstructured<'_>) -> Result<()> {
        const FROM_DRIVER: u16 = 3;
        if self.queues <= FROM_DRIVER {
            return Ok(());
        }
        let id =
            if input.ratio(1, 8)? { input.arbitrary()? } else { input.int_in_range(0..=2u32)? };
        let (event, value) = (input.int_in_range(0..=8u16)?, input.int_in_range(0..=2u16)?);
        let rest = [event.to_le_bytes(), value.to_le_bytes()].concat();
        self.put(0x1_3000, &[&id.to_le_bytes()[..], &rest].concat());
        let length = if input.ratio(1, 8)? { input.int_in_range(0..=16)? } else { 8u32 };
        let descriptor = [&0x1_3000u64.to_le_bytes()[..], &length.to_le_bytes(), &[0; 4]].concat();
        self.put(rings(FROM_DRIVER), &descriptor);
        self.offer(FROM_DRIVER, 0);
        self.write(NOTIFY + 4 * u64::from(FROM_DRIVER), FROM_DRIVER.into(), 2);
        self.serve();
        Ok(())
    }

    fn kick(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let queue = self.queue(input)?;
        self.write(NOTIFY + 4 * u64::from(queue), queue.into(), 2);
        self.serve();
        Ok(())
    }
}

/// Where a queue has its rings: all fit below the gap.
fn rings(queue: u16) -> u64 {
    RINGS * u64::from(queue)
}
