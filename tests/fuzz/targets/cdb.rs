//! Commands to an emulated disk and to a CD drive, as a transport gives them.
//!
//! Whatever comes: an answer whose parts have the lengths that the standards say, transfers within
//! the medium and within what the initiator prepared, and a medium that holds what a second, simpler
//! reading of the same CDBs expects.

#![no_main]

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use fuzz::{Blank, Ram};
use libfuzzer_sys::fuzz_target;
use vhost_scsi::image::Image;
use vhost_scsi::lun::cd::Cd;
use vhost_scsi::lun::disk::{Disk, DiskOptions};
use vhost_scsi::lun::identity::Identity;
use vhost_scsi::scsi::bytes::Fields;
use vhost_scsi::scsi::{
    Action, Cdb, DataLengths, Direction, ErrorPolicy, LogicalUnit, Reply, UnitAttention, opcode,
};

/// Blocks of the disk.
const BLOCKS: u64 = 32;
/// Operation codes of a drive.
const CD: [u8; 27] = [
    0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x2f, 0x35, 0x42, 0x43, 0x46, 0x4a, 0x51,
    0x52, 0x55, 0x5a, 0xa0, 0xa8, 0xad, 0xb6, 0xbb, 0xbd, 0xbe, 0xbf,
];

fuzz_target!(|data: &[u8]| {
    // An input that ends early is as good as one that does not.
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    match input.int_in_range(0..=7)? {
        0 => huge_disk(input),
        1 | 2 => cd(input),
        _ => disk(input),
    }
}

fn identity(input: &mut Unstructured<'_>) -> Result<Identity> {
    let serial = input.arbitrary::<bool>()?.then(|| String::from("S1"));
    let wwn = input.arbitrary::<bool>()?.then_some(0x5000_0000_0000_0001);
    Ok(Identity { product: String::from("DISK"), serial, name: String::from("unit"), wwn })
}

fn options(input: &mut Unstructured<'_>) -> Result<DiskOptions> {
    Ok(DiskOptions {
        identity: identity(input)?,
        block_size: *input.choose(&[512, 4096])?,
        physical_block_size: *input.choose(&[None, Some(512), Some(4096)])?,
        solid_state: input.arbitrary()?,
        removable: input.arbitrary()?,
        error_policy: ErrorPolicy::default(),
    })
}

fn disk(input: &mut Unstructured<'_>) -> Result<()> {
    let options = options(input)?;
    let block = u64::from(options.block_size);
    let image = Arc::new(Ram::new((BLOCKS * block) as usize, input.ratio(1, 8)?));
    let disk = Disk::new(image.clone(), options);
    let mut model = image.bytes().clone();
    while !input.is_empty() {
        match input.int_in_range(0..=31)? {
            0 => disk.reset(),
            1 => disk.attention(UnitAttention::CapacityChanged),
            2 => {
                let blocks = input.int_in_range(0..=BLOCKS + 8)?;
                image.bytes().resize((blocks * block) as usize, 0);
                model.resize((blocks * block) as usize, 0);
            }
            _ => {
                let cdb = disk_cdb(input)?;
                let out = data_out(input, &cdb, block)?;
                let room = room(input)?;
                command(&disk, &image, &cdb, &out, room, &mut model, block);
            }
        }
    }
    Ok(())
}

/// A CDB whose addresses are more often than not on the medium.
fn disk_cdb(input: &mut Unstructured<'_>) -> Result<Cdb> {
    let mut cdb: Cdb = input.arbitrary()?;
    let known = input.choose(opcode::DISK)?;
    if input.ratio(1, 32)? {
        return Ok(cdb);
    }
    cdb[0] = known.code;
    cdb[known.usage.len() - 1] = 0; // CONTROL
    if let Some(action) = known.action {
        cdb[1] = cdb[1] & 0xe0 | action as u8;
    }
    if known.code == 0x48 {
        cdb[1] &= 0x7f; // without IMMED: what it does is then done
        cdb[2..7].fill(0);
        cdb[7] = 0;
    }
    if input.ratio(7, 8)? {
        let (lba, count) = (cdb[5] & 0x3f, cdb[8] & 0x1f);
        match known.usage.len() {
            6 => cdb[2] = 0,
            10 => cdb[2..9].copy_from_slice(&[0, 0, 0, lba, 0, 0, count]),
            12 => cdb[2..10].copy_from_slice(&[0, 0, 0, lba, 0, 0, 0, count]),
            16 => {
                let (lba, count) = (u64::from(lba), u32::from(count));
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                // Fields of COMPARE AND WRITE and of WRITE ATOMIC are shorter, and end here too.
                cdb[10..14].copy_from_slice(&count.to_be_bytes());
            }
            _ => {}
        }
        if !matches!(known.code, 0x15 | 0x55) && input.ratio(7, 8)? {
            cdb[1] &= 0x1f; // no protection information
        }
    }
    Ok(cdb)
}

fn data_out(input: &mut Unstructured<'_>, cdb: &Cdb, block: u64) -> Result<Vec<u8>> {
    let length = match input.int_in_range(0..=3)? {
        0 => input.int_in_range(0..=600)?,
        // What the command most likely takes.
        1 => block as usize,
        _ => match cdb.u8(0) {
            0x0a => usize::from(cdb.u8(4).min(80)) * block as usize,
            0x89 => 2 * usize::from(cdb.u8(13).min(80)) * block as usize,
            0x15 => cdb.u8(4).into(),
            0x42 | 0x48 | 0x55 => cdb.u16(7).into(),
            0x5f => cdb.u32(5).min(4096) as usize,
            0x41 | 0x93 => block as usize,
            code => match code >> 5 {
                1 => cdb.u16(7).min(80) as usize * block as usize,
                4 => cdb.u32(10).min(80) as usize * block as usize,
                5 => cdb.u32(6).min(80) as usize * block as usize,
                _ => 0,
            },
        },
    };
    let start = input.bytes(input.len().min(64).min(length))?;
    let mut data = start.to_vec();
    data.resize(length, start.last().copied().unwrap_or(0x5a));
    Ok(data)
}

fn room(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=3)? {
        0 => input.int_in_range(0..=70_000)?,
        _ => 512 << 10,
    })
}

