use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::super::branches::{VolumeBranchDrop, VolumeBranchRequest};
use super::super::snapshots::{
    CloneRequest, DiffRequest, DifferenceInfo, RemoveRequest, SnapshotRequest,
    SnapshotRestoreRequest,
};
use super::super::trash::{
    TrashEmptyRequest, TrashEntryInfo, TrashListRequest, TrashRestoreRequest,
};
use super::*;
use crate::error::ErrorBody;
use crate::socket::bind_volume_socket;
use crate::volume::VolumeClient;

/// Answers from fixed values; a sync shorter than a second runs into its deadline.
struct FixedVolume;

#[async_trait]
impl VolumeApi for FixedVolume {
    async fn status(&self) -> Result<VolumeStatus, ApiError> {
        Ok(VolumeStatus {
            pid: 42,
            inodes: 7,
            ..VolumeStatus::default()
        })
    }

    async fn sync(&self, deadline: Duration) -> Result<SyncReport, ApiError> {
        if deadline < Duration::from_secs(1) {
            return Err(ApiError::DeadlineExceeded("3 records are left".into()));
        }
        Ok(SyncReport {
            in_store_lsn: 9,
            waited_ms: 1,
        })
    }

    async fn drop_caches(&self) -> Result<DropReport, ApiError> {
        Err(ApiError::Internal("broken".into()))
    }

    async fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError> {
        let mut report = GcReport::default();
        report.marked.objects = u64::from(dry_run);
        Ok(report)
    }

    async fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        Ok(SnapshotList {
            snapshots: vec![SnapshotInfo::default()],
        })
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        Ok(SnapshotInfo {
            name: request.name.unwrap_or_else(|| "now".into()),
            note: request.note,
            ..SnapshotInfo::default()
        })
    }

    async fn remove_snapshot(&self, request: RemoveRequest) -> Result<RemoveReport, ApiError> {
        Err(ApiError::InvalidRequest(format!("no {}", request.name)))
    }

    async fn diff(&self, request: DiffRequest) -> Result<DiffReport, ApiError> {
        let differences = vec![DifferenceInfo {
            path: format!("{}/{}", request.path, request.older),
            from: request.newer,
            ..DifferenceInfo::default()
        }];
        Ok(DiffReport {
            differences,
            left_out: 3,
        })
    }

    async fn restore(
        &self,
        request: SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        Ok(SnapshotRestoreReport {
            safety: None,
            names: request.path.len() as u64,
            late_writes: 0,
        })
    }

    async fn clone_tree(&self, request: CloneRequest) -> Result<CloneReport, ApiError> {
        Ok(CloneReport {
            ino: (request.from.len() + request.to.len()) as u64,
        })
    }

    async fn branches(&self) -> Result<VolumeBranches, ApiError> {
        Ok(VolumeBranches {
            names: vec!["b".into()],
        })
    }

    async fn branch(&self, request: VolumeBranchRequest) -> Result<VolumeBranch, ApiError> {
        Ok(VolumeBranch {
            path: format!("{}/{}", request.project, request.name),
            is_new: true,
        })
    }

    async fn drop_branch(&self, request: VolumeBranchDrop) -> Result<DropReport, ApiError> {
        Err(ApiError::InvalidRequest(format!("no {}", request.name)))
    }

    async fn trash(&self, request: TrashListRequest) -> Result<TrashList, ApiError> {
        let (path, path_base64) = (request.path, request.path_base64);
        Ok(TrashList {
            entries: vec![TrashEntryInfo {
                path,
                path_base64,
                ..TrashEntryInfo::default()
            }],
            left_out: 2,
        })
    }

    async fn restore_trash(
        &self,
        request: TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError> {
        match (request.to, request.at_ms) {
            (Some(to), _) => Err(ApiError::InvalidRequest(format!("{to} is there"))),
            (None, at_ms) => Ok(TrashRestoreReport {
                names: request.path.len() as u64,
                deleted_ms: at_ms.unwrap_or(0),
            }),
        }
    }

    async fn empty_trash(&self, request: TrashEmptyRequest) -> Result<TrashEmptyReport, ApiError> {
        Ok(TrashEmptyReport {
            names: request.older_than_ms.unwrap_or(1),
            bytes: 5,
        })
    }

    async fn set_budget(&self, budget: BudgetRequest) -> Result<BudgetReport, ApiError> {
        Ok(BudgetReport {
            cache_bytes: budget.cache_bytes.unwrap_or(1),
            frame_cache_bytes: budget.frame_cache_bytes.unwrap_or(2),
        })
    }
}

