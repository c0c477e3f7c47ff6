use super::*;
use crate::image::open::tests::Scratch;
use crate::image::open::{ImageOptions, open};
use crate::image::raw::CacheMode;
use crate::scsi::bytes::Fields;
use crate::scsi::{Status, opcode};
use proptest::prelude::*;

fn options() -> DiskOptions {
    DiskOptions {
        identity: Identity {
            product: String::from("DISK"),
            serial: Some(String::from("S1")),
            name: String::from("disk0"),
            wwn: Some(0x5000_0000_0000_0001),
        },
        block_size: 512,
        physical_block_size: None,
        solid_state: true,
        removable: false,
        error_policy: ErrorPolicy::default(),
    }
}

/// A disk of `blocks` of 512 bytes on a file that is unlinked at once.
pub(crate) fn disk(blocks: u64) -> Arc<Disk> {
    disk_with(blocks, options(), false)
}

fn disk_with(blocks: u64, options: DiskOptions, read_only: bool) -> Arc<Disk> {
    let scratch = Scratch::new(blocks * u64::from(options.block_size));
    let image = open(&ImageOptions {
        path: scratch.path().to_owned(),
        format: None,
        read_only,
        cache: CacheMode::Writeback,
        discard: true,
    });
    Disk::new(image.unwrap(), options)
}

fn ready(blocks: u64) -> Arc<Disk> {
    let disk = disk(blocks);
    assert_eq!(send(&disk, &[0; 6], &[], 0).sense[12..14], [0x29, 0x01], "power on is told first");
    disk
}

/// Sends a command as a transport would, and moves the data itself.
fn send(disk: &Disk, bytes: &[u8], out: &[u8], room: usize) -> Reply {
    let mut cdb = [0; 32];
    cdb[..bytes.len()].copy_from_slice(bytes);
    match disk.start(&cdb, DataLengths { out: out.len() as u64, room: room as u64 }) {
        Action::Complete(reply) => reply,
        Action::Overrun => Reply::status(Status::TaskAborted),
        Action::Flush => disk.finish_flush(disk.image.flush()),
        Action::Defer { parameters, .. } => disk.run(&cdb, &out[..parameters]),
        Action::PassThrough => panic!("a disk of its own"),
        Action::Transfer(transfer) => {
            assert!(transfer.offset + transfer.length <= disk.image.len());
            let mut data = vec![0; transfer.length as usize];
            let result = match transfer.direction {
                Direction::Read => disk.image.read_at(&mut data, transfer.offset),
                Direction::Write { .. } => {
                    data.clear();
                    disk.image.write_at(&out[..transfer.length as usize], transfer.offset)
                }
            };
            Reply { data, ..disk.finish(&transfer, result) }
        }
    }
}

#[track_caller]
fn good(reply: &Reply) {
    assert_eq!(reply.status, 0, "{:x?}", reply.sense);
}

#[track_caller]
fn check(reply: &Reply, sense: Sense) {
    assert_eq!(reply.status, 2);
    let expected = sense.bytes(false);
    assert_eq!(
        (reply.sense[2], reply.sense[12..14].to_vec()),
        (expected[2], expected[12..14].to_vec())
    );
}

fn read10(lba: u32, count: u16) -> Vec<u8> {
    [&[0x28, 0][..], &lba.to_be_bytes(), &[0], &count.to_be_bytes(), &[0]].concat()
}

fn write10(lba: u32, count: u16) -> Vec<u8> {
    [&[0x2a, 0][..], &lba.to_be_bytes(), &[0], &count.to_be_bytes(), &[0]].concat()
}

fn cdb16(code: u8, b1: u8, lba: u64, count: u32) -> Vec<u8> {
    [&[code, b1][..], &lba.to_be_bytes(), &count.to_be_bytes(), &[0, 0]].concat()
}

#[test]
fn what_is_written_is_read() {
    let disk = ready(64);
    let data: Vec<u8> = (0..1024u32).map(|i| i as u8).collect();
    good(&send(&disk, &write10(3, 2), &data, 0));
    let reply = send(&disk, &read10(3, 2), &[], 1024);
    good(&reply);
    assert_eq!((reply.data, reply.moved), (data, 1024));
}

