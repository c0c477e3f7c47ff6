//! `--memory`.

use std::str::FromStr;

use super::Pairs;
use crate::frontend::memory::Pages;
use vhost_runtime::arguments::size;

/// How much memory, and in which pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOption {
    /// Bytes.
    pub size: u64,
    /// The host's pages that it is made of.
    pub pages: Pages,
}

/// A kernel needs some to begin with.
const LEAST: u64 = 4 << 20;
const MOST: u64 = 1 << 40;

impl FromStr for MemoryOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        // A bare number is mebibytes, as in QEMU.
        let megabytes = first.parse::<u64>().ok().map(|number| number.saturating_mul(1 << 20));
        let size = megabytes.map_or_else(|| size(first), Ok)?;
        let pairs = Pairs::parse(rest, &["hugepages"])?;
        let pages = match pairs.get("hugepages") {
            None => Pages::Normal,
            Some("2M") => Pages::Huge2M,
            Some("1G") => Pages::Huge1G,
            Some(other) => return Err(format!("hugepages={other}: it must be 2M or 1G")),
        };
        if !(LEAST..=MOST).contains(&size) {
            return Err(String::from("it must be 4M to 1T"));
        }
        if size % pages.size() != 0 {
            return Err(format!("it must be a multiple of {} bytes, a page", pages.size()));
        }
        Ok(Self { size, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_and_its_pages() {
        let normal = |size| Ok(MemoryOption { size, pages: Pages::Normal });
        assert_eq!("2G".parse(), normal(2 << 30));
        assert_eq!("512".parse(), normal(512 << 20));
        let huge = Ok(MemoryOption { size: 1 << 30, pages: Pages::Huge2M });
        assert_eq!("1g,hugepages=2M".parse(), huge);
        for wrong in ["", "3M", "2T", "x", "5M,hugepages=2M", "1G,hugepages=4K", "1G,pages=1G"] {
            assert!(wrong.parse::<MemoryOption>().is_err(), "{wrong}");
        }
    }
}
