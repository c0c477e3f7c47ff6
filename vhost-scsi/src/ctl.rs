//! `vhost-scsi ctl`: a client of a running controller's control socket.

use std::os::fd::AsFd;

use serde_json::{Map, Value, json};
use vhost_runtime::control::client::{Client, ClientError};
use vhost_runtime::control::table;
use vhost_runtime::program::{self, PrintError};
use vhost_scsi::options::{CtlArgs, CtlCommand, UnitArgs};
use vhost_scsi::scsi::target::Address;
use vhost_scsi::units::{Kind, Texts, Unit, UnitError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error("the process gave an answer that is none of this version's")]
    Answer,
}

pub(crate) fn run(args: &CtlArgs) -> Result<(), CtlError> {
    let mut client = Client::connect(&args.control)?;
    let answer = match &args.command {
        CtlCommand::List => client.execute("query-units", json!({}), &[])?,
        CtlCommand::Stats => client.execute("query-stats", json!({}), &[])?,
        CtlCommand::Add(units) => return add(&mut client, units, args.json),
        CtlCommand::Remove { unit } => client.execute("unit-remove", at(*unit, json!({})), &[])?,
        CtlCommand::Resize { unit, size, shrink } => {
            let mut arguments = json!({ "shrink": shrink });
            if let (Some(size), Some(object)) = (size, arguments.as_object_mut()) {
                object.insert(String::from("size"), json!(size));
            }
            client.execute("unit-resize", at(*unit, arguments), &[])?
        }
        CtlCommand::Eject { unit, force } => {
            client.execute("medium-eject", at(*unit, json!({ "force": force })), &[])?
        }
        CtlCommand::Load { unit, medium, force } => {
            let (text, file) = opened(Kind::Cdrom, medium)?;
            let arguments = at(*unit, json!({ "medium": text, "force": force }));
            let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            client.execute("medium-load", arguments, &fds)?
        }
    };
    if args.json {
        return Ok(program::print(&format!("{answer}\n"))?);
    }
    match (&args.command, answer.as_array()) {
        (CtlCommand::List, Some(units)) => table::print(&UNITS, units.iter().map(unit_row))?,
        (CtlCommand::Stats, Some(units)) => table::print(&STATISTICS, units.iter().map(stats_row))?,
        (CtlCommand::List | CtlCommand::Stats, None) => return Err(CtlError::Answer),
        (CtlCommand::Resize { unit, .. }, _) => {
            let (Address { target, lun }, size) = (unit, show(answer.get("size")));
            program::print(&format!("{target}:{lun} has {size} bytes\n"))?;
        }
        _ => {}
    }
    Ok(())
}

/// Adds units one by one; those before one that fails stay.
fn add(client: &mut Client, units: &UnitArgs, as_json: bool) -> Result<(), CtlError> {
    let mut added = Vec::new();
    for (kind, text) in units.texts() {
        let mut texts = Texts::of(kind, text)?;
        let mut before = None;
        while let Some(text) = texts.next(before) {
            let (text, file) = opened(kind, &text)?;
            let mut arguments = Map::new();
            arguments.insert(kind.name().to_owned(), Value::String(text));
            let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            let answer = client.execute("unit-add", Value::Object(arguments), &fds)?;
            let address = address(&answer).ok_or(CtlError::Answer)?;
            before = Some(address);
            if as_json {
                added.push(answer);
            } else {
                program::print(&format!("{}:{}\n", address.target, address.lun))?;
            }
        }
    }
    if as_json {
        program::print(&format!("{}\n", Value::Array(added)))?;
    }
    Ok(())
}

/// Opens what a unit stands on, for the process that may not.
fn opened(kind: Kind, text: &str) -> Result<(String, Option<std::fs::File>), UnitError> {
    let unit = Unit::parse(kind, text)?;
    Ok((unit.text(), unit.open_file()?))
}

fn at(Address { target, lun }: Address, mut arguments: Value) -> Value {
    if let Some(object) = arguments.as_object_mut() {
        object.insert(String::from("target"), json!(target));
        object.insert(String::from("lun"), json!(lun));
    }
    arguments
}

fn address(value: &Value) -> Option<Address> {
    let number = |name| value.get(name).and_then(Value::as_u64);
    let target = u8::try_from(number("target")?).ok()?;
    let lun = u16::try_from(number("lun")?).ok()?;
    Some(Address { target, lun })
}

const UNITS: [&str; 5] = ["UNIT", "KIND", "SIZE", "ACCESS", "IMAGE"];

fn unit_row(unit: &Value) -> Vec<String> {
    let access = match unit.get("read-only").and_then(Value::as_bool) {
        Some(true) => "read-only",
        Some(false) => "read-write",
        None => "-",
    };
    let size = unit.get("size").and_then(Value::as_u64);
    let image = match unit.get("tray-open").and_then(Value::as_bool) {
        Some(true) => String::from("(tray open)"),
        _ if unit.get("path").is_none_or(Value::is_null) => String::from("(empty)"),
        _ => show(unit.get("path")),
    };
    let size = size.map_or(String::from("-"), readable);
    vec![place(unit), show(unit.get("kind")), size, access.to_owned(), image]
}

const STATISTICS: [&str; 9] =
    ["UNIT", "READS", "READ", "WRITES", "WRITTEN", "FLUSHES", "UNMAPS", "OTHERS", "ERRORS"];

fn stats_row(unit: &Value) -> Vec<String> {
    let number = |name: &str| unit.get("statistics").and_then(|counts| counts.get(name)?.as_u64());
    let count = |name| number(name).map_or(String::from("-"), |count| count.to_string());
    let bytes = |name| number(name).map_or(String::from("-"), readable);
    vec![
        place(unit),
        count("reads"),
        bytes("bytes-read"),
        count("writes"),
        bytes("bytes-written"),
        count("flushes"),
        count("unmaps"),
        count("others"),
        count("errors"),
    ]
}

fn place(unit: &Value) -> String {
    format!("{}:{}", show(unit.get("target")), show(unit.get("lun")))
}

fn show(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::from("-"),
    }
}

/// Bytes, to three digits.
fn readable(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while size >= 1024.0
        && let Some(next) = units.next()
    {
        size /= 1024.0;
        unit = Some(next);
    }
    let digits = if size.fract() == 0.0 || size >= 100.0 { 0 } else { 1 };
    format!("{size:.digits$} {}", unit.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(readable(512), "512 B");
        assert_eq!(readable(1 << 30), "1 GiB");
        assert_eq!(readable(1_500_000_000), "1.4 GiB");
        assert_eq!(readable(u64::MAX), "16384 PiB");
    }
}
