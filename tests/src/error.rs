//! What can go wrong in the lab.

use std::io;

/// An error of the lab, with enough of the log to see the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and to which file.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program that the lab ran on the host failed.
    #[error("{what} failed ({status}):\n{log}")]
    Failed {
        /// The step that failed.
        what: String,
        /// How the program ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        log: String,
    },
    /// Packages are missing, and this user can't install them.
    #[error("missing programs, and only root may install them: run `apt-get install {0}`")]
    NotRoot(String),
    /// QEMU ended, or closed a socket, while the lab talked to its guest.
    #[error("the guest ended while {doing}: {source}; its console and QEMU say:\n{log}")]
    Ended {
        /// What the lab waited for.
        doing: String,
        /// How the loss was noticed.
        source: io::Error,
        /// The end of QEMU's messages and of the guest's console.
        log: String,
    },
    /// The guest's machine was reset, and its kernel had not panicked.
    #[error("the guest's machine was reset while {doing}; its console and QEMU say:\n{log}")]
    Reset {
        /// What the lab waited for.
        doing: String,
        /// The end of QEMU's messages and of the guest's console.
        log: String,
    },
    /// The guest did not answer in time.
    #[error("no answer within {seconds} s while {doing}; its console and QEMU say:\n{log}")]
    Timeout {
        /// What the lab waited for.
        doing: String,
        /// How long it waited, in seconds.
        seconds: u64,
        /// The end of QEMU's messages and of the guest's console.
        log: String,
    },
    /// A script in the guest failed.
    #[error("a script in the guest ended with status {status}:\n{stdout}{stderr}")]
    Script {
        /// Its exit status.
        status: i32,
        /// What it printed.
        stdout: String,
        /// What it printed to its standard error.
        stderr: String,
    },
    /// QEMU refused a QMP command.
    #[error("QMP {command}: {answer}")]
    Qmp {
        /// The command.
        command: String,
        /// QEMU's `error` object.
        answer: String,
    },
    /// The guest's agent or QEMU answered something that the lab does not understand.
    #[error("an answer that makes no sense while {doing}: {answer:?}")]
    Protocol {
        /// What the lab waited for.
        doing: String,
        /// What came.
        answer: String,
    },
    /// A driver without a guest met something that should not be.
    #[error("{what}: {source}")]
    Driver {
        /// What failed.
        what: &'static str,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Gives a driver's failure its context.
    pub(crate) fn driver<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: &'static str,
    ) -> impl Fn(E) -> Error {
        move |source| Error::Driver { what, source: source.into() }
    }
}

/// Says what was being done when the operating system refused.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).map(|line| format!("    {line}\n")).collect()
}
