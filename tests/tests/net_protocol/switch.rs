//! A switch: guests among each other, without any network of the host's.

use std::time::Duration;

use lab::driver::{NET_HEADER, NetDriver, NetOptions};
use lab::net::{Net, Testpmd};
use lab::{Error, Version};

use super::common::{SECOND, addressed, noise};

const NOTHING: [u8; NET_HEADER] = [0; NET_HEADER];
const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 3;
const ALL: u8 = 0xff;

fn three() -> Result<(Net, [NetDriver; 3]), Error> {
    let net = Net::switch(3)?.arg("--queues").arg("1").start()?;
    let connect = |port, packed| {
        let mut options = NetOptions::default();
        options.ring.packed = packed;
        NetDriver::connect(net.port(port), options)
    };
    let drivers = [connect(0, false)?, connect(1, true)?, connect(2, true)?];
    Ok((net, drivers))
}

fn next(driver: &mut NetDriver) -> Result<Option<Vec<u8>>, Error> {
    Ok(driver.pair().receive(20 * SECOND)?.map(|(_, frame)| frame))
}

/// All that comes until nothing does for a while.
fn rest(driver: &mut NetDriver) -> Result<Vec<Vec<u8>>, Error> {
    let mut frames = Vec::new();
    while let Some((_, frame)) = driver.pair().receive(SECOND / 5)? {
        frames.push(frame);
    }
    Ok(frames)
}

fn silent(driver: &mut NetDriver) -> Result<bool, Error> {
    Ok(driver.pair().receive(Duration::from_millis(50))?.is_none())
}

#[test]
fn a_frame_goes_to_all_until_its_destination_is_known() -> Result<(), Error> {
    let (_net, [mut a, mut b, mut c]) = three()?;
    let broadcast = addressed(ALL, A, 100);
    a.pair().send(NOTHING, &broadcast)?;
    assert_eq!(next(&mut b)?.as_ref(), Some(&broadcast));
    assert_eq!(next(&mut c)?.as_ref(), Some(&broadcast));
    assert!(silent(&mut a)?, "not to who has sent it");

    let unknown = addressed(C, A, 200);
    a.pair().send(NOTHING, &unknown)?;
    assert_eq!(next(&mut b)?.as_ref(), Some(&unknown));
    assert_eq!(next(&mut c)?.as_ref(), Some(&unknown));

    let answer = addressed(A, C, 300);
    c.pair().send(NOTHING, &answer)?;
    assert_eq!(next(&mut a)?, Some(answer));
    assert!(silent(&mut b)?, "A was learnt");
    let known = addressed(C, A, 400);
    a.pair().send(NOTHING, &known)?;
    assert_eq!(next(&mut c)?, Some(known));
    assert!(silent(&mut b)?, "C was learnt");
    a.pair().flush()
}

#[test]
fn segments_are_cut_for_who_does_not_take_them() -> Result<(), Error> {
    let net = Net::switch(2)?.start()?;
    let offloads = NetOptions {
        features: NetOptions::MRG_RXBUF | NetOptions::OFFLOADS,
        ..NetOptions::default()
    };
    let mut a = NetDriver::connect(net.port(0), offloads)?;
    let mut b = NetDriver::connect(net.port(1), NetOptions::default())?;
    let payload: Vec<u8> = noise(7).take(60000).collect();
    let (header, frame) = lab::net::Header::tcp(&payload, 1448)?;
    let [flags, kind] = [header.flags, header.gso_type];
    let [size_low, size_high] = 1448u16.to_le_bytes();
    let bytes = [flags, kind, 54, 0, size_low, size_high, 34, 0, 16, 0, 0, 0];
    // Nobody has answered yet: to all.
    a.pair().send(bytes, &frame)?;
    let mut received: Vec<u8> = Vec::new();
    while received.len() < payload.len() {
        let (header, segment) = b.pair().receive(20 * SECOND)?.expect("a segment");
        assert_eq!(header[..2], [0, 0]);
        assert!(segment.len() <= 54 + 1448);
        received.extend(&segment[54..]);
    }
    assert!(received == payload);

    // Who takes them gets them whole, in many buffers.
    drop(b);
    let mut b = NetDriver::connect(net.port(1), offloads)?;
    let mut swapped = frame.clone();
    swapped[..6].copy_from_slice(&frame[6..12]);
    swapped[6..12].copy_from_slice(&frame[..6]);
    b.pair().send(NOTHING, &swapped[..60])?;
    assert!(next(&mut a)?.is_some());
    a.pair().send(bytes, &frame)?;
    let (header, whole) = b.pair().receive(20 * SECOND)?.expect("a frame");
    assert_eq!((header[1], whole == frame), (1, true));
    Ok(())
}

