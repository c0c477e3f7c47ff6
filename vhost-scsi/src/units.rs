//! The units that the command line names: `--disk`, `--cdrom`, `--passthrough`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::image::open::{Format, ImageOptions, OpenError, open};
use crate::image::raw::CacheMode;
use crate::lun::cd::Cd;
use crate::lun::disk::{Disk, DiskOptions};
use crate::lun::identity::Identity;
use crate::lun::pass_through::{PassThrough, PassThroughError};
use crate::scsi::target::{Address, LUNS};
use crate::scsi::{ErrorPolicy, LogicalUnit, OnError};

/// What is wrong with a unit's description.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// No path.
    #[error("{option} {text}: begin with the path of an image, then key=value after commas")]
    NoPath {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
    },
    /// A key that there is not.
    #[error("{option} {text}: there is no {key}=; there is {known}")]
    Key {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// What is not known.
        key: String,
        /// What is.
        known: String,
    },
    /// A value that the key can't have.
    #[error("{option} {text}: {key}={value} is wrong, it must be {expected}")]
    Value {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// Whose value.
        key: String,
        /// The value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// Its image can't be opened.
    #[error("{option} {error}")]
    Open {
        /// Which option.
        option: &'static str,
        /// Why not.
        error: OpenError,
    },
    /// It can't be passed through.
    #[error("--passthrough {0}")]
    PassThrough(#[from] PassThroughError),
    /// Its image has no whole number of blocks.
    #[error("{option} {path}: {size} bytes are no whole number of {block} byte blocks")]
    Size {
        /// Which option.
        option: &'static str,
        /// Which image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Bytes in a block.
        block: u32,
    },
    /// O_DIRECT takes no such blocks.
    #[error("{option} {path}: cache=none needs block-size={needed} or more there")]
    Alignment {
        /// Which option.
        option: &'static str,
        /// Which image.
        path: PathBuf,
        /// Bytes.
        needed: usize,
    },
    /// Two units at one address.
    #[error("{option} {text}: target={} lun={} is taken, choose another", address.target, address.lun)]
    Taken {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// Where.
        address: Address,
    },
    /// More than 256 targets.
    #[error("{option} {text}: there are no more free targets, choose target= and lun=")]
    Full {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
    },
}

/// The text of a unit, cut into a path and keys with values. A comma in a path is doubled, as QEMU's.
struct Text {
    option: &'static str,
    text: String,
    path: PathBuf,
    pairs: Vec<(String, String)>,
}

impl Text {
    fn parse(option: &'static str, text: &str) -> Result<Self, UnitError> {
        let mut parts = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match (character, parts.last_mut()) {
                (',', _) if characters.peek() != Some(&',') => parts.push(String::new()),
                (character, Some(part)) => {
                    if character == ',' {
                        characters.next();
                    }
                    part.push(character);
                }
                (_, None) => {}
            }
        }
        let mut parts = parts.into_iter();
        let path = parts.next().unwrap_or_default();
        let path = path.strip_prefix("file=").map(str::to_owned).unwrap_or(path);
        let no_path = || UnitError::NoPath { option, text: text.to_owned() };
        if path.is_empty() {
            return Err(no_path());
        }
        let pairs = parts
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (part, String::from("on")),
            })
            .collect();
        Ok(Self { option, text: text.to_owned(), path: path.into(), pairs })
    }

    fn wrong(&self, key: &str, value: &str, expected: impl Into<String>) -> UnitError {
        UnitError::Value {
            option: self.option,
            text: self.text.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            expected: expected.into(),
        }
    }

    fn number<T: TryFrom<u64>>(
        &self,
        (key, value): (&str, &str),
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<T, UnitError> {
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        let number = value.parse().ok().filter(|number| range.contains(number));
        number
            .and_then(|number: u64| T::try_from(number).ok())
            .ok_or_else(|| self.wrong(key, value, expected()))
    }

    fn switch(&self, (key, value): (&str, &str)) -> Result<bool, UnitError> {
        match value {
            "on" | "yes" | "true" => Ok(true),
            "off" | "no" | "false" => Ok(false),
            _ => Err(self.wrong(key, value, "on or off")),
        }
    }

    fn choice<T: clap::ValueEnum>(&self, (key, value): (&str, &str)) -> Result<T, UnitError> {
        T::from_str(value, false).map_err(|_| {
            let names: Vec<String> = T::value_variants()
                .iter()
                .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
                .collect();
            self.wrong(key, value, names.join(", "))
        })
    }

    fn block_size(&self, (key, value): (&str, &str)) -> Result<u32, UnitError> {
        match value {
            "512" => Ok(512),
            "4096" => Ok(4096),
            _ => Err(self.wrong(key, value, "512 or 4096")),
        }
    }
}

