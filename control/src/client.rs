//! The client of the volume API: one request per connection over the volume's socket, every wait with a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    API_VERSION, DropRequest, GC_DEADLINE, GcRequest, SYNC_DEADLINE_DEFAULT, SyncRequest,
};
use crate::error::{ApiError, ErrorBody};
use crate::snapshots::{
    CloneReport, CloneRequest, DiffReport, DiffRequest, RemoveReport, RemoveRequest,
    SNAPSHOT_DEADLINE, SnapshotInfo, SnapshotList, SnapshotRequest, SnapshotRestoreReport,
    SnapshotRestoreRequest,
};
use crate::socket::connect_volume_socket;
use crate::status::{DropReport, GcReport, SyncReport, VolumeStatus};

/// Most bytes of an answer: 100,000 differences with long paths.
const ANSWER_MAX: usize = 128 * 1024 * 1024;
/// How long a volume may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take; a little longer than the volume's own limit, so that its message wins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// How much longer than its deadline a sync may take to answer, for the same reason.
const SYNC_MARGIN: Duration = Duration::from_secs(10);

/// A volume, reached over its socket.
#[derive(Debug, Clone)]
pub struct VolumeClient {
    socket: PathBuf,
}

impl VolumeClient {
    /// A client of the volume that listens on `socket`. Nothing is sent before the first call.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// What the volume says about itself.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn status(&self) -> Result<VolumeStatus, ApiError> {
        self.ask(Method::GET, "status", None::<&()>, ANSWER_TIMEOUT)
            .await
    }

    /// Waits until everything acknowledged before the call can be restored from the store alone.
    ///
    /// # Errors
    /// [`ApiError::DeadlineExceeded`] with what is left when `deadline` (default: ten minutes) passes first.
    pub async fn sync(&self, deadline: Option<Duration>) -> Result<SyncReport, ApiError> {
        let deadline_ms =
            deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        let limit = deadline
            .unwrap_or(SYNC_DEADLINE_DEFAULT)
            .saturating_add(SYNC_MARGIN);
        self.ask(
            Method::POST,
            "sync",
            Some(&SyncRequest { deadline_ms }),
            limit,
        )
        .await
    }

    /// Empties the volume's local caches of file content.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn drop_caches(&self) -> Result<DropReport, ApiError> {
        self.ask(
            Method::POST,
            "drop-caches",
            Some(&DropRequest {}),
            ANSWER_TIMEOUT,
        )
        .await
    }

    /// Collects garbage, or tells what it would do.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError> {
        let request = GcRequest { dry_run };
        self.ask(Method::POST, "gc", Some(&request), GC_DEADLINE)
            .await
    }

    /// All snapshots.
    ///
    /// # Errors
    /// As all of these: [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        self.ask(Method::GET, "snapshots", None::<&()>, ANSWER_TIMEOUT)
            .await
    }

    /// Makes a snapshot.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        self.ask_long("snapshots", request).await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn remove_snapshot(&self, request: &RemoveRequest) -> Result<RemoveReport, ApiError> {
        self.ask_long("snapshots/remove", request).await
    }

    /// What differs between a snapshot and a newer one, or the present.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn diff(&self, request: &DiffRequest) -> Result<DiffReport, ApiError> {
        self.ask_long("snapshots/diff", request).await
    }

    /// Brings back what a snapshot has.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn restore(
        &self,
        request: &SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        self.ask_long("snapshots/restore", request).await
    }

    /// Copies a directory without copying its content.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn clone_tree(&self, request: &CloneRequest) -> Result<CloneReport, ApiError> {
        self.ask_long("clone", request).await
    }

    async fn ask_long<A: DeserializeOwned>(
        &self,
        name: &str,
        body: &impl Serialize,
    ) -> Result<A, ApiError> {
        let limit = SNAPSHOT_DEADLINE.saturating_add(SYNC_MARGIN);
        self.ask(Method::POST, name, Some(body), limit).await
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        name: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<A, ApiError> {
        let request = request(method, name, body)?;
        let (status, answer) = tokio::time::timeout(limit, self.exchange(request)).await.map_err(|_| {
            ApiError::DeadlineExceeded(format!(
                "the volume did not answer {name} within {} s; its process may be stopped or overloaded",
                limit.as_secs()
            ))
        })??;
        understand(status, &answer)
    }

    /// Sends one request on a connection of its own and reads the answer whole.
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            ApiError::Unreachable(format!(
                "no volume answers on {}: {error}",
                self.socket.display()
            ))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect_volume_socket(&self.socket))
            .await
            .map_err(|_| unreachable(&"it does not accept connections"))?
            .map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        let exchange = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| lost(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| {
                ApiError::BadAnswer(format!("the volume's answer broke off: {error}"))
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection has to be driven beside the exchange; when it ends first, the exchange fails by itself.
        tokio::pin!(exchange);
        tokio::select! {
            result = &mut exchange => result,
            _ = connection => exchange.await,
        }
    }
}

fn lost(error: &hyper::Error) -> ApiError {
    ApiError::ShuttingDown(format!(
        "the volume closed the connection before it answered: {error}"
    ))
}

