//! Counting requests and bytes: the counters, their snapshot, and the wrapper that keeps them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ListPage, Object, ObjectInfo, ObjectStore, PutCondition, StoreError, Version};

/// The kinds of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Reading an object.
    Get,
    /// Writing one.
    Put,
    /// Looking at one.
    Head,
    /// Listing keys.
    List,
    /// Deleting objects.
    Delete,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Head, Self::List, Self::Delete];
}

/// Counts of one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerbCounts {
    /// Requests made.
    pub requests: u64,
    /// Requests that failed. A missing object and a condition that does not hold are answers, not failures.
    pub errors: u64,
    /// Bytes of bodies: received for a get, sent for a put, else 0.
    pub bytes: u64,
}

/// Counts of all kinds of request at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreCounts {
    /// Gets.
    pub get: VerbCounts,
    /// Puts.
    pub put: VerbCounts,
    /// Heads.
    pub head: VerbCounts,
    /// Lists.
    pub list: VerbCounts,
    /// Deletes; one request may name many keys.
    pub delete: VerbCounts,
}

impl StoreCounts {
    /// The counts of one kind.
    #[must_use]
    pub fn of(&self, verb: Verb) -> VerbCounts {
        match verb {
            Verb::Get => self.get,
            Verb::Put => self.put,
            Verb::Head => self.head,
            Verb::List => self.list,
            Verb::Delete => self.delete,
        }
    }

    /// Requests of all kinds.
    #[must_use]
    pub fn requests(&self) -> u64 {
        Verb::ALL.iter().map(|verb| self.of(*verb).requests).sum()
    }

    /// Failed requests of all kinds.
    #[must_use]
    pub fn errors(&self) -> u64 {
        Verb::ALL.iter().map(|verb| self.of(*verb).errors).sum()
    }
}

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
}

/// Counters that many requests add to.
#[derive(Debug, Default)]
pub(crate) struct Counters([Cell; Verb::ALL.len()]);

impl Counters {
    /// Counts an answered request. A cancelled one is not counted.
    pub(crate) fn count<T>(
        &self,
        verb: Verb,
        outcome: &Result<T, StoreError>,
        bytes: impl FnOnce(&T) -> usize,
    ) {
        let cell = &self.0[verb as usize];
        cell.requests.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(value) => {
                cell.bytes.fetch_add(bytes(value) as u64, Ordering::Relaxed);
            }
            Err(StoreError::NotFound { .. } | StoreError::PreconditionFailed { .. }) => {}
            Err(_) => {
                cell.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn snapshot(&self) -> StoreCounts {
        let of = |verb: Verb| {
            let cell = &self.0[verb as usize];
            VerbCounts {
                requests: cell.requests.load(Ordering::Relaxed),
                errors: cell.errors.load(Ordering::Relaxed),
                bytes: cell.bytes.load(Ordering::Relaxed),
            }
        };
        StoreCounts {
            get: of(Verb::Get),
            put: of(Verb::Put),
            head: of(Verb::Head),
            list: of(Verb::List),
            delete: of(Verb::Delete),
        }
    }
}

/// Counts the requests that go through to another store.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counters: Counters,
}

impl CountingStore {
    /// Counts what goes to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            counters: Counters::default(),
        }
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        self.counters.snapshot()
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let outcome = self.inner.get(key, range).await;
        self.counters
            .count(Verb::Get, &outcome, |object| object.bytes.len());
        outcome
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        let len = body.len();
        let outcome = self.inner.put(key, body, cond).await;
        self.counters.count(Verb::Put, &outcome, |_| len);
        outcome
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        let outcome = self.inner.head(key).await;
        self.counters.count(Verb::Head, &outcome, |_| 0);
        outcome
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        let outcome = self.inner.list(prefix, after, limit).await;
        self.counters.count(Verb::List, &outcome, |_| 0);
        outcome
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let outcome = self.inner.delete(keys).await;
        self.counters.count(Verb::Delete, &outcome, |()| 0);
        outcome
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStore;
    use super::*;

    #[tokio::test]
    async fn counts_requests_bytes_and_failures_per_verb() {
        let store = CountingStore::new(Arc::new(MemoryStore::new()));
        let body = Bytes::from_static(b"12345");
        store
            .put("a", body.clone(), PutCondition::IfAbsent)
            .await
            .unwrap();
        store
            .put("a", body, PutCondition::IfAbsent)
            .await
            .unwrap_err();
        store.get("a", Some(1..3)).await.unwrap();
        store.get("missing", None).await.unwrap_err();
        store.get("../bad", None).await.unwrap_err();
        store.head("a").await.unwrap();
        store.list("", None, 5).await.unwrap();
        store.delete(&["a".into(), "b".into()]).await.unwrap();
        let counts = store.counts();
        assert_eq!(
            counts.put,
            VerbCounts {
                requests: 2,
                errors: 0,
                bytes: 5
            }
        );
        assert_eq!(
            counts.get,
            VerbCounts {
                requests: 3,
                errors: 1,
                bytes: 2
            }
        );
        assert_eq!(
            (
                counts.head.requests,
                counts.list.requests,
                counts.delete.requests
            ),
            (1, 1, 1)
        );
        assert_eq!((counts.requests(), counts.errors()), (8, 1));
    }
}
