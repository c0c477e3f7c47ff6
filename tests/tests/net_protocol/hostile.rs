//! A driver that breaks the rules: what it sends is dropped and counted, and all else goes on.

use lab::Error;
use lab::driver::{NET_HEADER, NetDriver, NetOptions};
use lab::net::Net;
use vmm_frontend::frontend::ring::Buffer;

use super::common::{SECOND, addressed, dropped};

const NOTHING: [u8; NET_HEADER] = [0; NET_HEADER];

/// Two guests; each knows where the other is.
fn pair(options: NetOptions) -> Result<(Net, NetDriver, NetDriver), Error> {
    let net = Net::switch(2)?.arg("--mtu").arg("9000").start()?;
    let mut a = NetDriver::connect(net.port(0), options)?;
    let mut b = NetDriver::connect(net.port(1), options)?;
    works(&mut a, &mut b)?;
    Ok((net, a, b))
}

#[track_caller]
fn works(a: &mut NetDriver, b: &mut NetDriver) -> Result<(), Error> {
    for size in [60, 1514] {
        let frame = addressed(2, 1, size);
        a.pair().send(NOTHING, &frame)?;
        assert!(b.pair().receive(20 * SECOND)?.expect("a frame").1 == frame);
        let frame = addressed(1, 2, size);
        b.pair().send(NOTHING, &frame)?;
        assert!(a.pair().receive(20 * SECOND)?.expect("a frame").1 == frame);
    }
    Ok(())
}

