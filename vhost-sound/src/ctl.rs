//! `vhost-sound ctl`: a client of a running program's control socket.

use serde_json::{Value, json};
use vhost_runtime::control::client::{Client, ClientError};
use vhost_runtime::control::table;
use vhost_runtime::program::{self, PrintError};
use vhost_sound::options::{CtlArgs, CtlCommand, JackState, Volume};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error("the process gave an answer that is none of this version's")]
    Answer,
}

const STREAMS: [&str; 6] = ["STREAM", "JACK", "PLUGGED", "RUNS", "VOLUME", "MUTED"];

pub(crate) fn run(args: &CtlArgs) -> Result<(), CtlError> {
    let mut client = Client::connect(&args.control)?;
    let answer = match &args.command {
        CtlCommand::List => client.execute("query-streams", json!({}), &[])?,
        CtlCommand::Jack { stream, state } => {
            let jack = json!({ "stream": stream, "plugged": *state == JackState::In });
            client.execute("set-jack", jack, &[])?
        }
        CtlCommand::Volume { stream, volume } => {
            let volume = match volume {
                Volume::Percent(percent) => json!({ "stream": stream, "volume": percent }),
                Volume::Mute => json!({ "stream": stream, "muted": true }),
                Volume::Unmute => json!({ "stream": stream, "muted": false }),
            };
            client.execute("set-volume", volume, &[])?
        }
    };
    if args.json {
        return Ok(program::print(&format!("{answer}\n"))?);
    }
    match (&args.command, answer.as_array()) {
        (CtlCommand::List, Some(streams)) => {
            Ok(table::print(&STREAMS, streams.iter().map(stream))?)
        }
        (CtlCommand::List, None) => Err(CtlError::Answer),
        (CtlCommand::Jack { .. } | CtlCommand::Volume { .. }, _) => Ok(()),
    }
}

fn stream(stream: &Value) -> Vec<String> {
    let text = |name| stream.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let flag = |name| match stream.get(name).and_then(Value::as_bool) {
        Some(true) => String::from("yes"),
        Some(false) => String::from("no"),
        None => String::from("-"),
    };
    let volume = volume(stream.get("volume"));
    vec![text("stream"), text("jack"), flag("plugged"), flag("running"), volume, flag("muted")]
}

/// Of all channels, or of each where they differ.
fn volume(volumes: Option<&Value>) -> String {
    let volumes = volumes.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<String> = volumes.iter().map(|volume| format!("{volume}%")).collect();
    match texts.split_first() {
        Some((first, rest)) if rest.iter().all(|other| other == first) => first.clone(),
        _ => texts.join(" "),
    }
}
