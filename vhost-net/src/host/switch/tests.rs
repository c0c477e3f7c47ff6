use super::*;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

#[test]
fn an_address_is_where_it_was_seen_last() {
    let switch = Switch::new(3, 1).unwrap();
    assert_eq!(switch.port_of(mac(1)), None);
    switch.learn(mac(1), 0);
    assert_eq!(switch.port_of(mac(1)), Some(0));
    switch.learn(mac(1), 2);
    assert_eq!(switch.port_of(mac(1)), Some(2));
    switch.learn(Mac::BROADCAST, 1);
    assert_eq!(switch.port_of(Mac::BROADCAST), None);
}

#[test]
fn a_guest_that_makes_up_addresses_fills_its_own_share() {
    let switch = Switch::new(2, 1).unwrap();
    switch.learn(mac(1), 1);
    for number in 0..3000u16 {
        let [high, low] = number.to_be_bytes();
        switch.learn(Mac([6, 0, 0, 0, high, low]), 0);
    }
    assert_eq!(switch.learnt.read().unwrap().len(), ADDRESSES + 1);
    switch.learn(mac(2), 1);
    assert_eq!(switch.port_of(mac(2)), Some(1));
}

#[test]
fn what_a_guest_accepts_is_told_in_bits() {
    let switch = Switch::new(1, 1).unwrap();
    let accepted = Accepted { checksum: true, tso6: true, uso: true, ..Accepted::default() };
    switch.set_accepted(0, &accepted);
    assert_eq!(switch.ports[0].accepted(), accepted);
}

#[test]
fn a_frame_is_finished_for_who_takes_nothing_unfinished() {
    let mut frame = vec![0; 40];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    let place = crate::frame::offload::Checksum { start: 34, offset: 4 };
    let offload = Offload { checksum: Some(place), segmentation: None };
    let mut seen = Vec::new();
    let take = |frame: &[u8]| {
        seen.push(frame.to_vec());
        true
    };
    assert!(finished(&mut frame, offload, &mut Vec::new(), take));
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0][38..], [0xff, 0xff]);
}
