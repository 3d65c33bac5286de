//! Threads for requests that wait: flushes and reads that need the store. Bounded; when all are busy the queue is, and
//! when that is full the caller waits itself.

use crossbeam::channel::{Sender, TrySendError, bounded};

/// Threads; as many downloads may go on at once.
const THREADS: usize = 16;
/// Requests that may wait for one.
const QUEUE: usize = 256;
/// Stack of a thread: nothing deep runs there.
const STACK_BYTES: usize = 512 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// See the module. The threads end when the pool is dropped.
pub(super) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(QUEUE);
        for n in 0..THREADS {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("weldr-wait-{n}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    while let Ok(job) = queue.recv() {
                        job();
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
