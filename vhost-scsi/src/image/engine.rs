//! One worker's I/O: asynchronous by io_uring, or by threads where io_uring is forbidden; and jobs
//! that block, on threads.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Direct;
use super::pool::Pool;
use super::uring::Uring;

/// A scatter-gather list of raw memory.
pub type IoVecs = SmallVec<[libc::iovec; 6]>;

/// What to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// File to memory.
    Read,
    /// Memory to file.
    Write {
        /// Durable before it is done.
        fua: bool,
    },
    /// All that was written becomes durable.
    Flush,
}

/// Which engine to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// io_uring, or threads where it is forbidden.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// Threads.
    Threads,
}

/// What is done.
pub enum Completed<T> {
    /// An operation.
    Io(io::Result<()>),
    /// A job, with what it returned.
    Job(T),
}

/// Where threads put what they have done.
struct Mailbox<T> {
    done: Mutex<Vec<(u64, Completed<T>)>>,
    wake: EventFd,
}

impl<T> Mailbox<T> {
    fn put(&self, token: u64, completed: Completed<T>) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((token, completed));
        if let Err(error) = self.wake.write(1) {
            log::error!("a worker cannot be woken: {error}");
        }
    }
}

/// A list that moves to another thread.
struct SendIoVecs(IoVecs);

// SAFETY: the caller of `submit` keeps the memory alive until completion, on whatever thread.
unsafe impl Send for SendIoVecs {}

impl SendIoVecs {
    fn into_inner(self) -> IoVecs {
        self.0
    }
}

/// One worker's I/O.
pub struct Engine<T> {
    uring: Option<Uring>,
    pool: Pool,
    mailbox: Arc<Mailbox<T>>,
    /// Jobs and operations on threads.
    outside: usize,
}

impl<T: Send + 'static> Engine<T> {
    /// Makes an engine on the thread that will use it.
    ///
    /// # Errors
    /// io_uring was demanded and can't be had.
    pub fn new(kind: EngineKind, pool: Pool) -> io::Result<Self> {
        let uring = match kind {
            EngineKind::Threads => None,
            EngineKind::IoUring => Some(Uring::new()?),
            EngineKind::Auto => match Uring::new() {
                Ok(uring) => Some(uring),
                Err(error) => {
                    log::warn!("io_uring cannot be used, threads are slower: {error}");
                    None
                }
            },
        };
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let mailbox = Arc::new(Mailbox { done: Mutex::default(), wake });
        Ok(Self { uring, pool, mailbox, outside: 0 })
    }

    /// Readable when [`turn`](Self::turn) has something to report.
    pub fn events(&self) -> Vec<RawFd> {
        let wake = self.mailbox.wake.as_raw_fd();
        self.uring.iter().map(Uring::fd).chain([wake]).collect()
    }

    /// Gathers an operation of `file`; it begins at the next [`turn`](Self::turn).
    ///
    /// # Safety
    /// Until it is reported as completed, the file stays open and the memory of `iovecs` mapped.
    pub unsafe fn submit(
        &mut self,
        operation: Operation,
        file: Direct<'_>,
        iovecs: IoVecs,
        offset: u64,
        token: u64,
    ) {
        let aligned = |iovec: &libc::iovec| {
            let mask = file.alignment.wrapping_sub(1);
            (iovec.iov_base.addr() | iovec.iov_len) & mask == 0
        };
        let aligned = iovecs.iter().all(aligned);
        if let Some(uring) = &mut self.uring
            && aligned
        {
            // SAFETY: passed on to our caller.
            unsafe { uring.submit(operation, file.fd, iovecs, offset, token) };
            return;
        }
        let mailbox = Arc::clone(&self.mailbox);
        let fd = file.fd.as_raw_fd();
        let alignment = if aligned { 1 } else { file.alignment };
        let iovecs = SendIoVecs(iovecs);
        self.outside = self.outside.saturating_add(1);
        self.pool.run(move || {
            // SAFETY: the file stays open, as our caller promised.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let iovecs = iovecs.into_inner();
            // SAFETY: the memory stays mapped, as our caller promised.
            let result = unsafe { super::raw::blocking(operation, fd, iovecs, offset, alignment) };
            mailbox.put(token, Completed::Io(result));
        });
    }

    /// Runs a job that may block.
    pub fn spawn(&mut self, token: u64, job: impl FnOnce() -> T + Send + 'static) {
        let pool = self.pool.clone();
        self.spawn_on(&pool, token, job);
    }

    /// Runs a job that may block, on other threads than those that all share.
    pub fn spawn_on(&mut self, pool: &Pool, token: u64, job: impl FnOnce() -> T + Send + 'static) {
        let mailbox = Arc::clone(&self.mailbox);
        self.outside = self.outside.saturating_add(1);
        pool.run(move || mailbox.put(token, Completed::Job(job())));
    }

    /// Begins what was gathered, and takes what is done.
    pub fn turn(&mut self, done: &mut Vec<(u64, Completed<T>)>) {
        if let Some(uring) = &mut self.uring {
            uring.turn(|token, result| done.push((token, Completed::Io(result))));
        }
        if self.outside > 0 {
            let mut finished = self.mailbox.done.lock().unwrap_or_else(PoisonError::into_inner);
            self.outside = self.outside.saturating_sub(finished.len());
            done.append(&mut finished);
        }
    }
}

#[cfg(test)]
mod tests;
