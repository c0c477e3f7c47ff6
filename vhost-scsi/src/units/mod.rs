//! The units that the command line or a control client names: `--disk`, `--cdrom`, `--passthrough`.
//!
//! A unit's text is [parsed](Unit::parse), what it names is [opened](Unit::open), here or by whoever
//! passes a descriptor, and then it gets its [address](Addresses).

mod error;
mod folder;
mod text;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::UnitError;
pub use folder::Texts;

use crate::image::Image;
use crate::image::open::{self, Format, ImageOptions};
use crate::image::raw::CacheMode;
use crate::lun::cd::{self, Cd};
use crate::lun::disk::{Disk, DiskOptions};
use crate::lun::identity::Identity;
use crate::lun::pass_through::{PassThrough, PassThroughError};
use crate::scsi::target::{Address, LUNS};
use crate::scsi::{ErrorPolicy, LogicalUnit, OnError};
use text::Text;

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An emulated disk.
    Disk,
    /// An emulated CD or DVD drive.
    Cdrom,
    /// A physical unit.
    PassThrough,
}

impl Kind {
    /// The option that describes it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Disk => "--disk",
            Self::Cdrom => "--cdrom",
            Self::PassThrough => "--passthrough",
        }
    }

    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.option().trim_start_matches('-')
    }
}

/// What is known of a unit beyond what it knows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it is.
    pub kind: Kind,
    /// Its image or device; `None` for an empty drive.
    pub path: Option<PathBuf>,
    /// Bytes in a logical block; 0 where only the unit itself knows.
    pub block_size: u32,
}

/// Where a unit is, as far as the user said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    target: Option<u8>,
    lun: Option<u16>,
}

/// The addresses that are taken, and by what.
#[derive(Default)]
pub struct Addresses {
    taken: BTreeMap<Address, Description>,
}

impl Addresses {
    /// The address that the user wants, or the next: LUN 0 of the first target without units, or
    /// the first free LUN of the target that was named.
    fn give(&mut self, place: Place, description: Description) -> Option<Address> {
        let units =
            |target| self.taken.range(Address { target, lun: 0 }..=Address { target, lun: LUNS });
        let address = match (place.target, place.lun) {
            (Some(target), Some(lun)) => Address { target, lun },
            (Some(target), None) => {
                let mut taken = units(target).map(|(address, _)| address.lun);
                let lun = (0..LUNS).find(|&lun| taken.next() != Some(lun))?;
                Address { target, lun }
            }
            (None, lun) => {
                let target = (0..=u8::MAX).find(|&target| units(target).next().is_none())?;
                Address { target, lun: lun.unwrap_or(0) }
            }
        };
        if self.taken.contains_key(&address) {
            return None;
        }
        self.taken.insert(address, description);
        Some(address)
    }

    /// The unit has gone.
    pub fn free(&mut self, address: Address) {
        self.taken.remove(&address);
    }

    /// What is at an address.
    pub fn get_mut(&mut self, address: Address) -> Option<&mut Description> {
        self.taken.get_mut(&address)
    }

    /// All units.
    pub fn iter(&self) -> impl Iterator<Item = (Address, &Description)> {
        self.taken.iter().map(|(&address, description)| (address, description))
    }
}

/// What a unit stands on, as its text names it.
enum Parsed {
    Disk(ImageOptions, DiskOptions),
    Cdrom(Option<ImageOptions>, Identity, ErrorPolicy),
    PassThrough,
}

/// A unit as its text describes it; nothing is opened yet.
pub struct Unit {
    text: Text,
    place: Place,
    parsed: Parsed,
}

/// A unit that is opened and has no address yet.
pub struct Opened {
    text: Text,
    place: Place,
    description: Description,
    make: Box<dyn FnOnce(Address) -> Arc<dyn LogicalUnit> + Send>,
}

pub(crate) const DISK_KEYS: &str = "target, lun, format, readonly, cache, discard, serial, wwn, product, \
                         block-size, physical-block-size, solid-state, removable, werror, rerror";
pub(crate) const CD_KEYS: &str = "target, lun, format, serial, product, rerror";
pub(crate) const PASS_THROUGH_KEYS: &str = "target, lun";

impl Unit {
    /// Reads a unit's text.
    ///
    /// # Errors
    /// See [`UnitError`].
    pub fn parse(kind: Kind, text: &str) -> Result<Self, UnitError> {
        Self::parse_for(kind.option(), kind, text)
    }

    /// Reads a unit's text that another program's option has; `option` is what that is called.
    ///
    /// # Errors
    /// See [`UnitError`].
    pub fn parse_for(option: &'static str, kind: Kind, text: &str) -> Result<Self, UnitError> {
        let text = Text::parse(option, text)?;
        match kind {
            Kind::Disk => disk(text),
            Kind::Cdrom => cdrom(text),
            Kind::PassThrough => pass_through(text),
        }
    }