/// Where a unit is, as far as the user said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    target: Option<u8>,
    lun: Option<u16>,
}

/// Gives out addresses to units.
#[derive(Default)]
pub struct Addresses {
    taken: std::collections::BTreeSet<Address>,
}

impl Addresses {
    /// The address that the user wants, or the next: LUN 0 of the first target without units, or
    /// the first free LUN of the target that was named.
    fn give(&mut self, place: Place) -> Option<Address> {
        let address = match (place.target, place.lun) {
            (Some(target), Some(lun)) => Address { target, lun },
            (Some(target), None) => (0..LUNS)
                .map(|lun| Address { target, lun })
                .find(|address| !self.taken.contains(address))?,
            (None, lun) => (0..=u8::MAX)
                .find(|&target| !self.taken.iter().any(|taken| taken.target == target))
                .map(|target| Address { target, lun: lun.unwrap_or(0) })?,
        };
        self.taken.insert(address).then_some(address)
    }
}

/// A unit, opened, with its address.
pub type Placed = (Address, Arc<dyn LogicalUnit>);

const DISK_KEYS: &str = "target, lun, format, readonly, cache, discard, serial, wwn, product, \
                         block-size, physical-block-size, solid-state, removable, werror, rerror";

/// Opens the disk that `--disk` describes.
///
/// # Errors
/// See [`UnitError`].
pub fn disk(text: &str, addresses: &mut Addresses) -> Result<Placed, UnitError> {
    let text = Text::parse("--disk", text)?;
    let mut place = Place::default();
    let mut image = ImageOptions {
        path: text.path.clone(),
        format: None,
        read_only: false,
        cache: CacheMode::default(),
        discard: true,
    };
    let mut options = DiskOptions {
        identity: Identity {
            product: String::from("VIRTUAL DISK"),
            serial: None,
            name: String::new(),
            wwn: None,
        },
        block_size: 512,
        physical_block_size: None,
        solid_state: false,
        removable: false,
        error_policy: ErrorPolicy::default(),
    };
    for (key, value) in &text.pairs {
        let pair = (key.as_str(), value.as_str());
        match pair.0 {
            "target" => place.target = Some(text.number(pair, 0..=255)?),
            "lun" => place.lun = Some(text.number(pair, 0..=u64::from(LUNS) - 1)?),
            "format" => image.format = Some(text.choice::<Format>(pair)?),
            "readonly" | "read-only" => image.read_only = text.switch(pair)?,
            "cache" => image.cache = text.choice(pair)?,
            "discard" => image.discard = discard(&text, pair)?,
            "serial" => options.identity.serial = Some(serial(&text, pair)?),
            "wwn" => options.identity.wwn = Some(wwn(&text, pair)?),
            "product" => options.identity.product = printable(&text, pair, 16)?,
            "block-size" | "logical_block_size" => options.block_size = text.block_size(pair)?,
            "physical-block-size" | "physical_block_size" => {
                options.physical_block_size = Some(text.block_size(pair)?);
            }
            "solid-state" => options.solid_state = text.switch(pair)?,
            "removable" => options.removable = text.switch(pair)?,
            "werror" => options.error_policy.write = text.choice::<OnError>(pair)?,
            "rerror" => options.error_policy.read = text.choice::<OnError>(pair)?,
            _ => return Err(unknown(&text, key, DISK_KEYS)),
        }
    }
    let medium = open(&image).map_err(|error| UnitError::Open { option: text.option, error })?;
    let block = options.block_size;
    if medium.is_empty() || medium.len() % u64::from(block) != 0 {
        let size = medium.len();
        return Err(UnitError::Size { option: text.option, path: text.path.clone(), size, block });
    }
    if let Some(direct) = medium.direct()
        && direct.alignment > block as usize
    {
        let (path, needed) = (text.path.clone(), direct.alignment);
        return Err(UnitError::Alignment { option: text.option, path, needed });
    }
    let address = address(&text, place, addresses)?;
    options.identity.name = format!("target{}-lun{}", address.target, address.lun);
    Ok((address, Disk::new(medium, options)))
}

