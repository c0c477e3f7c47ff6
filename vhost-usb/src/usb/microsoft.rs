//! Descriptors that only Windows asks for (Microsoft OS 1.0 Descriptors): without them it suspends no
//! device that is idle, whatever the device says of remote wake-up.

use super::descriptor::kind;

/// The string descriptor that tells of the others has this number.
pub const STRING: u8 = 0xee;
/// bRequest of a request for one of the others; the string tells it.
pub const VENDOR_CODE: u8 = b'Q';

/// wIndex: which drivers fit.
const COMPATIBLE_IDS: u16 = 4;
/// wIndex: what is put into the registry.
const PROPERTIES: u16 = 5;
const VERSION: u16 = 0x0100;
/// A property is a number of 32 bits.
const DWORD: u32 = 4;
const SELECTIVE_SUSPEND: &str = "SelectiveSuspendEnabled";

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The string: a signature, and the request's number.
#[must_use]
pub fn string() -> Vec<u8> {
    let mut bytes = vec![18, kind::STRING];
    bytes.extend(utf16("MSFT100"));
    bytes.extend([VENDOR_CODE, 0]);
    bytes
}

/// A length of all, then a version and which descriptor it is, then the rest.
fn whole(index: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = length(rest).saturating_add(8).to_le_bytes().to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(index.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// The descriptor that a request's wIndex asks for.
#[must_use]
pub fn feature(index: u16) -> Option<Vec<u8>> {
    match index {
        COMPATIBLE_IDS => {
            // One function, from interface 0 on, for which the class says enough: no ID.
            let mut rest = vec![1, 0, 0, 0, 0, 0, 0, 0];
            rest.extend([0, 1]);
            rest.extend([0; 22]);
            Some(whole(index, &rest))
        }
        PROPERTIES => {
            let name = utf16(&format!("{SELECTIVE_SUSPEND}\0"));
            let mut property = DWORD.to_le_bytes().to_vec();
            property.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            property.extend(name);
            property.extend(4u32.to_le_bytes());
            property.extend(1u32.to_le_bytes());
            let mut rest = 1u16.to_le_bytes().to_vec();
            rest.extend(length(&property).saturating_add(4).to_le_bytes());
            rest.extend(property);
            Some(whole(index, &rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_length_and_what_it_tells() {
        assert_eq!(string(), b"\x12\x03M\0S\0F\0T\x001\x000\x000\0Q\0");
        let ids = feature(COMPATIBLE_IDS).unwrap();
        assert_eq!((ids.len(), &ids[..10]), (40, &[40, 0, 0, 0, 0, 1, 4, 0, 1, 0][..]));
        let properties = feature(PROPERTIES).unwrap();
        // Header 10, property: length, type, name's length, name, data's length, data.
        assert_eq!(properties.len(), 10 + 4 + 4 + 2 + 48 + 4 + 4);
        assert_eq!(&properties[..10], [76, 0, 0, 0, 0, 1, 5, 0, 1, 0]);
        assert_eq!(&properties[10..20], [66, 0, 0, 0, 4, 0, 0, 0, 48, 0]);
        assert_eq!(&properties[68..], [4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(feature(6), None);
    }
}
