//! The models as a list: `--cpu help`, and what QMP's query-cpu-definitions answers.

use std::fmt::Write;

use serde::Serialize;

use super::Cpu;
use super::filter::{Missing, Platform};
use super::host::Host;
use super::model::{self, Versioned};
use super::selection::{Processor, Selection};
use super::topology::Topology;

/// A name that `--cpu` takes. It serializes to QMP's CpuDefinitionInfo.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Definition {
    /// The name.
    pub name: String,
    /// The features that this host can't give.
    pub unavailable_features: Vec<&'static str>,
    /// QEMU's name for its type.
    pub typename: String,
    /// Whether it is the same on any host, whatever runs it.
    pub r#static: bool,
    /// Whether the same name means the same processor on any host that can run it.
    pub migration_safe: bool,
    /// Whether it is to go away.
    pub deprecated: bool,
    /// The name that this one stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<String>,
    #[serde(skip)]
    model: Option<Versioned>,
}

/// All that `--cpu` takes, as it is on this host.
pub fn definitions(host: &Host) -> Vec<Definition> {
    let definition = |name: String, model: Option<Versioned>, alias_of| Definition {
        unavailable_features: unavailable(model, host),
        typename: format!("{name}-x86_64-cpu"),
        name,
        r#static: false,
        migration_safe: model.is_some(),
        deprecated: false,
        alias_of,
        model,
    };
    let named = model::names().map(|known| {
        let alias_of = known.alias.then(|| known.model.name());
        definition(known.name, Some(known.model), alias_of)
    });
    named.chain([definition("host".into(), None, None)]).collect()
}

fn unavailable(model: Option<Versioned>, host: &Host) -> Vec<&'static str> {
    let selection = Selection::of(model.map_or(Processor::Host, Processor::Model));
    let (_, missing) = Cpu::new(&selection, Topology::SINGLE, Platform::Kvm, host);
    missing.iter().filter_map(Missing::name).collect()
}

/// The list as a table for people: what each name is, and whether this host can run it.
pub fn table(definitions: &[Definition]) -> String {
    let mut text = String::new();
    let width = definitions.iter().map(|one| one.name.len()).max().unwrap_or(0);
    for one in definitions {
        let what = match (&one.alias_of, &one.model) {
            (Some(alias), _) => format!("is {alias}"),
            (None, Some(model)) => {
                let vendor = model.model.vendor.name();
                format!("{}, {}", String::from_utf8_lossy(&vendor), model.model_id())
            }
            (None, None) => "all that this host has".into(),
        };
        let lacks = match one.unavailable_features.as_slice() {
            [] => "; runs here".into(),
            missing => format!("; not here: {}", missing.join(" ")),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:width$}  {what}{lacks}", one.name);
    }
    text
}
