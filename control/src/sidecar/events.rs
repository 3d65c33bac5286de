//! What has happened: rows in `control.db` first, then a wake-up for those who listen.

use std::sync::Arc;

use tokio::sync::watch;

use super::host::Clock;
use super::store::{EventFilter, NewEvent, Store};
use super::types::Event;
use crate::error::ApiError;

/// Kinds of events. Names are part of the API.
pub(super) mod kinds {
    pub(in crate::sidecar) const SIDECAR_STARTED: &str = "sidecar.started";
    pub(in crate::sidecar) const SIDECAR_STOPPED: &str = "sidecar.stopped";
    pub(in crate::sidecar) const MOUNTING: &str = "mount.mounting";
    pub(in crate::sidecar) const MOUNTED: &str = "mount.mounted";
    pub(in crate::sidecar) const ADOPTED: &str = "mount.adopted";
    pub(in crate::sidecar) const FAILED: &str = "mount.failed";
    pub(in crate::sidecar) const DIED: &str = "mount.died";
    pub(in crate::sidecar) const STOPPED: &str = "mount.stopped";
    pub(in crate::sidecar) const UNMOUNTING: &str = "mount.unmounting";
    pub(in crate::sidecar) const UNMOUNTED: &str = "mount.unmounted";
    pub(in crate::sidecar) const BUDGET: &str = "mount.budget";
    pub(in crate::sidecar) const SNAPSHOT_CREATED: &str = "snapshot.created";
    pub(in crate::sidecar) const SNAPSHOT_REMOVED: &str = "snapshot.removed";
    pub(in crate::sidecar) const SNAPSHOT_RESTORED: &str = "snapshot.restored";
    pub(in crate::sidecar) const BRANCH_CREATED: &str = "branch.created";
    /// One that nobody asked this sidecar for is there.
    pub(in crate::sidecar) const BRANCH_FOUND: &str = "branch.found";
    /// One that should be there is not.
    pub(in crate::sidecar) const BRANCH_LOST: &str = "branch.lost";
    pub(in crate::sidecar) const BRANCH_REMOVING: &str = "branch.removing";
    pub(in crate::sidecar) const BRANCH_REMOVED: &str = "branch.removed";
    pub(in crate::sidecar) const BRANCH_FAILED: &str = "branch.failed";
    /// Its local copies were dropped.
    pub(in crate::sidecar) const BRANCH_DROPPED: &str = "branch.dropped";
    pub(in crate::sidecar) const EXEC_STARTED: &str = "exec.started";
    pub(in crate::sidecar) const EXEC_FINISHED: &str = "exec.finished";
    pub(in crate::sidecar) const PREVIEW_STARTING: &str = "preview.starting";
    /// One that was ready does not listen any more.
    pub(in crate::sidecar) const PREVIEW_PROBING: &str = "preview.probing";
    pub(in crate::sidecar) const PREVIEW_READY: &str = "preview.ready";
    pub(in crate::sidecar) const PREVIEW_RESTARTING: &str = "preview.restarting";
    pub(in crate::sidecar) const PREVIEW_STOPPING: &str = "preview.stopping";
    pub(in crate::sidecar) const PREVIEW_STOPPED: &str = "preview.stopped";
    pub(in crate::sidecar) const PREVIEW_FAILED: &str = "preview.failed";
    pub(in crate::sidecar) const RUN: &str = "workflow.run";
    pub(in crate::sidecar) const RUN_RELEASED: &str = "workflow.released";
    pub(in crate::sidecar) const RUN_REVERTED: &str = "workflow.reverted";
    pub(in crate::sidecar) const STEP: &str = "workflow.step";
    pub(in crate::sidecar) const STEP_OUTPUT: &str = "workflow.output";
    pub(in crate::sidecar) const STEP_AGENT: &str = "workflow.agent";
    /// Events between the last one a listener had and the next one are not kept any more. Sent, never stored.
    pub(in crate::sidecar) const GAP: &str = "events.gap";
}

/// Most events handed out at once.
const BATCH: u32 = 100;

/// Writes events and hands them out.
#[derive(Clone)]
pub(super) struct EventLog {
    store: Store,
    clock: Arc<dyn Clock>,
    newest: watch::Sender<i64>,
}

impl EventLog {
    /// The log that `store` keeps.
    pub(super) async fn open(store: Store, clock: Arc<dyn Clock>) -> Result<Self, ApiError> {
        let (_, newest) = store.event_range().await?;
        Ok(Self {
            store,
            clock,
            newest: watch::Sender::new(newest),
        })
    }

    /// Writes an event and wakes who listens. One that cannot be written is in the log only; what it tells of has
    /// happened all the same.
    pub(super) async fn add(&self, kind: &'static str, mount: Option<&str>, message: String) {
        tracing::info!(kind, mount, "{message}");
        let at_ms = self.clock.now_ms();
        let event = NewEvent {
            at_ms,
            kind,
            mount: mount.map(str::to_owned),
            message,
            ..NewEvent::default()
        };
        if let Ok(id) = self.store.add_event(event).await {
            self.wake(id);
        }
    }

    /// Wakes who listens: event `id` was written.
    pub(super) fn wake(&self, id: i64) {
        self.newest
            .send_modify(|newest| *newest = (*newest).max(id));
    }

    /// Listens from after event `after` on, or from now on.
    pub(super) fn listen(&self, after: Option<i64>, about: EventFilter) -> Listener {
        let newest = self.newest.subscribe();
        let now = *newest.borrow();
        Listener {
            store: self.store.clone(),
            newest,
            // A number that was never given out would be silence for a long time.
            after: after.unwrap_or(now).clamp(0, now),
            may_have_gap: after.is_some(),
            about,
            clock: Arc::clone(&self.clock),
        }
    }
}

