//! The command line, as every program reads it: what is wrong with it is said in one sentence.

use std::io;

use clap::Parser;
use clap::error::ErrorKind;

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ArgumentError(String);

/// Reads the command line. Prints help or the version, where that is asked for, and ends the program.
///
/// # Errors
/// It can't be understood.
pub fn read<P: Parser>() -> Result<P, ArgumentError> {
    P::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            // Who reads it has seen enough.
            Err(failure) if failure.kind() != io::ErrorKind::BrokenPipe => {
                ArgumentError(format!("what was asked for cannot be printed: {failure}"))
            }
            _ => std::process::exit(0),
        },
        _ => ArgumentError(sentence(&error)),
    })
}

/// What clap says without its usage, which `--help` tells better.
fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return String::from("something is missing, see --help");
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said =
        lines.take_while(|line| !line.starts_with("Usage: ") && !line.starts_with("For more"));
    let said = said.collect::<Vec<_>>().join(" ");
    said.strip_prefix("error: ").map(str::to_owned).unwrap_or(said)
}

/// Bytes: a number, alone or with K, M, G or T.
///
/// # Errors
/// It is something else.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, unit)) if !unit.is_ascii_digit() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(String::from("its unit must be K, M, G or T")),
            };
            (text.split_at(at).0, shift)
        }
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| String::from("write it like 10G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| String::from("nothing is so large"))
}

/// The parts of a text between its commas. A comma that is doubled is one within a part, as QEMU's.
#[must_use]
pub fn parts(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ',' if characters.next_if_eq(&',').is_none() => parts.push(std::mem::take(&mut part)),
            character => part.push(character),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_comma_is_one() {
        assert_eq!(parts("a=b,,c,d,,,e"), ["a=b,c", "d,", "e"]);
        assert_eq!(parts(""), [""]);
        assert_eq!(parts("a,"), ["a", ""]);
    }

    #[derive(Debug, Parser)]
    struct Options {
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=254))]
        queues: Option<u16>,
        #[arg(long, value_parser = ["on", "off"])]
        sandbox: Option<String>,
        #[arg(long, required = true)]
        path: Option<String>,
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("10g"), Ok(10 << 30));
        for wrong in ["", "G", "1X", "-1", "99999999999T", "1ü"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    fn wrong(words: &str) -> String {
        sentence(&Options::try_parse_from(words.split(' ')).unwrap_err())
    }

    #[test]
    fn one_sentence_with_the_option_the_value_and_what_would_be_right() {
        assert_eq!(
            wrong("x --path p --queues 0"),
            "invalid value '0' for '--queues <N>': 0 is not in 1..=254"
        );
        assert_eq!(
            wrong("x --path p --sandbox maybe"),
            "invalid value 'maybe' for '--sandbox <SANDBOX>' [possible values: on, off]"
        );
        assert_eq!(
            wrong("x --path p --sandbx on"),
            "unexpected argument '--sandbx' found tip: a similar argument exists: '--sandbox'"
        );
        assert_eq!(wrong("x"), "the following required arguments were not provided: --path <PATH>");
        assert_eq!(
            wrong("x --path"),
            "a value is required for '--path <PATH>' but none was supplied"
        );
    }
}