/// Gives a command to the disk, moves its data, and looks at everything that comes of it.
fn command(
    disk: &Disk,
    image: &Ram,
    cdb: &Cdb,
    out: &[u8],
    room: u64,
    model: &mut Vec<u8>,
    block: u64,
) {
    let lengths = DataLengths { out: out.len() as u64, room };
    let reply = match disk.start(cdb, lengths) {
        Action::Complete(reply) => reply,
        Action::Overrun => return assert_eq!(*image.bytes(), *model, "{cdb:02x?}"),
        Action::Flush => disk.finish_flush(image.flush()),
        Action::PassThrough => panic!("a disk of its own"),
        Action::Defer { parameters, .. } => {
            assert!(parameters <= out.len(), "{cdb:02x?}: {parameters} bytes of {}", out.len());
            disk.run(cdb, &out[..parameters])
        }
        Action::Transfer(transfer) => {
            let end = transfer.offset.checked_add(transfer.length);
            assert!(end.is_some_and(|end| end <= image.len()), "{cdb:02x?}: {transfer:?}");
            let length = transfer.length as usize;
            let mut data = vec![0; length];
            let result = match transfer.direction {
                Direction::Read => {
                    assert!(transfer.length <= room, "{cdb:02x?}: {transfer:?}, room {room}");
                    image.read_at(&mut data, transfer.offset)
                }
                Direction::Write { .. } => image.write_at(&out[..length], transfer.offset),
            };
            let done = disk.finish(&transfer, result);
            assert_eq!(done.moved, transfer.length);
            if transfer.direction == Direction::Read {
                let (lba, count) = read_range(cdb).expect("a command that reads");
                let start = (lba * block) as usize;
                assert_eq!(data, model[start..start + (count * block) as usize], "{cdb:02x?}");
            }
            done
        }
    };
    check_reply(cdb, &reply, out.len() as u64 + room, disk_allocation(cdb));
    if reply.status == 0 {
        expect(cdb, out, model, block);
    }
    assert!(*image.bytes() == *model, "{cdb:02x?}: the medium has other data than it should");
}

