//! Tells another thread to stop, also when this one fails: a scope waits for all its threads.

use std::sync::atomic::{AtomicBool, Ordering};

/// Says stop when it goes.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