/// One who listens. Holds no events: what it has not seen is in the database.
pub(super) struct Listener {
    store: Store,
    newest: watch::Receiver<i64>,
    after: i64,
    may_have_gap: bool,
    about: EventFilter,
    clock: Arc<dyn Clock>,
}

impl Listener {
    /// The next events, oldest first; waits until there are any. None when there will be none any more.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, ApiError> {
        loop {
            let events = self.ready().await?;
            if !events.is_empty() || self.newest.changed().await.is_err() {
                return Ok(events);
            }
        }
    }

    /// The events that are there already.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn ready(&mut self) -> Result<Vec<Event>, ApiError> {
        if std::mem::take(&mut self.may_have_gap)
            && let Some(gap) = self.gap().await?
        {
            return Ok(vec![gap]);
        }
        let newest = *self.newest.borrow_and_update();
        if newest <= self.after {
            return Ok(Vec::new());
        }
        let events = self
            .store
            .events_after(self.after, self.about.clone(), BATCH)
            .await?;
        // Without any, none of them is what is asked for.
        self.after = events.last().map_or(newest, |last| last.id);
        Ok(events)
    }

    /// Says that events were missed that are not kept any more.
    async fn gap(&mut self) -> Result<Option<Event>, ApiError> {
        let (oldest, newest) = self.store.event_range().await?;
        // Without any row, all up to the newest are gone.
        let first_kept = if oldest == 0 { newest + 1 } else { oldest };
        if self.after + 1 >= first_kept || self.after == 0 {
            return Ok(None);
        }
        let missed = first_kept - 1 - self.after;
        self.after = first_kept - 1;
        Ok(Some(Event {
            id: self.after,
            at_ms: self.clock.now_ms(),
            kind: kinds::GAP.to_owned(),
            mount: None,
            run: None,
            step: None,
            data: None,
            message: format!("{missed} events are not kept any more; ask for the present state"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sidecar::host::WallClock;

    async fn log() -> (EventLog, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (
            EventLog::open(store, Arc::new(WallClock)).await.unwrap(),
            dir,
        )
    }

    async fn next(listener: &mut Listener) -> Vec<i64> {
        let events = tokio::time::timeout(Duration::from_secs(20), listener.next()).await;
        events
            .expect("there are events")
            .unwrap()
            .iter()
            .map(|e| e.id)
            .collect()
    }

    #[tokio::test]
    async fn a_listener_gets_what_comes_and_goes_on_where_it_was() {
        let (log, _dir) = log().await;
        log.add(kinds::MOUNTED, Some("a"), "before".into()).await;
        let mut now = log.listen(None, EventFilter::default());
        let mut all = log.listen(Some(0), EventFilter::default());
        let mut only_b = log.listen(
            Some(0),
            EventFilter {
                mount: Some("b".into()),
                ..EventFilter::default()
            },
        );
        assert_eq!(next(&mut all).await, [1]);
        log.add(kinds::MOUNTED, Some("b"), "second".into()).await;
        log.add(kinds::MOUNTED, Some("a"), "third".into()).await;
        assert_eq!(next(&mut now).await, [2, 3]);
        assert_eq!(next(&mut all).await, [2, 3]);
        assert_eq!(next(&mut only_b).await, [2]);
        let mut resumed = log.listen(Some(2), EventFilter::default());
        assert_eq!(next(&mut resumed).await, [3]);
        // From the future: what comes next is heard.
        let mut future = log.listen(Some(1_000_000), EventFilter::default());
        log.add(kinds::MOUNTED, None, "fourth".into()).await;
        assert_eq!(next(&mut future).await, [4]);
    }

    #[tokio::test]
    async fn events_about_one_preview_are_those_that_begin_with_its_id() {
        let (log, _dir) = log().await;
        for (kind, text) in [
            (kinds::PREVIEW_READY, "preview-1-1 on a answers"),
            (kinds::PREVIEW_READY, "preview-1-12 on a answers"),
            (kinds::PREVIEW_FAILED, "preview-1-2 failed: preview-1-1 did"),
            (
                kinds::EXEC_STARTED,
                "preview-1-1 is what a command is called",
            ),
            (kinds::PREVIEW_STOPPED, "preview-1-1 has ended"),
        ] {
            log.add(kind, Some("a"), text.into()).await;
        }
        for (preview, expected) in [("preview-1-1", vec![1, 5]), ("preview-1-12", vec![2])] {
            let about = EventFilter {
                mount: Some("a".into()),
                preview: Some(preview.into()),
                ..EventFilter::default()
            };
            assert_eq!(next(&mut log.listen(Some(0), about)).await, expected);
        }
        let nobody = EventFilter {
            preview: Some("*".into()),
            ..EventFilter::default()
        };
        assert!(
            log.listen(Some(0), nobody)
                .ready()
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn whoever_was_away_too_long_is_told() {
        let (log, _dir) = log().await;
        for _ in 0..5 {
            log.add(kinds::MOUNTED, None, String::new()).await;
        }
        log.store.forget_events_up_to(3).await;
        let mut listener = log.listen(Some(1), EventFilter::default());
        let events = listener.next().await.unwrap();
        assert_eq!((events[0].kind.as_str(), events[0].id), (kinds::GAP, 3));
        assert!(
            events[0].message.starts_with("2 events"),
            "{}",
            events[0].message
        );
        assert_eq!(next(&mut listener).await, [4, 5]);
        let mut just_in_time = log.listen(Some(3), EventFilter::default());
        assert_eq!(next(&mut just_in_time).await, [4, 5]);
        // Whoever asks for all there is has missed nothing.
        let mut all = log.listen(Some(0), EventFilter::default());
        assert_eq!(next(&mut all).await, [4, 5]);
    }
}
