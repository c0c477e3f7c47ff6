//! Messages: JSON objects one after the other, however they are cut or spread over lines.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::{Arguments, ControlError};

/// Bytes that a message may have.
pub(super) const LIMIT: usize = 64 << 10;

/// What a stream of bytes holds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The bytes of an object, from `{` to its `}`.
    Object(Vec<u8>),
    /// Bytes that begin no object; what follows them, up to the end of the line, is skipped.
    Garbage,
    /// Nothing that is complete.
    Nothing,
}

/// Cuts a stream of bytes into objects. Each byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were looked at.
    seen: usize,
    depth: usize,
    string: bool,
    escape: bool,
    /// After garbage: everything is, until a line ends.
    skipping: bool,
}

impl Splitter {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// An object has begun and not ended.
    pub(super) fn is_within(&self) -> bool {
        self.depth > 0
    }

    /// Bytes of the object that has begun.
    pub(super) fn pending(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn next(&mut self) -> Found {
        while let Some(&byte) = self.buffer.get(self.seen) {
            self.seen = self.seen.saturating_add(1);
            if self.skipping {
                self.skipping = byte != b'\n';
            } else if self.depth == 0 {
                match byte {
                    b'{' => {
                        self.buffer.drain(..self.seen.saturating_sub(1));
                        (self.seen, self.depth) = (1, 1);
                    }
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    _ => return self.garbage(byte),
                }
            } else if self.string {
                match byte {
                    // JSON has no such bytes in strings: the quote was never closed.
                    0..0x20 => return self.garbage(byte),
                    _ if self.escape => self.escape = false,
                    b'\\' => self.escape = true,
                    b'"' => self.string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.string = true,
                    b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
                if self.depth == 0 {
                    let rest = self.buffer.split_off(self.seen);
                    self.seen = 0;
                    return Found::Object(std::mem::replace(&mut self.buffer, rest));
                }
            }
        }
        if self.depth == 0 {
            self.buffer.clear();
            self.seen = 0;
        }
        Found::Nothing
    }

    fn garbage(&mut self, byte: u8) -> Found {
        self.buffer.drain(..self.seen);
        let buffer = std::mem::take(&mut self.buffer);
        *self = Self { buffer, skipping: byte != b'\n', ..Self::default() };
        Found::Garbage
    }
}

/// A command, as a client sends it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Option<Value>,
    pub(super) command: Result<Command, ControlError>,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) arguments: Arguments,
    /// Descriptors that belong to it.
    pub(super) fds: usize,
}

impl Request {
    pub(super) fn read(bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Map<String, Value>>(bytes) {
            Ok(mut object) => Self { id: object.remove("id"), command: Command::read(object) },
            Err(error) => {
                let what = format!("this is no JSON: {error}");
                Self { id: None, command: Err(ControlError::Message(what)) }
            }
        }
    }
}

impl Command {
    fn read(mut object: Map<String, Value>) -> Result<Self, ControlError> {
        let wrong = |what: &str| Err(ControlError::Message(what.to_owned()));
        let name = match object.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => return wrong("\"execute\" must be a string"),
            None => return wrong("\"execute\" is missing"),
        };
        let mut arguments = match object.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return wrong("\"arguments\" must be an object"),
            None => Map::new(),
        };
        if let Some(key) = object.keys().next() {
            return wrong(&format!("\"{key}\" is not a member of a command"));
        }
        let fds = match arguments.remove("fds") {
            None => 0,
            Some(count) => match count.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) => count,
                None => return wrong("\"fds\" must be the number of descriptors passed along"),
            },
        };
        Ok(Self { name, arguments, fds })
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.extend_from_slice(b"\r\n");
    line
}

fn with_id(mut message: Value, id: Option<Value>) -> Value {
    if let (Some(object), Some(id)) = (message.as_object_mut(), id) {
        object.insert(String::from("id"), id);
    }
    message
}

pub(super) fn greeting(version: &Value) -> Vec<u8> {
    line(&json!({ "QMP": { "version": version, "capabilities": [] } }))
}

pub(super) fn answer(value: Value, id: Option<Value>) -> Vec<u8> {
    line(&with_id(json!({ "return": value }), id))
}

pub(super) fn error(error: &ControlError, id: Option<Value>) -> Vec<u8> {
    let error = json!({ "class": error.class(), "desc": error.to_string() });
    line(&with_id(json!({ "error": error }), id))
}

pub(super) fn event(name: &str, data: &Value) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = json!({ "seconds": now.as_secs(), "microseconds": now.subsec_micros() });
    line(&json!({ "event": name, "data": data, "timestamp": timestamp }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(splitter: &mut Splitter) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            match splitter.next() {
                Found::Object(bytes) => found.push(String::from_utf8(bytes).unwrap()),
                Found::Garbage => found.push(String::from("garbage")),
                Found::Nothing => return found,
            }
        }
    }

    #[test]
    fn objects_are_found_however_they_are_cut() {
        let text = " {\"a\":\"}\\\"{\"}{\"b\":[{}]}\r\n\n{\n \"c\"\n:1}";
        let expected = ["{\"a\":\"}\\\"{\"}", "{\"b\":[{}]}", "{\n \"c\"\n:1}"];
        for piece in 1..text.len() {
            let mut splitter = Splitter::default();
            let mut found = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                splitter.push(bytes);
                found.extend(all(&mut splitter));
            }
            assert_eq!(found, expected, "in pieces of {piece}");
            assert!(!splitter.is_within());
        }
    }

    #[test]
    fn garbage_ends_with_its_line() {
        let mut splitter = Splitter::default();
        splitter.push(b"GET / HTTP/1.1\n{\"a\":1}\n}{\n{\"open\n{\"b\":2}");
        let expected = ["garbage", "{\"a\":1}", "garbage", "garbage", "{\"b\":2}"];
        assert_eq!(all(&mut splitter), expected);
        splitter.push(b"[]");
        assert_eq!(all(&mut splitter), ["garbage"]);
        splitter.push(b"[]{}");
        assert_eq!(all(&mut splitter), [""; 0]);
        assert_eq!(splitter.pending(), 0, "nothing is kept of garbage");
    }

    #[test]
    fn a_command_that_is_none_is_told_with_its_id() {
        let wrong = |text: &str| {
            let request = Request::read(text.as_bytes());
            (request.id, request.command.err().unwrap().to_string())
        };
        assert!(wrong("{\"a\"}").1.starts_with("this is no JSON: "));
        assert_eq!(wrong("{\"id\":7}"), (Some(json!(7)), "\"execute\" is missing".into()));
        assert_eq!(wrong("{\"execute\":7}").1, "\"execute\" must be a string");
        assert_eq!(
            wrong("{\"execute\":\"x\",\"arguments\":[]}").1,
            "\"arguments\" must be an object"
        );
        assert_eq!(
            wrong("{\"execute\":\"x\",\"control\":1}").1,
            "\"control\" is not a member of a command"
        );
        assert!(wrong("{\"execute\":\"x\",\"arguments\":{\"fds\":-1}}").1.starts_with("\"fds\""));
        let deep = format!("{{\"execute\":{}", "[".repeat(60_000));
        assert!(wrong(&deep).1.contains("no JSON"));
    }
}
