//! What a program's verb for people prints.

use crate::program::{self, PrintError};

/// Prints a table, with columns as wide as their widest cell.
///
/// # Errors
/// See [`program::print`].
pub fn print(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<(), PrintError> {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    });
    program::print(&lines.collect::<String>())
}
