//! Media that come and go, and who has them meanwhile.

use lab::driver::{Data, Initiator, InitiatorOptions, Lun};
use lab::{Error, Scsi, make};

use crate::common::{clear_attention, works};

const DRIVE: Lun = Lun::new(0, 0);
const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];

/// The initiator may load again what it has ejected: it is locked while rings run, and only then.
#[test]
fn an_ejected_medium_is_locked_like_any_other() -> Result<(), Error> {
    let files = Scsi::new()?;
    let iso = files.folder().join("a.iso").display().to_string();
    make(files.folder().join("a.iso").as_path(), 1 << 20)?;
    let drive = Scsi::new()?.arg("--cdrom").arg(&iso).start()?;
    let writer = Scsi::new()?.arg("--disk").arg(&iso).start()?;
    let connect = |scsi: &Scsi| Initiator::connect(&scsi.socket(), InitiatorOptions::default());

    let mut initiator = connect(&drive)?;
    clear_attention(&mut initiator, DRIVE)?;
    initiator.run(DRIVE, &EJECT, Data::None)?.good();
    assert!(connect(&writer).is_err(), "it is only ejected");
    drop(initiator);
    works(&mut connect(&writer)?.queues[0])?;

    let mut initiator = connect(&drive)?;
    assert!(connect(&writer).is_err(), "it is still in reach");
    initiator.run(DRIVE, &LOAD, Data::None)?.good();
    clear_attention(&mut initiator, DRIVE)?;
    Ok(())
}
