//! A device state from another process: any bytes, and any JSON in our envelope.

#![no_main]

use std::io::{Seek, SeekFrom, Write};
use std::sync::{Arc, OnceLock};

use fuzz::{Blank, memfd};
use libfuzzer_sys::fuzz_target;
use vhost_runtime::device::Device;
use vhost_runtime::state;
use vhost_scsi::image::engine::EngineKind;
use vhost_scsi::lun::cd::Cd;
use vhost_scsi::lun::identity::Identity;
use vhost_scsi::scsi::ErrorPolicy;
use vhost_scsi::scsi::target::Address;
use vhost_scsi::virtio::controller::{Controller, ControllerOptions};

fuzz_target!(|data: &[u8]| {
    let mut file = memfd(0);
    let (enveloped, bytes) = match data.split_first() {
        Some((first, rest)) => (first % 2 == 1, rest),
        None => (false, data),
    };
    if enveloped {
        file.write_all(br#"{"format":1,"device":"vhost-scsi","state":"#).expect("a memfd grows");
    }
    file.write_all(bytes).expect("a memfd grows");
    if enveloped {
        file.write_all(b"}").expect("a memfd grows");
    }
    file.seek(SeekFrom::Start(0)).expect("a memfd is a file");
    let Ok(read) = state::read(file, "vhost-scsi") else { return };
    if Device::load(controller().as_ref(), read).is_ok() {
        assert!(controller().save().is_ok());
    }
});

fn controller() -> &'static Arc<Controller> {
    static CONTROLLER: OnceLock<Arc<Controller>> = OnceLock::new();
    CONTROLLER.get_or_init(|| {
        let options = ControllerOptions { queues: 1, engine: EngineKind::Threads };
        let controller = Controller::new(options).expect("a controller");
        let (product, name) = (String::from("CD"), String::from("cd"));
        let identity = Identity { product, serial: None, name, wwn: None };
        let drive = Cd::new(Some(Arc::new(Blank(1 << 20))), identity, ErrorPolicy::default());
        controller.add(Address { target: 0, lun: 0 }, drive).expect("no lock is needed");
        Arc::new(controller)
    })
}
