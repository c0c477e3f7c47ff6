//! The memory between a card and a helper: samples in a ring, and how far each end has come.
//!
//! Positions are in bytes, and only grow. Whoever has the other end may have been taken over: what it wrote is
//! checked each time that it is read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};

use crate::card::control::{LOUDEST, Level};
use crate::card::format::{Format, Rate};
use crate::card::params::Params;
use crate::card::port::Direction;

/// Bytes of samples in it at most: 40 ms of eight channels of 384 kHz of the longest samples, and five seconds of a
/// CD's.
const CAPACITY: u64 = 1 << 20;
/// Where samples begin.
const SAMPLES: usize = 4096;
/// Where the card's words are, and the helper's: in lines of the processor's cache that only one of them writes to.
const ORDER: usize = 0;
const START: usize = 8;
const BEGUN: usize = 16;
const WANTED: usize = 24;
const WAKE: usize = 64;
const WRITTEN: usize = 128;
const READ: usize = 192;
const DELAY: usize = 256;
const FOUND: usize = 264;
const FROM: usize = 272;
const SINCE: usize = 280;
/// The number of the level that a ring begins with.
pub(super) const FIRST: u8 = 1;
/// Nothing was ordered yet.
const NOTHING: u64 = u64::MAX;
/// Nobody is to be woken.
const NEVER: u64 = u64::MAX;

/// What the helper is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: there is no stream.
    Idle,
    /// Have the stream ready.
    Ready,
    /// Move samples.
    Running,
}

/// What the card wants of the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What it is to do.
    pub phase: Phase,
    /// How samples are written.
    pub format: Format,
    /// How many frames a second.
    pub rate: Rate,
    /// Samples of a frame.
    pub channels: u8,
    /// Grows with each stream.
    pub generation: u32,
}

impl Order {
    /// Bytes of a frame.
    #[must_use]
    pub fn frame(&self) -> u64 {
        self.format.frame(self.channels).into()
    }

    /// Bytes that may wait to be heard: a quarter of a second, which outlasts the start of another process, and is no
    /// longer than what a volume may take to be heard.
    #[must_use]
    pub fn ahead(&self) -> u64 {
        let second = self.frame().saturating_mul(self.rate.hertz().into());
        (second / 4).clamp(1 << 12, CAPACITY)
    }

    /// It is of samples like these.
    #[must_use]
    pub fn is_of(&self, params: &Params) -> bool {
        (self.format, self.rate, self.channels) == (params.format, params.rate, params.channels)
    }

    fn word(self) -> u64 {
        let [g0, g1, g2, g3] = self.generation.to_le_bytes();
        let (format, rate) = (self.format.number(), self.rate.number());
        u64::from_le_bytes([self.phase as u8, format, self.channels, rate, g0, g1, g2, g3])
    }

    fn of_word(word: u64) -> Option<Self> {
        let [phase, format, channels, rate, generation @ ..] = word.to_le_bytes();
        let phase = match phase {
            0 => Phase::Idle,
            1 => Phase::Ready,
            2 => Phase::Running,
            _ => return None,
        };
        Some(Self {
            phase,
            format: Format::of_number(format)?,
            rate: Rate::of_number(rate)?,
            channels: Some(channels).filter(|it| (1..=crate::card::CHANNELS).contains(it))?,
            generation: u32::from_le_bytes(generation),
        })
    }
}

/// The memory.
#[derive(Debug, Clone)]
pub struct Ring {
    region: Arc<MmapRegion>,
    direction: Direction,
}

