use super::*;
use crate::image::open::tests::Scratch;
use crate::image::raw::CacheMode;
use proptest::prelude::*;

fn identity() -> Identity {
    Identity { product: "CD-ROM".into(), serial: None, name: "cd0".into(), wwn: None }
}

fn drive(blocks: u64) -> Arc<Cd> {
    let medium = Scratch::new(blocks * u64::from(BLOCK)).image(CacheMode::Writeback);
    let drive = Cd::new(Some(medium), identity(), ErrorPolicy::default());
    assert_eq!(send(&drive, &[0; 6]).sense[12], 0x29);
    drive
}

fn send(drive: &Cd, bytes: &[u8]) -> Reply {
    let mut cdb = [0; 32];
    cdb[..bytes.len()].copy_from_slice(bytes);
    match drive.start(&cdb, DataLengths { out: 0, room: 1 << 20 }) {
        Action::Complete(reply) => reply,
        Action::Transfer(transfer) => {
            let medium = drive.image().unwrap();
            assert!(transfer.offset + transfer.length <= medium.len());
            let mut data = vec![0; transfer.length as usize];
            let result = medium.read_at(&mut data, transfer.offset);
            Reply { data, ..drive.finish(&transfer, result) }
        }
        Action::Overrun => Reply { moved: u64::MAX, ..Reply::good() },
        other => panic!("{other:?}"),
    }
}

fn sense(reply: &Reply) -> [u8; 3] {
    assert_eq!(reply.status, 2);
    [reply.sense[2], reply.sense[12], reply.sense[13]]
}

#[test]
fn blocks_are_read() {
    let drive = drive(10);
    assert_eq!(send(&drive, &[0x25]).data, [0, 0, 0, 9, 0, 0, 8, 0]);
    assert_eq!(send(&drive, &[0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0]).data, [0; 2048]);
    assert_eq!(sense(&send(&drive, &[0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0])), [5, 0x21, 0]);
    let user_data = [0xbe, 0, 0, 0, 0, 1, 0, 0, 2, 0x10, 0, 0];
    assert_eq!(send(&drive, &user_data).data.len(), 4096);
    let raw = [0xbe, 0, 0, 0, 0, 1, 0, 0, 2, 0xf8, 0, 0];
    assert_eq!(sense(&send(&drive, &raw)), [5, 0x24, 0]);
}

#[test]
fn one_data_track_up_to_the_lead_out() {
    let drive = drive(1000);
    let toc = send(&drive, &[0x43, 0, 0, 0, 0, 0, 0, 0, 100, 0]).data;
    assert_eq!(toc[..4], [0, 18, 1, 1]);
    assert_eq!(toc[4..12], [0, 0x14, 1, 0, 0, 0, 0, 0]);
    assert_eq!(toc[12..20], [0, 0x14, 0xaa, 0, 0, 0, 0x03, 0xe8]);
    let msf = send(&drive, &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 100, 0]).data;
    assert_eq!(msf[8..12], [0, 0, 15, 25], "1,150 frames");
    assert_eq!(sense(&send(&drive, &[0x43, 0, 0, 0, 0, 0, 2, 0, 100, 0])), [5, 0x24, 0]);
}

#[test]
fn the_guest_ejects_and_loads() {
    let drive = drive(10);
    assert_eq!(send(&drive, &[0x1e, 0, 0, 0, 1]).status, 0);
    assert_eq!(sense(&send(&drive, &[0x1b, 0, 0, 0, 2])), [5, 0x53, 2]);
    send(&drive, &[0x1e, 0, 0, 0, 0]);
    assert_eq!(send(&drive, &[0x1b, 0, 0, 0, 2]).status, 0);
    assert_eq!(sense(&send(&drive, &[0])), [2, 0x3a, 2]);
    assert_eq!(send(&drive, &[0x1b, 0, 0, 0, 3]).status, 0);
    assert_eq!(sense(&send(&drive, &[0])), [6, 0x28, 0]);
    assert_eq!(send(&drive, &[0]).status, 0);
}

#[test]
fn a_medium_is_changed_from_outside() {
    let drive = drive(10);
    let poll = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
    assert_eq!(send(&drive, &poll).data[4..6], [0, 2], "no event, medium present");
    send(&drive, &[0x1e, 0, 0, 0, 1]);
    assert_eq!(drive.eject(false).err(), Some(MediumError::Locked));
    assert_eq!(send(&drive, &poll).data[4..6], [1, 2], "asked to eject");
    assert_eq!(send(&drive, &poll).data[4], 0, "told once");
    drive.eject(true).unwrap();
    assert_eq!(send(&drive, &poll).data[4..6], [3, 1], "removed, tray open");
    drive.load(Scratch::new(20 * u64::from(BLOCK)).image(CacheMode::Writeback), false).unwrap();
    assert_eq!(send(&drive, &poll).data[4..6], [2, 2], "new medium");
    assert_eq!(sense(&send(&drive, &[0])), [6, 0x28, 0]);
    assert_eq!(send(&drive, &[0x25]).data[3], 19);
}

#[test]
fn a_large_medium_is_a_dvd() {
    let profile =
        |drive: &Cd| send(drive, &[0x46, 0, 0, 0, 0, 0, 0, 0, 100, 0]).data[6..8].to_vec();
    assert_eq!(profile(&drive(10)), [0, 8]);
    let dvd = drive(DVD + 1);
    assert_eq!(profile(&dvd), [0, 0x10]);
    let structure = send(&dvd, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4, 0, 0]);
    assert_eq!(structure.data.len(), 2052);
    let empty = Cd::new(None, identity(), ErrorPolicy::default());
    assert_eq!(profile(&empty), [0, 0]);
}

#[test]
fn reading_does_not_take_more_than_the_initiator_has_room_for() {
    let drive = drive(2048);
    let reply = send(&drive, &[0xa8, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0]);
    assert_eq!(reply.moved, u64::MAX);
}

proptest! {
    #[test]
    fn any_command_is_answered(cdbs in proptest::collection::vec(any::<[u8; 12]>(), 1..30)) {
        let drive = drive(300);
        for cdb in cdbs {
            let reply = send(&drive, &cdb);
            prop_assert!(reply.status == 0 || !reply.sense.is_empty());
        }
    }
}
