//! Flushing data beside the journal: the two lie in different files, and the disk can do both at once.
//!
//! The journal may become durable first. A record whose data the power failure took ends the history at recovery, and
//! nobody was told that it is durable before both are.

use std::io;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::settings::DataBarrier;

/// A thread that flushes data for whoever flushes the journal meanwhile. Ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Flusher {
    orders: Sender<()>,
    outcomes: Receiver<io::Result<()>>,
}

impl Flusher {
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(barrier: Arc<dyn DataBarrier>) -> io::Result<Self> {
        let (orders, ordered) = bounded::<()>(1);
        let (done, outcomes) = bounded(1);
        std::thread::Builder::new()
            .name("weldr-flush-data".into())
            .spawn(move || {
                while ordered.recv().is_ok() {
                    if done.send(barrier.flush()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { orders, outcomes })
    }

    /// Flushes data on the thread and does `meanwhile` here. The caller sees to it that there is one call at a time.
    pub(crate) fn beside<T>(&self, meanwhile: impl FnOnce() -> T) -> (io::Result<()>, T) {
        let gone = || Err(io::Error::other("the thread that flushes data has ended"));
        if self.orders.send(()).is_err() {
            return (gone(), meanwhile());
        }
        let other = meanwhile();
        (self.outcomes.recv().unwrap_or_else(|_| gone()), other)
    }
}
