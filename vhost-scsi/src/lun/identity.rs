//! Who a unit says it is: INQUIRY strings and the designators of VPD page 83h.

use crate::scsi::bytes::{ascii, put_length};

/// VENDOR IDENTIFICATION of emulated units.
pub const VENDOR: &str = "VHOST";
/// PRODUCT REVISION LEVEL of emulated units: that of this program.
const REVISION: &str = env!("CARGO_PKG_VERSION");

/// A unit's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PRODUCT IDENTIFICATION, up to 16 characters.
    pub product: String,
    /// UNIT SERIAL NUMBER; without one there is no VPD page 80h.
    pub serial: Option<String>,
    /// A name that is unique on its controller, for units without serial number and WWN.
    pub name: String,
    /// World wide name (NAA), 64 bits.
    pub wwn: Option<u64>,
}

impl Identity {
    /// Bytes 8..36 of standard INQUIRY data.
    #[must_use]
    pub fn inquiry(&self) -> Vec<u8> {
        [ascii(VENDOR, 8), ascii(&self.product, 16), ascii(REVISION, 4)].concat()
    }

    /// The content of VPD page 83h (SPC-5 7.7.6): T10 vendor identification, and NAA where there is
    /// a world wide name.
    #[must_use]
    pub fn designators(&self) -> Vec<u8> {
        let unique = self.serial.as_ref().unwrap_or(&self.name);
        let text = [ascii(VENDOR, 8), unique.as_bytes().iter().copied().take(200).collect()];
        let text = text.concat();
        // ASCII, associated with the logical unit, T10 vendor identification.
        let mut page = vec![0x02, 0x01, 0, 0];
        page.extend(text);
        put_length::<1>(&mut page, 3);
        if let Some(wwn) = self.wwn {
            page.extend([0x01, 0x03, 0, 8]);
            page.extend(wwn.to_be_bytes());
        }
        page
    }

    /// The content of VPD page 80h.
    #[must_use]
    pub fn serial_number(&self) -> Option<Vec<u8>> {
        self.serial.as_ref().map(|serial| serial.bytes().take(252).collect())
    }
}

/// A VPD page of a unit of this type.
#[must_use]
pub fn vpd(device_type: u8, page: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = [&[device_type, page, 0, 0], content].concat();
    put_length::<2>(&mut bytes, 2);
    bytes
}
