//! How many requests are taken: in all, of one token, and of attempts to say who one is.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

use crate::error::ApiError;
use crate::wire::Caller;

/// Most keys that are remembered. Those that would be allowed anything are forgotten then; when all of them have just been
/// used, no further one is let in.
const KEYS_MAX: usize = 4096;

/// Requests in a second; each is also the largest burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// In all, over TCP and over the Unix socket each: whoever floods the one must not lock out the other.
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
    local: Direct,
    remote: Direct,
    tokens: DefaultKeyedRateLimiter<String>,
    attempts: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
}

impl Limits {
    pub(super) fn new(rates: Rates) -> Self {
        Self {
            local: RateLimiter::direct(Quota::per_second(rates.all)),
            remote: RateLimiter::direct(Quota::per_second(rates.all)),
            tokens: RateLimiter::keyed(Quota::per_second(rates.token)),
            attempts: RateLimiter::keyed(Quota::per_second(rates.authentication)),
            clock: DefaultClock::default(),
        }
    }

    /// One more request of `caller`.
    ///
    /// # Errors
    /// [`ApiError::RateLimited`], as for all of these.
    pub(super) fn request(&self, caller: Caller) -> Result<(), ApiError> {
        let limiter = match caller {
            Caller::Unix(_) => &self.local,
            Caller::Tcp(_) => &self.remote,
        };
        limiter
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
            if limiter.len() >= KEYS_MAX {
                return Err(refused(what, Duration::ZERO));
            }
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
        refused(what, until.wait_time_from(self.clock.now()))
    }
}

fn refused(what: &str, wait: Duration) -> ApiError {
    ApiError::RateLimited {
        message: format!(
            "too many {what}; wait as long as Retry-After says, then go on more slowly"
        ),
        retry_after_s: wait.max(Duration::from_secs(1)).as_secs_f64().ceil() as u64,
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
        let remote = Caller::Tcp("127.0.0.1:9".parse().unwrap());
        // A burst of more than a second's worth within far less than a second.
        let refused = (0..1000)
            .filter_map(|_| limits.request(remote).err())
            .next_back();
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
        limits.request(Caller::Unix(None)).unwrap();
        let refused = (0..1000).filter(|_| limits.token("a").is_err()).count();
        assert!(refused > 900, "{refused}");
        limits.token("b").unwrap();
        limits.attempt("1.2.3.4").unwrap();
        assert!((0..1000).any(|_| limits.attempt("1.2.3.4").is_err()));
        limits.attempt("1.2.3.5").unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limits = Limits::new(Rates {
            all: rate(1),
            token: rate(1),
            authentication: rate(1),
        });
        let refused = (0..KEYS_MAX + 100)
            .filter(|n| limits.attempt(&n.to_string()).is_err())
            .count();
        // A few may have been forgotten in the meantime, and made room.
        assert!(limits.attempts.len() <= KEYS_MAX, "{refused} were refused");
    }
}