fn blocks_of(cdb: &Cdb) -> (u64, u64) {
    match cdb.u8(0) >> 5 {
        0 => {
            let count = if cdb.u8(4) == 0 { 256 } else { cdb.u8(4).into() };
            (u64::from(cdb.u24(1)) & 0x1f_ffff, count)
        }
        1 | 2 => (cdb.u32(2).into(), cdb.u16(7).into()),
        5 => (cdb.u32(2).into(), cdb.u32(6).into()),
        _ => (cdb.u64(2), cdb.u32(10).into()),
    }
}

fn read_range(cdb: &Cdb) -> Option<(u64, u64)> {
    matches!(cdb.u8(0), 0x08 | 0x28 | 0x88 | 0xa8).then(|| blocks_of(cdb))
}

/// What a command that ended well has made of the medium.
fn expect(cdb: &Cdb, out: &[u8], model: &mut Vec<u8>, block: u64) {
    let (lba, count) = blocks_of(cdb);
    let on_medium = |lba: u64, count: u64, model: &Vec<u8>| {
        let end = lba.checked_add(count).and_then(|end| end.checked_mul(block));
        assert!(end.is_some_and(|end| end <= model.len() as u64), "{cdb:02x?} is out of range");
        (lba * block) as usize..((lba + count) * block) as usize
    };
    let write = |lba, count, model: &mut Vec<u8>, data: &[u8]| {
        let range = on_medium(lba, count, model);
        let length = range.len();
        model[range].copy_from_slice(&data[..length]);
    };
    match cdb.u8(0) {
        0x08 | 0x28 | 0x88 | 0xa8 => drop(on_medium(lba, count, model)),
        0x0a | 0x2a | 0x8a | 0xaa | 0x2e | 0x8e | 0xae => write(lba, count, model, out),
        0x9c => write(lba, cdb.u16(12).into(), model, out),
        0x8b => {
            let range = on_medium(lba, count, model);
            model[range].iter_mut().zip(out).for_each(|(byte, more)| *byte |= more);
        }
        0x89 => {
            let range = on_medium(lba, cdb.u8(13).into(), model);
            let (expected, new) = out[..2 * range.len()].split_at(range.len());
            assert_eq!(&model[range.clone()], expected, "{cdb:02x?}: compared");
            model[range].copy_from_slice(new);
        }
        0x41 | 0x93 => {
            let range = on_medium(lba, count, model);
            assert!(!range.is_empty(), "{cdb:02x?}: WSNZ");
            if cdb.u8(0) == 0x93 && cdb.bit(1, 0) {
                model[range].fill(0);
            } else {
                for piece in model[range].chunks_exact_mut(block as usize) {
                    piece.copy_from_slice(&out[..block as usize]);
                }
            }
        }
        0x2f | 0x8f | 0xaf => {
            let range = on_medium(lba, count, model);
            match cdb.u8(1) >> 1 & 3 {
                1 => assert_eq!(model[range.clone()], out[..range.len()], "{cdb:02x?}"),
                3 => model[range]
                    .chunks_exact(block as usize)
                    .for_each(|piece| assert_eq!(piece, &out[..block as usize], "{cdb:02x?}")),
                _ => {}
            }
        }
        0x42 => {
            let list = &out[..usize::from(cdb.u16(7))];
            let descriptors = list.get(8..).unwrap_or_default();
            let length = usize::from(list.u16(2)).min(descriptors.len());
            for descriptor in descriptors[..length].chunks_exact(16) {
                let range = on_medium(descriptor.u64(0), descriptor.u32(8).into(), model);
                model[range].fill(0);
            }
        }
        0x48 => match cdb.u8(1) & 0x1f {
            1 => {
                let passes = out.u8(0) & 0x1f;
                let flip = if out.bit(0, 7) && passes.is_multiple_of(2) { 0xff } else { 0 };
                let pattern = &out[4..4 + usize::from(out.u16(2))];
                for piece in model.chunks_exact_mut(block as usize) {
                    let bytes = pattern.iter().cycle().map(|byte| byte ^ flip);
                    piece.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
                }
            }
            2 => model.fill(0),
            _ => {}
        },
        _ => {}
    }
}

