//! `vhost-sound ctl`: a client of a running program's control socket.

use serde_json::{Value, json};
use vhost_runtime::control::client::{Client, ClientError};
use vhost_runtime::control::table;
use vhost_runtime::program::{self, PrintError};
use vhost_sound::options::{CtlArgs, CtlCommand, JackState};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error("the process gave an answer that is none of this version's")]
    Answer,
}

const STREAMS: [&str; 4] = ["STREAM", "JACK", "PLUGGED", "RUNS"];

pub(crate) fn run(args: &CtlArgs) -> Result<(), CtlError> {
    let mut client = Client::connect(&args.control)?;
    let answer = match &args.command {
        CtlCommand::List => client.execute("query-streams", json!({}), &[])?,
        CtlCommand::Jack { stream, state } => {
            let jack = json!({ "stream": stream, "plugged": *state == JackState::In });
            client.execute("set-jack", jack, &[])?
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
        (CtlCommand::Jack { .. }, _) => Ok(()),
    }
}

fn stream(stream: &Value) -> Vec<String> {
    let text = |name| stream.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let flag = |name| match stream.get(name).and_then(Value::as_bool) {
        Some(true) => String::from("yes"),
        Some(false) => String::from("no"),
        None => String::from("-"),
    };
    vec![text("stream"), text("jack"), flag("plugged"), flag("running")]
}
