//! Bounded attempts with jittered back-off and deadlines: the policy, and a store that applies it.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout_at};

use super::{ListPage, Object, ObjectInfo, ObjectStore, PutCondition, StoreError, Version};
use crate::error::Advice;
use crate::settings::RetrySettings;

/// How often and how long a request is tried.
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    settings: RetrySettings,
    jitter: Mutex<SmallRng>,
    /// Why the newest attempt of all failed, until one succeeds.
    failing: Mutex<Option<StoreError>>,
}

impl RetryPolicy {
    pub(crate) fn new(settings: RetrySettings) -> Self {
        let jitter = Mutex::new(SmallRng::seed_from_u64(settings.seed));
        Self {
            settings,
            jitter,
            failing: Mutex::new(None),
        }
    }

    /// Tries until an answer that is not worth a retry, the last attempt, or the deadline. The last error is returned.
    pub(crate) async fn run<T, F, Fut>(&self, what: &str, mut attempt: F) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let attempts = self.settings.attempts.max(1);
        let end = Instant::now() + self.settings.operation_deadline;
        let mut made = 0;
        loop {
            let until = end.min(Instant::now() + self.settings.attempt_deadline);
            let error = match timeout_at(until, attempt()).await {
                Ok(Ok(value)) => {
                    *self.failing.lock() = None;
                    return Ok(value);
                }
                Ok(Err(error)) => error,
                Err(_) => StoreError::Timeout {
                    what: what.to_owned(),
                },
            };
            *self.failing.lock() = Some(error.clone());
            made += 1;
            let pause = self.pause(made);
            let last = made >= attempts || Instant::now() + pause >= end;
            if last || error.advice() != Advice::Retry {
                return Err(error);
            }
            tracing::debug!(what, %error, attempt = made, "request is tried again");
            sleep(pause).await;
        }
    }

    /// Puts an object, and repeats that as the others: a conditional put whose answer was lost is not repeated before
    /// reading has told what became of it. So a condition that does not hold afterwards is somebody else's doing.
    ///
    /// That holds for bodies which nobody else puts under the same key: every one of ours has a random part.
    pub(crate) async fn put(
        &self,
        store: &dyn ObjectStore,
        key: &str,
        body: &Bytes,
        cond: &PutCondition,
    ) -> Result<Version, StoreError> {
        let doubtful = AtomicBool::new(false);
        let doubtful = &doubtful;
        let attempt = || async move {
            if doubtful.load(Ordering::Relaxed)
                && let Some(version) = settled(store, key, body, cond).await?
            {
                return Ok(version);
            }
            let put = store.put(key, body.clone(), cond.clone());
            // A deadline may end the attempt here, which leaves as much doubt as an error.
            doubtful.store(*cond != PutCondition::Always, Ordering::Relaxed);
            put.await
        };
        self.run(&format!("put {key}"), attempt).await
    }

    /// The pause after the `made`-th attempt: half to all of the doubled delay, so that many clients spread.
    fn pause(&self, made: u32) -> Duration {
        let doubled = 2u32.saturating_pow(made.saturating_sub(1));
        let full = self.settings.first_delay.saturating_mul(doubled);
        let share = self.jitter.lock().random_range(0.5..=1.0);
        full.min(self.settings.max_delay).mul_f64(share)
    }
}

/// What became of a conditional put without an answer: the version it made, or `None` when it may be made again.
async fn settled(
    store: &dyn ObjectStore,
    key: &str,
    body: &Bytes,
    cond: &PutCondition,
) -> Result<Option<Version>, StoreError> {
    for last in [false, true] {
        match store.get(key, None).await {
            Ok(there) if there.bytes == body => return Ok(Some(there.version)),
            Ok(there) if matches!(cond, PutCondition::IfMatch(of) if *of == there.version) => {
                return Ok(None);
            }
            // Read twice: a body can be damaged on its way.
            Ok(_) if !last => {}
            Ok(_) => break,
            Err(error) if error.is_not_found() && *cond == PutCondition::IfAbsent => {
                return Ok(None);
            }
            Err(error) if error.is_not_found() => break,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::precondition(key))
}

/// Retries the requests of another store. What became of a conditional put whose answer was lost is found out by reading.
#[derive(Debug)]
pub struct RetryStore {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
}

impl RetryStore {
    /// Retries requests to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, settings: RetrySettings) -> Self {
        Self {
            inner,
            policy: RetryPolicy::new(settings),
        }
    }

    /// Why the newest attempt failed, if none has succeeded since: for whoever gave up waiting before the attempts ended.
    #[must_use]
    pub fn failing(&self) -> Option<StoreError> {
        self.policy.failing.lock().clone()
    }
}