impl Ring {
    /// A new one, and the descriptor by which another process has the same.
    ///
    /// # Errors
    /// The host refuses.
    pub fn create(direction: Direction) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create("vhost-sound", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, length())?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let ring = Self::map(fd.as_fd(), direction)?;
        ring.store(ORDER, NOTHING);
        ring.store(WAKE, NEVER);
        ring.set_wanted(&Level::default());
        ring.set_found(0, &Level::default());
        Ok((ring, fd))
    }

    /// The one of another process.
    ///
    /// # Errors
    /// It is none, or the host refuses.
    pub fn map(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<Self> {
        let file = std::fs::File::from(fd.try_clone_to_owned()?);
        if file.metadata()?.len() != length() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let size = usize::try_from(length()).unwrap_or(usize::MAX);
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size);
        Ok(Self { region: Arc::new(region.map_err(io::Error::other)?), direction })
    }

    fn with<T: Default>(&self, place: usize, work: impl FnOnce(&AtomicU64) -> T) -> T {
        // Every place is a constant, in the memory.
        self.region.get_atomic_ref(place).map(work).unwrap_or_default()
    }

    fn load(&self, place: usize) -> u64 {
        self.with(place, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, place: usize, value: u64) {
        self.with(place, |word| word.store(value, Ordering::SeqCst));
    }

    /// What is wanted of the helper, if anything ever was.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        Order::of_word(self.load(ORDER))
    }

    /// Wants something else of it.
    pub fn set_order(&self, order: Order) {
        self.store(ORDER, order.word());
    }

    /// Which way samples go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Bytes of it that are in use. Where samples wait to be played they are few, which stay in the processor's cache;
    /// what is recorded may wait for a driver that is late.
    fn size(&self) -> u64 {
        match (self.direction, self.order()) {
            (Direction::Playback, Some(order)) => order.ahead().next_power_of_two().min(CAPACITY),
            _ => CAPACITY,
        }
    }

    /// Empties it: what was written before is of no use any more.
    pub fn restart(&self) {
        let written = self.written();
        self.store(START, written);
        self.store(BEGUN, written);
    }

    /// How far samples were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.load(WRITTEN)
    }

    /// How far they were read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.load(READ).max(self.load(START))
    }

    /// Bytes that were written, and not read.
    #[must_use]
    pub fn filled(&self) -> u64 {
        // Whoever reads may be told of a new start before it sees what was written.
        self.written().saturating_sub(self.read()).min(self.size())
    }

    /// Bytes that can be written.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.size().saturating_sub(self.filled())
    }

    /// Writes samples, as many as there is room for.
    pub fn put(&self, samples: &[u8]) -> u64 {
        let count = self.room().min(samples.len() as u64);
        let written = self.written();
        for (at, range) in pieces(self.size(), written, count) {
            // It lies in the memory.
            let _ =
                samples.get(range).map(|piece| self.region.as_volatile_slice().write(piece, at));
        }
        self.store(WRITTEN, written.wrapping_add(count));
        count
    }

    /// Reads samples, as many as there are.
    pub fn get(&self, samples: &mut [u8]) -> u64 {
        let count = self.filled().min(samples.len() as u64);
        let read = self.read();
        for (at, range) in pieces(self.size(), read, count) {
            // It lies in the memory.
            let _ =
                samples.get_mut(range).map(|piece| self.region.as_volatile_slice().read(piece, at));
        }
        self.store(READ, read.wrapping_add(count));
        count
    }

    /// Goes on at a whole frame, if another stream's end has left it in the middle of one.
    pub fn align(&self, frame: u64) {
        let over = self.read().saturating_sub(self.load(START)).checked_rem(frame).unwrap_or(0);
        if over > 0 {
            let rest = frame.saturating_sub(over).min(self.filled());
            self.store(READ, self.read().wrapping_add(rest));
        }
    }

    /// Up to where buffers are done with.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.load(BEGUN)
    }

    /// So many bytes more are of buffers that are done with.
    pub fn complete(&self, bytes: u64) {
        self.store(BEGUN, self.begun().wrapping_add(bytes));
    }

    /// How far samples were read; where those begin that were read last; and when that was, in nanoseconds of
    /// CLOCK_MONOTONIC.
    #[must_use]
    pub fn progress(&self) -> (u64, u64, u64) {
        let last = || (self.load(FROM), self.load(SINCE));
        let (mut before, mut read) = (last(), self.read());
        // Whoever reads may be about to say so.
        for _ in 0..4 {
            let after = last();
            if after == before {
                break;
            }
            (before, read) = (after, self.read());
        }
        (read, before.0, before.1)
    }

    /// Says that samples are read from there on, before they are.
    pub fn set_last(&self, from: u64, since: u64) {
        self.store(FROM, from);
        self.store(SINCE, since);
    }

    /// How far the place where samples are read, or written, is from who hears them, in bytes.
    #[must_use]
    pub fn delay(&self) -> u64 {
        self.load(DELAY)
    }

    /// Says so.
    pub fn set_delay(&self, bytes: u64) {
        self.store(DELAY, bytes);
    }

    /// How loud the card wants the stream to be; the number grows each time.
    #[must_use]
    pub fn wanted(&self) -> (u8, Level) {
        level(self.load(WANTED))
    }

    /// Wants it to be so loud.
    pub fn set_wanted(&self, wanted: &Level) {
        let (number, _) = self.wanted();
        self.store(WANTED, word(number.wrapping_add(1), wanted));
    }

    /// The host has made it so loud, which is what is wanted now.
    pub fn keep_wanted(&self, found: &Level) {
        let (number, _) = self.wanted();
        self.store(WANTED, word(number, found));
    }

    /// How loud the host has made it, and of which number is what it knew to be wanted.
    #[must_use]
    pub fn found(&self) -> (u8, Level) {
        level(self.load(FOUND))
    }

    /// Says that it is so loud, knowing of what was wanted with that number.
    pub fn set_found(&self, number: u8, found: &Level) {
        self.store(FOUND, word(number, found));
    }

    /// The card is to be woken when the helper has come to `position`.
    pub fn wake_at(&self, position: u64) {
        self.store(WAKE, position);
    }

    /// The helper has come to `position`: whether the card is to be woken. Once only.
    #[must_use]
    pub fn is_awaited(&self, position: u64) -> bool {
        let wanted = self.load(WAKE);
        wanted <= position
            && self.with(WAKE, |word| {
                word.compare_exchange(wanted, NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            })
    }
}

