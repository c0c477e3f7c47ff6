//! Processors, and models of processors.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use vhost_runtime::control::ControlError;

use crate::cpu::{expansion, help};
use crate::vmm::Machine;

/// Where QEMU's object model has a processor.
pub(super) fn path(number: usize) -> String {
    format!("/machine/unattached/device[{number}]")
}

pub(super) fn definitions(machine: &Machine) -> Result<Value, ControlError> {
    Ok(serde_json::to_value(help::definitions(machine.host()))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expansion {
    r#type: expansion::Kind,
    model: Model,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: String,
    #[serde(default)]
    props: Map<String, Value>,
}

pub(super) fn expand(machine: &Machine, wanted: Expansion) -> Result<Value, ControlError> {
    let Expansion { r#type, model: Model { name, props } } = wanted;
    expansion::expand(r#type, &name, &props, machine.host()).map_err(ControlError::failed)
}

pub(super) fn all(machine: &Machine) -> Value {
    let topology = machine.topology();
    let threads = machine.thread_ids().enumerate();
    let all = threads.zip(0u32..).map(|((index, thread), number)| {
        json!({
            "cpu-index": index,
            "qom-path": path(index),
            "thread-id": thread,
            "props": {
                "socket-id": topology.socket(number),
                "core-id": topology.core(number),
                "thread-id": topology.thread(number),
            },
            "target": "x86_64",
        })
    });
    all.collect()
}