#[test]
fn blocks_past_the_end_are_out_of_range() {
    let disk = ready(64);
    let out = Sense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE;
    check(&send(&disk, &read10(63, 2), &[], 1024), out);
    check(&send(&disk, &read10(65, 0), &[], 0), out);
    check(&send(&disk, &cdb16(0x88, 0, u64::MAX, 2), &[], 1024), out);
    check(&send(&disk, &cdb16(0x8a, 0, 1 << 55, 1), &[0; 512], 0), out);
    good(&send(&disk, &read10(0, 0), &[], 0));
}

#[test]
fn a_buffer_that_is_too_small_is_an_overrun_and_moves_nothing() {
    let disk = ready(64);
    assert_eq!(send(&disk, &read10(0, 2), &[], 512), Reply::status(Status::TaskAborted));
    assert_eq!(send(&disk, &write10(0, 2), &[1; 512], 0), Reply::status(Status::TaskAborted));
    assert_eq!(send(&disk, &read10(0, 1), &[], 512).data, [0; 512]);
}

#[test]
fn more_than_the_maximum_transfer_length_is_refused() {
    let disk = ready(1 << 20);
    let limit = send(&disk, &[0x12, 1, 0xb0, 0, 64, 0], &[], 64).data.u32(8);
    check(&send(&disk, &cdb16(0x88, 0, 0, limit + 1), &[], 64 << 20), Sense::INVALID_FIELD_IN_CDB);
    good(&send(&disk, &cdb16(0x88, 0, 0, limit), &[], 64 << 20));
}

/// Nothing that a guest asks for keeps its ring from stopping for long.
#[test]
fn nor_is_more_verified_than_that() {
    let disk = ready(1 << 20);
    let limit = send(&disk, &[0x12, 1, 0xb0, 0, 64, 0], &[], 64).data.u32(8);
    for check_bytes in [0x00, 0x06] {
        let verify = |count| send(&disk, &cdb16(0x8f, check_bytes, 0, count), &[0; 512], 0);
        check(&verify(limit + 1), Sense::INVALID_FIELD_IN_CDB);
        good(&verify(limit));
    }
    check(
        &send(&disk, &cdb16(0x8f, 0, 1 << 20, 1), &[], 0),
        Sense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    );
}

#[test]
fn compare_and_write_is_all_or_nothing() {
    let disk = ready(64);
    good(&send(&disk, &write10(5, 1), &[7; 512], 0));
    let mut caw = cdb16(0x89, 0, 5, 0);
    caw[13] = 1;
    let wrong: Vec<u8> = [vec![7; 100], vec![8; 412], vec![9; 512]].concat();
    let reply = send(&disk, &caw, &wrong, 0);
    check(&reply, Sense::MISCOMPARE_DURING_VERIFY_OPERATION);
    assert_eq!(reply.sense[3..7], 100u32.to_be_bytes(), "tells where");
    let right: Vec<u8> = [vec![7; 512], vec![9; 512]].concat();
    good(&send(&disk, &caw, &right, 0));
    assert_eq!(send(&disk, &read10(5, 1), &[], 512).data, [9; 512]);
}

#[test]
fn orwrite_and_verify() {
    let disk = ready(64);
    good(&send(&disk, &write10(1, 1), &[0x0f; 512], 0));
    good(&send(&disk, &cdb16(0x8b, 0, 1, 1), &[0xf0; 512], 0));
    good(&send(&disk, &cdb16(0x8f, 0x02, 1, 1), &[0xff; 512], 0));
    check(
        &send(&disk, &cdb16(0x8f, 0x02, 0, 1), &[0xff; 512], 0),
        Sense::MISCOMPARE_DURING_VERIFY_OPERATION,
    );
    good(&send(&disk, &cdb16(0x8f, 0x06, 2, 4), &[0; 512], 0));
    check(&send(&disk, &cdb16(0x8f, 0x04, 1, 1), &[0; 512], 0), Sense::INVALID_FIELD_IN_CDB);
}

