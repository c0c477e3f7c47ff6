//! What the benchmarks have in common.

use std::process::ExitCode;

use crate::Error;

/// The `main` of a benchmark that is told words, of which each title has to have all.
pub fn benchmark(run: impl FnOnce(&[String]) -> Result<(), Error>) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a title has all words.
pub fn wanted(title: &str, words: &[String]) -> bool {
    words.iter().all(|word| title.contains(word))
}
