use super::*;
use crate::image::open::tests::Scratch;
use crate::image::raw::CacheMode;
use proptest::prelude::*;

fn iovec(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
}

/// Turns until `count` completions have come.
fn wait<T: Send + 'static>(engine: &mut Engine<T>, count: usize) -> Vec<(u64, Completed<T>)> {
    let mut done = Vec::new();
    loop {
        engine.turn(&mut done);
        if done.len() >= count {
            return done;
        }
        let mut fds: Vec<libc::pollfd> = engine
            .events()
            .iter()
            .map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        // SAFETY: the array outlives the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, 5000) };
        assert!(ready > 0, "no event within 5 s for {} of {count}", done.len());
    }
}

fn io(completed: &Completed<u32>) -> &io::Result<()> {
    match completed {
        Completed::Io(result) => result,
        Completed::Job(_) => panic!("a job"),
    }
}

const KINDS: [EngineKind; 2] = [EngineKind::IoUring, EngineKind::Threads];

#[test]
fn many_operations_at_once_in_every_mode() {
    for kind in KINDS {
        for cache in [CacheMode::Writeback, CacheMode::None] {
            let scratch = Scratch::new(4 << 20);
            let image = scratch.image(cache);
            let mut engine = Engine::<u32>::new(kind, Pool::default()).unwrap();
            let mut data: Vec<Vec<u8>> = (0..600).map(|i| vec![i as u8; 4096]).collect();
            for (i, block) in data.iter_mut().enumerate() {
                let iovecs =
                    IoVecs::from_slice(&[iovec(&mut block[..2048]), iovec(&mut block[2048..])]);
                let write = Operation::Write { fua: i % 100 == 0 };
                let file = image.direct().unwrap();
                // SAFETY: `data` and `image` live until `wait` has seen all completions.
                unsafe { engine.submit(write, file, iovecs, i as u64 * 4096, i as u64) };
            }
            let done = wait(&mut engine, 600);
            assert!(done.iter().all(|(_, completed)| io(completed).is_ok()));
            let mut back = vec![0; 4096];
            image.read_at(&mut back, 599 * 4096).unwrap();
            assert_eq!(back, data[599]);
        }
    }
}

#[test]
fn errors_and_the_end_of_the_file_are_told() {
    for kind in KINDS {
        let scratch = Scratch::new(6000);
        let image = scratch.image(CacheMode::Writeback);
        let mut engine = Engine::<u32>::new(kind, Pool::default()).unwrap();
        let mut buffer = vec![0; 4096];
        let iovecs = IoVecs::from_slice(&[iovec(&mut buffer)]);
        // SAFETY: all lives until `wait` has seen the completion.
        unsafe { engine.submit(Operation::Read, image.direct().unwrap(), iovecs, 4096, 7) };
        let done = wait(&mut engine, 1);
        assert_eq!(done[0].0, 7);
        assert_eq!(io(&done[0].1).as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn more_pieces_than_the_kernel_takes_at_once() {
    for kind in KINDS {
        let scratch = Scratch::new(4 << 20);
        let image = scratch.image(CacheMode::Writeback);
        let expected: Vec<u8> = (0..3000 * 512usize).map(|i| (i / 512) as u8).collect();
        image.write_at(&expected, 512).unwrap();
        let mut engine = Engine::<u32>::new(kind, Pool::default()).unwrap();
        let mut buffer = vec![0; 3000 * 512];
        let iovecs: IoVecs = buffer.chunks_mut(512).map(iovec).collect();
        // SAFETY: all lives until `wait` has seen the completion.
        unsafe { engine.submit(Operation::Read, image.direct().unwrap(), iovecs, 512, 0) };
        let done = wait(&mut engine, 1);
        assert!(io(&done[0].1).is_ok());
        assert!(buffer == expected);
    }
}

#[test]
fn misaligned_memory_goes_through_an_aligned_buffer() {
    let scratch = Scratch::new(1 << 20);
    let image = scratch.image(CacheMode::None);
    let mut engine = Engine::<u32>::new(EngineKind::IoUring, Pool::default()).unwrap();
    let mut memory = vec![9; 4096 + 3];
    let file = image.direct().unwrap();
    let iovecs = IoVecs::from_slice(&[iovec(&mut memory[3..])]);
    // SAFETY: all lives until `wait` has seen the completion.
    unsafe { engine.submit(Operation::Write { fua: false }, file, iovecs, 8192, 0) };
    assert!(io(&wait(&mut engine, 1)[0].1).is_ok());
    let mut back = vec![0; 4096 + 1];
    let iovecs = IoVecs::from_slice(&[iovec(&mut back[1..])]);
    // SAFETY: as above.
    unsafe { engine.submit(Operation::Read, file, iovecs, 8192, 0) };
    assert!(io(&wait(&mut engine, 1)[0].1).is_ok());
    assert_eq!(back[1..], memory[3..]);
}

#[test]
fn jobs_return_what_they_found() {
    let mut engine = Engine::<u32>::new(EngineKind::Auto, Pool::default()).unwrap();
    for number in 0..10 {
        engine.spawn(number.into(), move || number * 2);
    }
    let mut done: Vec<(u64, u32)> = wait(&mut engine, 10)
        .into_iter()
        .map(|(token, completed)| match completed {
            Completed::Job(result) => (token, result),
            Completed::Io(_) => panic!("no I/O was submitted"),
        })
        .collect();
    done.sort_unstable();
    assert_eq!(done, (0..10).map(|n| (n, n as u32 * 2)).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn consumed_bytes_come_off_the_front(lengths in proptest::collection::vec(1usize..50, 1..9), count in 0usize..400) {
        let mut iovecs: IoVecs = lengths
            .iter()
            .scan(0x1000usize, |at, &length| {
                let base = std::ptr::without_provenance_mut(*at);
                *at += length;
                Some(libc::iovec { iov_base: base, iov_len: length })
            })
            .collect();
        let total: usize = lengths.iter().sum();
        let count = count.min(total);
        super::super::uring::consume(&mut iovecs, count);
        prop_assert_eq!(iovecs.iter().map(|v| v.iov_len).sum::<usize>(), total - count);
        if let Some(first) = iovecs.first() {
            prop_assert_eq!(first.iov_base.addr(), 0x1000 + count);
        }
    }
}

/// As a worker waits: its descriptors are in an epoll set from the beginning.
#[test]
fn buffered_writes_wake_a_worker_that_waits_in_epoll() {
    let scratch = Scratch::new(1 << 20);
    let image = scratch.image(CacheMode::Writeback);
    let mut engine = Engine::<u32>::new(EngineKind::IoUring, Pool::default()).unwrap();
    // SAFETY: plain calls with descriptors that are open.
    let epoll = unsafe { libc::epoll_create1(0) };
    for fd in engine.events() {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: `event` outlives the call.
        assert_eq!(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }, 0);
    }
    let mut memory = vec![1; 4096];
    for number in 0..200 {
        let file = image.direct().unwrap();
        let iovecs = IoVecs::from_slice(&[iovec(&mut memory)]);
        let offset = number % 256 * 4096;
        // SAFETY: all lives until the completion is seen below.
        unsafe { engine.submit(Operation::Write { fua: false }, file, iovecs, offset, number) };
        let mut done = Vec::new();
        engine.turn(&mut done);
        while done.is_empty() {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: `event` outlives the call.
            let ready = unsafe { libc::epoll_wait(epoll, &raw mut event, 1, 3000) };
            assert_eq!(ready, 1, "write {number} was never told");
            engine.turn(&mut done);
        }
    }
    // SAFETY: it is ours.
    unsafe { libc::close(epoll) };
}
