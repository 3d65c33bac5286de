//! Which runs somebody works on: one loop for each, and messages to it. Also which of those that may not go on at the same
//! time have their turn.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::types::{RevertReport, RunSummary};
use crate::error::ApiError;

/// Messages that wait for one loop.
const INBOX: usize = 16;

/// What a loop is told. Ordered commands: none is merged with another.
pub(super) enum Message {
    /// End the run.
    Cancel(Reply<RunSummary>),
    /// Try again from the first step that did not succeed, or from this one.
    Retry(Option<String>, Reply<RunSummary>),
    /// Go on after that step.
    Skip(Option<String>, Reply<RunSummary>),
    /// Make the project what it was.
    Revert {
        step: Option<String>,
        undo: bool,
        /// Names the request, if it may come again.
        origin: Option<String>,
        reply: Reply<RevertReport>,
    },
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// The loops; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Inner>);

#[derive(Default)]
struct Inner {
    loops: Mutex<Loops>,
    turns: Mutex<HashMap<Group, Line>>,
    turned: watch::Sender<u64>,
}

#[derive(Default)]
struct Loops {
    all: HashMap<String, Entry>,
    /// Runs that no loop begins for.
    reserved: HashSet<String>,
}

/// Runs of a group, by their numbers.
#[derive(Default)]
struct Line {
    waiting: BTreeSet<i64>,
    having: BTreeSet<i64>,
}

struct Entry {
    inbox: mpsc::Sender<Message>,
    abort: Option<AbortHandle>,
}

/// Runs of one workflow on one project: mount, path and name.
pub(super) type Group = (String, String, String);

impl Registry {
    /// Sends `message` to the loop of `run`; when there is none, `start` begins one with the inbox it is given.
    ///
    /// # Errors
    /// [`ApiError::RateLimited`] when too many messages wait, or the run is reserved.
    pub(super) fn send(
        &self,
        run: &str,
        message: Option<Message>,
        start: impl FnOnce(mpsc::Receiver<Message>) -> AbortHandle,
    ) -> Result<(), ApiError> {
        let mut loops = self.0.loops.lock();
        let busy = |message: &str| ApiError::RateLimited {
            message: message.to_owned(),
            retry_after_s: 1,
        };
        if loops.reserved.contains(run) {
            return Err(busy(
                "what is old of this run is just being removed; send it again",
            ));
        }
        let loops = &mut loops.all;
        if !loops.contains_key(run) {
            let (inbox, messages) = mpsc::channel(INBOX);
            if let Some(message) = message {
                // There is room in it.
                drop(inbox.try_send(message));
            }
            loops.insert(
                run.to_owned(),
                Entry {
                    inbox,
                    // Not known before it is made, and it looks for itself only when it ends.
                    abort: None,
                },
            );
            let abort = start(messages);
            if let Some(entry) = loops.get_mut(run) {
                entry.abort = Some(abort);
            }
            return Ok(());
        }
        let (Some(entry), Some(message)) = (loops.get(run), message) else {
            return Ok(());
        };
        let sent = entry.inbox.try_send(message);
        sent.map_err(|_| busy("too many requests about this run wait; send it again"))
    }

    /// Keeps `run` to its caller; nothing when somebody works on it.
    pub(super) fn reserve(&self, run: &str) -> Option<Reserved> {
        let mut loops = self.0.loops.lock();
        if loops.all.contains_key(run) || !loops.reserved.insert(run.to_owned()) {
            return None;
        }
        Some(Reserved {
            inner: Arc::clone(&self.0),
            run: run.to_owned(),
        })
    }

    /// The next message for `run`, or nothing and the end of its loop. No message comes in between.
    pub(super) fn next_or_leave(
        &self,
        run: &str,
        inbox: &mut mpsc::Receiver<Message>,
    ) -> Option<Message> {
        let mut loops = self.0.loops.lock();
        match inbox.try_recv() {
            Ok(message) => Some(message),
            Err(_) => {
                loops.all.remove(run);
                None
            }
        }
    }

    /// Ends all loops where they are.
    pub(super) fn abort_all(&self) {
        for (_, entry) in self.0.loops.lock().all.drain() {
            if let Some(abort) = entry.abort {
                abort.abort();
            }
        }
    }

    /// Run number `seq` wants its turn in `group`, and keeps its place until the answer goes.
    pub(super) fn queue(&self, group: Group, seq: i64) -> Turn {
        self.line(group, seq, |line| line.waiting.insert(seq))
    }

