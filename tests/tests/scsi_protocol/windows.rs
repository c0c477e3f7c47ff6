//! What Windows sends through vioscsi (virtio-win 0.1.27x, vioscsi/helper.c and vioscsi.c; the CDBs
//! are those of its port and class drivers, storport, classpnp and disk, at start and in use).
//!
//! vioscsi sets up control and event queue and one request queue for each CPU, puts 8 buffers into
//! the event queue before the device is ready, addresses units by the peripheral method (1, target,
//! 0, LUN), names a task by the address of its request block, and gives CDBs 32 bytes.

use lab::driver::{Answer, Command, Data, Initiator, InitiatorOptions, Lun, TaskManagement};
use lab::{Error, Scsi};

use crate::common::{BLOCK, pattern};

const CPUS: u16 = 4;

const fn lun(target: u8, lun: u8) -> Lun {
    Lun([1, target, 0, lun, 0, 0, 0, 0])
}

const DISK: Lun = lun(0, 0);
/// A request block's address.
const TAG: u64 = 0xffff_c50f_8a4d_1010;

fn start() -> Result<(Scsi, Initiator), Error> {
    let scsi = Scsi::new()?.disk(64 << 20, ",serial=WIN-DISK-1,solid-state=on")?.start()?;
    let options = InitiatorOptions {
        queues: CPUS,
        size: 256,
        data: 256 << 10,
        ..InitiatorOptions::default()
    };
    let initiator = Initiator::connect(&scsi.socket(), options)?;
    Ok((scsi, initiator))
}

/// On the queue of a CPU, which changes from one request to the next.
fn send(initiator: &mut Initiator, lun: Lun, cdb: &[u8], data: Data<'_>) -> Result<Answer, Error> {
    let cpu = usize::from(cdb[0]) % initiator.queues.len();
    initiator.queues[cpu].run(&Command { lun, tag: TAG, cdb, data })
}

fn read(initiator: &mut Initiator, cdb: &[u8], length: usize) -> Result<Answer, Error> {
    send(initiator, DISK, cdb, Data::In(length))
}

/// storport looks for units: REPORT LUNS to LUN 0 of every target, INQUIRY where one answers.
#[test]
fn units_are_found() -> Result<(), Error> {
    let (_scsi, mut initiator) = start()?;
    for target in 0..=255 {
        let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0];
        let answer = send(&mut initiator, lun(target, 0), &report, Data::In(0x1000))?;
        if target > 0 {
            assert_eq!(answer.response, 3, "BAD TARGET is SRB_STATUS_INVALID_TARGET_ID");
            continue;
        }
        let luns = answer.good();
        assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let identity = read(&mut initiator, &[0x12, 0, 0, 0, 0xff, 0], 0xff)?.good();
    assert_eq!(identity[0], 0);
    assert!(identity[2] >= 5, "SPC-3 or later, or no VPD pages are asked for: {}", identity[2]);
    assert_eq!(usize::from(identity[4]) + 5, identity.len());
    // LUNs 1 to 7 would be asked by an old storport: no unit there.
    for number in 1..8 {
        let absent = send(&mut initiator, lun(0, number), &[0x12, 0, 0, 0, 36, 0], Data::In(36))?;
        let gone = absent.response == 3 || absent.data.first() == Some(&0x7f);
        assert!(gone, "LUN {number}: {absent:x?}");
    }
    Ok(())
}

#[test]
fn vital_product_data() -> Result<(), Error> {
    let (_scsi, mut initiator) = start()?;
    let mut page = |code: u8| -> Result<Vec<u8>, Error> {
        let data = read(&mut initiator, &[0x12, 1, code, 0, 0xff, 0], 0xff)?.good();
        assert_eq!(data[1], code);
        let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
        assert_eq!(data.len(), (length + 4).min(0xff), "page {code:#x}");
        Ok(data)
    };
    let supported = page(0)?;
    for code in [0, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        assert!(supported[4..].contains(&code), "page {code:#x} in {supported:x?}");
    }
    assert!(supported[4..].is_sorted());
    assert!(String::from_utf8_lossy(&page(0x80)?[4..]).contains("WIN-DISK-1"));
    let designators = page(0x83)?;
    assert!(designators.len() > 4);
    assert_eq!(page(0xb0)?.len(), 64);
    assert_eq!(page(0xb1)?[4..6], [0, 1], "no rotation: Windows takes it for an SSD and trims it");
    let provisioning = page(0xb2)?;
    assert_ne!(provisioning[5] & 0x80, 0, "LBPU: UNMAP");
    // A page that is not there.
    let absent = read(&mut initiator, &[0x12, 1, 0xc5, 0, 0xff, 0], 0xff)?;
    assert_eq!((absent.status, absent.sense_code()), (2, Some((5, 0x24, 0))));
    Ok(())
}