#[test]
fn a_guest_that_takes_nothing_keeps_nobody_waiting() -> Result<(), Error> {
    let (net, [mut a, mut b, mut c]) = three()?;
    for (driver, mac) in [(&mut b, B), (&mut c, C)] {
        driver.pair().send(NOTHING, &addressed(ALL, mac, 60))?;
    }
    rest(&mut a)?;
    rest(&mut b)?;
    // B's buffers are used up, and it gives no new ones.
    let numbered = |number: u16| {
        let mut frame = addressed(B, A, 60);
        frame[14..16].copy_from_slice(&number.to_be_bytes());
        frame
    };
    for number in 0..3000 {
        a.pair().send(NOTHING, &numbered(number))?;
    }
    let to_c = addressed(C, A, 1000);
    a.pair().send(NOTHING, &to_c)?;
    a.pair().flush()?;
    let received =
        std::iter::from_fn(|| next(&mut c).transpose()).collect::<Result<Vec<_>, _>>()?;
    assert!(received.contains(&to_c));
    let stats = net.ctl(&["stats"])?;
    let lost = &stats[1]["pairs"][0]["receive"]["dropped"]["no-room"];
    assert!(lost.as_u64() > Some(1000), "{stats}");

    // What came while there was room for it is there for a guest that is only late.
    let first = rest(&mut b)?;
    assert!(first.len() > 1024, "{}", first.len());
    for (number, frame) in (0..).zip(&first) {
        assert_eq!(frame, &numbered(number));
    }
    a.pair().send(NOTHING, &numbered(3000))?;
    assert_eq!(next(&mut b)?, Some(numbered(3000)));
    Ok(())
}

#[test]
fn a_guest_that_goes_leaves_nothing_behind() -> Result<(), Error> {
    let (net, [mut a, mut b, _c]) = three()?;
    b.pair().send(NOTHING, &addressed(ALL, B, 60))?;
    assert!(next(&mut a)?.is_some());
    for round in 0..8 {
        for number in 0..40 {
            a.pair().send(NOTHING, &addressed(B, A, 60 + number))?;
        }
        drop(b);
        a.pair().flush()?;
        let mut options = NetOptions::default();
        options.ring.packed = round % 2 == 0;
        b = NetDriver::connect(net.port(1), options)?;
        let frame = addressed(B, A, 700 + round);
        // The new one may not take frames yet.
        while !rest(&mut b)?.contains(&frame) {
            a.pair().send(NOTHING, &frame)?;
        }
    }
    Ok(())
}

#[test]
fn two_of_dpdks_drivers_talk_to_each_other() -> Result<(), Error> {
    let net = Net::switch(3)?.arg("--queues").arg("4").start()?;
    let mut echo = Testpmd::at(net.port(1)).version(Version::Sid).queues(4).launch()?;
    echo.start()?;
    let mut a = NetDriver::connect(net.port(0), NetOptions::default())?;
    for size in (60..1500).step_by(33) {
        let frame = addressed(B, A, size);
        a.pair().send(NOTHING, &frame)?;
        let back = a.pair().receive(20 * SECOND)?.expect("a frame").1;
        assert!(back[12..] == frame[12..], "{size}");
    }
    let mut flow = Testpmd::at(net.port(2)).mode("flowgen").launch()?;
    flow.start()?;
    std::thread::sleep(Duration::from_millis(500));
    flow.command("stop")?;
    assert!(echo.statistics()?.received > 1000);
    flow.quit()?;
    echo.quit()
}
