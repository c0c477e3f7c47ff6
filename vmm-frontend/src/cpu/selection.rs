//! `--cpu MODEL[,+feature][,-feature][,feature=on|off][,check|enforce]`, as QEMU reads it.

use std::str::FromStr;

use thiserror::Error;

use super::feature::{self, Feature};
use super::filter::Missing;
use super::model::{self, Vendor, Versioned};

/// What `--cpu` selects.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The processor to begin with.
    pub processor: Processor,
    /// The features to turn on or off, the later over the earlier.
    pub switches: Vec<(Feature, bool)>,
    /// The vendor that the guest sees. It is the host's otherwise, even with another's model:
    /// SYSENTER and SYSCALL work as the host's vendor has them.
    pub vendor: Option<Vendor>,
    /// What to do about features that the host doesn't have.
    pub strictness: Strictness,
    /// Whether such features are shown to the guest all the same (`x-force-features`). The guest
    /// fails as soon as it uses one: this is for tests of the models.
    pub force: bool,
}

/// A processor.
#[derive(Debug, Clone, Copy)]
pub enum Processor {
    /// A named model.
    Model(Versioned),
    /// All that the host has.
    Host,
}

/// What to do about features that the host doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Leave them out.
    Silent,
    /// Leave them out, and say so.
    Check,
    /// Refuse to start.
    Enforce,
}

/// What is wrong with `--cpu`.
#[derive(Debug, Error)]
pub enum CpuError {
    /// No model has that name.
    #[error("--cpu {0}: there is no such model; --cpu help lists them")]
    UnknownModel(String),
    /// No feature has that name.
    #[error("--cpu …,{part}: there is no such feature; did you mean {closest}?")]
    UnknownFeature {
        /// The part of the option.
        part: String,
        /// The feature whose name comes closest.
        closest: &'static str,
    },
    /// A feature is neither on nor off.
    #[error("--cpu …,{part}: must be {name}=on or {name}=off")]
    BadSwitch {
        /// The part of the option.
        part: String,
        /// What it would switch.
        name: String,
    },
    /// A vendor's name has not twelve characters.
    #[error("--cpu …,{0}: must be twelve characters, as in vendor=GenuineIntel")]
    BadVendor(String),
    /// The host doesn't have all that was asked for.
    #[error("--cpu …,enforce: {}", list(.0))]
    Enforced(Vec<Missing>),
}

fn list(missing: &[Missing]) -> String {
    let all: Vec<String> = missing.iter().map(Missing::to_string).collect();
    all.join("; ")
}

impl Selection {
    /// A processor, as it is.
    pub fn of(processor: Processor) -> Selection {
        Selection {
            processor,
            switches: Vec::new(),
            vendor: None,
            strictness: Strictness::Check,
            force: false,
        }
    }

    /// What to say about features that are missing, one line each; or the refusal to start.
    pub fn judge(&self, missing: &[Missing]) -> Result<Vec<String>, CpuError> {
        match self.strictness {
            Strictness::Silent => Ok(Vec::new()),
            Strictness::Enforce if !missing.is_empty() => Err(CpuError::Enforced(missing.to_vec())),
            _ => Ok(missing.iter().map(Missing::to_string).collect()),
        }
    }
}

impl FromStr for Selection {
    type Err = CpuError;

    fn from_str(option: &str) -> Result<Selection, CpuError> {
        let mut parts = option.split(',');
        let name = parts.next().unwrap_or_default();
        let processor = match (name, model::find(name)) {
            ("host", _) => Processor::Host,
            (_, Some(version)) => Processor::Model(version),
            _ => return Err(CpuError::UnknownModel(name.into())),
        };
        let mut selection = Selection::of(processor);
        // As in QEMU, wherever they stand, -feature wins over +feature and that over feature=on|off.
        let (mut plus, mut minus) = (Vec::new(), Vec::new());
        let (mut check, mut enforce) = (true, false);
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, "on"));
            if let Some(name) = part.strip_prefix('+') {
                plus.push((find(part, name)?, true));
            } else if let Some(name) = part.strip_prefix('-') {
                minus.push((find(part, name)?, false));
            } else {
                match key {
                    "check" => check = switch(part, key, value)?,
                    "enforce" => enforce = switch(part, key, value)?,
                    "x-force-features" => selection.force = switch(part, key, value)?,
                    "vendor" => {
                        let name = value.as_bytes().try_into();
                        let name = name.map_err(|_| CpuError::BadVendor(part.into()))?;
                        selection.vendor = Some(Vendor::new(name));
                    }
                    _ => selection.switches.push((find(part, key)?, switch(part, key, value)?)),
                }
            }
        }
        selection.switches.append(&mut plus);
        selection.switches.append(&mut minus);
        selection.strictness = match (check, enforce) {
            (_, true) => Strictness::Enforce,
            (true, false) => Strictness::Check,
            (false, false) => Strictness::Silent,
        };
        Ok(selection)
    }
}

fn find(part: &str, name: &str) -> Result<Feature, CpuError> {
    feature::find(name).ok_or_else(|| CpuError::UnknownFeature {
        part: part.into(),
        closest: feature::closest(name),
    })
}

fn switch(part: &str, name: &str, value: &str) -> Result<bool, CpuError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(CpuError::BadSwitch { part: part.into(), name: name.into() }),
    }
}
