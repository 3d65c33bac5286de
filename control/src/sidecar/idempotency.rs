//! `Idempotency-Key`: a request that is sent again with its key is done once, and answered the same. Knows no endpoint.
//!
//! The key is reserved in `control.db` before anything is done and holds for a day, for whoever sent it. While a request
//! runs, the same one waits for its end; it also runs on when its client hangs up. A success, and a refusal that only
//! another request or machine would change, are kept and given again. What may go better the next time (the store does
//! not answer, a deadline passed) is not kept: the same key tries again.
//!
//! A sidecar that is killed in the middle leaves a reservation without an answer. The next request with the key runs the
//! work again and tells it so ([`Attempt::is_again`]), with the id of the first time: work that names what it makes by
//! this id finds what is there already, and makes nothing twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::auth::Identity;
use super::host::Clock;
use super::store::{Reserved, Store};
use crate::error::{Advice, ApiError, ErrorBody};

/// The header with the key.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key.
const KEY_MAX: usize = 255;
/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest answer that is kept, in bytes of JSON; those of the endpoints that use this are far smaller.
const ANSWER_MAX: usize = 256 * 1024;
/// Most requests with a key that run at the same time.
const RUNNING_MAX: usize = 256;

/// A request with a key: who asks, with which key, for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    asker: String,
    key: String,
    request: [u8; 32],
}

impl Asked {
    /// What `headers` say of the request `body` to `endpoint`; `None` when it has no key. Only a digest of it is kept, because
    /// there may be keys of buckets in it.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] for a key that is none.
    pub(super) fn of(
        headers: &HeaderMap,
        identity: &Identity,
        endpoint: &str,
        body: &impl Serialize,
    ) -> Result<Option<Self>, ApiError> {
        let mut values = headers.get_all(KEY).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let key = value.to_str().ok().filter(|key| {
            (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let (Some(key), None) = (key, values.next()) else {
            return Err(ApiError::InvalidRequest(format!(
                "Idempotency-Key takes 1 to {KEY_MAX} visible ASCII characters, once; a UUID, for example"
            )));
        };
        let body = serde_json::to_vec(body).map_err(|error| broken(&error))?;
        let mut request = Sha256::new();
        request.update(endpoint.as_bytes());
        request.update([0]);
        request.update(&body);
        Ok(Some(Self {
            asker: identity.asker(),
            key: key.to_owned(),
            request: request.finalize().into(),
        }))
    }

    fn slot(&self) -> Slot {
        (self.asker.clone(), self.key.clone())
    }

    /// Names this request among all that ever were: the same key a day later is another one.
    fn id(&self, now_ms: u64) -> String {
        let mut name = Sha256::new();
        for part in [
            self.asker.as_bytes(),
            self.key.as_bytes(),
            &now_ms.to_be_bytes(),
        ] {
            name.update((part.len() as u64).to_be_bytes());
            name.update(part);
        }
        let name: [u8; 32] = name.finalize().into();
        name.iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// One go at the work of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The same at every attempt of the request, and no other's: to name what it makes.
    pub(super) id: String,
    /// A former attempt ended nobody knows where: what it made may be there.
    pub(super) is_again: bool,
}

/// The answer to a request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered<T> {
    pub(super) value: T,
    /// Whether it was given before.
    pub(super) is_replayed: bool,
}

impl<T> Answered<T> {
    /// An answer that is given for the first time.
    pub(super) fn now(value: T) -> Self {
        Self {
            value,
            is_replayed: false,
        }
    }
}

impl<T: Serialize> IntoResponse for Answered<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.value).into_response();
        if self.is_replayed {
            let headers = response.headers_mut();
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// An answer as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Done(serde_json::Value),
    Refused(ErrorBody),
}

type Slot = (String, String);
type Outcome = Result<Answered<serde_json::Value>, ApiError>;

/// A request that is being done.
struct Running {
    request: [u8; 32],
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Does requests once; clones are the same.
#[derive(Clone)]
pub(super) struct Idempotency(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    running: Mutex<HashMap<Slot, Running>>,
}

impl Idempotency {
    /// Answers are kept in `store`.
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            running: Mutex::default(),
        }))
    }

    /// Does `work`, which has a deadline of its own, unless it was done already. It goes on when nobody waits for it
    /// any more.
    ///
    /// # Errors
    /// What `work` says, or said the first time. [`ApiError::KeyReused`] when the key belongs to another request,
    /// [`ApiError::DatabaseUnavailable`] when the key cannot be reserved: nothing is done then.
    pub(super) async fn run<T, W>(
        &self,
        asked: Asked,
        work: impl FnOnce(Attempt) -> W + Send + 'static,
    ) -> Result<Answered<T>, ApiError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        W: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let (mut outcome, is_first) = self.join(asked, work)?;
        let told = outcome.wait_for(Option::is_some).await;
        let told = told.ok().and_then(|told| told.clone());
        let told = told.unwrap_or_else(|| Err(broke_down()))?;
        Ok(Answered {
            value: serde_json::from_value(told.value).map_err(|error| broken(&error))?,
            is_replayed: told.is_replayed || !is_first,
        })
    }

    /// Waits with those that wait already, or begins; the flag says which.
    fn join<T, W>(
        &self,
        asked: Asked,
        work: impl FnOnce(Attempt) -> W + Send + 'static,
    ) -> Result<(watch::Receiver<Option<Outcome>>, bool), ApiError>
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let slot = asked.slot();
        let mut running = self.0.running.lock();
        if let Some(same) = running.get(&slot) {
            return match same.request == asked.request {
                true => Ok((same.outcome.clone(), false)),
                false => Err(reused()),
            };
        }
        if running.len() >= RUNNING_MAX {
            return Err(ApiError::RateLimited {
                message: "too many requests with a key are under way; wait for some of them".into(),
                retry_after_s: 1,
            });
        }
        let (tell, outcome) = watch::channel(None);
        let entry = Running {
            request: asked.request,
            outcome: outcome.clone(),
        };
        running.insert(slot.clone(), entry);
        drop(running);
        let inner = Arc::clone(&self.0);
        let place = Place {
            inner: Arc::clone(&inner),
            slot,
        };
        tokio::spawn(async move {
            let done = inner.once(&asked, work).await;
            // Whoever comes from now on finds the row.
            drop(place);
            tell.send_replace(Some(done));
        });
        Ok((outcome, true))
    }
}

