//! A model spelled out, feature by feature: what QMP's query-cpu-model-expansion answers.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Cpu;
use super::feature::{self, Word};
use super::filter::Platform;
use super::host::Host;
use super::model;
use super::selection::{Processor, Selection};
use super::topology::Topology;

/// How a model is spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// As what is to be added to nothing, `base`.
    Static,
    /// As all that it is, by its own name.
    Full,
}

/// Why a model can't be spelled out; in QEMU's words.
#[derive(Debug, thiserror::Error)]
pub enum ExpansionError {
    /// No model has that name.
    #[error("CPU model '{0}' not found")]
    Model(String),
    /// No feature has that name.
    #[error("Property '{model}-x86_64-cpu.{name}' not found")]
    Feature {
        /// The model that was to have it.
        model: String,
        /// The name.
        name: String,
    },
    /// A feature is neither on nor off.
    #[error("Invalid parameter type for 'model.props.{0}', expected: boolean")]
    NotBoolean(String),
}

/// Spells a model out, with features that are turned on or off: whether the host has them or not,
/// but for `host`, which is what it has.
///
/// # Errors
/// See [`ExpansionError`].
pub fn expand(
    kind: Kind,
    name: &str,
    switches: &Map<String, Value>,
    host: &Host,
) -> Result<Value, ExpansionError> {
    let processor = match (name, model::find(name)) {
        ("host", _) => Processor::Host,
        (_, Some(version)) => Processor::Model(version),
        _ => return Err(ExpansionError::Model(name.to_owned())),
    };
    let mut selection = Selection::of(processor);
    selection.force = true;
    for (key, value) in switches {
        let unknown = || ExpansionError::Feature { model: name.to_owned(), name: key.to_owned() };
        let feature = feature::find(key).ok_or_else(unknown)?;
        let on = value.as_bool().ok_or_else(|| ExpansionError::NotBoolean(key.to_owned()))?;
        selection.switches.push((feature, on));
    }
    let (cpu, _) = Cpu::new(&selection, Topology::SINGLE, Platform::Kvm, host);
    let mut props = cpu.properties();
    let name = match kind {
        Kind::Static => "base",
        Kind::Full => {
            props.insert("level".into(), json!(cpu.levels.basic));
            props.insert("xlevel".into(), json!(cpu.levels.extended));
            name
        }
    };
    Ok(json!({ "model": { "name": name, "props": props } }))
}

impl Cpu {
    /// All that has a name.
    fn properties(&self) -> Map<String, Value> {
        let mut props = Map::new();
        for word in Word::all() {
            for (bit, name) in word.names() {
                let on = self.features.get(word) >> bit & 1 == 1;
                // A name of two bits stands for both.
                let both = on && props.get(*name) != Some(&Value::Bool(false));
                props.insert((*name).to_owned(), both.into());
            }
        }
        let brand = String::from_utf8_lossy(&self.brand);
        let numbers = [
            ("family", self.signature.family),
            ("model", self.signature.model),
            ("stepping", self.signature.stepping),
            ("min-level", self.levels.basic),
            ("min-xlevel", self.levels.extended),
        ];
        props.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
        props.insert("model-id".into(), brand.trim_end_matches('\0').into());
        let vendor = self.vendor.name();
        props.insert("vendor".into(), String::from_utf8_lossy(&vendor).into());
        props
    }
}
