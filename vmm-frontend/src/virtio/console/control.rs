//! Control messages (virtio 1.3, 5.3.6.2): of which kinds, how they look, and which are to be sent.

/// Bytes of `struct virtio_console_control`, with which each message begins.
pub(super) const HEADER: usize = 8;

/// VIRTIO_CONSOLE_….
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const PORT_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// What a driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromDriver {
    /// It knows of the control queues, and waits for ports.
    DeviceReady,
    /// It has the port, or could not add it.
    PortReady { port: usize, ready: bool },
    /// It opened or closed the port.
    PortOpen { port: usize, open: bool },
}

impl FromDriver {
    /// `None`: nothing that a driver says.
    pub(super) fn parse(bytes: [u8; HEADER]) -> Option<Self> {
        let [id @ .., event0, event1, value0, value1] = bytes;
        let port = usize::try_from(u32::from_le_bytes(id)).ok()?;
        let value = u16::from_le_bytes([value0, value1]);
        match u16::from_le_bytes([event0, event1]) {
            event::DEVICE_READY if value != 0 => Some(Self::DeviceReady),
            event::PORT_READY => Some(Self::PortReady { port, ready: value != 0 }),
            event::PORT_OPEN => Some(Self::PortOpen { port, open: value != 0 }),
            _ => None,
        }
    }
}

/// What is said to a driver about a port, in the order in which it is said. A driver must know that
/// the host's end was closed before it was opened anew, not how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToDriver {
    Add,
    Console,
    Name,
    Resize,
    Close,
    Open,
}

impl ToDriver {
    const ALL: [Self; 6] =
        [Self::Add, Self::Console, Self::Name, Self::Resize, Self::Close, Self::Open];

    /// The message about `port`, which has this name, on a terminal of so many columns and rows.
    pub(super) fn bytes(self, port: usize, name: &str, size: (u16, u16)) -> Vec<u8> {
        let (event, value) = match self {
            Self::Add => (event::PORT_ADD, 1),
            Self::Console => (event::CONSOLE_PORT, 1),
            Self::Name => (event::PORT_NAME, 1),
            Self::Resize => (event::RESIZE, 0),
            Self::Close => (event::PORT_OPEN, 0),
            Self::Open => (event::PORT_OPEN, 1),
        };
        let id = u32::try_from(port).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(id.to_le_bytes());
        bytes.extend(u16::to_le_bytes(event));
        bytes.extend(u16::to_le_bytes(value));
        match self {
            // Without a zero at its end.
            Self::Name => bytes.extend(name.as_bytes()),
            // In this order: Linux had them the other way round before 6.15 and its stable releases
            // of January 2026. A console that is its device's only port has its size read from the
            // configuration space, and is right everywhere.
            Self::Resize => {
                bytes.extend(size.0.to_le_bytes());
                bytes.extend(size.1.to_le_bytes());
            }
            Self::Add | Self::Console | Self::Close | Self::Open => {}
        }
        bytes
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Messages that wait for the driver's buffers. However many there were: each kind waits once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending(u8);

impl Pending {
    pub(super) fn add(&mut self, message: ToDriver) {
        self.0 |= message.bit();
    }

    pub(super) fn remove(&mut self, message: ToDriver) {
        self.0 &= !message.bit();
    }

    pub(super) fn contains(self, message: ToDriver) -> bool {
        self.0 & message.bit() != 0
    }

    pub(super) fn first(self) -> Option<ToDriver> {
        ToDriver::ALL.into_iter().find(|&message| self.contains(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_bytes() {
        let bytes = |message: ToDriver| message.bytes(0x102, "org.a", (80, 25));
        assert_eq!(bytes(ToDriver::Add), [2, 1, 0, 0, 1, 0, 1, 0]);
        assert_eq!(bytes(ToDriver::Close), [2, 1, 0, 0, 6, 0, 0, 0]);
        assert_eq!(bytes(ToDriver::Name), *b"\x02\x01\0\0\x07\0\x01\0org.a");
        assert_eq!(bytes(ToDriver::Resize), [2, 1, 0, 0, 5, 0, 0, 0, 80, 0, 25, 0]);
    }

    #[test]
    fn what_no_driver_says_is_nothing() {
        let parse = |event, value| FromDriver::parse([3, 0, 0, 0, event, 0, value, 0]);
        assert_eq!(parse(0, 1), Some(FromDriver::DeviceReady));
        assert_eq!(parse(0, 0), None, "it failed");
        assert_eq!(parse(3, 0), Some(FromDriver::PortReady { port: 3, ready: false }));
        assert_eq!(parse(6, 1), Some(FromDriver::PortOpen { port: 3, open: true }));
        assert_eq!(parse(1, 1), None, "a device's message");
        assert_eq!(parse(8, 1), None, "there is no such message");
    }

    #[test]
    fn messages_wait_in_their_order_each_once() {
        let mut pending = Pending::default();
        for message in [ToDriver::Open, ToDriver::Close, ToDriver::Name, ToDriver::Open] {
            pending.add(message);
        }
        let mut order = Vec::new();
        while let Some(message) = pending.first() {
            order.push(message);
            pending.remove(message);
        }
        assert_eq!(order, [ToDriver::Name, ToDriver::Close, ToDriver::Open]);
    }
}
