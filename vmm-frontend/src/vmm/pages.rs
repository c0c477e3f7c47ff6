//! What is said when the host has too few huge pages for a guest.

use std::fs;
use std::path::{Path, PathBuf};

use crate::frontend::memory::Pages;

/// Where Linux tells of them (Documentation/admin-guide/mm/hugetlbpage.rst).
const FOLDER: &str = "/sys/kernel/mm/hugepages";

/// Too few huge pages.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PagesError {
    /// It could set more of them aside.
    #[error(
        "{needed} huge pages of {size} are needed, and the host has {free} free: echo {set} > {folder}/nr_hugepages, or leave out hugepages={size}"
    )]
    TooFew {
        /// Their size, as `hugepages=` has it.
        size: &'static str,
        /// How many are needed.
        needed: u64,
        /// How many nobody uses or has asked for.
        free: u64,
        /// How many there would have to be.
        set: u64,
        /// Where they are set aside.
        folder: PathBuf,
    },
    /// It has none of that size.
    #[error("this host has no huge pages of {0}, leave out hugepages={0}")]
    None(&'static str),
}

/// Why the host can't have given so many bytes in such pages, if there are too few of these.
pub(super) fn shortage(bytes: u64, pages: Pages) -> Option<PagesError> {
    look(Path::new(FOLDER), bytes, pages)
}

fn look(all: &Path, bytes: u64, pages: Pages) -> Option<PagesError> {
    let size = match pages {
        Pages::Normal => return None,
        Pages::Huge2M => "2M",
        Pages::Huge1G => "1G",
    };
    let folder = all.join(format!("hugepages-{}kB", pages.size() >> 10));
    let number =
        |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let (Some(total), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) else {
        return Some(PagesError::None(size));
    };
    // Some that are free are promised to others.
    let free = free.saturating_sub(number("resv_hugepages").unwrap_or(0));
    let needed = bytes.div_ceil(pages.size());
    let missing = needed.checked_sub(free).filter(|missing| *missing > 0)?;
    let set = total.saturating_add(missing);
    Some(PagesError::TooFew { size, needed, free, set, folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_number_that_would_do() {
        let all = tempfile::tempdir().unwrap();
        let folder = all.path().join("hugepages-2048kB");
        fs::create_dir(&folder).unwrap();
        for (name, number) in [("nr_hugepages", 10), ("free_hugepages", 6), ("resv_hugepages", 2)] {
            fs::write(folder.join(name), format!("{number}\n")).unwrap();
        }
        let said = |bytes, pages| look(all.path(), bytes, pages).map(|error| error.to_string());
        let sentence = format!(
            "5 huge pages of 2M are needed, and the host has 4 free: echo 11 > {}/nr_hugepages, or \
             leave out hugepages=2M",
            folder.display()
        );
        assert_eq!(said(10 << 20, Pages::Huge2M), Some(sentence));
        assert_eq!(said(8 << 20, Pages::Huge2M), None, "it was something else");
        assert_eq!(said(8 << 20, Pages::Normal), None);
        let sentence = "this host has no huge pages of 1G, leave out hugepages=1G";
        assert_eq!(said(1 << 30, Pages::Huge1G).as_deref(), Some(sentence));
    }
}
