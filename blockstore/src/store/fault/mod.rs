//! A store that fails on demand, for tests: seeded, changed at run time, counting what it did.
//!
//! Adds failures only; what a request does when it is let through is the inner store's business.

mod rule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::counting::Counters;
pub use rule::{Fault, FaultCounts, FaultKind, FaultRule, Outage, RequestRecord, RuleId};

use super::{
    ListPage, Object, ObjectInfo, ObjectStore, PutCondition, StoreCounts, StoreError, Verb, Version,
};

/// Longest time a hanging request waits: longer than any deadline a caller has.
const HANG_LIMIT: Duration = Duration::from_secs(600);
/// Most requests kept in the log; the oldest go first.
const LOG_LIMIT: usize = 100_000;

#[derive(Debug)]
struct State {
    rng: SmallRng,
    rules: BTreeMap<RuleId, FaultRule>,
    next_rule: u64,
    injected: FaultCounts,
    log: VecDeque<RequestRecord>,
}

/// Injects faults into requests to another store.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    outage: watch::Sender<Outage>,
    counters: Counters,
}

/// What was drawn for one request.
#[derive(Debug, Default)]
struct Plan {
    delay: Duration,
    hang: bool,
    before: Option<StoreError>,
    after: Option<StoreError>,
    ignore_condition: bool,
    /// Random numbers for the body: how short, which bit.
    short: Option<u64>,
    flip: Option<u64>,
}

impl FaultStore {
    /// Wraps `inner` without any fault yet. The same seed and the same order of requests give the same faults.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            rules: BTreeMap::new(),
            next_rule: 0,
            injected: FaultCounts::new(),
            log: VecDeque::new(),
        };
        Self {
            inner,
            state: Mutex::new(state),
            outage: watch::Sender::new(Outage::None),
            counters: Counters::default(),
        }
    }

    /// Adds a rule. All rules that strike a request apply to it; of two errors the older rule's is answered.
    pub fn add(&self, rule: FaultRule) -> RuleId {
        let mut state = self.state.lock();
        let id = RuleId(state.next_rule);
        state.next_rule += 1;
        state.rules.insert(id, rule);
        id
    }

    /// Takes a rule back.
    pub fn remove(&self, id: RuleId) {
        self.state.lock().rules.remove(&id);
    }

    /// Takes all rules back and ends an outage. Counts and log stay.
    pub fn heal(&self) {
        self.state.lock().rules.clear();
        self.set_outage(Outage::None);
    }

    /// Begins or ends an outage of everything.
    pub fn set_outage(&self, outage: Outage) {
        self.outage.send_replace(outage);
    }

    /// Requests as they came in, failed ones included.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        self.counters.snapshot()
    }

    /// How often each fault struck so far.
    #[must_use]
    pub fn injected(&self) -> FaultCounts {
        self.state.lock().injected.clone()
    }

    /// Takes the log: every request since the last call, in the order of their ends.
    #[must_use]
    pub fn take_log(&self) -> Vec<RequestRecord> {
        std::mem::take(&mut self.state.lock().log).into()
    }

    fn plan(&self, verb: Verb, keys: &[&str]) -> Plan {
        let mut plan = Plan::default();
        let state = &mut *self.state.lock();
        for rule in state.rules.values_mut() {
            let key = keys.iter().find(|key| key.starts_with(&rule.key_prefix));
            let (Some(key), true) = (key, rule.verb.is_none_or(|only| only == verb)) else {
                continue;
            };
            if !rule.strikes(&mut state.rng) {
                continue;
            }
            *state.injected.entry(rule.fault).or_default() += 1;
            plan.add(rule.fault, key, &mut state.rng);
        }
        plan
    }

    /// Runs a request with what was drawn for it, and writes it down.
    async fn run<T>(
        &self,
        verb: Verb,
        key: &str,
        plan: &mut Plan,
        request: impl Future<Output = Result<T, StoreError>> + Send,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, StoreError> {
        let outcome = self.let_through(plan, request).await;
        self.counters.count(verb, &outcome, bytes);
        let mut state = self.state.lock();
        if state.log.len() >= LOG_LIMIT {
            state.log.pop_front();
        }
        state.log.push_back(RequestRecord {
            verb,
            key: key.to_owned(),
            ok: outcome.is_ok(),
        });
        outcome
    }

    async fn let_through<T>(
        &self,
        plan: &mut Plan,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.wait_for_outage().await?;
        if !plan.delay.is_zero() {
            sleep(plan.delay).await;
        }
        if plan.hang {
            sleep(HANG_LIMIT).await;
            return Err(FaultKind::Timeout.error("injected hang"));
        }
        if let Some(error) = plan.before.take() {
            return Err(error);
        }
        let answer = request.await;
        match plan.after.take() {
            Some(error) => Err(error),
            None => answer,
        }
    }

    async fn wait_for_outage(&self) -> Result<(), StoreError> {
        let outage = *self.outage.borrow();
        match outage {
            Outage::None => return Ok(()),
            Outage::Refused => {}
            Outage::Hanging => {
                let mut changes = self.outage.subscribe();
                // Either way the request got no answer.
                let _ = timeout(HANG_LIMIT, changes.wait_for(|o| *o != Outage::Hanging)).await;
            }
        }
        Err(FaultKind::Unavailable.error("injected outage"))
    }
}

