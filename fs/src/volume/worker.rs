//! A background thread that does one thing every so often, or when it is woken.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How nice background threads are to the programs on the machine.
const NICENESS: i32 = 10;

#[derive(Default)]
struct Shared {
    state: Mutex<(bool, bool)>,
    bell: Condvar,
}

/// Wakes a worker.
#[derive(Clone, Default)]
pub(crate) struct Waker(Arc<Shared>);

impl Waker {
    pub(crate) fn wake(&self) {
        self.0.state.lock().0 = true;
        self.0.bell.notify_all();
    }

    /// Waits until woken, told to stop, or for `interval`. Returns false to stop.
    fn wait(&self, interval: Duration) -> bool {
        let deadline = Instant::now() + interval;
        let mut state = self.0.state.lock();
        while !state.0 && !state.1 {
            if self.0.bell.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.0 = false;
        !state.1
    }

    /// Whether the worker is to end.
    pub(crate) fn stopping(&self) -> bool {
        self.0.state.lock().1
    }
}

/// A running worker.
pub(crate) struct Worker {
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts a thread that calls `work` every `interval` and whenever `waker` is used.
    pub(crate) fn start(
        name: &str,
        waker: &Waker,
        interval: Duration,
        mut work: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Self> {
        let inner = waker.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                be_nice();
                while inner.wait(interval) {
                    work();
                }
            })?;
        Ok(Self {
            waker: waker.clone(),
            thread,
        })
    }

    pub(crate) fn stop(self) {
        self.waker.0.state.lock().1 = true;
        self.waker.0.bell.notify_all();
        if self.thread.join().is_err() {
            tracing::error!("a background thread panicked");
        }
    }
}

fn be_nice() {
    let tid = rustix::thread::gettid();
    // A thread that stays as it is does its work all the same.
    let _ = rustix::process::setpriority_process(Some(tid), NICENESS);
}
