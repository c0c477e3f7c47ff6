//! Persistent reservations (SPC-5 5.14) of a unit with one initiator: virtio-scsi has no more. Keys,
//! generation and the reservation itself are kept as the standard says; a conflict can only arise
//! with a holder that is gone, which a migrated or restored state may have.

use serde::{Deserialize, Serialize};

use super::bytes::{Fields, truncated};
use super::{Reply, Sense, Status};

/// SPC-5 table 162: TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Type {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Type {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Every registrant holds it.
    fn is_shared(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }
}

/// What is to outlive the process when APTPL is set, and to follow the unit in a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservations {
    generation: u32,
    /// The initiator's reservation key, if it is registered.
    key: Option<u64>,
    /// The reservation, which the initiator holds.
    held: Option<Type>,
    /// ACTIVATE PERSIST THROUGH POWER LOSS.
    aptpl: bool,
}

/// Length of PERSISTENT RESERVE OUT's parameter list.
const PARAMETERS: usize = 24;

impl Reservations {
    /// Whether they outlive the process.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.aptpl
    }

    /// PERSISTENT RESERVE IN (SPC-5 6.15). `can_persist`: they can be kept beyond a loss of power.
    ///
    /// # Errors
    /// The sense data to answer with.
    pub fn read(&self, action: u8, allocation: usize, can_persist: bool) -> Result<Reply, Sense> {
        let header = |length: u32| {
            let mut data = self.generation.to_be_bytes().to_vec();
            data.extend(length.to_be_bytes());
            data
        };
        let data = match action {
            0x00 => {
                let mut data = header(if self.key.is_some() { 8 } else { 0 });
                data.extend(self.key.into_iter().flat_map(u64::to_be_bytes));
                data
            }
            0x01 => match self.held {
                None => header(0),
                Some(held) => {
                    let mut data = header(16);
                    // With all registrants the key is 0: there is no one holder.
                    let key = if held.is_shared() { 0 } else { self.key.unwrap_or(0) };
                    data.extend(key.to_be_bytes());
                    data.extend([0, 0, 0, 0, 0, held as u8, 0, 0]);
                    data
                }
            },
            // CRH, PTPL_C; ATP_C is not claimed: there is one port.
            0x02 => {
                let capable = 0x10 | u8::from(can_persist);
                vec![0, 8, capable, 0x80 | u8::from(self.aptpl), 0xea, 0x01, 0, 0]
            }
            0x03 => match self.key {
                None => header(0),
                Some(key) => {
                    let mut data = header(24);
                    data.extend(key.to_be_bytes());
                    let holder = u8::from(self.held.is_some());
                    let kind = self.held.map_or(0, |held| held as u8);
                    data.extend([0, 0, 0, 0, holder, kind, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
                    data
                }
            },
            _ => return Err(Sense::INVALID_FIELD_IN_CDB),
        };
        Ok(Reply::with(truncated(data, allocation)))
    }

    /// PERSISTENT RESERVE OUT (SPC-5 6.16).
    ///
    /// # Errors
    /// The sense data to answer with.
    pub fn write(&mut self, action: u8, scope_type: u8, parameters: &[u8]) -> Result<Reply, Sense> {
        if parameters.len() != PARAMETERS {
            return Err(Sense::PARAMETER_LIST_LENGTH_ERROR);
        }
        let (key, service_key) = (parameters.u64(0), parameters.u64(8));
        let (spec_i_pt, all_tg_pt, aptpl) =
            (parameters.bit(20, 3), parameters.bit(20, 2), parameters.bit(20, 0));
        if spec_i_pt || all_tg_pt {
            return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST);
        }
        let conflict = Ok(Reply::status(Status::ReservationConflict));
        // REGISTER may come from an unregistered initiator with key 0; REGISTER AND IGNORE from all.
        match action {
            0x00 if self.key.unwrap_or(0) != key => return conflict,
            0x01..=0x05 if self.key != Some(key) => return conflict,
            _ => {}
        }
        match action {
            0x00 | 0x06 => {
                self.register(service_key);
                self.aptpl = aptpl;
            }
            0x01 => {
                let wanted = Self::parse_type(scope_type)?;
                match self.held {
                    Some(held) if held != wanted => return conflict,
                    _ => self.held = Some(wanted),
                }
            }
            0x02 => match self.held {
                Some(held) if Some(held) != Type::from_bits(scope_type & 0xf) => {
                    return Err(Sense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION);
                }
                _ => self.held = None,
            },
            0x03 => {
                self.key = None;
                self.held = None;
                self.bump();
            }
            0x04 | 0x05 => return self.preempt(scope_type, service_key),
            _ => return Err(Sense::INVALID_FIELD_IN_CDB),
        }
        Ok(Reply::good())
    }

    fn parse_type(scope_type: u8) -> Result<Type, Sense> {
        // Only the scope of the whole unit exists.
        if scope_type >> 4 != 0 {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        Type::from_bits(scope_type & 0xf).ok_or(Sense::INVALID_FIELD_IN_CDB)
    }

    fn register(&mut self, key: u64) {
        self.key = (key != 0).then_some(key);
        if key == 0 {
            self.held = None; // its only holder has gone
        }
        self.bump();
    }

    /// SPC-5 5.14.11.4: the only registrant that can be preempted is the initiator itself.
    fn preempt(&mut self, scope_type: u8, victim: u64) -> Result<Reply, Sense> {
        let wanted = Self::parse_type(scope_type)?;
        match self.held {
            Some(held) if held.is_shared() && victim == 0 => self.held = Some(wanted),
            _ if victim == 0 => return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST),
            _ if self.key != Some(victim) => {
                return Ok(Reply::status(Status::ReservationConflict));
            }
            Some(_) => self.held = Some(wanted),
            None => self.key = None,
        }
        self.bump();
        Ok(Reply::good())
    }

    fn bump(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u64 = 0x1234_5678_9abc_def0;

    fn parameters(key: u64, service_key: u64) -> Vec<u8> {
        let mut bytes = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
        bytes.resize(PARAMETERS, 0);
        bytes
    }

    fn registered() -> Reservations {
        let mut unit = Reservations::default();
        assert_eq!(unit.write(0, 0, &parameters(0, KEY)), Ok(Reply::good()));
        unit
    }

    #[test]
    fn register_reserve_release() {
        let mut unit = registered();
        assert_eq!(unit.read(0, 100, true).unwrap().data[..8], [0, 0, 0, 1, 0, 0, 0, 8]);
        assert_eq!(unit.read(0, 100, true).unwrap().data[8..], KEY.to_be_bytes());
        assert_eq!(unit.write(1, 3, &parameters(KEY, 0)), Ok(Reply::good()));
        assert_eq!(unit.read(1, 100, true).unwrap().data[21], 3);
        assert_eq!(
            unit.write(2, 1, &parameters(KEY, 0)),
            Err(Sense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        );
        assert_eq!(unit.write(2, 3, &parameters(KEY, 0)), Ok(Reply::good()));
        assert_eq!(unit.read(1, 100, true).unwrap().data.len(), 8);
    }

    #[test]
    fn a_wrong_key_conflicts() {
        let mut unit = registered();
        for action in 0..=5 {
            let reply = unit.write(action, 1, &parameters(KEY + 1, 7)).unwrap();
            assert_eq!(reply.status, Status::ReservationConflict as u8, "action {action}");
        }
    }

    #[test]
    fn unregistering_gives_up_the_reservation() {
        let mut unit = registered();
        unit.write(1, 1, &parameters(KEY, 0)).unwrap();
        unit.write(0, 0, &parameters(KEY, 0)).unwrap();
        assert_eq!(unit.read(1, 100, true).unwrap().data.len(), 8);
        assert_eq!(unit.read(0, 100, true).unwrap().data.len(), 8);
    }

    #[test]
    fn malformed_requests_are_refused() {
        let mut unit = registered();
        assert_eq!(unit.write(1, 1, &[0; 23]), Err(Sense::PARAMETER_LIST_LENGTH_ERROR));
        assert_eq!(unit.write(1, 2, &parameters(KEY, 0)), Err(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(unit.write(1, 0x11, &parameters(KEY, 0)), Err(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(unit.write(9, 1, &parameters(KEY, 0)), Err(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(unit.read(9, 100, true), Err(Sense::INVALID_FIELD_IN_CDB));
    }
}