impl Inner {
    async fn once<T: Serialize, W: Future<Output = Result<T, ApiError>>>(
        &self,
        asked: &Asked,
        work: impl FnOnce(Attempt) -> W,
    ) -> Outcome {
        let now_ms = self.clock.now_ms();
        let oldest_ms =
            now_ms.saturating_sub(u64::try_from(KEPT_FOR.as_millis()).unwrap_or(u64::MAX));
        let id = asked.id(now_ms);
        let (asker, key) = (&asked.asker, &asked.key);
        let reserving =
            self.store
                .reserve_answer(asker, key, asked.request, id.clone(), now_ms, oldest_ms);
        let attempt = match reserving.await? {
            Reserved::New => Attempt {
                id,
                is_again: false,
            },
            Reserved::Begun { id } => Attempt { id, is_again: true },
            Reserved::Other => return Err(reused()),
            Reserved::Answered(text) => return given_again(&text),
        };
        let done = match work(attempt).await {
            Ok(value) => serde_json::to_value(value).map_err(|error| broken(&error)),
            Err(error) => Err(error),
        };
        let kept = match &done {
            Ok(value) => Kept::Done(value.clone()),
            Err(error) if error.advice() == Advice::Fix => Kept::Refused(error.body("")),
            Err(_) => return done.map(Answered::now),
        };
        let text = serde_json::to_string(&kept).map_err(|error| broken(&error))?;
        if text.len() > ANSWER_MAX {
            tracing::warn!(bytes = text.len(), "an answer is too long to be kept");
        } else if let Err(error) = self.store.keep_answer(asker, key, text).await {
            // It is done all the same; the same key will be told that it was begun.
            tracing::warn!(%error, "an answer could not be kept");
        }
        done.map(Answered::now)
    }
}

/// A key that is in use, until this goes: also when the work breaks down.
struct Place {
    inner: Arc<Inner>,
    slot: Slot,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.running.lock().remove(&self.slot);
    }
}

/// The answer that was kept as `text`.
fn given_again(text: &str) -> Outcome {
    match serde_json::from_str::<Kept>(text).map_err(|error| broken(&error))? {
        Kept::Done(value) => Ok(Answered {
            value,
            is_replayed: true,
        }),
        Kept::Refused(body) => Err(ApiError::from_body(body)),
    }
}

fn reused() -> ApiError {
    ApiError::KeyReused(
        "this Idempotency-Key came with another request before; send a new key with a new request"
            .into(),
    )
}

fn broken(error: &serde_json::Error) -> ApiError {
    tracing::error!(%error, "an answer cannot be written or read");
    ApiError::Internal("the answer cannot be given; the sidecar's log says why".into())
}

fn broke_down() -> ApiError {
    ApiError::Internal("the request broke down; the sidecar's log says why".into())
}

#[cfg(test)]
mod tests;
