//! A store in memory, for tests: same rules as the others, its clock set by the test.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::counting::Counters;
use super::key::validate_prefix;
use super::{
    ListPage, ListedObject, MAX_LIST_OBJECTS, Object, ObjectInfo, ObjectStore, PutCondition,
    StoreCounts, StoreError, Verb, Version, check_limit, cut, validate_key,
};

#[derive(Debug, Clone)]
struct Entry {
    bytes: Bytes,
    version: Version,
    modified_ms: u64,
}

/// A store in memory. Counts its requests.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Entry>>,
    counters: Counters,
    now_ms: AtomicU64,
}

impl MemoryStore {
    /// An empty store whose clock stands at 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the store's clock, in milliseconds since 1970.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        self.counters.snapshot()
    }

    /// All keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    /// Replaces an object behind everybody's back, as a damaging disk would. Its version and time stay.
    pub fn tamper(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut objects = self.objects.lock();
        let Some(entry) = objects.get_mut(key) else {
            return false;
        };
        let mut bytes = entry.bytes.to_vec();
        change(&mut bytes);
        entry.bytes = bytes.into();
        true
    }

    fn find(&self, key: &str) -> Result<Entry, StoreError> {
        validate_key(key)?;
        let objects = self.objects.lock();
        objects
            .get(key)
            .cloned()
            .ok_or_else(|| StoreError::not_found(key))
    }

    fn do_get(&self, key: &str, range: Option<&Range<u64>>) -> Result<Object, StoreError> {
        let entry = self.find(key)?;
        Ok(Object {
            bytes: cut(key, entry.bytes, range)?,
            version: entry.version,
        })
    }

    fn do_put(&self, key: &str, body: Bytes, cond: &PutCondition) -> Result<Version, StoreError> {
        validate_key(key)?;
        let mut objects = self.objects.lock();
        let there = objects.get(key).map(|entry| &entry.version);
        let holds = match cond {
            PutCondition::Always => true,
            PutCondition::IfAbsent => there.is_none(),
            PutCondition::IfMatch(version) => there == Some(version),
        };
        if !holds {
            return Err(StoreError::precondition(key));
        }
        let version = Version::of(&body);
        let entry = Entry {
            bytes: body,
            version: version.clone(),
            modified_ms: self.now_ms.load(Ordering::Relaxed),
        };
        objects.insert(key.to_owned(), entry);
        Ok(version)
    }

    fn do_list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        validate_prefix(prefix)?;
        check_limit(limit)?;
        let limit = limit.min(MAX_LIST_OBJECTS);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects.lock();
        let mut found = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let page = found.by_ref().take(limit).map(|(key, entry)| ListedObject {
            key: key.clone(),
            len: entry.bytes.len() as u64,
            modified_ms: entry.modified_ms,
        });
        Ok(ListPage {
            objects: page.collect(),
            more: found.next().is_some(),
        })
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let outcome = self.do_get(key, range.as_ref());
        self.counters
            .count(Verb::Get, &outcome, |object| object.bytes.len());
        outcome
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        let len = body.len();
        let outcome = self.do_put(key, body, &cond);
        self.counters.count(Verb::Put, &outcome, |_| len);
        outcome
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        let outcome = self.find(key).map(|entry| ObjectInfo {
            key: key.to_owned(),
            len: entry.bytes.len() as u64,
            version: entry.version,
            modified_ms: entry.modified_ms,
        });
        self.counters.count(Verb::Head, &outcome, |_| 0);
        outcome
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        let outcome = self.do_list(prefix, after, limit);
        self.counters.count(Verb::List, &outcome, |_| 0);
        outcome
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let valid = keys.iter().try_for_each(|key| validate_key(key));
        if valid.is_ok() {
            let mut objects = self.objects.lock();
            for key in keys {
                objects.remove(key);
            }
        }
        self.counters.count(Verb::Delete, &valid, |()| 0);
        valid
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}
