//! How a guest is told of devices that come and go on bus 0, and lets one go (ACPI 6.5, 5.6.6 and
//! 6.3.3): what `pci/hotplug` has as registers.

use acpi_tables::aml::{
    And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local,
    Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path, Scope, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::Bytes;
use crate::machine::layout::hotplug;

/// Values of Notify (5.6.6, table 5.171).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

const BUS: &str = "\\_SB_.PCI0";

/// A slot's device object.
fn slot_path(slot: u8) -> Path {
    Path::new(&format!("S{slot:02X}_"))
}

/// The slots of the bus and the method that tells of them, and the event that calls it.
pub(super) fn hotplug() -> Vec<u8> {
    let mut bus = registers();
    (1..32).for_each(|slot| device(slot, &mut bus));
    told().to_aml_bytes(&mut bus);
    let call = MethodCall::new(Path::new(&format!("{BUS}.TELL")), Vec::new());
    // Edge-triggered, since its status is cleared before (5.6.4.1.1).
    let event = Path::new(&format!("_E{:02X}", hotplug::EVENT));
    let event = Method::new(event, 0, false, vec![&call]).bytes();
    [Scope::raw(BUS.into(), bus), Scope::raw("\\_GPE".into(), event)].concat()
}

fn registers() -> Vec<u8> {
    let region =
        OpRegion::new("HPRG".into(), OpRegionSpace::SystemIO, &hotplug::PORT, &hotplug::SIZE);
    let fields = Field::new(
        "HPRG".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        [*b"UPDV", *b"DNDV", *b"EJDV"].map(|name| FieldEntry::Named(name, 32)).to_vec(),
    );
    [region.bytes(), fields.bytes()].concat()
}

fn device(slot: u8, bus: &mut Vec<u8>) {
    let bit = 1u32 << slot;
    let address = u32::from(slot) << 16;
    Device::new(
        slot_path(slot),
        vec![
            &Name::new("_ADR".into(), &address),
            &Name::new("_SUN".into(), &slot),
            &Method::new("_EJ0".into(), 1, false, vec![&Store::new(&Path::new("EJDV"), &bit)]),
        ],
    )
    .to_aml_bytes(bus);
}

/// Tells of each device that came, then of each that is asked for. Serialized: two events may come
/// at once.
fn told() -> impl Aml {
    let registers = [("UPDV", DEVICE_CHECK), ("DNDV", EJECT_REQUEST)];
    let bodies = registers.map(|(register, value)| {
        let register = Path::new(register);
        let take = Store::new(&Local(0), &register).bytes();
        // What was read is cleared, and nothing that comes later.
        let clear = Store::new(&register, &Local(0)).bytes();
        let slots = (1..32u8).flat_map(|slot| {
            let (path, bit) = (slot_path(slot), 1u32 << slot);
            let notify = Notify::new(&path, &value);
            If::new(&And::new(&ZERO, &Local(0), &bit), vec![&notify]).bytes()
        });
        [take, clear, slots.collect()].concat()
    });
    let body = Raw(bodies.concat());
    Raw(Method::new("TELL".into(), 0, true, vec![&body]).bytes())
}

/// AML as it is.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