impl Plan {
    fn add(&mut self, fault: Fault, key: &str, rng: &mut SmallRng) {
        match fault {
            Fault::ErrorBefore(kind) => {
                self.before.get_or_insert_with(|| kind.error(key));
            }
            Fault::ErrorAfter(kind) => {
                self.after.get_or_insert_with(|| kind.error(key));
            }
            Fault::Delay(delay) => self.delay += delay,
            Fault::Hang => self.hang = true,
            Fault::ShortBody => self.short = Some(rng.random()),
            Fault::DamagedBody => self.flip = Some(rng.random()),
            Fault::IgnoreCondition => self.ignore_condition = true,
        }
    }

    fn change_body(&self, mut body: Bytes) -> Bytes {
        if let (Some(draw), false) = (self.short, body.is_empty()) {
            body.truncate((draw % body.len() as u64) as usize);
        }
        if let (Some(draw), false) = (self.flip, body.is_empty()) {
            let mut bytes = body.to_vec();
            let bit = draw % (bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            body = bytes.into();
        }
        body
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let mut plan = self.plan(Verb::Get, &[key]);
        let request = self.inner.get(key, range);
        let mut object = self
            .run(Verb::Get, key, &mut plan, request, |object| {
                object.bytes.len()
            })
            .await?;
        object.bytes = plan.change_body(object.bytes);
        Ok(object)
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        let mut plan = self.plan(Verb::Put, &[key]);
        let cond = if plan.ignore_condition {
            PutCondition::Always
        } else {
            cond
        };
        let len = body.len();
        let request = self.inner.put(key, body, cond);
        self.run(Verb::Put, key, &mut plan, request, |_| len).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        let mut plan = self.plan(Verb::Head, &[key]);
        let request = self.inner.head(key);
        self.run(Verb::Head, key, &mut plan, request, |_| 0).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        let mut plan = self.plan(Verb::List, &[prefix]);
        let request = self.inner.list(prefix, after, limit);
        self.run(Verb::List, prefix, &mut plan, request, |_| 0)
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let names: Vec<_> = keys.iter().map(String::as_str).collect();
        let mut plan = self.plan(Verb::Delete, &names);
        let first = names.first().copied().unwrap_or_default();
        let request = self.inner.delete(keys);
        self.run(Verb::Delete, first, &mut plan, request, |()| 0)
            .await
    }

    fn describe(&self) -> String {
        format!("{} with injected faults", self.inner.describe())
    }
}