#[test]
fn wrong_headers_are_dropped_and_counted() -> Result<(), Error> {
    let features = NetOptions::MRG_RXBUF | NetOptions::OFFLOADS;
    let (net, mut a, mut b) = pair(NetOptions { features, ..NetOptions::default() })?;
    let header = |flags, kind, size: u16, start: u16, offset: u16| {
        let ([a, b], [c, d], [e, f]) =
            (size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
        [flags, kind, 0xff, 0xff, a, b, c, d, e, f, 0xff, 0xff]
    };
    let wrong = [
        header(1, 0, 0, 99, 0),
        header(1, 0, 0, 0xffff, 0xffff),
        header(1, 1, 0, 34, 16),
        header(0, 1, 1448, 34, 16),
        header(1, 2, 1448, 34, 16),
        header(1, 3, 1448, 34, 6),
        header(1, 5, 1448, 34, 6),
        header(1, 0x81, 1448, 34, 16),
    ];
    for header in wrong {
        a.pair().send(header, &addressed(2, 1, 100))?;
    }
    a.pair().send(NOTHING, &[0xff; 13])?;
    a.pair().flush()?;
    assert_eq!(dropped(&net, "transmit", "malformed")?, wrong.len() as u64 + 1);
    works(&mut a, &mut b)?;

    // Segments of one byte each, of headers that are none, and longer than the MTU.
    a.pair().send(header(1, 1, 1, 34, 16), &addressed(2, 1, 60000))?;
    a.pair().send(header(1, 1, 9500, 34, 16), &addressed(2, 1, 60000))?;
    a.pair().send(NOTHING, &addressed(2, 1, 9100))?;
    a.pair().send(NOTHING, &addressed(2, 1, 66000))?;
    a.pair().flush()?;
    assert_eq!(dropped(&net, "transmit", "too-long")?, 3);
    while b.pair().receive(SECOND / 10)?.is_some() {}
    works(&mut a, &mut b)
}

#[test]
fn a_header_may_be_split_over_descriptors() -> Result<(), Error> {
    let (_net, mut a, mut b) = pair(NetOptions::default())?;
    let frame = addressed(2, 1, 200);
    let slots = &mut a.pair().transmit;
    let slot = slots.claim().expect("a slot");
    let place = slots.place(slot);
    slots.write(place.data, &[&NOTHING[..], &frame].concat())?;
    let pieces: Vec<Buffer> =
        (0..17).map(|at| Buffer { address: place.data + at, length: 1 }).collect();
    let rest = Buffer { address: place.data + 17, length: (NET_HEADER + 200 - 17) as u32 };
    slots.add(slot, &[&pieces[..], &[rest]].concat(), &[])?;
    slots.publish()?;
    assert!(b.pair().receive(20 * SECOND)?.expect("a frame").1 == frame);
    Ok(())
}

#[test]
fn chains_that_are_too_short_or_the_wrong_way_round() -> Result<(), Error> {
    let (net, mut a, mut b) = pair(NetOptions::default())?;
    // Nothing to read, or not even a header.
    for length in [0, 1, 11, 12, 25] {
        let slots = &mut a.pair().transmit;
        let slot = slots.claim().expect("a slot");
        let buffer = Buffer { address: slots.place(slot).data, length };
        match length {
            0 => slots.add(slot, &[], &[Buffer { length: 100, ..buffer }])?,
            _ => slots.add(slot, &[buffer], &[])?,
        }
        slots.publish()?;
        slots.wait()?;
        slots.release(slot);
    }
    assert_eq!(dropped(&net, "transmit", "malformed")?, 5);
    works(&mut a, &mut b)?;

    // No room for a header: used up at once, and not for a frame.
    let options = NetOptions { buffer: 11, ..NetOptions::default() };
    let mut small = NetDriver::connect(net.port(1), options).map(|driver| (driver, 0));
    if let Ok((driver, _)) = &mut small {
        a.pair().send(NOTHING, &addressed(2, 1, 100))?;
        a.pair().flush()?;
        let (_, written) = driver.pair().receive.wait()?;
        assert_eq!(written, 0);
    }
    Ok(())
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_the_next_one_is_not() -> Result<(), Error> {
    let (net, a, b) = pair(NetOptions::default())?;
    drop((a, b));
    let plain = NetOptions { features: 0, buffer: 1526, ..NetOptions::default() };
    let mut a = NetDriver::connect(net.port(0), plain)?;
    let mut b = NetDriver::connect(net.port(1), plain)?;
    b.pair().send(NOTHING, &addressed(1, 2, 1515))?;
    works(&mut a, &mut b)?;
    assert_eq!(dropped(&net, "receive", "too-long")?, 1);
    Ok(())
}

#[test]
fn buffers_of_a_few_bytes_are_merged() -> Result<(), Error> {
    // The first has room for the header alone.
    for buffer in [12, 13] {
        let options = NetOptions { buffer, depth: 128, ..NetOptions::default() };
        let (_net, mut a, mut b) = pair(options)?;
        for size in [14, 15, 500, 1300] {
            let frame = addressed(2, 1, size);
            a.pair().send(NOTHING, &frame)?;
            assert!(b.pair().receive(20 * SECOND)?.expect("a frame").1 == frame, "{size}");
        }
    }
    Ok(())
}

#[test]
fn a_ring_that_never_ends_is_one_guests_own() -> Result<(), Error> {
    let net = Net::switch(3)?.start()?;
    let connect = |port| NetDriver::connect(net.port(port), NetOptions::default());
    let (mut a, mut b, mut c) = (connect(0)?, connect(1)?, connect(2)?);
    works(&mut a, &mut b)?;
    // More than it holds, of what the device has already.
    let ring = &mut c.pair().transmit.ring;
    ring.show_raw(300);
    ring.kick().expect("an event");
    assert!(ring.wait_broken(20 * SECOND).expect("an event"));
    works(&mut a, &mut b)?;
    drop(c);
    let mut c = connect(2)?;
    c.pair().send(NOTHING, &addressed(1, 3, 100))?;
    assert!(a.pair().receive(20 * SECOND)?.is_some());
    Ok(())
}

#[test]
fn a_second_vmm_waits_for_the_first() -> Result<(), Error> {
    let (net, mut a, mut b) = pair(NetOptions::default())?;
    let second =
        std::os::unix::net::UnixStream::connect(net.port(0)).expect("it is accepted later");
    works(&mut a, &mut b)?;
    drop(second);
    works(&mut a, &mut b)
}