const CD_KEYS: &str = "target, lun, format, serial, product, rerror";

/// Opens the drive that `--cdrom` describes; `empty` for one without a medium.
///
/// # Errors
/// See [`UnitError`].
pub fn cdrom(text: &str, addresses: &mut Addresses) -> Result<Placed, UnitError> {
    let text = Text::parse("--cdrom", text)?;
    let mut place = Place::default();
    let mut image = ImageOptions {
        path: text.path.clone(),
        format: None,
        read_only: true,
        cache: CacheMode::default(),
        discard: false,
    };
    let mut identity = Identity {
        product: String::from("VIRTUAL CD-ROM"),
        serial: None,
        name: String::new(),
        wwn: None,
    };
    let mut error_policy = ErrorPolicy::default();
    for (key, value) in &text.pairs {
        let pair = (key.as_str(), value.as_str());
        match pair.0 {
            "target" => place.target = Some(text.number(pair, 0..=255)?),
            "lun" => place.lun = Some(text.number(pair, 0..=u64::from(LUNS) - 1)?),
            "format" => image.format = Some(text.choice::<Format>(pair)?),
            "serial" => identity.serial = Some(serial(&text, pair)?),
            "product" => identity.product = printable(&text, pair, 16)?,
            "rerror" => error_policy.read = text.choice::<OnError>(pair)?,
            _ => return Err(unknown(&text, key, CD_KEYS)),
        }
    }
    let medium = if text.path.as_os_str() == "empty" {
        None
    } else {
        Some(open(&image).map_err(|error| UnitError::Open { option: text.option, error })?)
    };
    let address = address(&text, place, addresses)?;
    identity.name = format!("target{}-lun{}", address.target, address.lun);
    Ok((address, Cd::new(medium, identity, error_policy)))
}

/// Opens the unit that `--passthrough` describes.
///
/// # Errors
/// See [`UnitError`].
pub fn pass_through(text: &str, addresses: &mut Addresses) -> Result<Placed, UnitError> {
    let text = Text::parse("--passthrough", text)?;
    let mut place = Place::default();
    for (key, value) in &text.pairs {
        let pair = (key.as_str(), value.as_str());
        match pair.0 {
            "target" => place.target = Some(text.number(pair, 0..=255)?),
            "lun" => place.lun = Some(text.number(pair, 0..=u64::from(LUNS) - 1)?),
            _ => return Err(unknown(&text, key, "target, lun")),
        }
    }
    let unit = PassThrough::open(&text.path)?;
    Ok((address(&text, place, addresses)?, unit))
}

fn address(text: &Text, place: Place, addresses: &mut Addresses) -> Result<Address, UnitError> {
    let (option, whole) = (text.option, text.text.clone());
    addresses.give(place).ok_or(match place {
        Place { target: Some(target), lun: Some(lun) } => {
            UnitError::Taken { option, text: whole, address: Address { target, lun } }
        }
        _ => UnitError::Full { option, text: whole },
    })
}

fn unknown(text: &Text, key: &str, known: &str) -> UnitError {
    UnitError::Key {
        option: text.option,
        text: text.text.clone(),
        key: key.to_owned(),
        known: known.to_owned(),
    }
}