fn request(
    method: Method,
    name: &str,
    body: Option<&impl Serialize>,
) -> Result<Request<Full<Bytes>>, ApiError> {
    let refused = |error: &dyn std::fmt::Display| {
        ApiError::InvalidRequest(format!("cannot send {name}: {error}"))
    };
    let body = body
        .map(serde_json::to_vec)
        .transpose()
        .map_err(|error| refused(&error))?
        .unwrap_or_default();
    Request::builder()
        .method(method)
        .uri(format!("/v{API_VERSION}/{name}"))
        .header(header::HOST, "volume")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| refused(&error))
}

fn understand<A: DeserializeOwned>(status: StatusCode, answer: &[u8]) -> Result<A, ApiError> {
    if status.is_success() {
        return serde_json::from_slice(answer).map_err(|error| {
            ApiError::BadAnswer(format!("the volume's answer is not understood: {error}"))
        });
    }
    match serde_json::from_slice::<ErrorBody>(answer) {
        Ok(body) => Err(ApiError::from_body(body)),
        Err(_) => Err(ApiError::BadAnswer(format!(
            "the volume answered {status} without saying why"
        ))),
    }
}

/// [`VolumeClient`] for callers without a runtime, like the command line.
#[derive(Debug)]
pub struct BlockingVolumeClient {
    client: VolumeClient,
    runtime: tokio::runtime::Runtime,
}

impl BlockingVolumeClient {
    /// A client of the volume that listens on `socket`.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the machine gives no event queue.
    pub fn new(socket: &Path) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ApiError::Internal(format!("cannot start a runtime: {error}")))?;
        Ok(Self {
            client: VolumeClient::new(socket),
            runtime,
        })
    }

    /// See [`VolumeClient::status`].
    ///
    /// # Errors
    /// The same.
    pub fn status(&self) -> Result<VolumeStatus, ApiError> {
        self.runtime.block_on(self.client.status())
    }

    /// See [`VolumeClient::sync`].
    ///
    /// # Errors
    /// The same.
    pub fn sync(&self, deadline: Option<Duration>) -> Result<SyncReport, ApiError> {
        self.runtime.block_on(self.client.sync(deadline))
    }

    /// See [`VolumeClient::drop_caches`].
    ///
    /// # Errors
    /// The same.
    pub fn drop_caches(&self) -> Result<DropReport, ApiError> {
        self.runtime.block_on(self.client.drop_caches())
    }

    /// See [`VolumeClient::gc`].
    ///
    /// # Errors
    /// The same.
    pub fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError> {
        self.runtime.block_on(self.client.gc(dry_run))
    }

    /// See [`VolumeClient::snapshots`].
    ///
    /// # Errors
    /// The same.
    pub fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        self.runtime.block_on(self.client.snapshots())
    }

    /// See [`VolumeClient::snapshot`].
    ///
    /// # Errors
    /// The same.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        self.runtime.block_on(self.client.snapshot(request))
    }

    /// See [`VolumeClient::remove_snapshot`].
    ///
    /// # Errors
    /// The same.
    pub fn remove_snapshot(&self, request: &RemoveRequest) -> Result<RemoveReport, ApiError> {
        self.runtime.block_on(self.client.remove_snapshot(request))
    }

    /// See [`VolumeClient::diff`].
    ///
    /// # Errors
    /// The same.
    pub fn diff(&self, request: &DiffRequest) -> Result<DiffReport, ApiError> {
        self.runtime.block_on(self.client.diff(request))
    }

    /// See [`VolumeClient::restore`].
    ///
    /// # Errors
    /// The same.
    pub fn restore(
        &self,
        request: &SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        self.runtime.block_on(self.client.restore(request))
    }

    /// See [`VolumeClient::clone_tree`].
    ///
    /// # Errors
    /// The same.
    pub fn clone_tree(&self, request: &CloneRequest) -> Result<CloneReport, ApiError> {
        self.runtime.block_on(self.client.clone_tree(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_version_is_read_as_far_as_it_is_known() {
        let answer = br#"{"api_version":1,"pid":7,"lsn":{"acknowledged":9,"newer":1},"something_new":{"a":[]}}"#;
        let status: VolumeStatus = understand(StatusCode::OK, answer).unwrap();
        assert_eq!(
            (status.pid, status.lsn.acknowledged, status.used_bytes),
            (7, 9, 0)
        );
    }

    #[test]
    fn an_error_without_our_shape_is_a_bad_answer() {
        let error = understand::<VolumeStatus>(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
        assert!(
            matches!(&error, ApiError::BadAnswer(text) if text.contains("502")),
            "{error}"
        );
        let error = understand::<VolumeStatus>(StatusCode::OK, b"[1").unwrap_err();
        assert!(matches!(error, ApiError::BadAnswer(_)), "{error}");
    }

    #[test]
    fn nobody_listening_is_unreachable_and_names_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume.sock");
        let error = BlockingVolumeClient::new(&path)
            .unwrap()
            .status()
            .unwrap_err();
        assert!(
            matches!(&error, ApiError::Unreachable(text) if text.contains("volume.sock")),
            "{error}"
        );
    }
}
