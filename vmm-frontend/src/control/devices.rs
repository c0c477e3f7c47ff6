//! Devices on the PCI bus, which come and go.
//!
//! `device_add` takes the names of QEMU's vhost-user devices, and `socket` instead of a `chardev`:
//! the path that the device's process listens on. `num-queues` are the request queues of a SCSI
//! controller or disk, and all queues of a `vhost-user-device-pci`; QEMU's spellings do too.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use vhost_runtime::control::ControlError;

use crate::options::VhostUserOption;
use crate::pci::Function;
use crate::pci::config::{Config, Space};
use crate::pci::host::Place;
use crate::pci::hotplug::SlotError;
use crate::virtio::vhost_user::{Kind, VhostUser};
use crate::vmm::{Machine, VmmError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Driver {
    #[serde(rename = "vhost-user-scsi-pci")]
    Scsi,
    #[serde(rename = "vhost-user-net-pci")]
    Net,
    #[serde(rename = "vhost-user-blk-pci")]
    Block,
    #[serde(rename = "vhost-user-snd-pci")]
    Sound,
    #[serde(rename = "vhost-user-device-pci")]
    Device,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Add {
    driver: Driver,
    id: String,
    socket: PathBuf,
    #[serde(alias = "num_queues", alias = "num_vqs")]
    num_queues: Option<u16>,
    #[serde(alias = "queue_size", alias = "virtqueue_size", alias = "vq_size")]
    queue_size: Option<u16>,
    virtio_id: Option<u16>,
}

impl Add {
    /// What is wanted, as on the command line.
    fn option(self) -> Result<VhostUserOption, String> {
        let is_letter = |first: char| first.is_ascii_alphabetic();
        let allowed = |one: char| one.is_ascii_alphanumeric() || "-._".contains(one);
        if !self.id.starts_with(is_letter) || !self.id.chars().all(allowed) {
            return Err(String::from(
                "id: it must begin with a letter, and have letters, digits, '-', '.', '_' alone",
            ));
        }
        let (kind, queues) = match (self.driver, self.virtio_id, self.num_queues) {
            // Its control queue and its event queue come first.
            (Driver::Scsi, None, queues) => {
                (Kind::Scsi, queues.map(|queues| queues.saturating_add(2)))
            }
            (Driver::Block, None, queues) => (Kind::Block, queues),
            (Driver::Net, None, None) => (Kind::Net, None),
            (Driver::Sound, None, None) => (Kind::Sound, None),
            (Driver::Device, Some(id), queues) => (Kind::Generic(id), queues),
            (Driver::Device, None, _) => {
                return Err(String::from("virtio-id is missing: virtio's number of the device"));
            }
            (_, Some(_), _) => {
                return Err(String::from("virtio-id is only for vhost-user-device-pci"));
            }
            (_, _, Some(_)) => {
                return Err(String::from("num-queues: such a device has as many as its process"));
            }
        };
        VhostUserOption::new(kind, self.socket, queues, self.queue_size)
    }
}

pub(super) fn add(machine: &Machine, add: Add) -> Result<Value, ControlError> {
    let id = add.id.clone();
    let processors = u16::try_from(machine.topology().processors()).unwrap_or(u16::MAX);
    let settings = add.option().map_err(ControlError::Message)?.settings(processors);
    // Before its process is, which may serve one connection alone: the other device's.
    machine.slots().check_new(&id).map_err(explain)?;
    let device = VhostUser::connect(&settings, machine.memory()).map_err(ControlError::failed)?;
    let place = machine.hotplug(Box::new(device), &id).map_err(|error| match error {
        VmmError::Slot(error) => explain(error),
        error => ControlError::failed(error),
    })?;
    log::info!("{id}: added, PCI slot {place}");
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remove {
    /// Or its path.
    id: String,
}

/// It goes when the guest lets it go, or at the next reset.
pub(super) fn remove(machine: &Machine, Remove { id }: Remove) -> Result<Value, ControlError> {
    machine.slots().ask(&id).map_err(explain)?;
    Ok(json!({}))
}

fn explain(error: SlotError) -> ControlError {
    match error {
        SlotError::NotFound(_) => ControlError::NotFound(error.to_string()),
        SlotError::Duplicate(_) | SlotError::Pci(_) => ControlError::failed(error),
    }
}

/// What is on the bus.
pub(super) fn pci(machine: &Machine) -> Value {
    let functions = machine.pci().functions().into_iter();
    let devices = functions.map(|(place, function)| {
        let name = machine.slots().name(place.device());
        let id = name.as_ref().and_then(|name| name.id()).unwrap_or_default();
        describe(place, id, &*function)
    });
    json!([{ "bus": 0, "devices": devices.collect::<Vec<_>>() }])
}

fn describe(place: Place, id: &str, function: &dyn Function) -> Value {
    let mut description = Value::Null;
    function.with_config(&mut |config| {
        let word = |offset| u16::from_le_bytes(config.get(offset));
        let [line, pin] = config.get(0x3c);
        description = json!({
            "bus": 0,
            "slot": place.device(),
            "function": place.function(),
            "class_info": { "class": word(0x0a) },
            "id": {
                "vendor": word(0x00),
                "device": word(0x02),
                "subsystem-vendor": word(0x2c),
                "subsystem": word(0x2e),
            },
            "irq_pin": pin,
            "qdev_id": id,
            "regions": regions(config),
        });
        if let (Some(members), true) = (description.as_object_mut(), pin != 0) {
            members.insert(String::from("irq"), line.into());
        }
    });
    description
}

fn regions(config: &Config) -> Vec<Value> {
    let region = |(number, bar): (usize, crate::pci::config::Bar)| {
        let address = config.decoded(number).map(|decoded| decoded.address);
        // As QEMU tells one that answers nowhere.
        let address = address.map_or_else(|| json!(-1), |address| json!(address));
        let mut region = json!({ "bar": number, "size": bar.size, "address": address });
        if let Some(members) = region.as_object_mut() {
            members.extend(match bar.space {
                Space::Io => vec![(String::from("type"), json!("io"))],
                Space::Memory32 | Space::Memory64 => vec![
                    (String::from("type"), json!("memory")),
                    (String::from("prefetch"), json!(false)),
                    (String::from("mem_type_64"), json!(bar.space == Space::Memory64)),
                ],
            });
        }
        region
    };
    config.bars().map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(text: &str) -> Result<VhostUserOption, String> {
        serde_json::from_str::<Add>(text).map_err(|error| error.to_string())?.option()
    }

    #[test]
    fn devices_have_qemus_names() {
        let of = |driver: &str, more: &str| {
            option(&format!(r#"{{"driver":"{driver}","id":"a","socket":"/s"{more}}}"#))
        };
        let scsi = of("vhost-user-scsi-pci", r#","num_queues":2,"virtqueue_size":128"#).unwrap();
        assert_eq!((scsi.kind, scsi.queues, scsi.queue_size), (Kind::Scsi, Some(4), 128));
        let disk = of("vhost-user-blk-pci", r#","num-queues":2"#).unwrap();
        assert_eq!((disk.kind, disk.queues, disk.queue_size), (Kind::Block, Some(2), 256));
        let card = of("vhost-user-snd-pci", "").unwrap();
        assert_eq!((card.kind, card.queues), (Kind::Sound, None));
        let files = of("vhost-user-device-pci", r#","virtio-id":26,"num_vqs":2"#).unwrap();
        assert_eq!((files.kind, files.queues), (Kind::Generic(26), Some(2)));
        for (driver, more, why) in [
            ("e1000", "", "unknown variant `e1000`, expected one of `vhost-user-scsi-pci`"),
            ("vhost-user-net-pci", r#","chardev":"c""#, "unknown field `chardev`"),
            ("vhost-user-net-pci", r#","num-queues":2"#, "num-queues: such a device"),
            ("vhost-user-scsi-pci", r#","virtio-id":8"#, "virtio-id is only for"),
            ("vhost-user-device-pci", "", "virtio-id is missing"),
            ("vhost-user-device-pci", r#","virtio-id":26"#, "needs its number of queues"),
            ("vhost-user-device-pci", r#","virtio-id":64,"num_vqs":1"#, "must be 1 to 63"),
            ("vhost-user-blk-pci", r#","queue-size":100"#, "power of two"),
            ("vhost-user-blk-pci", r#","num-queues":0"#, "must be 1 to 256"),
        ] {
            let error = of(driver, more).unwrap_err();
            assert!(error.contains(why), "{driver} {more}: {error}");
        }
        let id = r#"{"driver":"vhost-user-net-pci","socket":"/s","id":"9"}"#;
        assert!(option(id).unwrap_err().starts_with("id: it must begin with a letter"));
    }
}
