//! Mode parameters (SPC-5 7.5, SBC-4 6.5).

use serde::{Deserialize, Serialize};

use super::{DESCRIPTOR_SENSE, Disk, SOFTWARE_WRITE_PROTECT};
use crate::scsi::bytes::{Fields, put, put_length, put_mode_data_length};
use crate::scsi::{Reply, Sense};

const READ_WRITE_ERROR_RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const INFORMATIONAL_EXCEPTIONS: u8 = 0x1c;
const ALL: u8 = 0x3f;

/// What the initiator can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ModeParameters {
    /// WCE: writes may be acknowledged before they are durable.
    write_cache: bool,
    /// D_SENSE: sense data in descriptor format.
    descriptor_sense: bool,
    /// SWP: writes are refused.
    write_protect: bool,
}

impl Default for ModeParameters {
    fn default() -> Self {
        Self { write_cache: true, descriptor_sense: false, write_protect: false }
    }
}

impl ModeParameters {
    /// A page's content, without its header of two bytes.
    fn page(self, page: u8) -> Option<Vec<u8>> {
        let bit = |on: bool, bit: u32| u8::from(on) << bit;
        Some(match page {
            READ_WRITE_ERROR_RECOVERY => vec![0; 10],
            CACHING => {
                let mut page = vec![0; 18];
                put(&mut page, 0, &[bit(self.write_cache, 2)]);
                page
            }
            // QAM = 1 (unrestricted reordering); no task time limits.
            CONTROL => {
                let (sense, protect) = (bit(self.descriptor_sense, 2), bit(self.write_protect, 3));
                vec![sense, 0x10, protect, 0, 0, 0, 0, 0, 0, 0]
            }
            // DEXCPT: no exceptions are reported.
            INFORMATIONAL_EXCEPTIONS => vec![0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            _ => return None,
        })
    }

    /// Takes a page's content; `None` if it changes what can't be changed.
    fn with(mut self, page: u8, content: &[u8]) -> Option<Self> {
        match page {
            CACHING => self.write_cache = content.bit(0, 2),
            CONTROL => {
                self.descriptor_sense = content.bit(0, 2);
                self.write_protect = content.bit(2, 3);
            }
            _ => {}
        }
        (self.page(page)? == content).then_some(self)
    }
}

/// Which bits can be changed, as a page (SPC-5 6.14: PC = 01b).
fn changeable(page: u8) -> Option<Vec<u8>> {
    let none = ModeParameters { write_cache: false, descriptor_sense: false, write_protect: false };
    let all = ModeParameters { write_cache: true, descriptor_sense: true, write_protect: true };
    let differs = |(a, b): (u8, u8)| a ^ b;
    Some(none.page(page)?.into_iter().zip(all.page(page)?).map(differs).collect())
}

fn with_header(page: u8, content: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![page, 0];
    bytes.extend(content);
    put_length::<1>(&mut bytes, 1);
    bytes
}

impl Disk {
    pub(super) fn has_write_cache(&self) -> bool {
        !self.has(super::WRITE_THROUGH)
    }

    /// MODE SENSE (SPC-5 6.14, 6.15).
    pub(super) fn mode_sense(
        &self,
        ten: bool,
        descriptors: bool,
        control: u8,
        page: u8,
        subpage: u8,
    ) -> Result<Vec<u8>, Sense> {
        let current = self.state().mode;
        let content = |page| match control {
            0 => current.page(page),
            1 => changeable(page),
            _ => ModeParameters::default().page(page),
        };
        if control == 3 {
            return Err(Sense::SAVING_PARAMETERS_NOT_SUPPORTED);
        }
        if subpage != 0 && !(subpage == 0xff && page == ALL) {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let pages: Vec<u8> = match page {
            ALL => [READ_WRITE_ERROR_RECOVERY, CACHING, CONTROL, INFORMATIONAL_EXCEPTIONS]
                .into_iter()
                .filter_map(|page| Some(with_header(page, content(page)?)))
                .flatten()
                .collect(),
            page => with_header(page, content(page).ok_or(Sense::INVALID_FIELD_IN_CDB)?),
        };
        Ok(self.mode_parameters(ten, descriptors, &pages))
    }

    fn mode_parameters(&self, ten: bool, descriptors: bool, pages: &[u8]) -> Vec<u8> {
        let protected = if self.write_protected().is_some() { 0x80 } else { 0 };
        let specific = protected | 0x10; // DPOFUA
        let (descriptor, length) =
            if descriptors { (self.block_descriptor(), 8) } else { (Vec::new(), 0) };
        let mut data = if ten {
            vec![0, 0, 0, specific, 0, 0, 0, length]
        } else {
            vec![0, 0, specific, length]
        };
        data.extend(descriptor);
        data.extend(pages);
        put_mode_data_length(&mut data, ten);
        data
    }

    /// SBC-4 6.5.2.2: the short form, with as many blocks as it can say.
    fn block_descriptor(&self) -> Vec<u8> {
        let blocks = u32::try_from(self.capacity()).unwrap_or(u32::MAX);
        [blocks.to_be_bytes(), self.options.block_size.to_be_bytes()].concat()
    }

    /// MODE SELECT (SPC-5 6.12, 6.13): all of it, or nothing.
    pub(super) fn mode_select(&self, ten: bool, parameters: &[u8]) -> Result<Reply, Sense> {
        if parameters.is_empty() {
            return Ok(Reply::good());
        }
        let (header, descriptors): (usize, usize) =
            if ten { (8, parameters.u16(6).into()) } else { (4, parameters.u8(3).into()) };
        let (descriptor, mut pages) = parameters
            .get(header..)
            .and_then(|rest| rest.split_at_checked(descriptors))
            .ok_or(Sense::PARAMETER_LIST_LENGTH_ERROR)?;
        if !matches!(descriptors, 0 | 8)
            || descriptors == 8 && descriptor.u24(5) != self.options.block_size
        {
            return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST);
        }
        let mut mode = self.state().mode;
        while !pages.is_empty() {
            // PS is reserved in MODE SELECT; SPF would be a subpage, and there is none.
            let (page, length) = (pages.u8(0), usize::from(pages.u8(1)));
            let (content, rest) = pages
                .get(2..)
                .and_then(|rest| rest.split_at_checked(length))
                .ok_or(Sense::PARAMETER_LIST_LENGTH_ERROR)?;
            mode = mode.with(page, content).ok_or(Sense::INVALID_FIELD_IN_PARAMETER_LIST)?;
            pages = rest;
        }
        // Kept before it is acknowledged, by one command at a time.
        let mut state = self.state();
        if state.mode != mode {
            self.keep_mode(&state.reservations, mode);
            state.mode = mode;
        }
        drop(state);
        self.show_mode(mode);
        Ok(Reply::good())
    }

    pub(super) fn set_mode(&self, mode: ModeParameters) {
        self.state().mode = mode;
        self.show_mode(mode);
    }

    /// For those who look at flags only.
    fn show_mode(&self, mode: ModeParameters) {
        self.set(super::WRITE_THROUGH, !mode.write_cache);
        self.set(DESCRIPTOR_SENSE, mode.descriptor_sense);
        self.set(SOFTWARE_WRITE_PROTECT, mode.write_protect);
    }
}