    /// Opens what it stands on, for another process perhaps; `None` for an empty drive.
    ///
    /// # Errors
    /// The host refuses.
    pub fn open_file(&self) -> Result<Option<File>, UnitError> {
        let image = match &self.parsed {
            Parsed::Disk(image, _) => image,
            Parsed::Cdrom(Some(image), ..) => image,
            Parsed::Cdrom(None, ..) => return Ok(None),
            Parsed::PassThrough => return self.text.open_physical().map(Some),
        };
        let option = self.text.option;
        open::open_file(image).map(Some).map_err(|error| UnitError::Open { option, error })
    }

    /// The same with its path from the root, as another process understands it.
    #[must_use]
    pub fn text(&self) -> String {
        match self.path() {
            Some(path) => self.text.write(&path.display().to_string(), &[]),
            None => self.text.text.clone(),
        }
    }

    fn path(&self) -> Option<PathBuf> {
        if let Parsed::Cdrom(None, ..) = self.parsed {
            return None;
        }
        Some(std::path::absolute(&self.text.path).unwrap_or_else(|_| self.text.path.clone()))
    }

    /// Opens it: what it stands on is `passed`, or else opened here.
    ///
    /// # Errors
    /// See [`UnitError`].
    pub fn open(self, passed: Option<File>) -> Result<Opened, UnitError> {
        let path = self.path();
        let Self { text, place, parsed } = self;
        match parsed {
            Parsed::Disk(options, mut disk) => {
                let medium = open_image(text.option, &options, passed)?;
                check_blocks(&text, medium.as_ref(), disk.block_size)?;
                let block_size = disk.block_size;
                let description = Description { kind: Kind::Disk, path, block_size };
                let make = Box::new(move |address| {
                    disk.identity.name = name(address);
                    Disk::new(medium, disk) as Arc<dyn LogicalUnit>
                });
                Ok(Opened { text, place, description, make })
            }
            Parsed::Cdrom(options, mut identity, error_policy) => {
                let medium = match options {
                    Some(image) => Some(open_medium(text.option, &image, passed)?),
                    None => None,
                };
                let description = Description { kind: Kind::Cdrom, path, block_size: cd::BLOCK };
                let make = Box::new(move |address| {
                    identity.name = name(address);
                    Cd::new(medium, identity, error_policy) as Arc<dyn LogicalUnit>
                });
                Ok(Opened { text, place, description, make })
            }
            Parsed::PassThrough => {
                let file = passed.map_or_else(|| text.open_physical(), Ok)?;
                let unit = PassThrough::new(file, &text.path);
                let unit = unit.map_err(|error| text.not_passed_through(error))?;
                let description = Description { kind: Kind::PassThrough, path, block_size: 0 };
                let make = Box::new(move |_| unit as Arc<dyn LogicalUnit>);
                Ok(Opened { text, place, description, make })
            }
        }
    }
}

impl Opened {
    /// Gives it an address.
    ///
    /// # Errors
    /// There is none for it.
    pub fn place(self, addresses: &mut Addresses) -> Result<Placed, UnitError> {
        let Self { text, place, description, make } = self;
        let (option, text) = (text.option, text.text);
        match (addresses.give(place, description), place) {
            (Some(address), _) => Ok(Placed { address, unit: make(address), option, text }),
            (None, Place { target: Some(target), lun: Some(lun) }) => {
                Err(UnitError::Taken { option, text, address: Address { target, lun } })
            }
            (None, _) => Err(UnitError::Full { option, text }),
        }
    }
}

/// A unit with its address.
pub struct Placed {
    /// Where.
    pub address: Address,
    /// The unit.
    pub unit: Arc<dyn LogicalUnit>,
    /// The option that described it, for messages.
    pub option: &'static str,
    /// What it said.
    pub text: String,
}

impl Text {
    /// Opens the physical unit that its path names.
    fn open_physical(&self) -> Result<File, UnitError> {
        PassThrough::open(&self.path).map_err(|error| self.not_passed_through(error))
    }

    fn not_passed_through(&self, error: PassThroughError) -> UnitError {
        UnitError::PassThrough { option: self.option, error }
    }
}

/// How a unit calls itself where its user did not say.
fn name(Address { target, lun }: Address) -> String {
    format!("target{target}-lun{lun}")
}

/// The image that a drive is to be loaded with: PATH[,format=…].
///
/// # Errors
/// See [`UnitError`].
pub fn medium(text: &str, passed: Option<File>) -> Result<(PathBuf, Arc<dyn Image>), UnitError> {
    let unit = Unit::parse(Kind::Cdrom, text)?;
    let option = unit.text.option;
    let (Some(path), Parsed::Cdrom(Some(image), ..)) = (unit.path(), &unit.parsed) else {
        return Err(UnitError::NoPath { option, text: unit.text.text });
    };
    if let Some((key, _)) = unit.text.pairs().find(|&(key, _)| key != "format") {
        return Err(unit.text.unknown(key, "format"));
    }
    Ok((path, open_medium(option, image, passed)?))
}

fn open_image(
    option: &'static str,
    image: &ImageOptions,
    passed: Option<File>,
) -> Result<Arc<dyn Image>, UnitError> {
    let opened = match passed {
        Some(file) => open::take(image, file),
        None => open::open(image),
    };
    opened.map_err(|error| UnitError::Open { option, error })
}