/// disk.sys and classpnp start the unit.
#[test]
fn the_disk_starts() -> Result<(), Error> {
    let (_scsi, mut initiator) = start()?;
    // It asks until no unit attention is left.
    let mut ready = read(&mut initiator, &[0; 6], 0)?;
    for _ in 0..4 {
        if ready.status == 0 {
            break;
        }
        assert_eq!(ready.sense_code().map(|code| code.0), Some(6), "{ready:x?}");
        assert!(ready.sense.len() >= 18, "autosense");
        ready = read(&mut initiator, &[0; 6], 0)?;
    }
    ready.good();
    let blocks = (64u32 << 20) / BLOCK as u32;
    let capacity = read(&mut initiator, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8)?.good();
    assert_eq!(capacity, [(blocks - 1).to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat());
    let long = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    let capacity = read(&mut initiator, &long, 32)?.good();
    assert_eq!(capacity[..8], u64::from(blocks - 1).to_be_bytes());
    assert_ne!(capacity[14] & 0x80, 0, "LBPME");
    // MODE SENSE (6) of all pages with a buffer of 192 bytes, as classpnp does, caching page alone,
    // informational exceptions; then (10).
    let all = read(&mut initiator, &[0x1a, 0, 0x3f, 0, 192, 0], 192)?.good();
    assert_eq!(usize::from(all[0]) + 1, all.len());
    assert_eq!(all[2] & 0x80, 0, "not write protected");
    let caching = read(&mut initiator, &[0x1a, 0, 0x08, 0, 192, 0], 192)?.good();
    let page = &caching[4 + usize::from(caching[3])..];
    assert_eq!(page[0] & 0x3f, 8);
    assert_ne!(page[2] & 4, 0, "WCE: Windows flushes");
    let disabled = read(&mut initiator, &[0x1a, 8, 0x08, 0, 192, 0], 192)?.good();
    assert_eq!(disabled[3], 0, "DBD");
    let exceptions = read(&mut initiator, &[0x1a, 0, 0x1c, 0, 192, 0], 192)?;
    assert!(exceptions.status == 0 || exceptions.sense_code() == Some((5, 0x24, 0)));
    for page in [0x3f, 0x08, 0x1c] {
        let cdb = [0x5a, 0, page, 0, 0, 0, 0, 0x10, 0, 0];
        let sense = read(&mut initiator, &cdb, 0x1000)?;
        if sense.status == 0 {
            let length = usize::from(u16::from_be_bytes([sense.data[0], sense.data[1]]));
            assert_eq!(length + 2, sense.data.len());
        }
    }
    // START STOP UNIT: start.
    read(&mut initiator, &[0x1b, 0, 0, 0, 1, 0], 0)?.good();
    // The cluster service asks for keys and the reservation.
    for action in [0, 1, 2] {
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, 0x10, 0, 0];
        let answer = read(&mut initiator, &cdb, 0x1000)?.good();
        assert_eq!(answer.len(), 8, "action {action}");
    }
    Ok(())
}

#[test]
fn data_is_written_flushed_read_and_trimmed() -> Result<(), Error> {
    let (_scsi, mut initiator) = start()?;
    while read(&mut initiator, &[0; 6], 0)?.status != 0 {}
    let bytes: Vec<u8> = (0..256).flat_map(|block| pattern(block, 3)).collect();
    let ten = |opcode| [opcode, 0, 0, 0, 8, 0, 0, 1, 0, 0];
    // FUA, as NTFS writes its log.
    let mut fua = ten(0x2a);
    fua[1] = 8;
    send(&mut initiator, DISK, &fua, Data::Out(&bytes))?.good();
    assert_eq!(read(&mut initiator, &ten(0x28), bytes.len())?.good(), bytes);
    send(&mut initiator, DISK, &crate::common::write16(4096, 256), Data::Out(&bytes))?.good();
    read(&mut initiator, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0)?.good();
    read(&mut initiator, &[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0)?.good();
    let again = read(&mut initiator, &crate::common::read16(4096, 256), bytes.len())?;
    assert_eq!(again.good(), bytes);
    // UNMAP of two ranges.
    let range = |block: u64, blocks: u32| {
        [&block.to_be_bytes()[..], &blocks.to_be_bytes(), &[0; 4]].concat()
    };
    let ranges = [range(2048, 256), range(4096, 256)].concat();
    let list = [&[0, 38, 0, 32, 0, 0, 0, 0][..], &ranges].concat();
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    send(&mut initiator, DISK, &unmap, Data::Out(&list))?.good();
    let zeroes = read(&mut initiator, &ten(0x28), bytes.len())?.good();
    assert!(zeroes.iter().all(|&byte| byte == 0));
    // Past the end.
    let past = read(&mut initiator, &crate::common::read16(131_072, 1), BLOCK)?;
    assert_eq!((past.status, past.sense_code()), (2, Some((5, 0x21, 0))));
    Ok(())
}

/// vioscsi's answer to a time-out is a reset of LUN 0 of target 0, by its control queue; storport's
/// next steps are target and bus.
#[test]
fn resets() -> Result<(), Error> {
    let (_scsi, mut initiator) = start()?;
    while read(&mut initiator, &[0; 6], 0)?.status != 0 {}
    for function in [TaskManagement::UnitReset, TaskManagement::NexusReset] {
        let response = initiator.manage(function, DISK, 0)?;
        assert!([0, 10].contains(&response), "vioscsi stops at others: {response}");
        let attention = read(&mut initiator, &[0; 6], 0)?;
        assert_eq!(attention.sense_code().map(|code| (code.0, code.1)), Some((6, 0x29)));
        read(&mut initiator, &[0; 6], 0)?.good();
    }
    Ok(())
}
