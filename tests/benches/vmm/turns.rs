//! Subjects are measured in turns.

use lab::Error;

/// What was measured of each of `N` subjects, told by their numbers, in so many rounds.
pub(crate) fn in_turns<T, const N: usize>(
    rounds: usize,
    mut measure: impl FnMut(usize) -> Result<T, Error>,
) -> Result<[Vec<T>; N], Error> {
    let mut runs = [const { Vec::new() }; N];
    for round in 0..rounds {
        // One that always comes first would be favoured.
        for index in (0..N).map(|turn| (turn + round) % N) {
            runs[index].push(measure(index)?);
        }
    }
    Ok(runs)
}
