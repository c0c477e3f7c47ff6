use proptest::prelude::*;

use super::*;
use crate::machine::line::tests::Probe;

fn rtc(reactor: &Reactor, memory: Memory) -> (Rtc, Arc<Probe>) {
    let line = Arc::new(Probe::default());
    (Rtc::new(reactor, Arc::clone(&line) as Arc<dyn Line>, memory).unwrap(), line)
}

fn read(rtc: &Rtc, index: u8) -> u8 {
    rtc.write(0, &[index]);
    let mut value = [0xff];
    rtc.read(1, &mut value);
    value[0]
}

#[test]
fn firmware_finds_the_memory_sizes() {
    let reactor = Reactor::new().unwrap();
    let (rtc, _) = rtc(&reactor, Memory { below: 3 << 30, above: 5 << 30 });
    let le = |indices: [u8; 2]| u16::from_le_bytes(indices.map(|index| read(&rtc, index)));
    assert_eq!([le([0x15, 0x16]), le([0x17, 0x18]), le([0x30, 0x31])], [640, 0xffff, 0xffff]);
    assert_eq!(u32::from(le([0x34, 0x35])), ((3 << 30) - (16 << 20)) / 65536);
    assert_eq!([0x5b, 0x5c, 0x5d].map(|index| read(&rtc, index)), [0x00, 0x40, 0x01]);
}

#[test]
fn the_index_is_masked_and_cannot_be_read() {
    let reactor = Reactor::new().unwrap();
    let (rtc, _) = rtc(&reactor, Memory::default());
    rtc.write(0, &[0x8f, 0x5a]);
    let mut both = [0xff; 2];
    rtc.read(0, &mut both);
    assert_eq!(both, [0xff, 0x5a]);
    assert_eq!(read(&rtc, 0x0f), 0x5a);
}

#[test]
fn a_guest_that_wants_periodic_interrupts_gets_one_after_the_other() {
    let reactor = Reactor::new().unwrap();
    let (rtc, line) = rtc(&reactor, Memory::default());
    rtc.write(0, &[0x0b, 0x42]);
    for _ in 0..3 {
        reactor.run(|| !line.is_high()).unwrap();
        assert_eq!(read(&rtc, 0x0c) & 0xc0, 0xc0);
    }
    rtc.reset();
    assert!(!line.is_high());
}

proptest! {
    #[test]
    fn no_access_panics(accesses in prop::collection::vec((0..8u64, 1..9usize, any::<u64>()), 0..64)) {
        let reactor = Reactor::new().unwrap();
        let (rtc, _) = rtc(&reactor, Memory::default());
        for (offset, width, value) in accesses {
            let mut data = value.to_le_bytes();
            rtc.write(offset, &data[..width]);
            rtc.read(offset, &mut data[..width]);
        }
    }
}
