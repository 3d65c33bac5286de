//! One request over a Unix socket, on a connection of its own, every wait with a deadline.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ErrorBody};
use crate::socket::connect;

/// Most bytes of an answer.
const ANSWER_MAX: usize = 128 * 1024 * 1024;
/// Longest line of a streamed answer.
const LINE_MAX: usize = 1024 * 1024;
/// Longest silence of a streamed answer; servers send something more often than that.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the other side may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The other side: where it listens and what it is called in messages.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    socket: PathBuf,
    /// Like `volume`: "no volume answers on ...".
    peer: &'static str,
}

impl Exchange {
    /// Nothing is sent before the first request.
    pub(crate) fn new(socket: impl Into<PathBuf>, peer: &'static str) -> Self {
        Self {
            socket: socket.into(),
            peer,
        }
    }

    /// Sends one request and understands the whole answer.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nobody listens, [`ApiError::DeadlineExceeded`] after `limit`, else what was
    /// answered.
    pub(crate) async fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<A, ApiError> {
        let request = self.request(method, path, body)?;
        let (status, answer) = self.within(path, limit, self.whole(request)).await?;
        self.understand(status, &answer)
    }

    /// Sends one request and hands out the lines of its answer as they come; a GET without a body, else a POST.
    ///
    /// # Errors
    /// As [`Exchange::ask`]; `limit` holds until the answer begins.
    pub(crate) async fn stream(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
        headers: &[(&'static str, String)],
        limit: Duration,
    ) -> Result<Streamed, ApiError> {
        let method = if body.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let mut request = self.request(method, path, body)?;
        for (name, value) in headers {
            let value = value
                .parse()
                .map_err(|_| ApiError::InvalidRequest(format!("{name} cannot be {value:?}")))?;
            request.headers_mut().insert(*name, value);
        }
        let begun = async {
            let (answer, driver) = self.begin(request).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(Streamed {
                    body: answer.into_body(),
                    rest: BytesMut::new(),
                    driver,
                });
            }
            let body = self.collect(answer.into_body()).await?;
            driver.abort();
            Err(match self.understand::<()>(status, &body) {
                Err(error) => error,
                Ok(()) => ApiError::BadAnswer("an error without a reason".into()),
            })
        };
        self.within(path, limit, begun).await
    }

    async fn within<T>(
        &self,
        path: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        tokio::time::timeout(limit, work).await.map_err(|_| {
            ApiError::DeadlineExceeded(format!(
                "the {} did not answer {path} within {} s; its process may be stopped or overloaded",
                self.peer,
                limit.as_secs()
            ))
        })?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let refused = |error: &dyn std::fmt::Display| {
            ApiError::InvalidRequest(format!("cannot send {path}: {error}"))
        };
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| refused(&error))?
            .unwrap_or_default();
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.peer)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(&error))
    }

    /// Sends one request and reads the answer whole.
    async fn whole(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ApiError> {
        let (answer, driver) = self.begin(request).await?;
        let status = answer.status();
        let body = self.collect(answer.into_body()).await;
        driver.abort();
        Ok((status, body?))
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ApiError> {
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| {
            ApiError::BadAnswer(format!("the {}'s answer broke off: {error}", self.peer))
        })?;
        Ok(body.to_bytes())
    }

    /// Connects, sends, and returns once the answer's head is there. The task drives the connection.
    async fn begin(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, tokio::task::JoinHandle<()>), ApiError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            ApiError::Unreachable(format!(
                "no {} answers on {}: {error}",
                self.peer,
                self.socket.display()
            ))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.socket))
            .await
            .map_err(|_| unreachable(&"it does not accept connections"))?
            .map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        let driver = tokio::spawn(async move {
            // When it ends early, the exchange fails by itself and says so.
            drop(connection.await);
        });
        let answer = sender.send_request(request).await.map_err(|error| {
            ApiError::ShuttingDown(format!(
                "the {} closed the connection before it answered: {error}",
                self.peer
            ))
        })?;
        Ok((answer, driver))
    }

    fn understand<A: DeserializeOwned>(
        &self,
        status: StatusCode,
        answer: &[u8],
    ) -> Result<A, ApiError> {
        if status.is_success() {
            return serde_json::from_slice(answer).map_err(|error| {
                ApiError::BadAnswer(format!(
                    "the {}'s answer is not understood: {error}",
                    self.peer
                ))
            });
        }
        match serde_json::from_slice::<ErrorBody>(answer) {
            Ok(body) => Err(ApiError::from_body(body)),
            Err(_) => Err(ApiError::BadAnswer(format!(
                "the {} answered {status} without saying why",
                self.peer
            ))),
        }
    }
}

/// An answer that comes line by line for as long as the other side likes.
#[derive(Debug)]
pub(crate) struct Streamed {
    body: Incoming,
    rest: BytesMut,
    driver: tokio::task::JoinHandle<()>,
}

impl Streamed {
    /// The next line without its end; `None` when the other side is done.
    ///
    /// # Errors
    /// [`ApiError::BadAnswer`] when it breaks off or a line is too long.
    pub(crate) async fn line(&mut self) -> Result<Option<String>, ApiError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                return Ok(Some(line.trim_end_matches('\r').to_owned()));
            }
            if self.rest.len() > LINE_MAX {
                return Err(ApiError::BadAnswer(
                    "a line of the answer is too long".into(),
                ));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| {
                ApiError::DeadlineExceeded(format!(
                    "nothing was heard for {} s; the other side may be stopped",
                    SILENCE_MAX.as_secs()
                ))
            })?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                ApiError::ShuttingDown(format!("the answer broke off: {error}"))
            })?;
            if let Some(data) = frame.data_ref() {
                self.rest.extend_from_slice(data);
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::VolumeStatus;

    #[test]
    fn an_answer_of_another_version_is_read_as_far_as_it_is_known() {
        let exchange = Exchange::new("/s", "volume");
        let answer = br#"{"api_version":1,"pid":7,"lsn":{"acknowledged":9,"newer":1},"something_new":{"a":[]}}"#;
        let status: VolumeStatus = exchange.understand(StatusCode::OK, answer).unwrap();
        assert_eq!(
            (status.pid, status.lsn.acknowledged, status.used_bytes),
            (7, 9, 0)
        );
    }

    #[test]
    fn an_error_without_our_shape_is_a_bad_answer() {
        let exchange = Exchange::new("/s", "volume");
        let error = exchange
            .understand::<VolumeStatus>(StatusCode::BAD_GATEWAY, b"<html>")
            .unwrap_err();
        assert!(
            matches!(&error, ApiError::BadAnswer(text) if text.contains("502")),
            "{error}"
        );
        let error = exchange
            .understand::<VolumeStatus>(StatusCode::OK, b"[1")
            .unwrap_err();
        assert!(matches!(error, ApiError::BadAnswer(_)), "{error}");
    }
}