/// A level in a word: seven bits for each channel, a number behind them, and then whether it is on.
fn level(word: u64) -> (u8, Level) {
    let mut level = Level { is_on: word >> 63 != 0, ..Level::default() };
    for (place, volume) in (0u32..).zip(&mut level.volumes) {
        let bits = word.wrapping_shr(place.wrapping_mul(7)).to_le_bytes();
        let [low, ..] = bits;
        *volume = (low & 0x7f).min(LOUDEST);
    }
    let [.., number] = word.to_le_bytes();
    (number & 0x7f, level)
}

/// The word that says so.
fn word(number: u8, level: &Level) -> u64 {
    let mut word = u64::from(level.is_on) << 63 | u64::from(number & 0x7f) << 56;
    for (place, volume) in (0u32..).zip(level.volumes) {
        word |= u64::from(volume.min(LOUDEST)).wrapping_shl(place.wrapping_mul(7));
    }
    word
}

/// Bytes of the memory.
fn length() -> u64 {
    CAPACITY.saturating_add(SAMPLES as u64)
}

/// Where `count` bytes from a position on are in the memory, of which `size` are in use, and which of them each place
/// has.
fn pieces(size: u64, position: u64, count: u64) -> [(usize, std::ops::Range<usize>); 2] {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let at = position.checked_rem(size).unwrap_or(0);
    let first = count.min(size.saturating_sub(at));
    let place = number(at).saturating_add(SAMPLES);
    [(place, 0..number(first)), (SAMPLES, number(first)..number(count))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_the_same() {
        let (near, fd) = Ring::create(Direction::Capture).unwrap();
        let far = Ring::map(fd.as_fd(), Direction::Capture).unwrap();
        assert_eq!(far.order(), None);
        let order = Order {
            phase: Phase::Running,
            format: Format::U20_3,
            rate: "44100".parse().unwrap(),
            channels: 8,
            generation: 0x1234_5678,
        };
        near.set_order(order);
        assert_eq!((far.order(), order.frame()), (Some(order), 24));
        near.store(ORDER, order.word() | 0xff);
        assert_eq!(far.order(), None);
        let empty = memfd_create("", MemfdFlags::CLOEXEC).unwrap();
        assert!(Ring::map(empty.as_fd(), Direction::Capture).is_err());
        assert!(ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn samples_come_out_as_they_went_in_and_no_more() {
        let (near, fd) = Ring::create(Direction::Capture).unwrap();
        let far = Ring::map(fd.as_fd(), Direction::Capture).unwrap();
        let mut heard = vec![0; 0x1_0000];
        let mut next = (0..=255).cycle();
        let mut expected = next.clone();
        for _ in 0..100 {
            let samples: Vec<u8> = next.by_ref().take(50_000).collect();
            assert_eq!(near.put(&samples), 50_000);
            assert_eq!((far.filled(), far.get(&mut heard)), (50_000, 50_000));
            assert!(
                heard.iter().take(50_000).eq(expected
                    .by_ref()
                    .take(50_000)
                    .collect::<Vec<u8>>()
                    .iter())
            );
        }
        assert_eq!((near.put(&vec![1; 2 << 20]), near.room()), (CAPACITY, 0));
        near.restart();
        assert_eq!((near.room(), far.filled()), (CAPACITY, 0));
    }

    #[test]
    fn a_level_is_told_each_way() {
        let (near, fd) = Ring::create(Direction::Capture).unwrap();
        let far = Ring::map(fd.as_fd(), Direction::Capture).unwrap();
        let (first, all) = far.wanted();
        assert_eq!((far.found().1, all), (Level::default(), Level::default()));
        let level = Level { volumes: [0, 1, 2, 50, 99, 100, 64, 7], is_on: false };
        near.set_wanted(&level);
        assert_eq!(far.wanted(), (first + 1, level));
        far.set_found(first + 1, &level);
        assert_eq!(near.found(), (first + 1, level));
        (0..127).for_each(|_| near.set_wanted(&level));
        near.keep_wanted(&all);
        assert_eq!((far.wanted(), first), ((first, all), FIRST));
        near.store(FOUND, u64::MAX);
        assert!(far.found().1.is_possible());
    }

    #[test]
    fn the_card_is_woken_once() {
        let (ring, _fd) = Ring::create(Direction::Capture).unwrap();
        assert!(!ring.is_awaited(u64::MAX - 1));
        ring.wake_at(100);
        assert!(!ring.is_awaited(99) && ring.is_awaited(100) && !ring.is_awaited(100));
    }

    proptest::proptest! {
        /// Whatever the other end writes.
        #[test]
        fn positions_that_make_no_sense_do_no_harm(written: u64, read: u64, start: u64, order: u64) {
            let (ring, _fd) = Ring::create(Direction::Capture).unwrap();
            let words = [(WRITTEN, written), (READ, read), (START, start), (ORDER, order)];
            words.into_iter().for_each(|(place, value)| ring.store(place, value));
            let mut bytes = [0; 5000];
            proptest::prop_assert!(ring.put(&bytes) <= 5000 && ring.get(&mut bytes) <= 5000);
            proptest::prop_assert!(ring.filled() <= CAPACITY);
            proptest::prop_assert!(ring.order().is_none_or(|order| order.frame() > 0));
            ring.align(7);
        }
    }
}