/// How much data-in the CDB allows for; `None`: the command has none, beyond a transfer.
fn disk_allocation(cdb: &Cdb) -> Option<u64> {
    Some(match cdb.u8(0) {
        0x03 | 0x1a => cdb.u8(4).into(),
        0x12 => cdb.u16(3).into(),
        0x25 => 8,
        0x37 | 0x4d | 0x5a | 0x5e => cdb.u16(7).into(),
        0x9e => cdb.u32(10).into(),
        0xa3 | 0xb7 => cdb.u32(6).into(),
        _ => return None,
    })
}

fn cd_allocation(cdb: &Cdb) -> Option<u64> {
    Some(match cdb.u8(0) {
        0x03 | 0x1a => cdb.u8(4).into(),
        0x12 => cdb.u16(3).into(),
        0x25 => 8,
        0x42 | 0x43 | 0x46 | 0x4a | 0x51 | 0x52 | 0x5a => cdb.u16(7).into(),
        0xad | 0xbd => cdb.u16(8).into(),
        _ => return None,
    })
}

/// Status, sense data and lengths of an answer.
fn check_reply(cdb: &Cdb, reply: &Reply, prepared: u64, allocation: Option<u64>) {
    assert!(reply.moved <= prepared, "{cdb:02x?}: {reply:02x?}");
    let allowed = allocation.unwrap_or(0);
    assert!(reply.data.len() as u64 <= allowed, "{cdb:02x?}: {} bytes", reply.data.len());
    if reply.status != 2 {
        assert!(reply.sense.is_empty(), "{cdb:02x?}: {reply:02x?}");
        return check_data(cdb, &reply.data, allowed);
    }
    assert!(reply.data.is_empty() && reply.moved == 0, "{cdb:02x?}: {reply:02x?}");
    check_sense(&reply.sense);
}

fn check_sense(sense: &[u8]) {
    assert!(sense.len() >= 8 && sense.len() <= 96, "{sense:02x?}");
    assert_eq!(sense.len(), 8 + usize::from(sense.u8(7)), "{sense:02x?}");
    match sense.u8(0) {
        0x70 | 0xf0 => assert_eq!(sense.len(), 18, "{sense:02x?}"),
        0x72 => {
            let mut rest = &sense[8..];
            while !rest.is_empty() {
                rest = &rest[2 + usize::from(rest.u8(1))..];
            }
        }
        _ => panic!("{sense:02x?}"),
    }
}

/// Where nothing was cut off, the length in the data is that of the data.
fn check_data(cdb: &Cdb, data: &[u8], allowed: u64) {
    let length = data.len() as u64;
    if length == 0 || length == allowed {
        return;
    }
    let told = match (cdb.u8(0), cdb.u8(1) & 0x1f) {
        (0x03, _) => return check_sense(data),
        (0x12, 1) => u64::from(data.u16(2)) + 4,
        (0x12, 0) => u64::from(data.u8(4)) + 5,
        (0x1a, _) => u64::from(data.u8(0)) + 1,
        (0x5a | 0x43 | 0x51 | 0x52 | 0xad | 0x4a, _) => u64::from(data.u16(0)) + 2,
        (0x4d, _) => u64::from(data.u16(2)) + 4,
        (0x42, _) => u64::from(data.u16(2)) + 4,
        (0x46, _) => u64::from(data.u32(0)) + 4,
        (0x5e, 0..=1 | 3) => u64::from(data.u32(4)) + 8,
        (0x5e, 2) => u64::from(data.u16(0)),
        (0x9e, 0x12) => u64::from(data.u32(0)) + 4,
        _ => return,
    };
    assert_eq!(told, length, "{cdb:02x?}: {data:02x?}");
}

