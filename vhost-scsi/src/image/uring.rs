//! Asynchronous I/O by io_uring.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering, fence};

use io_uring::{IoUring, opcode, squeue, types};
use smallvec::SmallVec;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::engine::{IoVecs, Operation};

/// Submissions gathered before the kernel must take them.
const ENTRIES: u32 = 128;
/// Completions that fit: more than a queue has descriptors.
const COMPLETIONS: u32 = 2048;
/// The kernel takes no more in one operation.
const MOST_IOVECS: u32 = 1024;

/// An operation under way.
struct Slot {
    token: u64,
    operation: Operation,
    fd: RawFd,
    /// What is left of the buffers.
    iovecs: IoVecs,
    /// Where the rest goes.
    offset: u64,
}

/// One worker's ring.
pub(super) struct Uring {
    ring: IoUring,
    /// Boxed: the kernel holds pointers into them.
    #[allow(clippy::vec_box, reason = "their addresses must not change")]
    slots: Vec<Box<Slot>>,
    free: Vec<usize>,
    under_way: usize,
    /// Signalled by the kernel when there is something to take: with completions deferred to this
    /// thread, the ring's own descriptor does not become readable. Only while somebody may wait for
    /// it: a signal costs as much as a small read from the page cache.
    wake: EventFd,
    /// The kernel signals.
    awake: bool,
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        // Completions are taken by the thread that submits, when it asks: no interrupts between.
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(ENTRIES)
            .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(ENTRIES))?;
        let wake = EventFd::new(EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        let mut this =
            Self { ring, slots: Vec::new(), free: Vec::new(), under_way: 0, wake, awake: true };
        this.be_told(false);
        Ok(this)
    }

    fn be_told(&mut self, told: bool) {
        if self.awake == told {
            return;
        }
        self.awake = told;
        let completion = self.ring.completion();
        if told {
            completion.enable_eventfd();
            // The kernel posts, then looks at this flag; this sets the flag, then looks at what was
            // posted: one of the two sees the other.
            fence(Ordering::SeqCst);
        } else {
            completion.disable_eventfd();
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// # Safety
    /// As [`Engine::submit`](super::engine::Engine::submit).
    pub(super) unsafe fn submit(
        &mut self,
        operation: Operation,
        fd: BorrowedFd<'_>,
        iovecs: IoVecs,
        offset: u64,
        token: u64,
    ) {
        let slot = Slot { token, operation, fd: fd.as_raw_fd(), iovecs, offset };
        let index = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(place) => **place = slot,
            None => self.slots.push(Box::new(slot)),
        }
        self.under_way = self.under_way.saturating_add(1);
        self.push(index);
    }

    fn push(&mut self, index: usize) {
        let Some(slot) = self.slots.get(index) else { return };
        let fd = types::Fd(slot.fd);
        let count = u32::try_from(slot.iovecs.len()).unwrap_or(u32::MAX).min(MOST_IOVECS);
        let entry = match (slot.operation, slot.iovecs.as_slice()) {
            (Operation::Read, [one]) => {
                opcode::Read::new(fd, one.iov_base.cast(), length(one)).offset(slot.offset).build()
            }
            (Operation::Read, many) => {
                opcode::Readv::new(fd, many.as_ptr(), count).offset(slot.offset).build()
            }
            (Operation::Write { fua }, [one]) => {
                opcode::Write::new(fd, one.iov_base.cast_const().cast(), length(one))
                    .offset(slot.offset)
                    .rw_flags(flags(fua))
                    .build()
            }
            (Operation::Write { fua }, many) => opcode::Writev::new(fd, many.as_ptr(), count)
                .offset(slot.offset)
                .rw_flags(flags(fua))
                .build(),
            (Operation::Flush, _) => {
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
            }
        };
        let entry: squeue::Entry = entry.user_data(index as u64);
        loop {
            // SAFETY: the buffers and the descriptor live until completion, as the caller of
            // `submit` promised; the iovec array is in a boxed slot that is not touched before.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                break;
            }
            self.enter();
        }
    }

    /// Has the kernel take what was gathered, and post what is done.
    fn enter(&mut self) {
        let gathered = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        // IORING_ENTER_GETEVENTS
        const GETEVENTS: u32 = 1;
        loop {
            // SAFETY: no signal mask is passed; entries were checked when they were pushed.
            let taken = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(gathered, 0, GETEVENTS, None)
            };
            match taken {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    return; // taken at the next turn
                }
                Err(error) => {
                    log::error!("io_uring refuses work: {error}");
                    return;
                }
            }
        }
    }

    /// Submits what was gathered, and reports what is done.
    pub(super) fn turn(&mut self, mut done: impl FnMut(u64, io::Result<()>)) {
        if self.under_way == 0 {
            return;
        }
        self.be_told(false);
        loop {
            if self.must_enter() {
                self.enter();
            }
            let completed: SmallVec<[(u64, i32); 32]> = self
                .ring
                .completion()
                .take(32)
                .map(|entry| (entry.user_data(), entry.result()))
                .collect();
            if completed.is_empty() {
                if self.under_way == 0 {
                    return;
                }
                if self.awake {
                    // What the kernel would not take now is offered again at once, not after a
                    // completion that may never come.
                    if !self.ring.submission().is_empty()
                        && let Err(error) = self.wake.write(1)
                    {
                        log::error!("a worker cannot be woken: {error}");
                    }
                    return;
                }
                // Somebody may go to sleep now; what came until here is not to be missed.
                self.be_told(true);
                continue;
            }
            for (index, result) in completed {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                if let Some(result) = self.advance(index, result)
                    && let Some(slot) = self.slots.get_mut(index)
                {
                    slot.iovecs.clear();
                    done(slot.token, result);
                    self.free.push(index);
                    self.under_way = self.under_way.saturating_sub(1);
                }
            }
        }
    }

    /// The kernel has work to take, or to do on this thread.
    fn must_enter(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Takes account of a completion; `None` if the rest was submitted again.
    fn advance(&mut self, index: usize, result: i32) -> Option<io::Result<()>> {
        let slot = self.slots.get_mut(index)?;
        let count = match usize::try_from(result) {
            Ok(count) => count,
            Err(_) => match result.saturating_neg() {
                libc::EINTR | libc::EAGAIN => {
                    self.push(index);
                    return None;
                }
                error => return Some(Err(io::Error::from_raw_os_error(error))),
            },
        };
        if slot.operation == Operation::Flush {
            return Some(Ok(()));
        }
        slot.offset = slot.offset.saturating_add(count as u64);
        consume(&mut slot.iovecs, count);
        if slot.iovecs.is_empty() {
            return Some(Ok(()));
        }
        if count == 0 {
            let kind = if slot.operation == Operation::Read {
                io::ErrorKind::UnexpectedEof
            } else {
                io::ErrorKind::WriteZero
            };
            return Some(Err(kind.into()));
        }
        self.push(index);
        None
    }
}

fn length(iovec: &libc::iovec) -> u32 {
    // One operation moves at most 2 GiB; the rest follows.
    u32::try_from(iovec.iov_len).unwrap_or(u32::MAX).min(0x7fff_f000)
}

fn flags(fua: bool) -> i32 {
    if fua { libc::RWF_DSYNC } else { 0 }
}

/// Takes `count` bytes off the front.
pub(super) fn consume(iovecs: &mut IoVecs, mut count: usize) {
    let mut whole: usize = 0;
    while let Some(rest) = iovecs.get(whole).and_then(|iovec| count.checked_sub(iovec.iov_len)) {
        count = rest;
        whole = whole.saturating_add(1);
    }
    iovecs.drain(..whole);
    if let Some(first) = iovecs.first_mut() {
        first.iov_base = first.iov_base.wrapping_byte_add(count);
        first.iov_len = first.iov_len.saturating_sub(count);
    }
}
