//! Sessions: JSON web tokens signed by somebody else, with a shared secret (HS256) or a private key whose public half is
//! in a file (EdDSA, RS256). Which key checks a token follows from the kind of its signature, so that a public key is
//! never taken for a secret.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::sidecar::host::Clock;
use crate::sidecar::start_error::StartError;

/// Shortest secret, in bytes: shorter ones can be guessed from one token.
const SECRET_MIN: usize = 32;
/// How far the clocks of two machines may be apart, in seconds.
const LEEWAY_S: u64 = 10;
/// Sessions that are remembered as good, so that they are checked once.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not 0");
/// Longest part of a user's name that is shown.
const USER_MAX: usize = 64;

#[derive(Deserialize)]
struct Claims {
    /// Typed, so that a time that is no number is refused rather than passed over.
    exp: u64,
    #[serde(default)]
    #[expect(dead_code, reason = "checked by the library; here only for its type")]
    nbf: Option<u64>,
    #[serde(default)]
    sub: Option<String>,
    /// What Better Auth puts into the session that it signs with the shared secret, in place of `sub`.
    #[serde(default)]
    session: Option<Value>,
}

impl Claims {
    /// Whose session it is. The same secret signs other things than sessions, such as the links of Better Auth's mails:
    /// whatever names no user is none.
    fn user(&self) -> Option<&str> {
        let of_session = || self.session.as_ref()?.get("userId")?.as_str();
        self.sub.as_deref().or_else(of_session)
    }
}

struct Good {
    id: String,
    expires_s: u64,
}

struct Keys {
    read: Option<SystemTime>,
    set: JwkSet,
}

/// What sessions are checked with, and those that were found good.
pub(super) struct Sessions {
    secret: Option<DecodingKey>,
    jwks_file: Option<PathBuf>,
    keys: Mutex<Keys>,
    known: Mutex<LruCache<[u8; 32], Good>>,
    clock: Arc<dyn Clock>,
}

impl Sessions {
    /// # Errors
    /// [`StartError::Setting`] for a secret that is too short and for a file that holds no usable key.
    pub(super) fn new(
        secret: Option<&str>,
        jwks_file: Option<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        if secret.is_some_and(|secret| secret.len() < SECRET_MIN) {
            return Err(StartError::Setting(format!(
                "BETTER_AUTH_SECRET has less than {SECRET_MIN} bytes, so sessions could be forged; make a longer one"
            )));
        }
        let sessions = Self {
            secret: secret.map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            jwks_file,
            keys: Mutex::new(Keys {
                read: None,
                set: JwkSet { keys: Vec::new() },
            }),
            known: Mutex::new(LruCache::new(KNOWN_MAX)),
            clock,
        };
        if sessions.jwks_file.is_some() {
            sessions.refresh().map_err(StartError::Setting)?;
        }
        Ok(sessions)
    }

    pub(super) fn is_configured(&self) -> bool {
        self.secret.is_some() || self.jwks_file.is_some()
    }

    /// The name of a session that was found good and still holds.
    pub(super) fn known(&self, token: &str) -> Option<String> {
        if self.jwks_file.is_some() && self.refresh().is_err() {
            return None;
        }
        let mut known = self.known.lock();
        let good = known.get(&digest(token))?;
        (self.clock.now_ms() / 1000 < good.expires_s.saturating_add(LEEWAY_S))
            .then(|| good.id.clone())
    }

    /// Checks a session; the error is for the log.
    pub(super) fn verify(&self, token: &str) -> Result<String, String> {
        let header = decode_header(token).map_err(|error| error.to_string())?;
        let key = match header.alg {
            Algorithm::HS256 => self.secret.clone().ok_or("no secret is set for HS256")?,
            Algorithm::EdDSA | Algorithm::RS256 => {
                self.public_key(header.alg, header.kid.as_deref())?
            }
            other => return Err(format!("signatures of kind {other:?} are not taken")),
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        let claims = decode::<Claims>(token, &key, &validation)
            .map_err(|error| error.to_string())?
            .claims;
        let user = claims.user().map(shown).filter(|user| !user.is_empty());
        let user = user.ok_or("it names no user, neither as \"sub\" nor as \"session.userId\"")?;
        let id = format!("session:{user}");
        let good = Good {
            id: id.clone(),
            expires_s: claims.exp,
        };
        self.known.lock().put(digest(token), good);
        Ok(id)
    }

    fn public_key(&self, algorithm: Algorithm, kid: Option<&str>) -> Result<DecodingKey, String> {
        self.refresh()?;
        let keys = self.keys.lock();
        let mut fitting = keys.set.keys.iter().filter(|key| {
            algorithm_of(key) == Some(algorithm)
                && kid.is_none_or(|kid| key.common.key_id.as_deref() == Some(kid))
        });
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => DecodingKey::from_jwk(key).map_err(|error| error.to_string()),
            (Some(_), Some(_)) => Err("several keys fit; the token names none by \"kid\"".into()),
            (None, _) => Err("no key fits".into()),
        }
    }

    /// Reads the file of keys again if it was changed.
    fn refresh(&self) -> Result<(), String> {
        let Some(path) = &self.jwks_file else {
            return Err("no file of keys is set".into());
        };
        let wrong = |error: &dyn std::fmt::Display| {
            format!("the keys in {} cannot be used: {error}", path.display())
        };
        let changed = std::fs::metadata(path).and_then(|found| found.modified());
        let changed = changed.map_err(|error| wrong(&error))?;
        let mut keys = self.keys.lock();
        if keys.read == Some(changed) {
            return Ok(());
        }
        let text = std::fs::read(path).map_err(|error| wrong(&error))?;
        let set: JwkSet = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
        if !set.keys.iter().any(|key| algorithm_of(key).is_some()) {
            return Err(wrong(&"it holds no key for EdDSA (Ed25519) or RS256"));
        }
        // What an old key had signed is to be checked again.
        self.known.lock().clear();
        *keys = Keys {
            read: Some(changed),
            set,
        };
        Ok(())
    }
}

/// What a key checks, if it is one that is taken.
fn algorithm_of(key: &Jwk) -> Option<Algorithm> {
    let by_kind = match &key.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let said = key.common.key_algorithm.map(|said| said.to_string());
    said.is_none_or(|said| said == format!("{by_kind:?}"))
        .then_some(by_kind)
}

/// The part of a user's name that may be in a log.
fn shown(user: &str) -> String {
    user.chars()
        .filter(char::is_ascii_graphic)
        .take(USER_MAX)
        .collect()
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
