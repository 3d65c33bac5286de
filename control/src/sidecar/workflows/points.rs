//! Where a test can end the sidecar: on both sides of every transition, and around every effect outside of the database.

use async_trait::async_trait;

macro_rules! points {
    ($($point:ident = $name:literal: $text:literal,)*) => {
        /// A place in the life of a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(in crate::sidecar) enum Point {
            $(#[doc = $text] $point,)*
        }

        impl Point {
            /// All of them.
            #[cfg(test)]
            pub(in crate::sidecar) const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// As the variable [`VARIABLE`] has it.
            pub(in crate::sidecar) fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    Triggered = "triggered": "A run was written, and nobody works on it.",
    BeginBefore = "begin.before": "It is about to begin.",
    BeginAfter = "begin.after": "It has begun.",
    FirstSnapshot = "first-snapshot": "The snapshot before the first step is there, and not written down.",
    FirstSnapshotAfter = "first-snapshot.after": "It is written down.",
    SkipAfter = "skip.after": "A step was skipped.",
    AttemptBefore = "attempt.before": "An attempt is about to be written down.",
    AttemptAfter = "attempt.after": "It is written down, and nothing was done.",
    Started = "started": "A command runs in its sandbox.",
    Output = "output": "Some of its output was told.",
    Ended = "ended": "How it ended is known, and not written down.",
    Requested = "requested": "A request was answered, and that is not written down.",
    OutcomeAfter = "outcome.after": "How an attempt ended is written down.",
    RetryAfter = "retry.after": "That there is another attempt is written down.",
    Snapshot = "snapshot": "The snapshot after a step is there, and not written down.",
    SettledAfter = "settled.after": "It is written down.",
    FinishBefore = "finish.before": "All steps are done, and the run goes on.",
    FinishAfter = "finish.after": "The run is over.",
    CancelAfter = "cancel.after": "It was cancelled, and nothing was given back.",
    ReleaseAfter = "release.after": "Everything was given back.",
    RevertBegun = "revert.begun": "A revert is written down, and nothing was done.",
    RevertKept = "revert.kept": "What was there is in a snapshot.",
    RevertRestored = "revert.restored": "The project is reverted, and that is not written down.",
    RevertAfter = "revert.after": "It is written down.",
}

/// Variable with the name of a point at which the sidecar kills itself, and after a colon at which time it comes there;
/// in builds for tests only.
const VARIABLE: &str = "WELDRFS_FAILPOINT";

/// Who hears of points.
#[async_trait]
pub(in crate::sidecar) trait Points: Send + Sync + 'static {
    /// A run came to `point`. It goes on when this returns.
    async fn reached(&self, point: Point);
}

/// Nobody, but for what [`VARIABLE`] says.
#[derive(Debug, Default)]
pub(in crate::sidecar) struct Usual {
    #[cfg(debug_assertions)]
    kill: Option<(String, std::sync::atomic::AtomicU32)>,
}

impl Usual {
    pub(in crate::sidecar) fn new() -> Self {
        #[cfg(debug_assertions)]
        if let Ok(text) = std::env::var(VARIABLE) {
            let (name, time) = match text.split_once(':') {
                Some((name, time)) => (name, time.parse().unwrap_or(1)),
                None => (text.as_str(), 1),
            };
            return Self {
                kill: Some((name.to_owned(), time.into())),
            };
        }
        Self::default()
    }
}

#[async_trait]
impl Points for Usual {
    async fn reached(&self, point: Point) {
        #[cfg(debug_assertions)]
        if let Some((name, left)) = &self.kill
            && name == point.name()
            && left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1
        {
            // As if somebody had sent it: nothing is tidied up.
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        }
        tracing::trace!(point = point.name(), variable = VARIABLE, "a run came by");
    }
}