#[async_trait]
impl ObjectStore for RetryStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let what = format!("get {key}");
        self.policy
            .run(&what, || self.inner.get(key, range.clone()))
            .await
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        self.policy.put(&*self.inner, key, &body, &cond).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        let what = format!("head {key}");
        self.policy.run(&what, || self.inner.head(key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        let what = format!("list {prefix}");
        self.policy
            .run(&what, || self.inner.list(prefix, after, limit))
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let what = format!("delete {} objects", keys.len());
        self.policy.run(&what, || self.inner.delete(keys)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, FaultKind, FaultRule, FaultStore, MemoryStore, Outage, Verb};
    use super::*;

    fn quick() -> RetrySettings {
        RetrySettings {
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(4),
            ..RetrySettings::default()
        }
    }

    fn stores(settings: RetrySettings) -> (Arc<FaultStore>, RetryStore) {
        let faults = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 1));
        let retry = RetryStore::new(Arc::clone(&faults) as _, settings);
        (faults, retry)
    }

    #[tokio::test]
    async fn passing_failures_are_retried_and_lasting_ones_end_after_five_attempts() {
        let (faults, store) = stores(quick());
        let body = Bytes::from_static(b"x");
        store.put("a", body, PutCondition::Always).await.unwrap();
        let rule = FaultRule::on(Verb::Get, Fault::ErrorBefore(FaultKind::Unavailable));
        faults.add(rule.clone().times(4));
        store.get("a", None).await.unwrap();
        assert_eq!(faults.counts().get.requests, 5);
        faults.add(rule);
        let error = store.get("a", None).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }));
        assert_eq!(faults.counts().get.requests, 10);
    }

    #[tokio::test]
    async fn final_answers_are_not_retried() {
        let (faults, store) = stores(quick());
        assert!(store.get("missing", None).await.unwrap_err().is_not_found());
        faults.add(FaultRule::on(
            Verb::Head,
            Fault::ErrorBefore(FaultKind::Denied),
        ));
        assert!(matches!(
            store.head("a").await,
            Err(StoreError::Denied { .. })
        ));
        let counts = faults.counts();
        assert_eq!((counts.get.requests, counts.head.requests), (1, 1));
    }

    /// A put to a store in which `first` meets the first attempts: how it ended, and what is there.
    async fn put_with(
        cond: PutCondition,
        first: &[Fault],
        meanwhile: Option<&'static [u8]>,
    ) -> (Result<(), StoreError>, Bytes) {
        let inner = Arc::new(MemoryStore::new());
        let faults = Arc::new(FaultStore::new(Arc::clone(&inner) as _, 1));
        let store = RetryStore::new(Arc::clone(&faults) as _, quick());
        for fault in first {
            faults.add(FaultRule::on(Verb::Put, *fault).times(1));
        }
        if let Some(body) = meanwhile {
            let body = Bytes::from_static(body);
            inner.put("a", body, PutCondition::Always).await.unwrap();
        }
        let put = store.put("a", Bytes::from_static(b"x"), cond).await;
        let there = inner.get("a", None).await;
        (
            put.map(drop),
            there.map_or_else(|_| Bytes::new(), |o| o.bytes),
        )
    }

    #[tokio::test]
    async fn what_became_of_a_conditional_put_without_an_answer_is_found_out_by_reading() {
        let lost = || Fault::ErrorAfter(FaultKind::Timeout);
        let refused = || Fault::ErrorBefore(FaultKind::Unavailable);
        for first in [
            vec![lost()],
            vec![refused()],
            vec![refused(), lost()],
            vec![refused(), refused(), refused()],
        ] {
            let (put, there) = put_with(PutCondition::IfAbsent, &first, None).await;
            assert_eq!((put, &there[..]), (Ok(()), &b"x"[..]), "{first:?}");
            let before = PutCondition::IfMatch(Version::of(b"before"));
            let (put, there) = put_with(before, &first, Some(b"before")).await;
            assert_eq!((put, &there[..]), (Ok(()), &b"x"[..]), "{first:?}");
            // Somebody else was there before.
            for cond in [
                PutCondition::IfAbsent,
                PutCondition::IfMatch(Version::of(b"before")),
            ] {
                let (put, there) = put_with(cond, &first, Some(b"other")).await;
                let gone = StoreError::precondition("a");
                assert_eq!((put, &there[..]), (Err(gone), &b"other"[..]), "{first:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_condition_that_does_not_hold_is_no_success_even_when_the_bytes_are_the_same() {
        let (put, _) = put_with(PutCondition::IfAbsent, &[], Some(b"x")).await;
        assert_eq!(put, Err(StoreError::precondition("a")));
    }

    #[tokio::test]
    async fn a_store_that_never_answers_ends_at_the_deadline() {
        let settings = RetrySettings {
            attempt_deadline: Duration::from_millis(20),
            operation_deadline: Duration::from_millis(70),
            ..quick()
        };
        let (faults, store) = stores(settings);
        faults.set_outage(Outage::Hanging);
        let error = store.list("", None, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    }

    #[test]
    fn pauses_double_up_to_the_limit_with_jitter() {
        let policy = RetryPolicy::new(RetrySettings::default());
        for (made, full) in [(1, 100), (2, 200), (3, 400), (7, 5000), (200, 5000)] {
            for _ in 0..50 {
                let pause = policy.pause(made).as_millis();
                assert!((full / 2..=full).contains(&pause), "{made}: {pause}");
            }
        }
        let first: Vec<_> = (0..8).map(|_| policy.pause(5)).collect();
        assert!(
            first.windows(2).any(|w| w[0] != w[1]),
            "jitter varies the pause"
        );
    }
}
