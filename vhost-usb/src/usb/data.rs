//! Where a transaction's data come from and go to: memory of the host, wherever the controller has it.

/// What the host sends.
pub trait Source {
    /// How many bytes.
    fn len(&self) -> usize;

    /// None.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `offset` on into `to`; returns how many, fewer than `to` has room for only
    /// at the end. What the host's memory does not have is zeroes.
    fn read(&self, offset: usize, to: &mut [u8]) -> usize;

    /// All of it, or its first `most` bytes.
    fn to_vec(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.len().min(most)];
        let count = self.read(0, &mut bytes);
        bytes.truncate(count);
        bytes
    }
}

/// Where the host wants what a device sends.
pub trait Sink {
    /// How many bytes more there is room for.
    fn room(&self) -> usize;

    /// Puts bytes behind those that are there; returns how many, fewer only if there is no room for
    /// more.
    fn write(&mut self, data: &[u8]) -> usize;
}

impl Source for &[u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let rest = self.get(offset..).unwrap_or_default();
        let count = rest.len().min(to.len());
        for (to, from) in to.iter_mut().zip(rest) {
            *to = *from;
        }
        count
    }
}

/// A buffer of the host's that has room for so many bytes: for tests, and for what is not in a guest's
/// memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    data: Vec<u8>,
    size: usize,
}

impl Buffer {
    /// An empty one.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { data: Vec::new(), size }
    }

    /// What was put into it.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

impl Sink for Buffer {
    fn room(&self) -> usize {
        self.size.saturating_sub(self.data.len())
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let count = self.room().min(data.len());
        self.data.extend(data.iter().take(count));
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_anywhere_and_written_in_order() {
        let source: &[u8] = b"abcdef";
        let mut some = [0; 4];
        assert_eq!((source.read(4, &mut some), &some), (2, b"ef\0\0"));
        assert_eq!(source.read(9, &mut some), 0);
        assert_eq!(Source::to_vec(&source, 3), b"abc");
        let mut buffer = Buffer::new(5);
        assert_eq!((buffer.write(b"abc"), buffer.write(b"def"), buffer.room()), (3, 2, 0));
        assert_eq!(buffer.data(), b"abcde");
    }
}
