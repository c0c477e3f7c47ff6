//! `vhost-usb ctl`: a client of a running process's control socket.

use std::os::fd::AsFd;

use serde_json::{Value, json};
use vhost_runtime::control::client::{Client, ClientError};
use vhost_runtime::control::table;
use vhost_runtime::program::{self, PrintError};
use vhost_usb::devices::redirections::{RedirectError, Redirection};
use vhost_usb::devices::{DeviceError, passed};
use vhost_usb::options::{CtlArgs, CtlCommand};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    #[error("the process gave an answer that is none of this version's")]
    Answer,
}

pub(crate) fn run(args: &CtlArgs) -> Result<(), CtlError> {
    let mut client = Client::connect(&args.control)?;
    match &args.command {
        CtlCommand::List => {
            let devices = client.execute("query-devices", json!({}), &[])?;
            if args.json {
                return Ok(program::print(&format!("{devices}\n"))?);
            }
            let devices = devices.as_array().ok_or(CtlError::Answer)?;
            table::print(&["PORT", "DEVICE"], devices.iter().map(row))?;
        }
        CtlCommand::Add { devices } => add(&mut client, devices, args.json)?,
        CtlCommand::Redirect { redirection } => {
            let opened = Redirection::parse(redirection)?.open()?;
            let arguments = json!({ "redirect": redirection });
            let answer = client.execute("redirect-add", arguments, &[opened.as_fd()])?;
            let port = word(&answer, "port").to_owned();
            let text = if args.json { answer.to_string() } else { port };
            program::print(&format!("{text}\n"))?;
        }
        CtlCommand::Remove { port } => {
            client.execute("device-remove", json!({ "port": port }), &[])?;
        }
    }
    Ok(())
}

/// Plugs devices in one by one; those before one that fails stay.
fn add(client: &mut Client, devices: &[String], as_json: bool) -> Result<(), CtlError> {
    let mut added = Vec::new();
    for text in devices {
        let (text, opened) = passed::open(text)?;
        let fds: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        let answer = client.execute("device-add", json!({ "device": text }), &fds)?;
        if as_json {
            added.push(answer);
        } else {
            program::print(&format!("{}\n", word(&answer, "port")))?;
        }
    }
    if as_json {
        program::print(&format!("{}\n", Value::Array(added)))?;
    }
    Ok(())
}

fn row(device: &Value) -> Vec<String> {
    ["port", "device"].map(|key| word(device, key).to_owned()).into()
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("-")
}
