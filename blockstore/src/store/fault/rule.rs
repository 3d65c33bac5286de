//! What can be made to fail, and when: the rules of a faulty store. Draws, but does nothing itself.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::store::{StoreError, Verb};

/// The error a fault answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// [`StoreError::Unavailable`].
    Unavailable,
    /// [`StoreError::Timeout`].
    Timeout,
    /// [`StoreError::Denied`].
    Denied,
    /// [`StoreError::NotFound`]: a store that forgets, or is behind.
    NotFound,
    /// [`StoreError::PreconditionFailed`].
    PreconditionFailed,
    /// [`StoreError::Damaged`].
    Damaged,
    /// [`StoreError::Io`] of a full disk.
    StorageFull,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// An error; the request has no effect.
    ErrorBefore(FaultKind),
    /// The request takes effect, and its answer is lost.
    ErrorAfter(FaultKind),
    /// It takes this much longer.
    Delay(Duration),
    /// It never answers and has no effect; its caller has to give up.
    Hang,
    /// A get answers with fewer bytes than there are. No effect on an empty body.
    ShortBody,
    /// A get answers with one bit flipped. No effect on an empty body.
    DamagedBody,
    /// A put's condition is not looked at, as by a store that does not know conditional writes.
    IgnoreCondition,
}

/// When a fault strikes.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    /// Only requests of this kind; all when absent.
    pub verb: Option<Verb>,
    /// Only requests that name a key with this beginning. For a listing its prefix counts.
    pub key_prefix: String,
    /// Chance of striking, 0 to 1.
    pub chance: f64,
    /// Matching requests that pass before it begins.
    pub skip: u64,
    /// How often it strikes; for ever when absent.
    pub times: Option<u64>,
    /// What it does.
    pub fault: Fault,
}

impl FaultRule {
    /// Strikes every request.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self {
            verb: None,
            key_prefix: String::new(),
            chance: 1.0,
            skip: 0,
            times: None,
            fault,
        }
    }

    /// Strikes every request of one kind.
    #[must_use]
    pub fn on(verb: Verb, fault: Fault) -> Self {
        Self {
            verb: Some(verb),
            ..Self::always(fault)
        }
    }

    /// Only keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        Self {
            key_prefix: prefix.to_owned(),
            ..self
        }
    }

    /// Only with this chance.
    #[must_use]
    pub fn chance(self, chance: f64) -> Self {
        Self { chance, ..self }
    }

    /// Only after `skip` matching requests.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Only this often.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }
}

/// Names a rule, to take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub(super) u64);

/// Whether the store answers at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outage {
    /// It does.
    #[default]
    None,
    /// Every request fails at once.
    Refused,
    /// No request is answered before the outage ends; those that waited fail then.
    Hanging,
}

/// How often each fault struck.
pub type FaultCounts = BTreeMap<Fault, u64>;

/// One request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its kind.
    pub verb: Verb,
    /// Its key, or the prefix of a listing; the first key of a delete.
    pub key: String,
    /// Whether the caller got a success.
    pub ok: bool,
}

impl FaultRule {
    /// Draws whether the rule strikes a request that matches it.
    pub(super) fn strikes(&mut self, rng: &mut SmallRng) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times == Some(0) || !rng.random_bool(self.chance.clamp(0.0, 1.0)) {
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

impl FaultKind {
    pub(super) fn error(self, key: &str) -> StoreError {
        let what = format!("injected fault ({key})");
        match self {
            Self::Unavailable => StoreError::Unavailable { what },
            Self::Timeout => StoreError::Timeout { what },
            Self::Denied => StoreError::Denied { what },
            Self::NotFound => StoreError::not_found(key),
            Self::PreconditionFailed => StoreError::precondition(key),
            Self::Damaged => StoreError::Damaged { what },
            Self::StorageFull => StoreError::Io {
                what,
                kind: std::io::ErrorKind::StorageFull,
            },
        }
    }
}
