//! Sense data (SPC-5 4.4): what went wrong with a command.

use super::bytes::{put, put_length};
use super::{Reply, Status, UnitAttention};

/// SPC-5 4.4.8: the sense keys used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Key {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    AbortedCommand = 0xB,
    Miscompare = 0xE,
}

/// SPC-5 4.4.2.4: SENSE KEY SPECIFIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specific {
    /// The byte of the CDB that is wrong.
    Field(u16),
    /// How far it is, in 65,536ths, with what keeps the unit from being ready.
    Progress(u16),
}

impl Specific {
    fn bytes(self) -> [u8; 3] {
        let (flags, [high, low]) = match self {
            Self::Field(byte) => (0xc0, byte.to_be_bytes()), // SKSV, C/D
            Self::Progress(progress) => (0x80, progress.to_be_bytes()), // SKSV
        };
        [flags, high, low]
    }
}

/// A sense key with its additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: Key,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// The INFORMATION field, where it means something: an LBA or an offset.
    pub information: Option<u64>,
    /// SENSE KEY SPECIFIC, where there is something to say.
    pub specific: Option<Specific>,
}

macro_rules! senses {
    ($($(#[$doc:meta])* $name:ident = $key:ident $asc:literal $ascq:literal;)*) => {
        /// SPC-5 annex F: the names are the standard's own.
        #[allow(missing_docs)]
        impl Sense {
            $(pub const $name: Self = Self::new(Key::$key, $asc, $ascq);)*
        }
    };
}

senses! {
    NO_SENSE = NoSense 0x00 0x00;
    NOT_READY_SANITIZE_IN_PROGRESS = NotReady 0x04 0x1b;
    NOT_READY_INITIALIZING_COMMAND_REQUIRED = NotReady 0x04 0x02;
    MEDIUM_NOT_PRESENT = NotReady 0x3a 0x00;
    MEDIUM_NOT_PRESENT_TRAY_CLOSED = NotReady 0x3a 0x01;
    MEDIUM_NOT_PRESENT_TRAY_OPEN = NotReady 0x3a 0x02;
    WRITE_ERROR = MediumError 0x0c 0x00;
    UNRECOVERED_READ_ERROR = MediumError 0x11 0x00;
    SANITIZE_COMMAND_FAILED = MediumError 0x31 0x03;
    INTERNAL_TARGET_FAILURE = HardwareError 0x44 0x00;
    PARAMETER_LIST_LENGTH_ERROR = IllegalRequest 0x1a 0x00;
    INVALID_COMMAND_OPERATION_CODE = IllegalRequest 0x20 0x00;
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = IllegalRequest 0x21 0x00;
    INVALID_FIELD_IN_CDB = IllegalRequest 0x24 0x00;
    LOGICAL_UNIT_NOT_SUPPORTED = IllegalRequest 0x25 0x00;
    INVALID_FIELD_IN_PARAMETER_LIST = IllegalRequest 0x26 0x00;
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = IllegalRequest 0x26 0x04;
    SAVING_PARAMETERS_NOT_SUPPORTED = IllegalRequest 0x39 0x00;
    INSUFFICIENT_REGISTRATION_RESOURCES = IllegalRequest 0x55 0x04;
    MEDIUM_REMOVAL_PREVENTED = IllegalRequest 0x53 0x02;
    ILLEGAL_MODE_FOR_THIS_TRACK = IllegalRequest 0x64 0x00;
    POWER_ON_OCCURRED = UnitAttention 0x29 0x01;
    BUS_DEVICE_RESET_FUNCTION_OCCURRED = UnitAttention 0x29 0x03;
    NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED = UnitAttention 0x28 0x00;
    MODE_PARAMETERS_CHANGED = UnitAttention 0x2a 0x01;
    CAPACITY_DATA_HAS_CHANGED = UnitAttention 0x2a 0x09;
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = UnitAttention 0x2f 0x00;
    REPORTED_LUNS_DATA_HAS_CHANGED = UnitAttention 0x3f 0x0e;
    WRITE_PROTECTED = DataProtect 0x27 0x00;
    LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED = DataProtect 0x27 0x02;
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT = DataProtect 0x27 0x07;
    MISCOMPARE_DURING_VERIFY_OPERATION = Miscompare 0x1d 0x00;
}

impl Sense {
    const fn new(key: Key, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None, specific: None }
    }

    /// With the INFORMATION field.
    #[must_use]
    pub const fn at(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// With the PROGRESS INDICATION field, in 65,536ths.
    #[must_use]
    pub const fn progress(self, progress: u16) -> Self {
        Self { specific: Some(Specific::Progress(progress)), ..self }
    }

    /// With the byte of the CDB that is wrong.
    #[must_use]
    pub const fn in_byte(self, byte: u16) -> Self {
        Self { specific: Some(Specific::Field(byte)), ..self }
    }

    /// The bytes on the wire: descriptor format (SPC-5 4.4.2) or fixed format (4.4.3).
    #[must_use]
    pub fn bytes(&self, descriptor: bool) -> Vec<u8> {
        let Self { key, asc, ascq, information, specific } = *self;
        let specific = specific.map(Specific::bytes);
        if descriptor {
            let mut bytes = vec![0x72, key as u8, asc, ascq, 0, 0, 0, 0];
            if let Some(information) = information {
                bytes.extend([0x00, 0x0a, 0x80, 0]);
                bytes.extend(information.to_be_bytes());
            }
            if let Some(specific) = specific {
                bytes.extend([0x02, 0x06, 0, 0]);
                bytes.extend(specific);
                bytes.push(0);
            }
            put_length::<1>(&mut bytes, 7);
            return bytes;
        }
        let mut bytes = vec![0x70, 0, key as u8, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
        // The fixed format has room for 32 bits; what does not fit is not valid.
        if let Some(Ok(information)) = information.map(u32::try_from) {
            put(&mut bytes, 0, &[0xf0]); // VALID
            put(&mut bytes, 3, &information.to_be_bytes());
        }
        if let Some(specific) = specific {
            put(&mut bytes, 15, &specific);
        }
        bytes
    }

    /// CHECK CONDITION with it.
    #[must_use]
    pub fn reply(&self, descriptor: bool) -> Reply {
        let sense = self.bytes(descriptor);
        Reply { status: Status::CheckCondition as u8, sense, data: Vec::new(), moved: 0 }
    }
}

/// What tells of it.
impl From<UnitAttention> for Sense {
    fn from(attention: UnitAttention) -> Self {
        match attention {
            UnitAttention::Reset => Self::POWER_ON_OCCURRED,
            UnitAttention::UnitReset => Self::BUS_DEVICE_RESET_FUNCTION_OCCURRED,
            UnitAttention::CapacityChanged => Self::CAPACITY_DATA_HAS_CHANGED,
            UnitAttention::MediumChanged => Self::NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED,
            UnitAttention::LunsChanged => Self::REPORTED_LUNS_DATA_HAS_CHANGED,
            UnitAttention::CommandsCleared => Self::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
            UnitAttention::ModeParametersChanged => Self::MODE_PARAMETERS_CHANGED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_carry_the_same() {
        let sense = Sense::MISCOMPARE_DURING_VERIFY_OPERATION.at(0x1234);
        assert_eq!(
            sense.bytes(false),
            [0xf0, 0, 0xe, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            sense.bytes(true),
            [0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]
        );
    }

    #[test]
    fn information_beyond_32_bits_is_not_valid_in_fixed_format() {
        assert_eq!(Sense::WRITE_ERROR.at(1 << 32).bytes(false)[0], 0x70);
    }
}
