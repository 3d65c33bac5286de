//! Following the log of an app as it is written.

use std::sync::Arc;

use tokio::sync::watch;

use super::shared::Shared;
use super::types::{Preview, PreviewLogLine};

/// One who follows a log.
pub(in crate::sidecar) struct LogFollower {
    shared: Arc<Shared>,
    grows: watch::Receiver<u64>,
    state: watch::Receiver<Preview>,
    next: u64,
}

impl LogFollower {
    /// Lines handed out at once.
    const BATCH: usize = 64;

    /// From the newest `lines` lines on.
    pub(super) fn new(shared: Arc<Shared>, lines: usize) -> Self {
        let next = shared.log.last(lines).first().map_or(0, |line| line.number);
        Self {
            grows: shared.log.watch(),
            state: shared.watch(),
            next,
            shared,
        }
    }

    /// The next lines, waiting for them; `None` when the app is over and all was read.
    pub(in crate::sidecar) async fn next(&mut self) -> Option<Vec<PreviewLogLine>> {
        loop {
            // Looked at first: what is written before the end is read after it.
            let is_over = self.state.borrow_and_update().state.is_over();
            self.grows.borrow_and_update();
            let lines = self.shared.log.from(self.next, Self::BATCH);
            if let Some(last) = lines.last() {
                self.next = last.number + 1;
                return Some(lines);
            }
            if is_over {
                return None;
            }
            tokio::select! {
                grown = self.grows.changed() => grown.ok()?,
                changed = self.state.changed() => changed.ok()?,
            }
        }
    }
}
