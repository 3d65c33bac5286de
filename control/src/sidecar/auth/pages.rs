//! Sessions of the page: a cookie in the place of a token, so that a page can be loaded again and follow events.
//!
//! A cookie is sent to every port of a host, also to those of apps that run there. So it is good for looking only; what
//! changes something needs a second secret, which only the page itself has. The token itself is kept, in memory, and asked
//! each time: a session ends with its token. None outlives the sidecar.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, Method, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::sidecar::host::Clock;

/// Name of the cookie.
const COOKIE: &str = "weldrfs_session";
/// The header with the second secret.
const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
/// How long a session lasts.
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// Most sessions; the oldest makes room.
const SESSIONS_MAX: usize = 256;

/// Gives bytes that nobody can guess.
pub(in crate::sidecar) type Random = fn() -> io::Result<[u8; 32]>;

/// Those of the kernel.
pub(in crate::sidecar) fn kernel_random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

struct Session {
    token: String,
    csrf: String,
    ends_ms: u64,
}

/// A session that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar) struct Begun {
    /// For the header `Set-Cookie`.
    pub(in crate::sidecar) cookie: String,
    /// What requests need that change something.
    pub(in crate::sidecar) csrf: String,
    pub(in crate::sidecar) ends_ms: u64,
}

/// The sessions.
pub(super) struct Pages {
    clock: Arc<dyn Clock>,
    random: Random,
    /// By the hash of the cookie.
    sessions: Mutex<HashMap<[u8; 32], Session>>,
}

impl Pages {
    pub(super) fn new(clock: Arc<dyn Clock>, random: Random) -> Self {
        Self {
            clock,
            random,
            sessions: Mutex::default(),
        }
    }

    /// Begins a session for whoever has `token`, which was checked.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the machine gives no randomness.
    pub(super) fn begin(&self, token: &str) -> Result<Begun, ApiError> {
        let random = || {
            (self.random)().map_err(|error| {
                tracing::error!(%error, "there is no randomness for a session");
                ApiError::Internal("no session can be made; the sidecar's log says why".into())
            })
        };
        let (cookie, csrf) = (hex(&random()?), hex(&random()?));
        let now_ms = self.clock.now_ms();
        let ends_ms = now_ms + u64::try_from(LASTS.as_millis()).unwrap_or(u64::MAX / 2);
        let session = Session {
            token: token.to_owned(),
            csrf: csrf.clone(),
            ends_ms,
        };
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.ends_ms > now_ms);
        while sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.ends_ms);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                break;
            };
            sessions.remove(&key);
        }
        sessions.insert(hash(&cookie), session);
        Ok(Begun {
            cookie: format!(
                "{COOKIE}={cookie}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict",
                LASTS.as_secs()
            ),
            csrf,
            ends_ms,
        })
    }

    /// The token of the session that `headers` name, if that may be used for `method`.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] for what changes something without the second secret.
    pub(super) fn token(
        &self,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Option<String>, ApiError> {
        let Some(cookie) = cookie(headers) else {
            return Ok(None);
        };
        let sessions = self.sessions.lock();
        let session = sessions.get(&hash(cookie));
        let Some(session) = session.filter(|session| session.ends_ms > self.clock.now_ms()) else {
            return Ok(None);
        };
        let is_proven = headers.get(CSRF).is_some_and(|csrf| {
            let is_same = session.csrf.as_bytes().ct_eq(csrf.as_bytes());
            bool::from(is_same)
        });
        if is_proven || matches!(*method, Method::GET | Method::HEAD) {
            return Ok(Some(session.token.clone()));
        }
        Err(ApiError::Forbidden(
            "the cookie is good for looking only: send the X-CSRF-Token that POST /session gave, or \"Authorization: Bearer TOKEN\"".into(),
        ))
    }

    /// Ends the session that `headers` name; returns the `Set-Cookie` that makes a browser forget it.
    pub(super) fn end(&self, headers: &HeaderMap) -> String {
        if let Some(cookie) = cookie(headers) {
            self.sessions.lock().remove(&hash(cookie));
        }
        format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
    }
}

/// The value of our cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn with(cookie: &str, csrf: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let pair = cookie.split(';').next().unwrap();
        headers.insert(header::COOKIE, format!("a=b; {pair}").parse().unwrap());
        if let Some(csrf) = csrf {
            headers.insert(CSRF, csrf.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_cookie_is_good_for_looking_and_with_the_second_secret_for_the_rest() {
        let pages = Pages::new(Arc::new(Hand(AtomicU64::new(1))), kernel_random);
        let begun = pages.begin("t").unwrap();
        let other = pages.begin("u").unwrap();
        assert_ne!((&begun.cookie, &begun.csrf), (&other.cookie, &other.csrf));
        let token = |method, csrf| pages.token(&method, &with(&begun.cookie, csrf));
        assert_eq!(token(Method::GET, None).unwrap().as_deref(), Some("t"));
        assert_eq!(
            token(Method::HEAD, Some("x")).unwrap().as_deref(),
            Some("t")
        );
        for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
            for csrf in [None, Some(""), Some("x"), Some(other.csrf.as_str())] {
                let refused = token(method.clone(), csrf).unwrap_err();
                assert_eq!(refused.code(), "forbidden");
            }
            let taken = token(method, Some(&begun.csrf)).unwrap();
            assert_eq!(taken.as_deref(), Some("t"));
        }
        // No cookie, or one that nobody was given.
        assert_eq!(pages.token(&Method::GET, &HeaderMap::new()).unwrap(), None);
        let forged = with("weldrfs_session=00", Some(&begun.csrf));
        assert_eq!(pages.token(&Method::POST, &forged).unwrap(), None);
        assert!(pages.end(&with(&begun.cookie, None)).contains("Max-Age=0"));
        assert_eq!(token(Method::GET, None).unwrap(), None);
    }

    #[test]
    fn sessions_end_by_time_and_by_number() {
        let hand = Arc::new(Hand(AtomicU64::new(1)));
        let pages = Pages::new(hand.clone(), kernel_random);
        let first = pages.begin("t").unwrap();
        let is_there = |begun: &Begun| {
            let token = pages.token(&Method::GET, &with(&begun.cookie, None));
            token.unwrap().is_some()
        };
        hand.0.store(first.ends_ms - 1, Ordering::Relaxed);
        assert!(is_there(&first));
        hand.0.store(first.ends_ms, Ordering::Relaxed);
        assert!(!is_there(&first));
        let second = pages.begin("t").unwrap();
        for n in 0..SESSIONS_MAX as u64 {
            hand.0.store(first.ends_ms + 1 + n, Ordering::Relaxed);
            assert!(is_there(&second), "{n}");
            pages.begin("t").unwrap();
        }
        assert!(!is_there(&second));
        assert_eq!(pages.sessions.lock().len(), SESSIONS_MAX);
    }
}
