//! What is sent to the device comes back, packet by packet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::usb::Answer;
use crate::usb::data::{Sink, Source};

/// Packets that it keeps.
const MOST: usize = 64;

/// Packets on their way back.
pub(super) struct Loopback {
    packets: VecDeque<Vec<u8>>,
    /// One direction has made way for the other.
    wake: EventFd,
}

impl Loopback {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { packets: VecDeque::new(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    pub(super) fn event(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(super) fn turn(&mut self) {
        let _ = self.wake.read(); // however often it was written
    }

    pub(super) fn clear(&mut self) {
        self.packets.clear();
    }

    /// The host sends packets of that size, the last of them maybe shorter, or an empty one.
    pub(super) fn take(&mut self, from: &dyn Source, packet: usize) -> Answer {
        let mut bytes: usize = 0;
        let was_empty = self.packets.is_empty();
        while self.packets.len() < MOST {
            let mut data = vec![0; from.len().saturating_sub(bytes).min(packet)];
            from.read(bytes, &mut data); // what is not there is zeroes
            bytes = bytes.saturating_add(data.len());
            self.packets.push_back(data);
            if bytes >= from.len() {
                break;
            }
        }
        if bytes == 0 && !from.is_empty() {
            return Answer::Nak;
        }
        self.wake_if(was_empty);
        Answer::moved(bytes)
    }

    /// The host wants packets: as many as there are and as it has room for.
    pub(super) fn send(&mut self, to: &mut dyn Sink, packet: usize) -> Answer {
        let was_full = self.packets.len() >= MOST;
        let mut answer = Answer::Nak;
        let mut bytes: usize = 0;
        while let Some(front) = self.packets.front() {
            if front.len() > to.room() {
                if answer == Answer::Nak {
                    self.packets.pop_front();
                    answer = Answer::Babble;
                }
                break;
            }
            bytes = bytes.saturating_add(to.write(front));
            let short = front.len() < packet;
            answer = Answer::Moved { bytes, short };
            self.packets.pop_front();
            if short || to.room() == 0 {
                break;
            }
        }
        self.wake_if(was_full && answer != Answer::Nak);
        answer
    }

    fn wake_if(&self, is_useful: bool) {
        if is_useful {
            // A counter that is full is readable as well.
            let _ = self.wake.write(1);
        }
    }
}
