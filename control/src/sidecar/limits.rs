//! How many requests are taken: in all, of one token, and of attempts to say who one is.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

use crate::error::ApiError;

/// Keys that are remembered before those that would be allowed anything are forgotten.
const KEYS_MAX: usize = 4096;

/// Requests in a second; each is also the largest burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// In all.
    pub all: NonZeroU32,
    /// With one token.
    pub token: NonZeroU32,
    /// Attempts to say who one is, from one address.
    pub authentication: NonZeroU32,
}

impl Default for Rates {
    fn default() -> Self {
        let of = |rate| NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        Self {
            all: of(100),
            token: of(50),
            authentication: of(10),
        }
    }
}

type Direct = RateLimiter<NotKeyed, InMemoryState, DefaultClock, NoOpMiddleware>;

/// Counts requests.
#[derive(Debug)]
pub(super) struct Limits {
    all: Direct,
    tokens: DefaultKeyedRateLimiter<String>,
    attempts: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
}

impl Limits {
    pub(super) fn new(rates: Rates) -> Self {
        Self {
            all: RateLimiter::direct(Quota::per_second(rates.all)),
            tokens: RateLimiter::keyed(Quota::per_second(rates.token)),
            attempts: RateLimiter::keyed(Quota::per_second(rates.authentication)),
            clock: DefaultClock::default(),
        }
    }

    /// One more request.
    ///
    /// # Errors
    /// [`ApiError::RateLimited`], as for all of these.
    pub(super) fn request(&self) -> Result<(), ApiError> {
        self.all
            .check()
            .map_err(|until| self.refusal("requests", &until))
    }

    /// One more request with the token named `id`.
    pub(super) fn token(&self, id: &str) -> Result<(), ApiError> {
        self.keyed(&self.tokens, id, "requests with this token")
    }

    /// One more attempt from `address` to say who one is.
    pub(super) fn attempt(&self, address: &str) -> Result<(), ApiError> {
        self.keyed(&self.attempts, address, "attempts to authenticate")
    }

    fn keyed(
        &self,
        limiter: &DefaultKeyedRateLimiter<String>,
        key: &str,
        what: &str,
    ) -> Result<(), ApiError> {
        if limiter.len() >= KEYS_MAX {
            limiter.retain_recent();
        }
        limiter
            .check_key(&key.to_owned())
            .map_err(|until| self.refusal(what, &until))
    }

    fn refusal(
        &self,
        what: &str,
        until: &NotUntil<<DefaultClock as governor::clock::Clock>::Instant>,
    ) -> ApiError {
        let wait = until.wait_time_from(self.clock.now());
        ApiError::RateLimited {
            message: format!(
                "too many {what}; wait as long as Retry-After says, then go on more slowly"
            ),
            retry_after_s: wait.max(Duration::from_secs(1)).as_secs_f64().ceil() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn what_is_over_the_rate_is_told_to_wait_and_others_are_not() {
        let limits = Limits::new(Rates {
            all: rate(1),
            token: rate(2),
            authentication: rate(1),
        });
        // A burst of more than a second's worth within far less than a second.
        let refused = (0..1000).filter_map(|_| limits.request().err()).next_back();
        let refused = refused.expect("a burst is refused");
        assert!(
            matches!(
                refused,
                ApiError::RateLimited {
                    retry_after_s: 1,
                    ..
                }
            ),
            "{refused:?}"
        );
        let refused = (0..1000).filter(|_| limits.token("a").is_err()).count();
        assert!(refused > 900, "{refused}");
        limits.token("b").unwrap();
        limits.attempt("1.2.3.4").unwrap();
        assert!((0..1000).any(|_| limits.attempt("1.2.3.4").is_err()));
        limits.attempt("1.2.3.5").unwrap();
    }
}