/// A disk of any size: only what the CDB says is looked at, nothing is moved.
fn huge_disk(input: &mut Unstructured<'_>) -> Result<()> {
    let image = Blank(input.arbitrary()?);
    let disk = Disk::new(Arc::new(image), options(input)?);
    while !input.is_empty() {
        let cdb = if input.arbitrary()? { disk_cdb(input)? } else { input.arbitrary()? };
        let lengths = DataLengths { out: input.arbitrary()?, room: input.arbitrary()? };
        match disk.start(&cdb, lengths) {
            Action::Complete(reply) => check_reply(&cdb, &reply, 0, disk_allocation(&cdb)),
            Action::Defer { parameters, .. } => {
                assert!(parameters as u64 <= lengths.out, "{cdb:02x?}");
                if cdb.u8(0) == 0x9e {
                    let reply = disk.run(&cdb, &[]);
                    check_reply(&cdb, &reply, 0, disk_allocation(&cdb));
                }
            }
            Action::Transfer(transfer) => {
                let end = transfer.offset.checked_add(transfer.length);
                assert!(end.is_some_and(|end| end <= image.0), "{cdb:02x?}: {transfer:?}");
            }
            _ => {}
        }
    }
    Ok(())
}

fn cd(input: &mut Unstructured<'_>) -> Result<()> {
    let size = match input.int_in_range(0..=2)? {
        0 => input.int_in_range(0..=1 << 20)?,
        1 => input.int_in_range(0..=5 << 30)?,
        _ => input.arbitrary()?,
    };
    let medium: Arc<dyn Image> = Arc::new(Blank(size));
    let inside = input.arbitrary::<bool>()?.then(|| Arc::clone(&medium));
    let drive = Cd::new(inside, identity(input)?, ErrorPolicy::default());
    while !input.is_empty() {
        match input.int_in_range(0..=15)? {
            0 => drive.reset(),
            1 => drop(drive.eject(input.arbitrary()?)),
            2 => drop(drive.load(Arc::clone(&medium), input.arbitrary()?)),
            _ => {
                let mut cdb: Cdb = input.arbitrary()?;
                let known = *input.choose(&CD)?;
                if input.ratio(15, 16)? {
                    cdb[0] = known;
                }
                let room = room(input)?;
                cd_command(&drive, &cdb, room);
            }
        }
    }
    Ok(())
}

fn cd_command(drive: &Cd, cdb: &Cdb, room: u64) {
    match drive.start(cdb, DataLengths { out: 0, room }) {
        Action::Complete(reply) => check_reply(cdb, &reply, room, cd_allocation(cdb)),
        Action::Overrun => {}
        Action::Transfer(transfer) => {
            let size = drive.image().expect("a medium to read from").len();
            let end = transfer.offset.checked_add(transfer.length);
            assert!(end.is_some_and(|end| end <= size), "{cdb:02x?}: {transfer:?}");
            assert!(transfer.length <= room && transfer.direction == Direction::Read);
            assert_eq!(transfer.offset, u64::from(cdb.u32(2)) * 2048, "{cdb:02x?}");
            let failed = std::io::Error::from_raw_os_error(libc::EIO);
            check_reply(cdb, &drive.finish(&transfer, Err(failed)), room, None);
            assert_eq!(drive.finish(&transfer, Ok(())).moved, transfer.length);
        }
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}