struct Running {
    path: std::path::PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume.sock");
    let listener = bind_volume_socket(&path).unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve_volume(listener, Arc::new(FixedVolume), async {
        drop(stopped.await)
    }));
    Running {
        path,
        stop: Some(stop),
        task,
        _dir: dir,
    }
}

/// Sends `request` as it is and returns the status and the error of the answer.
async fn raw(path: &std::path::Path, request: &str) -> (u16, ErrorBody) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body: ErrorBody =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"));
    let id_line = format!("x-request-id: {}", body.request_id);
    assert!(head.contains(&id_line), "{head} lacks {id_line}");
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    (status, body)
}

fn post(path: &str, kind: &str, body: &str) -> String {
    send("POST", path, kind, body)
}

fn put(path: &str, kind: &str, body: &str) -> String {
    send("PUT", path, kind, body)
}

fn send(method: &str, path: &str, kind: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: v\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn client_and_server_understand_each_other() {
    let running = start();
    let client = VolumeClient::new(&running.path);
    let status = client.status().await.unwrap();
    assert_eq!((status.pid, status.inodes), (42, 7));
    assert_eq!(client.sync(None).await.unwrap().in_store_lsn, 9);
    let budget = BudgetRequest {
        cache_bytes: Some(1 << 30),
        frame_cache_bytes: None,
    };
    let report = client.set_budget(budget).await.unwrap();
    assert_eq!((report.cache_bytes, report.frame_cache_bytes), (1 << 30, 2));
    let error = client
        .sync(Some(Duration::from_millis(5)))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ApiError::DeadlineExceeded("3 records are left".into())
    );
    let error = client.drop_caches().await.unwrap_err();
    assert!(
        matches!(&error, ApiError::Internal(text) if text.contains("broken (request r-")),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_requests_get_the_one_shape_of_an_error() {
    let running = start();
    let json = "application/json";
    let large = format!("{{\"deadline_ms\":{}}}", " ".repeat(BODY_MAX));
    let cases = [
        (
            "GET /v1/nothing HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n".to_owned(),
            404,
            "not_found",
        ),
        (
            "GET /v2/status HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n".to_owned(),
            404,
            "not_found",
        ),
        (
            "PUT /v1/status HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
        ),
        (
            post("/v1/sync", json, "{\"deadline\":5}"),
            400,
            "invalid_request",
        ),
        (
            post("/v1/sync", json, "{\"deadline_ms\":0}"),
            400,
            "invalid_request",
        ),
        (post("/v1/sync", json, "{"), 400, "invalid_request"),
        (
            post("/v1/drop-caches", json, "{\"all\":true}"),
            400,
            "invalid_request",
        ),
        (
            post("/v1/sync", "text/plain", "{}"),
            415,
            "unsupported_media_type",
        ),
        (post("/v1/sync", json, &large), 413, "too_large"),
        (post("/v1/budget", json, "{}"), 405, "method_not_allowed"),
        (
            put("/v1/budget", json, "{\"cache_bytes\":1}"),
            400,
            "invalid_request",
        ),
        (
            put("/v1/budget", json, "{\"cache\":1}"),
            400,
            "invalid_request",
        ),
    ];
    for (request, status, code) in cases {
        let (got, body) = raw(&running.path, &request).await;
        assert_eq!(
            (got, body.code.as_str()),
            (status, code),
            "{request:.80}: {}",
            body.message
        );
    }
}

#[tokio::test]
async fn an_unknown_field_is_named_in_the_answer() {
    let running = start();
    let (_, body) = raw(
        &running.path,
        &post("/v1/sync", "application/json", "{\"deadline\":5}"),
    )
    .await;
    assert!(
        body.message.contains("`deadline`") && body.message.contains("`deadline_ms`"),
        "{}",
        body.message
    );
}

#[tokio::test]
async fn an_empty_body_means_the_defaults() {
    let running = start();
    let request = "POST /v1/drop-caches HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(&running.path, request).await.1.code, "internal");
}

#[tokio::test]
async fn a_head_too_large_is_refused_and_the_server_goes_on() {
    let running = start();
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    let request = format!(
        "GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n",
        "a".repeat(HEAD_MAX)
    );
    // The server may close before all is written; its answer is what counts.
    drop(stream.write_all(request.as_bytes()).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(
        VolumeClient::new(&running.path).status().await.unwrap().pid,
        42
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_arrives_times_out() {
    let running = start();
    let head = "POST /v1/sync HTTP/1.1\r\nhost: v\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let (status, body) = raw(&running.path, head).await;
    assert_eq!((status, body.code.as_str()), (504, "deadline_exceeded"));
}

#[tokio::test]
async fn more_connections_than_slots_are_served_in_turn() {
    let running = start();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(UnixStream::connect(&running.path).await.unwrap());
    }
    let client = VolumeClient::new(&running.path);
    let waiting = tokio::spawn(async move { client.status().await });
    tokio::task::yield_now().await;
    idle.pop();
    assert_eq!(waiting.await.unwrap().unwrap().pid, 42);
}

#[tokio::test]
async fn stopping_closes_the_socket_and_ends_the_server() {
    let mut running = start();
    let client = VolumeClient::new(&running.path);
    client.status().await.unwrap();
    let idle = UnixStream::connect(&running.path).await.unwrap();
    running.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(STOP_GRACE * 5, &mut running.task)
        .await
        .expect("the server ends")
        .unwrap();
    assert!(matches!(
        client.status().await,
        Err(ApiError::Unreachable(_))
    ));
    drop(idle);
}

#[tokio::test]
async fn what_is_asked_about_snapshots_arrives_and_so_does_the_answer() {
    let running = start();
    let client = VolumeClient::new(&running.path);
    assert_eq!(client.snapshots().await.unwrap().snapshots.len(), 1);
    let named = SnapshotRequest {
        name: Some("x".into()),
        note: "why".into(),
        ..SnapshotRequest::default()
    };
    let made = client.snapshot(&named).await.unwrap();
    assert_eq!((made.name.as_str(), made.note.as_str()), ("x", "why"));
    let made = client.snapshot(&SnapshotRequest::default()).await.unwrap();
    assert_eq!(made.name, "now");
    let gone = RemoveRequest { name: "y".into() };
    let refused = client.remove_snapshot(&gone).await.unwrap_err();
    assert_eq!(refused, ApiError::InvalidRequest("no y".into()));
    let asked = DiffRequest {
        older: "a".into(),
        newer: Some("b".into()),
        path: "p".into(),
        ..DiffRequest::default()
    };
    let found = client.diff(&asked).await.unwrap();
    let first = &found.differences[0];
    assert_eq!(
        (first.path.as_str(), first.from.as_deref()),
        ("p/a", Some("b"))
    );
    assert_eq!(found.left_out, 3);
    let asked = SnapshotRestoreRequest {
        name: "x".into(),
        path: "abc".into(),
        ..SnapshotRestoreRequest::default()
    };
    assert_eq!(client.restore(&asked).await.unwrap().names, 3);
    let asked = CloneRequest {
        from: "ab".into(),
        to: "cde".into(),
        ..CloneRequest::default()
    };
    assert_eq!(client.clone_tree(&asked).await.unwrap().ino, 5);
}
