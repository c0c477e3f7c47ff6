use super::*;
use crate::machine::power::PowerEvent;
use crate::machine::reset::ResetRegister;

/// A function with BARs of 64 KiB, which read as its number and theirs.
struct Numbered(u8, Mutex<Config>);

impl Numbered {
    fn new(number: u8) -> Arc<Self> {
        Self::with_bars(number, 1)
    }

    fn with_bars(number: u8, bars: usize) -> Arc<Self> {
        let mut config = Config::new(Identity::default());
        for bar in 0..bars {
            config.add_bar(bar, Bar { space: Space::Memory32, size: 0x1_0000 });
        }
        Arc::new(Self(number, Mutex::new(config)))
    }
}

impl Function for Numbered {
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config)) {
        use_it(&mut self.1.lock().unwrap());
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.with_config(&mut |config| config.write(offset, data));
    }

    fn read_bar(&self, bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(self.0 + 0x10 * bar as u8);
    }

    fn write_bar(&self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn moved(&self, _bar: usize, _address: Option<u64>) {}

    fn reset(&self) {}
}

fn bus(model: Model) -> (Arc<Host>, Arc<Buses>) {
    let buses = Arc::new(Buses::default());
    let reset = Arc::new(ResetRegister::new(Arc::new(|_: PowerEvent| {})));
    (Host::new(Arc::clone(&buses), model, (1 << 40, 2 << 40), reset).unwrap(), buses)
}

fn set_bar(host: &Host, place: Place, address: u32) {
    host.write(place, 0x10, &address.to_le_bytes());
}

fn who(buses: &Buses, address: u64) -> u8 {
    let mut data = [0];
    buses.memory.read(address, &mut data);
    data[0]
}

/// Firmware gives out addresses one function after the other, without switching them off.
#[test]
fn a_bar_answers_when_another_has_left_its_place() {
    let (host, buses) = bus(Model::Generic);
    let (one, two) = (Place::new(1, 0).unwrap(), Place::new(2, 0).unwrap());
    host.add(one, Numbered::new(1), Plug::Cold).unwrap();
    host.add(two, Numbered::new(2), Plug::Cold).unwrap();
    assert_eq!((who(&buses, 0xc000_0000), who(&buses, 0xc001_0000)), (1, 2));
    set_bar(&host, one, 0xc001_0000);
    assert_eq!(who(&buses, 0xc001_0000), 2, "the other is still there");
    set_bar(&host, two, 0xc002_0000);
    assert_eq!((who(&buses, 0xc001_0000), who(&buses, 0xc002_0000)), (1, 2));
    assert_eq!(who(&buses, 0xc000_0000), 0xff);
}

#[test]
fn a_bar_answers_when_another_of_its_function_has_left_its_place() {
    let (host, buses) = bus(Model::Generic);
    let place = Place::new(1, 0).unwrap();
    host.add(place, Numbered::with_bars(1, 2), Plug::Cold).unwrap();
    set_bar(&host, place, 0xc001_0000);
    assert_eq!(who(&buses, 0xc001_0000), 0x11, "the second is still there");
    host.write(place, 0x14, &0xc005_0000u32.to_le_bytes());
    assert_eq!((who(&buses, 0xc001_0000), who(&buses, 0xc005_0000)), (0x01, 0x11));
}

#[test]
fn a_bar_answers_when_the_function_in_its_place_is_taken_away() {
    let (host, buses) = bus(Model::Generic);
    let (one, two) = (Place::new(1, 0).unwrap(), Place::new(2, 0).unwrap());
    host.add(one, Numbered::new(1), Plug::Cold).unwrap();
    host.add(two, Numbered::new(2), Plug::Cold).unwrap();
    set_bar(&host, one, 0xc001_0000);
    assert!(host.remove(two).is_some());
    assert_eq!(who(&buses, 0xc001_0000), 1);
}

/// SeaBIOS (src/fw/shadow.c) copies itself if the first register has no 0x10, and writes all
/// seven.
#[test]
fn firmware_finds_registers_for_its_memory() {
    let (host, _) = bus(Model::I440fx);
    let place = Place::new(0, 0).unwrap();
    let mut id = [0; 4];
    host.read(place, 0, &mut id);
    assert_eq!(id, [0x86, 0x80, 0x37, 0x12]);
    let mut map = [0];
    host.read(place, 0x59, &mut map);
    assert_eq!(map, [0]);
    host.write(place, 0x59, &[0x30]);
    host.read(place, 0x59, &mut map);
    assert_eq!(map, [0x30]);
    host.reset();
    host.read(place, 0x59, &mut map);
    assert_eq!(map, [0]);
}
