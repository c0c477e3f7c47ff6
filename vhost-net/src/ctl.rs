//! `vhost-net ctl`: a client of a running program's control socket.

use serde_json::{Value, json};
use vhost_net::options::{CtlArgs, CtlCommand, LinkState};
use vhost_runtime::control::client::{Client, ClientError};
use vhost_runtime::control::table;
use vhost_runtime::program::{self, PrintError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error("the process gave an answer that is none of this version's")]
    Answer,
}

pub(crate) fn run(args: &CtlArgs) -> Result<(), CtlError> {
    let mut client = Client::connect(&args.control)?;
    let answer = match &args.command {
        CtlCommand::List => client.execute("query-cards", json!({}), &[])?,
        CtlCommand::Stats => client.execute("query-stats", json!({}), &[])?,
        CtlCommand::Link { state, card } => {
            let up = *state == LinkState::Up;
            client.execute("set-link", with(card.as_deref(), json!({ "up": up })), &[])?
        }
        CtlCommand::Announce { card } => {
            client.execute("announce-self", with(card.as_deref(), json!({})), &[])?
        }
    };
    if args.json {
        return Ok(program::print(&format!("{answer}\n"))?);
    }
    match (&args.command, answer.as_array()) {
        (CtlCommand::List, Some(cards)) => Ok(table::print(&CARDS, cards.iter().map(card))?),
        (CtlCommand::Stats, Some(cards)) => {
            Ok(table::print(&STATISTICS, cards.iter().flat_map(queues))?)
        }
        (CtlCommand::List | CtlCommand::Stats, None) => Err(CtlError::Answer),
        _ => Ok(()),
    }
}

fn with(card: Option<&str>, mut arguments: Value) -> Value {
    if let (Some(card), Some(object)) = (card, arguments.as_object_mut()) {
        object.insert(String::from("card"), json!(card));
    }
    arguments
}

const CARDS: [&str; 5] = ["CARD", "KIND", "ADDRESS", "LINK", "QUEUES"];

fn card(card: &Value) -> Vec<String> {
    let link = match (flag(card, "link"), flag(card, "plugged")) {
        (true, _) => "up",
        (false, true) => "down (host)",
        (false, false) => "down",
    };
    let queues = format!("{} of {}", show(card.get("queues-used")), show(card.get("queues")));
    vec![
        show(card.get("card")),
        show(card.get("kind")),
        show(card.get("mac")),
        link.to_owned(),
        queues,
    ]
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

const STATISTICS: [&str; 5] = ["CARD", "QUEUE", "FRAMES", "BYTES", "DROPPED"];

/// Of each queue that has done something.
fn queues(card: &Value) -> Vec<Vec<String>> {
    let pairs = card.get("pairs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let each = pairs.iter().enumerate().flat_map(|(number, pair)| {
        [("receive", "rx"), ("transmit", "tx")].map(|(direction, short)| {
            let queue = pair.get(direction).unwrap_or(&Value::Null);
            let drops = queue.get("dropped").and_then(Value::as_object).into_iter().flatten();
            let drops = drops.filter(|(_, count)| count.as_u64() != Some(0));
            let drops: Vec<String> = drops.map(|(why, count)| format!("{count} {why}")).collect();
            let drops = if drops.is_empty() { String::from("-") } else { drops.join(", ") };
            vec![
                show(card.get("card")),
                format!("{short}{number}"),
                show(queue.get("frames")),
                show(queue.get("bytes")),
                drops,
            ]
        })
    });
    each.filter(|row| row.iter().skip(2).any(|cell| cell != "0" && cell != "-")).collect()
}

fn show(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::from("-"),
    }
}
