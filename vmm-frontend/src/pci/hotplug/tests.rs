use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::machine::vcpu::Buses;
use crate::pci::config::{Bar, Config, Identity, Space};
use crate::pci::host::Model;

/// A function with a BAR, which counts its resets.
struct Fake {
    config: Mutex<Config>,
    resets: Arc<AtomicU32>,
}

impl Function for Fake {
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config)) {
        use_it(&mut self.config.lock().unwrap());
    }
    fn write_config(&self, offset: usize, data: &[u8]) {
        self.with_config(&mut |config| config.write(offset, data));
    }
    fn read_bar(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn write_bar(&self, _bar: usize, _offset: u64, _data: &[u8]) {}
    fn moved(&self, _bar: usize, _address: Option<u64>) {}
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

/// A register that does nothing.
struct Nothing;

impl Registers for Nothing {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}
    fn write(&self, _offset: u64, _data: &[u8]) {}
}

struct Fixture {
    buses: Arc<Buses>,
    slots: Arc<Slots>,
    notified: Arc<AtomicU32>,
    resets: Arc<AtomicU32>,
    removed: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    fn new() -> Self {
        let buses = Arc::new(Buses::default());
        let host =
            Host::new(Arc::clone(&buses), Model::Generic, (1 << 32, 1 << 33), Arc::new(Nothing))
                .unwrap();
        let (notified, removed) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::default()));
        let (count, list) = (Arc::clone(&notified), Arc::clone(&removed));
        let notify = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let on_removed = move |one: Removed| {
            let list: &Mutex<Vec<String>> = &list;
            list.lock().unwrap().push(one.name.to_string());
        };
        let slots = Slots::new(host, Box::new(notify), Box::new(on_removed));
        slots.add_to(&buses.ports).unwrap();
        Self { buses, slots, notified, resets: Arc::default(), removed }
    }

    fn add(&self, id: Option<&str>, plug: Plug) -> Result<u8, SlotError> {
        let place = self.slots.add(id, plug, |_| {
            let mut config = Config::new(Identity { id: (0x1234, 1), ..Identity::default() });
            config.add_bar(0, Bar { space: Space::Memory32, size: 0x1000 });
            let resets = Arc::clone(&self.resets);
            Ok::<_, SlotError>(Arc::new(Fake { config: Mutex::new(config), resets }))
        })?;
        Ok(place.device())
    }

    fn port(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.buses.ports.read(0x610 + offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        self.buses.ports.write(0x610 + offset, &value.to_le_bytes());
    }

    /// A register of configuration space, by mechanism #1.
    fn config(&self, device: u8, register: u32) -> u32 {
        let address = 1 << 31 | u32::from(device) << 11 | register;
        self.buses.ports.write(0xcf8, &address.to_le_bytes());
        let mut data = [0; 4];
        self.buses.ports.read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    fn removed(&self) -> Vec<String> {
        self.removed.lock().unwrap().clone()
    }
}

#[test]
fn a_device_comes_and_the_guest_lets_it_go() {
    let fixture = Fixture::new();
    assert_eq!(fixture.add(None, Plug::Cold).unwrap(), 1);
    assert_eq!(fixture.notified.load(Ordering::Relaxed), 0);
    assert_eq!(fixture.add(Some("disk"), Plug::Hot).unwrap(), 2);
    assert_eq!((fixture.notified.load(Ordering::Relaxed), fixture.port(0)), (1, 1 << 2));
    assert_eq!(fixture.config(2, 0), 0x0001_1234);
    assert_ne!(fixture.config(1, 0x10), 0, "its BAR has an address");
    assert_eq!(fixture.config(2, 0x10), 0, "who comes later gets it from the guest");

    fixture.slots.ask("disk").unwrap();
    assert_eq!((fixture.notified.load(Ordering::Relaxed), fixture.port(4)), (2, 1 << 2));
    assert_eq!(fixture.config(2, 0), 0x0001_1234, "it is there until the guest lets it go");
    fixture.write(8, 1 << 2);
    assert_eq!(fixture.config(2, 0), 0xffff_ffff);
    assert_eq!(fixture.removed(), ["/machine/peripheral/disk"]);
    assert_eq!(fixture.resets.load(Ordering::Relaxed), 1, "it does nothing any more");
    assert!(matches!(fixture.slots.ask("disk"), Err(SlotError::NotFound(_))));
    assert_eq!(fixture.add(Some("disk"), Plug::Hot).unwrap(), 2, "its slot and its name are free");
}

#[test]
fn devices_are_named_once_each() {
    let fixture = Fixture::new();
    for number in 0..2 {
        fixture.add(None, Plug::Cold).unwrap();
        assert_eq!(fixture.slots.name(number + 1), Some(Name::Number(number.into())));
    }
    fixture.add(Some("x"), Plug::Cold).unwrap();
    assert!(matches!(fixture.add(Some("x"), Plug::Hot), Err(SlotError::Duplicate(_))));
    for name in ["y", "", "/machine/peripheral/y", "/machine/peripheral-anon/device[2]"] {
        assert!(fixture.slots.ask(name).is_err(), "{name}");
    }
    for name in ["x", "/machine/peripheral/x", "/machine/peripheral-anon/device[0]"] {
        fixture.slots.ask(name).unwrap();
    }
    assert_eq!(fixture.port(4), 1 << 1 | 1 << 3);
    fixture.slots.reset();
    assert_eq!(
        fixture.removed(),
        ["/machine/peripheral-anon/device[0]", "/machine/peripheral/x"],
        "a reset takes both"
    );
    for _ in 0..30 {
        fixture.add(None, Plug::Cold).unwrap();
    }
    assert!(matches!(fixture.add(None, Plug::Hot), Err(SlotError::Pci(PciError::Full))));
}
