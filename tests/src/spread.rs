//! How a benchmark's figures are told.

use std::fmt;

/// Minimum, median and maximum.
#[derive(Debug, Clone)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Of these figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Spread(figures)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.0.len().checked_sub(1) else { return f.pad("-") };
        let (low, middle, high) = (self.0[0], self.0[last / 2], self.0[last]);
        let text = format!("{low:.2} / {middle:.2} / {high:.2}");
        f.pad(&text)
    }
}