#[test]
fn unmapped_blocks_read_as_zeroes_and_are_told_as_such() {
    let disk = ready(64);
    good(&send(&disk, &write10(0, 64), &[1; 64 * 512], 0));
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(8u64.to_be_bytes());
    list.extend(16u32.to_be_bytes());
    list.extend([0; 4]);
    good(&send(&disk, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0));
    assert_eq!(send(&disk, &read10(8, 16), &[], 8192).data, [0; 8192]);
    let status = send(&disk, &[&[0x9e, 0x12], &cdb16(0, 0, 8, 64)[2..]].concat(), &[], 64).data;
    assert_eq!((status.u64(8), status.u32(16), status.u8(20)), (8, 16, 1));
    list[16..20].copy_from_slice(&64u32.to_be_bytes());
    check(
        &send(&disk, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0),
        Sense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    );
    check(
        &send(&disk, &[0x42, 0, 0, 0, 0, 0, 0, 0, 4, 0], &list[..4], 0),
        Sense::PARAMETER_LIST_LENGTH_ERROR,
    );
}

#[test]
fn write_same_with_a_pattern_and_without() {
    let disk = ready(64);
    let pattern: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
    good(&send(&disk, &cdb16(0x93, 0, 10, 20), &pattern, 0));
    assert_eq!(send(&disk, &read10(29, 1), &[], 512).data, pattern);
    good(&send(&disk, &cdb16(0x93, 0x01, 10, 20), &[], 0));
    assert_eq!(send(&disk, &read10(29, 1), &[], 512).data, [0; 512]);
    check(&send(&disk, &cdb16(0x93, 0, 10, 0), &pattern, 0), Sense::INVALID_FIELD_IN_CDB);
    check(&send(&disk, &cdb16(0x93, 0x10, 10, 1), &pattern, 0), Sense::INVALID_FIELD_IN_CDB);
}

#[test]
fn every_claimed_vpd_page_is_there_and_no_other() {
    let disk = ready(64);
    let pages = send(&disk, &[0x12, 1, 0, 0, 255, 0], &[], 255).data;
    for page in 0..=255 {
        let reply = send(&disk, &[0x12, 1, page, 0, 255, 0], &[], 255);
        if pages[4..].contains(&page) {
            good(&reply);
            assert_eq!(reply.data.len(), usize::from(reply.data.u16(2)) + 4);
            assert_eq!(reply.data[1], page);
        } else {
            check(&reply, Sense::INVALID_FIELD_IN_CDB);
        }
    }
}

