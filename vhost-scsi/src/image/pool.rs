//! Threads for what blocks: started when there is work, gone when there has been none for a while.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads of a pool at most, unless it is told otherwise.
const MOST: usize = 64;
/// How long a thread waits for more work.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs keep their big buffers on the heap.
const STACK: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            while let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state();
            }
            state.idle = state.idle.saturating_add(1);
            let (back, waited) =
                self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle = state.idle.saturating_sub(1);
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads = state.threads.saturating_sub(1);
                return;
            }
        }
    }
}

/// A pool of threads.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    most: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Pool of at most {} threads", self.most)
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Pool {
    /// A pool of so many threads at most: more jobs than that wait for each other.
    #[must_use]
    pub fn of(most: usize) -> Self {
        Self { shared: Arc::default(), most }
    }

    /// Runs `job` on some thread, soon.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state();
        state.jobs.push_back(Box::new(job));
        if state.jobs.len() <= state.idle {
            self.shared.work.notify_one();
        } else if state.threads < self.most {
            match self.spawn() {
                Ok(()) => state.threads = state.threads.saturating_add(1),
                Err(error) if state.threads > 0 => log::warn!("no further thread: {error}"),
                Err(error) => {
                    // Nobody else would do it.
                    log::error!("no thread can be started, a worker blocks: {error}");
                    let jobs = std::mem::take(&mut state.jobs);
                    drop(state);
                    jobs.into_iter().for_each(|job| job());
                }
            }
        }
    }

    fn spawn(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let name = String::from("pool");
        std::thread::Builder::new().name(name).stack_size(STACK).spawn(move || shared.work())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn no_more_jobs_run_at_once_than_threads() {
        let pool = Pool::of(2);
        let (enter, entered) = channel();
        let (leave, left) = channel::<()>();
        let left = Arc::new(Mutex::new(left));
        for _ in 0..4 {
            let (enter, left) = (enter.clone(), Arc::clone(&left));
            pool.run(move || {
                enter.send(()).unwrap();
                left.lock().unwrap().recv().unwrap();
            });
        }
        entered.recv().unwrap();
        entered.recv().unwrap();
        assert!(entered.recv_timeout(Duration::from_millis(50)).is_err());
        for _ in 0..4 {
            leave.send(()).unwrap();
        }
        entered.recv().unwrap();
        entered.recv().unwrap();
    }

    #[test]
    fn a_job_that_blocks_does_not_keep_others_waiting() {
        let pool = Pool::default();
        let (release, wait) = channel::<()>();
        pool.run(move || wait.recv().unwrap());
        let (done, answer) = channel();
        for number in 0..20 {
            let done = done.clone();
            pool.run(move || done.send(number).unwrap());
        }
        let mut numbers: Vec<i32> = answer.iter().take(20).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        release.send(()).unwrap();
    }
}
