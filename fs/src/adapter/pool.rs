//! Threads for requests that wait. One pool for each thing that is waited for, so that nobody waits for what others
//! wait for: the store, the local disk, room for writing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam::channel::{Sender, TrySendError, bounded};

/// Requests that may wait for a thread: more than the kernel has under way. Beyond it the caller waits itself.
const QUEUE: usize = 4096;
/// Stack of a thread: nothing deep runs there.
const STACK_BYTES: usize = 512 << 10;

/// Threads that read from the store; as many downloads may go on at once.
const READERS: usize = 16;
/// Threads that wait for a flush; they share one.
const FLUSHERS: usize = 4;
/// Threads that wait for room to write.
const WRITERS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for one thing. They end when the pool is dropped.
pub(super) struct Pool {
    jobs: Sender<Job>,
}

/// All of them.
pub(super) struct Pools {
    /// Reads that need the store.
    pub(super) reads: Pool,
    /// Flushes.
    pub(super) flushes: Pool,
    /// Writes that found no room.
    pub(super) writes: Pool,
}

impl Pools {
    pub(super) fn start() -> std::io::Result<Self> {
        Ok(Self {
            reads: Pool::start("read", READERS)?,
            flushes: Pool::start("flush", FLUSHERS)?,
            writes: Pool::start("write", WRITERS)?,
        })
    }
}

impl Pool {
    fn start(what: &str, threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(QUEUE);
        for n in 0..threads {
            let queue = queue.clone();
            let name = format!("weldr-{what}-{n}");
            let thread = std::thread::Builder::new()
                .name(name)
                .stack_size(STACK_BYTES);
            thread.spawn(move || {
                while let Ok(job) = queue.recv() {
                    // One request's bug must not take a thread from all others. It is logged by the panic itself.
                    drop(catch_unwind(AssertUnwindSafe(job)));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        match self.jobs.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job(),
        }
    }
}
