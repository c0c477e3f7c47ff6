//! The common configuration structure (virtio 1.3, 4.1.4.3), and a device's life as it tells it.

#[cfg(test)]
mod tests;

use std::ops::Range;

/// No vector: no interrupt.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Where the generation of the configuration space is.
pub(super) const GENERATION: u64 = 0x15;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;
const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    Reset,
    Start,
    ConfigVector(u16),
    QueueVector(u16, u16),
}

/// A queue's registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueRegisters {
    most: u16,
    pub(super) size: u16,
    vector: u16,
    enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl QueueRegisters {
    fn new(most: u16) -> Self {
        let (descriptors, available, used) = (0, 0, 0);
        Self { most, size: most, vector: NO_VECTOR, enabled: false, descriptors, available, used }
    }
}

/// The structure's registers.
#[derive(Debug)]
pub(super) struct Common {
    offered: u64,
    offered_select: u32,
    accepted: u64,
    accepted_select: u32,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Common {
    pub(super) fn new(offered: u64, sizes: &[u16]) -> Self {
        Self {
            offered,
            offered_select: 0,
            accepted: 0,
            accepted_select: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues: sizes.iter().copied().map(QueueRegisters::new).collect(),
        }
    }

    pub(super) fn reset(&mut self, offered: u64) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.most).collect();
        *self = Self::new(offered, &sizes);
    }

    /// What the driver accepted.
    pub(super) fn features(&self) -> u64 {
        self.accepted
    }

    /// The queues that the driver enabled.
    pub(super) fn queues(&self) -> impl Iterator<Item = (u16, &QueueRegisters)> {
        (0..).zip(&self.queues).filter(|(_, queue)| queue.enabled)
    }

    /// The device can't go on (2.1).
    pub(super) fn set_needs_reset(&mut self) {
        self.status |= NEEDS_RESET;
    }

    fn queue(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// The guest reads; an access that is no register's, or over two, reads as zeroes.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], generation: u8) {
        let queue = self.queues.get(usize::from(self.queue_select));
        let queue = queue.copied().unwrap_or(QueueRegisters::new(0));
        let word = |features: u64, select| match select {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        let value: u64 = match offset {
            0x00 => self.offered_select.into(),
            0x04 => word(self.offered, self.offered_select),
            0x08 => self.accepted_select.into(),
            0x0c => word(self.accepted, self.accepted_select),
            0x10 => self.config_vector.into(),
            0x12 => self.queues.len() as u64,
            0x14 => self.status.into(),
            GENERATION => generation.into(),
            0x16 => self.queue_select.into(),
            0x18 => queue.size.into(),
            0x1a => queue.vector.into(),
            0x1c => queue.enabled.into(),
            // Each queue's own notification address.
            0x1e => self.queue_select.into(),
            0x20 => queue.descriptors,
            0x24 => queue.descriptors >> 32,
            0x28 => queue.available,
            0x2c => queue.available >> 32,
            0x30 => queue.used,
            0x34 => queue.used >> 32,
            _ => 0,
        };
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    /// The guest writes. There are `vectors` vectors.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], vectors: u16) -> Action {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let value = u64::from_le_bytes(bytes);
        match (offset, data.len()) {
            (0x00, 4) => self.offered_select = low(value),
            (0x08, 4) => self.accepted_select = low(value),
            (0x0c, 4) => self.accept(low(value)),
            (0x10, 2) => {
                self.config_vector = vector(value, vectors);
                return Action::ConfigVector(self.config_vector);
            }
            (0x14, 1) => return self.set_status(bytes[0]),
            (0x16, 2) => self.queue_select = low(value) as u16,
            (0x1a, 2) => {
                let (select, vector) = (self.queue_select, vector(value, vectors));
                if let Some(queue) = self.queue() {
                    queue.vector = vector;
                    return Action::QueueVector(select, vector);
                }
            }
            _ => self.write_queue(offset, data.len(), value),
        }
        Action::None
    }

    /// A queue is set up before the driver is ready, and then left alone (3.1.1, 4.1.4.3.2).
    fn write_queue(&mut self, offset: u64, length: usize, value: u64) {
        if self.status & DRIVER_OK != 0 {
            return;
        }
        // A packed ring's size is any (2.8.10.1). Until FEATURES_OK a driver may accept what was never
        // offered, and take back what was.
        let any = self.status & FEATURES_OK != 0 && self.accepted & RING_PACKED != 0;
        let Some(queue) = self.queue().filter(|queue| !queue.enabled) else { return };
        let high = |old: u64| old & 0xffff_ffff | value << 32;
        let lower = |old: u64| old & !0xffff_ffff | value;
        match (offset, length) {
            (0x18, 2) => {
                let size = low(value) as u16;
                let fits = size.is_power_of_two() || any && size > 0;
                if fits && size <= queue.most {
                    queue.size = size;
                }
            }
            (0x1c, 2) => queue.enabled = value == 1 && queue.most != 0,
            (0x20, 8) => queue.descriptors = value,
            (0x28, 8) => queue.available = value,
            (0x30, 8) => queue.used = value,
            (0x20, 4) => queue.descriptors = lower(queue.descriptors),
            (0x24, 4) => queue.descriptors = high(queue.descriptors),
            (0x28, 4) => queue.available = lower(queue.available),
            (0x2c, 4) => queue.available = high(queue.available),
            (0x30, 4) => queue.used = lower(queue.used),
            (0x34, 4) => queue.used = high(queue.used),
            _ => {}
        }
    }

    /// The driver accepts 32 features; not any more once they are settled (2.2).
    fn accept(&mut self, features: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let features = u64::from(features);
        match self.accepted_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | features,
            1 => self.accepted = self.accepted & 0xffff_ffff | features << 32,
            _ => {}
        }
    }

    /// The driver goes on (3.1.1); it can take no step back but to the beginning.
    fn set_status(&mut self, status: u8) -> Action {
        if status == 0 {
            return Action::Reset;
        }
        let new = status & !self.status;
        let known = ACKNOWLEDGE | DRIVER | FAILED;
        self.status |= new & known;
        let acceptable = self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0;
        if new & FEATURES_OK != 0 && acceptable {
            self.status |= FEATURES_OK;
        }
        if new & DRIVER_OK != 0 && self.status & FEATURES_OK != 0 {
            self.status |= DRIVER_OK;
            return Action::Start;
        }
        Action::None
    }
}

/// The lower half.
fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// A vector, or none if it is not there (4.1.5.1.2).
fn vector(value: u64, vectors: u16) -> u16 {
    let valid: Range<u64> = 0..vectors.into();
    if valid.contains(&value) { (value & 0xffff) as u16 } else { NO_VECTOR }
}
