//! The text of a unit, cut into a path and keys with values.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use vhost_runtime::arguments;

use super::UnitError;

/// A path and `key=value` after commas. A comma in a path is doubled, as QEMU's.
pub(super) struct Text {
    pub(super) option: &'static str,
    pub(super) text: String,
    pub(super) path: PathBuf,
    pairs: Vec<(String, String)>,
}

impl Text {
    pub(super) fn parse(option: &'static str, text: &str) -> Result<Self, UnitError> {
        let mut parts = arguments::parts(text).into_iter();
        let path = parts.next().unwrap_or_default();
        let path = path.strip_prefix("file=").map(str::to_owned).unwrap_or(path);
        if path.is_empty() {
            return Err(UnitError::NoPath { option, text: text.to_owned() });
        }
        let pairs = parts
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (part, String::from("on")),
            })
            .collect();
        Ok(Self { option, text: text.to_owned(), path: path.into(), pairs })
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// A text that says the same with another path; `more` pairs override what was there.
    pub(super) fn write(&self, path: &str, more: &[(&str, String)]) -> String {
        let more = more.iter().map(|(key, value)| (*key, value.as_str()));
        let mut text = format!("file={}", path.replace(',', ",,"));
        for (key, value) in self.pairs().chain(more) {
            text.push_str(&format!(",{key}={}", value.replace(',', ",,")));
        }
        text
    }

    pub(super) fn wrong(&self, key: &str, value: &str, expected: impl Into<String>) -> UnitError {
        UnitError::Value {
            option: self.option,
            text: self.text.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            expected: expected.into(),
        }
    }

    pub(super) fn unknown(&self, key: &str, known: &str) -> UnitError {
        UnitError::Key {
            option: self.option,
            text: self.text.clone(),
            key: key.to_owned(),
            known: known.to_owned(),
        }
    }

    pub(super) fn number<T: TryFrom<u64>>(
        &self,
        (key, value): (&str, &str),
        range: RangeInclusive<u64>,
    ) -> Result<T, UnitError> {
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        let number = value.parse().ok().filter(|number| range.contains(number));
        number
            .and_then(|number: u64| T::try_from(number).ok())
            .ok_or_else(|| self.wrong(key, value, expected()))
    }

    pub(super) fn switch(&self, (key, value): (&str, &str)) -> Result<bool, UnitError> {
        match value {
            "on" | "yes" | "true" => Ok(true),
            "off" | "no" | "false" => Ok(false),
            _ => Err(self.wrong(key, value, "on or off")),
        }
    }

    pub(super) fn choice<T: clap::ValueEnum>(
        &self,
        (key, value): (&str, &str),
    ) -> Result<T, UnitError> {
        T::from_str(value, false).map_err(|_| {
            let names: Vec<String> = T::value_variants()
                .iter()
                .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
                .collect();
            self.wrong(key, value, names.join(", "))
        })
    }

    pub(super) fn block_size(&self, (key, value): (&str, &str)) -> Result<u32, UnitError> {
        match value {
            "512" => Ok(512),
            "4096" => Ok(4096),
            _ => Err(self.wrong(key, value, "512 or 4096")),
        }
    }

    /// QEMU's words.
    pub(super) fn discard(&self, (key, value): (&str, &str)) -> Result<bool, UnitError> {
        match value {
            "unmap" | "on" => Ok(true),
            "ignore" | "off" => Ok(false),
            _ => Err(self.wrong(key, value, "unmap or ignore")),
        }
    }

    pub(super) fn printable(
        &self,
        (key, value): (&str, &str),
        most: usize,
    ) -> Result<String, UnitError> {
        let fits = !value.is_empty() && value.len() <= most;
        if !fits || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            let expected = format!("1 to {most} printable ASCII characters");
            return Err(self.wrong(key, value, expected));
        }
        Ok(value.to_owned())
    }

    pub(super) fn serial(&self, pair: (&str, &str)) -> Result<String, UnitError> {
        self.printable(pair, 36)
    }

    pub(super) fn wwn(&self, (key, value): (&str, &str)) -> Result<u64, UnitError> {
        let digits = value.strip_prefix("0x").unwrap_or(value);
        let wwn = u64::from_str_radix(digits, 16).ok().filter(|wwn| {
            // NAA 2, 3 and 5 have 64 bits.
            digits.len() == 16 && matches!(wwn >> 60, 2 | 3 | 5)
        });
        let expected = "16 hexadecimal digits, the first of them 2, 3 or 5";
        wwn.ok_or_else(|| self.wrong(key, value, expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        let text = Text::parse("--disk", "a,,b.img,readonly,serial=x,,y").unwrap();
        assert_eq!(text.path, PathBuf::from("a,b.img"));
        let pairs: Vec<(&str, &str)> = text.pairs().collect();
        assert_eq!(pairs, [("readonly", "on"), ("serial", "x,y")]);
        let written = text.write("/a,b.img", &[("lun", "3".into())]);
        assert_eq!(written, "file=/a,,b.img,readonly=on,serial=x,,y,lun=3");
    }
}