/// What a drive is loaded with has a block at least; a last one that is not whole does not count.
fn open_medium(
    option: &'static str,
    image: &ImageOptions,
    passed: Option<File>,
) -> Result<Arc<dyn Image>, UnitError> {
    let medium = open_image(option, image, passed)?;
    if medium.len() < u64::from(cd::BLOCK) {
        let (path, size) = (image.path.clone(), medium.len());
        return Err(UnitError::Size { option, path, size, block: cd::BLOCK });
    }
    Ok(medium)
}

fn check_blocks(text: &Text, medium: &dyn Image, block: u32) -> Result<(), UnitError> {
    let (option, path) = (text.option, text.path.clone());
    if medium.is_empty() || !medium.len().is_multiple_of(u64::from(block)) {
        return Err(UnitError::Size { option, path, size: medium.len(), block });
    }
    if let Some(direct) = medium.direct()
        && direct.alignment > block as usize
    {
        return Err(UnitError::Alignment { option, path, needed: direct.alignment });
    }
    Ok(())
}

impl Place {
    /// Takes a key of every unit; `false`: it is another.
    fn take(&mut self, text: &Text, pair: (&str, &str)) -> Result<bool, UnitError> {
        match pair.0 {
            "target" => self.target = Some(text.number(pair, 0..=255)?),
            "lun" => self.lun = Some(text.number(pair, 0..=u64::from(LUNS).saturating_sub(1))?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What disks and drives have alike.
struct Emulated {
    image: ImageOptions,
    identity: Identity,
    error_policy: ErrorPolicy,
}

impl Emulated {
    fn new(text: &Text, product: &str) -> Self {
        Self {
            image: ImageOptions {
                path: text.path.clone(),
                format: None,
                read_only: false,
                cache: CacheMode::default(),
                discard: false,
            },
            identity: Identity {
                product: product.to_owned(),
                serial: None,
                name: String::new(),
                wwn: None,
            },
            error_policy: ErrorPolicy::default(),
        }
    }

    /// Takes a key of every emulated unit; `false`: it is another.
    fn take(&mut self, text: &Text, pair: (&str, &str)) -> Result<bool, UnitError> {
        match pair.0 {
            "format" => self.image.format = Some(text.choice::<Format>(pair)?),
            "serial" => self.identity.serial = Some(text.serial(pair)?),
            "product" => self.identity.product = text.printable(pair, 16)?,
            "rerror" => self.error_policy.read = text.choice::<OnError>(pair)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn disk(text: Text) -> Result<Unit, UnitError> {
    let mut place = Place::default();
    let mut unit = Emulated::new(&text, "VIRTUAL DISK");
    unit.image.discard = true;
    let (mut block_size, mut physical_block_size) = (512, None);
    let (mut solid_state, mut removable) = (false, false);
    for pair in text.pairs() {
        match pair.0 {
            "readonly" | "read-only" => unit.image.read_only = text.switch(pair)?,
            "cache" => unit.image.cache = text.choice(pair)?,
            "discard" => unit.image.discard = text.discard(pair)?,
            "wwn" => unit.identity.wwn = Some(text.wwn(pair)?),
            "block-size" | "logical_block_size" => block_size = text.block_size(pair)?,
            "physical-block-size" | "physical_block_size" => {
                physical_block_size = Some(text.block_size(pair)?);
            }
            "solid-state" => solid_state = text.switch(pair)?,
            "removable" => removable = text.switch(pair)?,
            "werror" => unit.error_policy.write = text.choice::<OnError>(pair)?,
            _ if place.take(&text, pair)? || unit.take(&text, pair)? => {}
            key => return Err(text.unknown(key, DISK_KEYS)),
        }
    }
    let Emulated { image, identity, error_policy } = unit;
    let options = DiskOptions {
        identity,
        block_size,
        physical_block_size,
        solid_state,
        removable,
        error_policy,
    };
    Ok(Unit { text, place, parsed: Parsed::Disk(image, options) })
}

/// A path of `empty` stands for no medium.
fn cdrom(text: Text) -> Result<Unit, UnitError> {
    let mut place = Place::default();
    let mut unit = Emulated::new(&text, "VIRTUAL CD-ROM");
    unit.image.read_only = true;
    for pair in text.pairs() {
        if !place.take(&text, pair)? && !unit.take(&text, pair)? {
            return Err(text.unknown(pair.0, CD_KEYS));
        }
    }
    let Emulated { image, identity, error_policy } = unit;
    let image = (text.path.as_os_str() != "empty").then_some(image);
    Ok(Unit { text, place, parsed: Parsed::Cdrom(image, identity, error_policy) })
}

fn pass_through(text: Text) -> Result<Unit, UnitError> {
    let mut place = Place::default();
    for pair in text.pairs() {
        if !place.take(&text, pair)? {
            return Err(text.unknown(pair.0, PASS_THROUGH_KEYS));
        }
    }
    Ok(Unit { text, place, parsed: Parsed::PassThrough })
}

#[cfg(test)]
mod tests;
