//! The log: lines to standard error, and no more of them than someone would read.
//!
//! Guests and frontends can have a program say the same without end, and the log may be on the disk that
//! the host lives on. So each place in the program has an allowance. Levels below `info`, for which one
//! has to ask, have none.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::{Level, Log, Metadata, Record};

/// Lines of one place at once, some for each of the units of a guest that has hundreds; after that, one a second.
const MOST: u32 = 4096;

/// Starts logging to standard error.
pub fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let lines = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format_target(false)
        .build();
    let most = lines.filter();
    let logger = Limited { lines, places: Mutex::default() };
    // A second logger would be a mistake of the program's, and the first one serves it.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(most);
    }
}

/// A place in the source: file and line.
type Place = (Option<&'static str>, Option<u32>);

struct Limited {
    lines: env_logger::Logger,
    places: Mutex<HashMap<Place, Allowance>>,
}

impl Log for Limited {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() > Level::Info || !self.lines.matches(record) {
            return self.lines.log(record);
        }
        let place = (record.file_static(), record.line());
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let verdict = places.entry(place).or_insert(Allowance::new(now)).spend(now);
        drop(places);
        if let Verdict::Shown(note) = verdict {
            let mut said = Record::builder();
            said.metadata(record.metadata().clone());
            self.lines.log(&said.args(format_args!("{}{note}", record.args())).build());
        }
    }

    fn flush(&self) {
        self.lines.flush();
    }
}

/// What a place may say.
#[derive(Debug)]
struct Allowance {
    left: u32,
    /// When it last had one more.
    since: Instant,
    hidden: u64,
    /// It was said that it is used up.
    is_told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Hidden,
    Shown(Note),
}

/// What is added to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Nothing,
    /// The allowance is used up.
    Last,
    /// So many were hidden before it.
    After(u64),
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Last => {
                f.write_str(" (one line like it a second from here on, until they are fewer)")
            }
            Self::After(1) => f.write_str(" (one line like it was left out)"),
            Self::After(hidden) => write!(f, " ({hidden} lines like it were left out)"),
        }
    }
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: MOST, since: now, hidden: 0, is_told: false }
    }

    /// One more line.
    fn spend(&mut self, now: Instant) -> Verdict {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            let earned = u32::try_from(seconds).unwrap_or(MOST);
            self.left = self.left.saturating_add(earned).min(MOST);
            self.since = now;
            self.is_told &= self.left < MOST;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.hidden = self.hidden.saturating_add(1);
            return Verdict::Hidden;
        };
        self.left = left;
        Verdict::Shown(match std::mem::take(&mut self.hidden) {
            0 if left == 0 && !std::mem::replace(&mut self.is_told, true) => Note::Last,
            0 => Note::Nothing,
            hidden => Note::After(hidden),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is said of lines that come at once.
    fn lines(allowance: &mut Allowance, now: Instant, count: u32) -> Vec<Verdict> {
        (0..count).map(|_| allowance.spend(now)).collect()
    }

    #[test]
    fn a_place_says_so_much_and_then_one_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let first = lines(&mut allowance, start, MOST);
        let (last, before) = first.split_last().unwrap();
        assert!(before.iter().all(|verdict| *verdict == Verdict::Shown(Note::Nothing)));
        assert_eq!(*last, Verdict::Shown(Note::Last));
        assert_eq!(lines(&mut allowance, start, 100), [Verdict::Hidden; 100]);

        let soon = start + SECOND / 2;
        assert_eq!(allowance.spend(soon), Verdict::Hidden);
        let later = start + SECOND;
        assert_eq!(allowance.spend(later), Verdict::Shown(Note::After(101)));
        assert_eq!(allowance.spend(later), Verdict::Hidden);
    }

    #[test]
    fn a_place_that_was_silent_has_all_of_it_again() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        lines(&mut allowance, start, MOST + 7);
        let later = start + SECOND * (MOST + 1_000);
        let again = lines(&mut allowance, later, MOST + 1);
        assert_eq!(again.first(), Some(&Verdict::Shown(Note::After(7))));
        let shown = again.iter().filter(|verdict| **verdict != Verdict::Hidden).count();
        assert_eq!(shown, MOST as usize);
    }

    #[test]
    fn that_it_is_used_up_is_said_once() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        lines(&mut allowance, start, MOST);
        for second in 1..10 {
            assert_eq!(allowance.spend(start + SECOND * second), Verdict::Shown(Note::Nothing));
        }
        let later = start + SECOND * (MOST + 100);
        assert_eq!(lines(&mut allowance, later, MOST).last(), Some(&Verdict::Shown(Note::Last)));
    }

    #[test]
    fn a_clock_that_stands_still_earns_nothing() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start + SECOND);
        lines(&mut allowance, start, MOST);
        assert_eq!(allowance.spend(start), Verdict::Hidden);
    }

    #[test]
    fn a_line_says_what_was_left_out() {
        assert_eq!(Note::Nothing.to_string(), "");
        assert_eq!(
            Note::Last.to_string(),
            " (one line like it a second from here on, until they are fewer)"
        );
        assert_eq!(Note::After(1).to_string(), " (one line like it was left out)");
        assert_eq!(Note::After(41).to_string(), " (41 lines like it were left out)");
    }
}
