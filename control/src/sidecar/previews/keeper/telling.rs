//! What others hear of a preview: its row, its events, and what the endpoints show.

use tokio::time::Instant;

use super::super::life::{End, Happened};
use super::super::types::{PreviewEnd, PreviewState};
use super::Keeper;
use crate::error::ApiError;
use crate::sidecar::events::kinds;

/// Lines of the log that are shown with an end.
const LAST_LINES: usize = 20;

impl Keeper {
    pub(super) async fn say(&mut self, happened: Happened) {
        let id = self.wanted.id.clone();
        let place = match self.wanted.folder.as_os_str().is_empty() {
            true => self.wanted.request.mount.clone(),
            false => format!(
                "{}:{}",
                self.wanted.request.mount,
                self.wanted.folder.display()
            ),
        };
        let port = self.wanted.host_port;
        let (kind, text) = match happened {
            Happened::Starting => (kinds::PREVIEW_STARTING, format!("{id} starts on {place}")),
            Happened::Ready => (
                kinds::PREVIEW_READY,
                format!("{id} on {place} answers at port {port}"),
            ),
            Happened::Silent => (
                kinds::PREVIEW_PROBING,
                format!("{id} on {place} does not listen on its port any more"),
            ),
            Happened::Stopping => (kinds::PREVIEW_STOPPING, format!("{id} is being ended")),
            Happened::Restarting(reason, end) => {
                self.note_end(&reason, end);
                (
                    kinds::PREVIEW_RESTARTING,
                    format!("{id} is started again: {reason}"),
                )
            }
            Happened::Stopped(reason, end) => {
                self.note_end(&reason, end);
                (kinds::PREVIEW_STOPPED, format!("{id} has ended: {reason}"))
            }
            Happened::Failed(reason, end) => {
                self.note_end(&reason, end);
                (kinds::PREVIEW_FAILED, format!("{id} failed: {reason}"))
            }
        };
        self.note().await;
        let mount = self.wanted.request.mount.clone();
        if self.life.state().is_over() {
            // Whoever hears of the end may unmount, and take the port.
            self.let_go();
        }
        self.publish();
        self.parts.events.add(kind, Some(&mount), text).await;
    }

    pub(super) fn note_end(&mut self, reason: &str, end: End) {
        let log = self.shared.log.last(LAST_LINES);
        self.shared.log.say(reason);
        self.wanted.ended = Some(PreviewEnd {
            reason: reason.to_owned(),
            status: end.status,
            out_of_memory: end.out_of_memory,
            log: log.into_iter().map(|line| line.text).collect(),
            at_ms: self.parts.clock.now_ms(),
        });
    }

    /// Writes down how far it is. When that cannot be, it goes on all the same, and a later sidecar finds the process.
    pub(super) async fn note(&mut self) {
        self.wanted.state = self.life.state();
        self.wanted.restarts = self.life.restarts;
        // The store has said why in the log.
        drop(self.save().await);
    }

    pub(super) async fn save(&self) -> Result<(), ApiError> {
        self.parts.store.put_preview(self.wanted.kept()).await
    }

    pub(super) fn publish(&self) {
        let until = self.life.due();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let is_probing = self.life.state() == PreviewState::Probing;
        let ready_by = left
            .filter(|_| is_probing)
            .map(|left| self.parts.clock.now_ms().saturating_add(left));
        self.shared.publish(
            &self.wanted,
            self.life.state(),
            self.life.restarts,
            ready_by,
        );
    }

    /// As refusals and lists name it.
    pub(super) fn who(&self) -> String {
        format!(
            "{} ({})",
            self.wanted.id,
            crate::sidecar::exec::shown(&self.wanted.command)
        )
    }
}