#[test]
fn write_protection_by_mode_select_and_its_end_by_reset() {
    let disk = ready(64);
    let mut page = send(&disk, &[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).data;
    page[0] = 0;
    page[2] = 0;
    page[4 + 4] |= 8;
    good(&send(&disk, &[0x15, 0x10, 0, 0, page.len() as u8, 0], &page, 0));
    check(&send(&disk, &write10(0, 1), &[0; 512], 0), Sense::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED);
    assert_eq!(send(&disk, &[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).data[2] & 0x80, 0x80);
    disk.reset();
    check(&send(&disk, &[0; 6], &[], 0), Sense::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
    good(&send(&disk, &write10(0, 1), &[0; 512], 0));
}

#[test]
fn what_cannot_be_changed_is_refused_as_a_whole() {
    let disk = ready(64);
    let mut page = send(&disk, &[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).data;
    page[0] = 0;
    page[2] = 0;
    page[4 + 2] |= 4; // D_SENSE can, …
    page[4 + 3] |= 1; // … QERR can't
    check(
        &send(&disk, &[0x15, 0x10, 0, 0, page.len() as u8, 0], &page, 0),
        Sense::INVALID_FIELD_IN_PARAMETER_LIST,
    );
    assert_eq!(send(&disk, &[0xc0; 6], &[], 0).sense[0], 0x70, "still the fixed format");
}

#[test]
fn a_read_only_disk_says_so_and_refuses() {
    let disk = disk_with(64, options(), true);
    send(&disk, &[0; 6], &[], 0);
    check(&send(&disk, &write10(0, 1), &[0; 512], 0), Sense::WRITE_PROTECTED);
    assert_eq!(send(&disk, &[0x1a, 8, 0x3f, 0, 255, 0], &[], 255).data[2] & 0x80, 0x80);
}

#[test]
fn a_removable_medium_comes_and_goes() {
    let disk = disk_with(64, DiskOptions { removable: true, ..options() }, false);
    send(&disk, &[0; 6], &[], 0);
    good(&send(&disk, &[0x1e, 0, 0, 0, 1, 0], &[], 0));
    check(&send(&disk, &[0x1b, 0, 0, 0, 2, 0], &[], 0), Sense::MEDIUM_REMOVAL_PREVENTED);
    good(&send(&disk, &[0x1e, 0, 0, 0, 0, 0], &[], 0));
    good(&send(&disk, &[0x1b, 0, 0, 0, 2, 0], &[], 0));
    check(&send(&disk, &[0; 6], &[], 0), Sense::MEDIUM_NOT_PRESENT);
    check(&send(&disk, &read10(0, 1), &[], 512), Sense::MEDIUM_NOT_PRESENT);
    good(&send(&disk, &[0x1b, 0, 0, 0, 3, 0], &[], 0));
    good(&send(&disk, &read10(0, 1), &[], 512));
}

/// SANITIZE of 512 MiB, 31 times over: nobody wants to wait for that.
fn long_sanitize(immediate: bool) -> (Vec<u8>, [u8; 6]) {
    let service = 0x01 | u8::from(immediate) << 7;
    (vec![0x48, service, 0, 0, 0, 0, 0, 0, 6, 0], [31, 0, 0, 2, 0xab, 0xcd])
}

#[test]
fn sanitize_ends_early_with_its_ring() {
    let disk = ready(1 << 20);
    disk.interrupt(true);
    let (cdb, parameters) = long_sanitize(false);
    check(&send(&disk, &cdb, &parameters, 0), Sense::SANITIZE_COMMAND_FAILED);
    disk.interrupt(false);
    check(&send(&disk, &read10(0, 1), &[], 512), Sense::SANITIZE_COMMAND_FAILED);
    good(&send(&disk, &[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0));
    good(&send(&disk, &read10(0, 1), &[], 512));
}

#[test]
fn nothing_is_sanitized_after_the_medium_was_given_back() {
    let disk = ready(1 << 20);
    let (cdb, parameters) = long_sanitize(true);
    good(&send(&disk, &cdb, &parameters, 0));
    check(&send(&disk, &read10(0, 1), &[], 512), Sense::NOT_READY_SANITIZE_IN_PROGRESS);
    disk.out_of_use();
    check(&send(&disk, &read10(0, 1), &[], 512), Sense::SANITIZE_COMMAND_FAILED);
}

#[test]
fn one_sanitize_at_a_time() {
    let disk = ready(1 << 20);
    let (cdb, parameters) = long_sanitize(true);
    let mut padded = [0; 32];
    padded[..cdb.len()].copy_from_slice(&cdb);
    // Both are let through before the first of them begins.
    let lengths = DataLengths { out: 6, room: 0 };
    assert!(matches!(disk.start(&padded, lengths), Action::Defer { exclusive: true, .. }));
    assert!(matches!(disk.start(&padded, lengths), Action::Defer { exclusive: true, .. }));
    good(&disk.run(&padded, &parameters));
    check(&disk.run(&padded, &parameters), Sense::NOT_READY_SANITIZE_IN_PROGRESS);
    disk.out_of_use();
}

#[test]
fn sanitize_leaves_nothing_of_the_old_data() {
    let disk = ready(64);
    good(&send(&disk, &write10(0, 64), &[1; 64 * 512], 0));
    let parameters = [1, 0, 0, 2, 0xab, 0xcd];
    good(&send(&disk, &[0x48, 0x01, 0, 0, 0, 0, 0, 0, 6, 0], &parameters, 0));
    assert_eq!(send(&disk, &read10(63, 1), &[], 512).data, [0xab, 0xcd].repeat(256));
    good(&send(&disk, &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0));
    assert_eq!(send(&disk, &read10(63, 1), &[], 512).data, [0; 512]);
    check(
        &send(&disk, &[0x48, 0x01, 0, 0, 0, 0, 0, 0, 4, 0], &[1, 0, 0, 0], 0),
        Sense::INVALID_FIELD_IN_PARAMETER_LIST,
    );
}

#[test]
fn a_full_host_disk_is_the_initiator_s_to_know() {
    let disk = ready(64);
    let transfer =
        Transfer { direction: Direction::Write { fua: false }, offset: 512, length: 512 };
    let reply = disk.finish(&transfer, Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    check(&reply, Sense::SPACE_ALLOCATION_FAILED_WRITE_PROTECT);
    assert_eq!(reply.sense[3..7], 1u32.to_be_bytes());
}

#[test]
fn a_disk_of_4096_byte_blocks() {
    let disk = disk_with(16, DiskOptions { block_size: 4096, ..options() }, false);
    send(&disk, &[0; 6], &[], 0);
    assert_eq!(
        send(&disk, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).data,
        [0, 0, 0, 15, 0, 0, 16, 0]
    );
    good(&send(&disk, &write10(15, 1), &[3; 4096], 0));
    assert_eq!(send(&disk, &read10(15, 1), &[], 4096).data, [3; 4096]);
}

proptest! {
    /// Whatever the initiator sends: an answer, and nothing outside the medium or its buffers.
    #[test]
    fn any_command_is_answered(
        commands in proptest::collection::vec(
            (any::<[u8; 16]>(), 0..opcode::DISK.len(), any::<bool>(), 0usize..9000, 0usize..9000), 1..20),
    ) {
        let disk = ready(64);
        for (mut cdb, known, small, out, room) in commands {
            cdb[0] = opcode::DISK[known].code;
            if small {
                // Bytes that make a valid address and length more likely than not.
                for byte in &mut cdb[2..9] { *byte = 0; }
                cdb[9] &= 0x3f;
                for byte in &mut cdb[10..13] { *byte = 0; }
                cdb[13] &= 0x0f;
            }
            let reply = send(&disk, &cdb, &vec![0x5a; out], room);
            prop_assert!(reply.data.len() <= 65536 || reply.moved > 0);
        }
        // a SANITIZE may have been among them
        prop_assert!(disk.image.len() == 64 * 512);
    }
}

/// PERSISTENT RESERVE OUT with these keys.
fn reserve_out(disk: &Disk, action: u8, kind: u8, keys: (u64, u64), flags: u8) -> Reply {
    let mut parameters = [keys.0.to_be_bytes(), keys.1.to_be_bytes()].concat();
    parameters.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    send(disk, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &parameters, 0)
}

#[test]
fn reservations_outlive_the_process() {
    let scratch = Scratch::new(64 << 10);
    let first = Disk::new(scratch.image(CacheMode::Writeback), options());
    first.taken_into_use().unwrap();
    first.next_attention();
    good(&reserve_out(&first, 0, 0, (0, 7), 0));
    good(&reserve_out(&first, 1, 3, (7, 0), 0));
    drop(first);

    let second = Disk::new(scratch.image(CacheMode::Writeback), options());
    second.taken_into_use().unwrap();
    second.next_attention();
    let held = send(&second, &[0x5e, 1, 0, 0, 0, 0, 0, 0, 64, 0], &[], 64);
    assert_eq!((held.data[15], held.data[21]), (7, 3));
    good(&reserve_out(&second, 0, 0, (7, 0), 0));
    drop(second);

    let third = Disk::new(scratch.image(CacheMode::Writeback), options());
    third.taken_into_use().unwrap();
    third.next_attention();
    assert_eq!(send(&third, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], &[], 64).data.len(), 8);
}

/// They are no saved parameters: only an initiator that does not notice that the process was killed
/// finds them again.
#[test]
fn mode_parameters_outlive_a_killed_process() {
    let scratch = Scratch::new(64 << 10);
    let start = |goes_on: bool| {
        let disk = Disk::new(scratch.image(CacheMode::Writeback), options());
        if goes_on {
            disk.goes_on();
        }
        disk.taken_into_use().unwrap();
        disk
    };
    let write_cache = |disk: &Disk| {
        let caching = send(disk, &[0x1a, 0x08, 0x08, 0, 64, 0], &[], 64);
        good(&caching);
        caching.data.bit(6, 2)
    };
    let no_write_cache = |disk: &Disk| {
        let page = [&[0, 0, 0, 0, 0x08, 18][..], &[0; 18]].concat();
        good(&send(disk, &[0x15, 0x10, 0, 0, 24, 0], &page, 0));
    };
    let power_on = |disk: &Disk| check(&send(disk, &[0; 6], &[], 0), Sense::POWER_ON_OCCURRED);

    let first = start(false);
    power_on(&first);
    assert!(write_cache(&first));
    no_write_cache(&first);
    let second = start(true);
    good(&reserve_out(&second, 0, 0, (0, 7), 0));
    assert!(!write_cache(&start(true)), "once more, and no power on");
    let other = start(false);
    power_on(&other);
    assert!(write_cache(&other), "the default for another initiator");
    assert!(write_cache(&start(true)), "which finds that again");
    no_write_cache(&other);
    other.reset();
    assert!(write_cache(&start(true)), "a reset is kept as well");
}

#[test]
fn a_note_that_is_not_understood_keeps_the_disk_from_being_used() {
    let scratch = Scratch::new(64 << 10);
    let image = scratch.image(CacheMode::Writeback);
    let disk = Disk::new(Arc::clone(&image), options());
    for note in [&b"{\"version\":99,\"reservations\":{}}"[..], b"nonsense", b""] {
        image.set_note(Some(note)).unwrap();
        let error = disk.taken_into_use().unwrap_err().to_string();
        assert!(error.starts_with("its reservations: "), "{error}");
    }
}

#[test]
fn a_read_only_disk_can_not_keep_reservations_and_says_so() {
    let disk = disk_with(64, options(), true);
    disk.next_attention();
    assert_eq!(send(&disk, &[0x5e, 2, 0, 0, 0, 0, 0, 0, 8, 0], &[], 8).data[2], 0x10);
    let aptpl = reserve_out(&disk, 0, 0, (0, 7), 1);
    check(&aptpl, Sense::INVALID_FIELD_IN_PARAMETER_LIST);
    good(&reserve_out(&disk, 0, 0, (0, 7), 0));
    assert!(disk.image.note().unwrap().is_none());
}

#[test]
fn what_the_initiator_knows_moves_with_it() {
    let scratch = Scratch::new(64 << 10);
    let removable = || DiskOptions { removable: true, ..options() };
    let source = Disk::new(scratch.image(CacheMode::Writeback), removable());
    source.next_attention();
    good(&send(&source, &[0x15, 0x10, 0, 0, 16, 0], &mode_select_descriptor_sense(), 0));
    good(&send(&source, &[0x1e, 0, 0, 0, 1, 0], &[], 0));
    source.attention(UnitAttention::CapacityChanged);

    let destination = Disk::new(scratch.image(CacheMode::Writeback), removable());
    destination.load(source.save().unwrap()).unwrap();
    let told = send(&destination, &[0; 6], &[], 0);
    assert_eq!(told.sense[..4], [0x72, 0x06, 0x2a, 0x09], "no power on, descriptor format");
    good(&send(&destination, &[0; 6], &[], 0));
    let eject = send(&destination, &[0x1b, 0, 0, 0, 2, 0], &[], 0);
    assert_eq!(eject.sense[1..4], [0x05, 0x53, 0x02], "removal is prevented");
    assert!(destination.load(serde_json::Value::Null).is_err());
}

/// The control mode page with D_SENSE.
fn mode_select_descriptor_sense() -> Vec<u8> {
    vec![0, 0, 0, 0, 0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0, 0, 0, 0]
}