    /// Run number `seq` has its turn in `group`: an earlier sidecar gave it.
    pub(super) fn has_turn(&self, group: Group, seq: i64) -> Turn {
        self.line(group, seq, |line| line.having.insert(seq))
    }

    fn line(&self, group: Group, seq: i64, put: impl FnOnce(&mut Line) -> bool) -> Turn {
        put(self.0.turns.lock().entry(group.clone()).or_default());
        Turn {
            inner: Arc::clone(&self.0),
            group,
            seq,
        }
    }
}

/// A run that nobody begins to work on as long as this lives.
pub(super) struct Reserved {
    inner: Arc<Inner>,
    run: String,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.inner.loops.lock().reserved.remove(&self.run);
    }
}

/// A place in the queue of a group, or a turn.
pub(super) struct Turn {
    inner: Arc<Inner>,
    group: Group,
    seq: i64,
}

impl Turn {
    /// Waits until it comes: fewer than `most` have theirs, and nobody older waits.
    pub(super) async fn comes(inner: TurnWait, most: usize) {
        let TurnWait {
            registry,
            group,
            seq,
        } = inner;
        let mut turned = registry.turned.subscribe();
        loop {
            turned.borrow_and_update();
            let has_come = registry
                .turns
                .lock()
                .get_mut(&group)
                .is_none_or(|line| line.has_come(seq, most));
            if has_come || turned.changed().await.is_err() {
                // The next one may go, too.
                registry.turned.send_modify(|n| *n = n.wrapping_add(1));
                return;
            }
        }
    }

    pub(super) fn wait(&self) -> TurnWait {
        TurnWait {
            registry: Arc::clone(&self.inner),
            group: self.group.clone(),
            seq: self.seq,
        }
    }
}

impl Line {
    fn has_come(&mut self, seq: i64, most: usize) -> bool {
        if self.having.contains(&seq) {
            return true;
        }
        let is_next = self.having.len() < most && self.waiting.first() == Some(&seq);
        if is_next {
            self.waiting.remove(&seq);
            self.having.insert(seq);
        }
        is_next
    }
}

/// What waiting for a turn needs.
pub(super) struct TurnWait {
    registry: Arc<Inner>,
    group: Group,
    seq: i64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.inner.turns.lock();
        if let Some(line) = turns.get_mut(&self.group) {
            line.waiting.remove(&self.seq);
            line.having.remove(&self.seq);
            if line.waiting.is_empty() && line.having.is_empty() {
                turns.remove(&self.group);
            }
        }
        drop(turns);
        self.inner.turned.send_modify(|n| *n = n.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn has_come(waiting: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        let at_once = tokio::time::timeout(std::time::Duration::ZERO, waiting);
        at_once.await.is_ok()
    }

    #[tokio::test]
    async fn nobody_begins_to_work_on_a_run_that_is_reserved() {
        let registry = Registry::default();
        let begin = |run: &str| {
            registry.send(run, None, |_| {
                tokio::spawn(std::future::pending::<()>()).abort_handle()
            })
        };
        let reserved = registry.reserve("1").unwrap();
        assert!(registry.reserve("1").is_none());
        assert_eq!(begin("1").unwrap_err().code(), "rate_limited");
        begin("2").unwrap();
        assert!(registry.reserve("2").is_none(), "somebody works on it");
        drop(reserved);
        begin("1").unwrap();
        registry.abort_all();
        assert!(registry.reserve("1").is_some());
    }

    #[tokio::test]
    async fn no_more_have_their_turn_than_may_and_the_oldest_is_next() {
        let registry = Registry::default();
        let group = || ("m".to_owned(), "p".to_owned(), "w".to_owned());
        // One that went on under an earlier sidecar has it.
        let fifth = registry.has_turn(group(), 5);
        let (seventh, sixth) = (registry.queue(group(), 7), registry.queue(group(), 6));
        // An older one that is tried again waits like any other.
        let fourth = registry.queue(group(), 4);
        let mut waits: Vec<_> = [&fourth, &sixth, &seventh]
            .into_iter()
            .map(|turn| Box::pin(Turn::comes(turn.wait(), 1)))
            .collect();
        for waiting in &mut waits {
            assert!(!has_come(waiting).await);
        }
        drop(fifth);
        assert!(!has_come(&mut waits[1]).await);
        assert!(has_come(&mut waits[0]).await);
        assert!(!has_come(&mut waits[2]).await);
        drop(fourth);
        assert!(!has_come(&mut waits[2]).await);
        assert!(has_come(&mut waits[1]).await);
        // Who gives up is in nobody's way.
        drop(seventh);
        drop(sixth);
        assert!(registry.0.turns.lock().is_empty());
    }
}