/// QEMU's words.
fn discard(text: &Text, (key, value): (&str, &str)) -> Result<bool, UnitError> {
    match value {
        "unmap" | "on" => Ok(true),
        "ignore" | "off" => Ok(false),
        _ => Err(text.wrong(key, value, "unmap or ignore")),
    }
}

fn printable(text: &Text, (key, value): (&str, &str), most: usize) -> Result<String, UnitError> {
    let fits = !value.is_empty() && value.len() <= most;
    if !fits || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(text.wrong(key, value, format!("1 to {most} printable ASCII characters")));
    }
    Ok(value.to_owned())
}

fn serial(text: &Text, pair: (&str, &str)) -> Result<String, UnitError> {
    printable(text, pair, 36)
}

fn wwn(text: &Text, (key, value): (&str, &str)) -> Result<u64, UnitError> {
    let digits = value.strip_prefix("0x").unwrap_or(value);
    let wwn = u64::from_str_radix(digits, 16).ok().filter(|wwn| {
        // NAA 2, 3 and 5 have 64 bits.
        digits.len() == 16 && matches!(wwn >> 60, 2 | 3 | 5)
    });
    wwn.ok_or_else(|| text.wrong(key, value, "16 hexadecimal digits, the first of them 2, 3 or 5"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::open::tests::Scratch;

    fn error(text: &str) -> String {
        disk(text, &mut Addresses::default()).err().unwrap().to_string()
    }

    #[test]
    fn units_get_addresses_in_order() {
        let scratch = Scratch::new(4096);
        let path = scratch.path().display().to_string();
        let mut addresses = Addresses::default();
        let mut add = |rest: &str| {
            let (address, _) = disk(&format!("{path}{rest}"), &mut addresses).unwrap();
            (address.target, address.lun)
        };
        assert_eq!(add(""), (0, 0));
        assert_eq!(add(",target=2"), (2, 0));
        assert_eq!(add(",target=2"), (2, 1));
        assert_eq!(add(""), (1, 0));
        assert_eq!(add(",lun=7"), (3, 7));
        assert_eq!(add(",target=255,lun=16383"), (255, 16383));
    }

    #[test]
    fn an_address_is_taken_once() {
        let scratch = Scratch::new(4096);
        let text = format!("{},target=0,lun=0", scratch.path().display());
        let mut addresses = Addresses::default();
        disk(&text, &mut addresses).unwrap();
        let error = disk(&text, &mut addresses).err().unwrap().to_string();
        assert!(error.ends_with("target=0 lun=0 is taken, choose another"), "{error}");
    }

    #[test]
    fn errors_say_what_would_be_right() {
        let scratch = Scratch::new(1000);
        let path = scratch.path().display().to_string();
        assert!(error("").contains("begin with the path"));
        assert!(error(&path).ends_with("1000 bytes are no whole number of 512 byte blocks"));
        assert!(
            error(&format!("{path},lun=16384"))
                .ends_with("lun=16384 is wrong, it must be a number from 0 to 16383")
        );
        assert!(
            error(&format!("{path},cache=fast")).ends_with("it must be writeback, none, unsafe")
        );
        assert!(
            error(&format!("{path},sreial=1"))
                .contains("there is no sreial=; there is target, lun")
        );
        assert!(error(&format!("{path},wwn=1234")).contains("16 hexadecimal digits"));
        assert!(error(&format!("{path},readonly=maybe")).ends_with("it must be on or off"));
        assert!(
            error("/nonexistent").starts_with("--disk /nonexistent: cannot be opened for writing")
        );
    }

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        let text = Text::parse("--disk", "a,,b.img,readonly,serial=x,,y").unwrap();
        assert_eq!(text.path, PathBuf::from("a,b.img"));
        let pairs: Vec<(&str, &str)> =
            text.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("readonly", "on"), ("serial", "x,y")]);
    }
}
