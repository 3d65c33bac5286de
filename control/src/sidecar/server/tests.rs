use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::super::auth::{AuthSettings, TokenFile};
use super::super::host::{Ending, WallClock};
use super::super::kept_socket::SOCKET_MODE;
use super::super::limits::Rates;
use super::super::previews::{PreviewPorts, PreviewSettings};
use super::super::sandboxing::SandboxSettings;
use super::super::settings::{MOUNTS_MAX, TOKENS_NAME};
use super::super::testing::{FakeHost, NoSandboxes, PATIENCE};
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ORIGIN: &str = "http://localhost:3000";

struct Running {
    host: Arc<FakeHost>,
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), StartError>>,
}

fn settings(host: &FakeHost, tcp: bool) -> Settings {
    let folder = host.folder();
    Settings {
        previews: PreviewSettings {
            ports: PreviewPorts {
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                first: 3000,
                last: 3019,
            },
            allowed: Vec::new(),
        },
        folder: folder.join("control"),
        run_dir: folder.join("run"),
        socket: folder.join("run/control.sock"),
        group: None,
        listen: tcp.then(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        auth: AuthSettings {
            token_file: folder.join("control").join(TOKENS_NAME),
            session_secret: tcp.then(|| SECRET.to_owned()),
            jwks_file: None,
        },
        origins: vec![ORIGIN.to_owned()],
        rates: Rates {
            all: NonZeroU32::new(10_000).unwrap(),
            token: NonZeroU32::new(10_000).unwrap(),
            authentication: NonZeroU32::new(10_000).unwrap(),
        },
        mounts_max: MOUNTS_MAX,
        workspace: PathBuf::from("/workspace"),
        keep_credentials: true,
        sandboxes: SandboxSettings::example(),
    }
}

/// Starts a sidecar. One that has just ended may hold its folder a moment longer, until its last work is done.
async fn run(host: Arc<FakeHost>, settings: Settings) -> Running {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt(host.clone(), settings.clone()).await {
            Ok(running) => return running,
            Err(StartError::FolderInUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn attempt(host: Arc<FakeHost>, settings: Settings) -> Result<Running, StartError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, told) = oneshot::channel();
    let socket = settings.socket.clone();
    let machine = host.clone();
    let task = tokio::spawn(async move {
        let ready = |listening: &Listening| drop(ready.send(listening.clone()));
        let sandboxes = Arc::new(NoSandboxes);
        serve_control(
            settings,
            machine,
            sandboxes,
            Arc::new(WallClock),
            ready,
            async { drop(stopped.await) },
        )
        .await
    });
    match told.await {
        Ok(listening) => Ok(Running {
            host,
            socket,
            tcp: listening.tcp,
            stop,
            task,
        }),
        Err(_) => Err(task.await.unwrap().unwrap_err()),
    }
}

async fn start(tcp: bool) -> Running {
    let host = FakeHost::new();
    let settings = settings(&host, tcp);
    run(host, settings).await
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// It is an error in the one shape.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        assert_eq!(body["request_id"], self.headers["x-request-id"].as_str());
        assert!(self.headers["content-type"].starts_with("application/json"));
        body["message"].as_str().unwrap().to_owned()
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("it answers")
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: body.to_owned(),
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const JSON: (&str, &str) = ("content-type", "application/json");

impl Running {
    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        exchange(stream, &request(method, path, &[JSON], body)).await
    }

    async fn tcp(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let stream = TcpStream::connect(self.tcp.unwrap()).await.unwrap();
        exchange(stream, &request(method, path, headers, body)).await
    }

    async fn end(self) -> Result<(), StartError> {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends")
            .unwrap()
    }
}

#[tokio::test]
async fn a_mount_from_request_to_unmount() {
    let running = start(false).await;
    let add = json!({"source": "s3://bucket"}).to_string();
    let answer = running.ask("POST", "/mounts", &add).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mount = answer.json();
    assert_eq!(
        (&mount["name"], &mount["state"]),
        (&json!("bucket"), &json!("mounted"))
    );
    assert_eq!(
        running.ask("POST", "/mounts", &add).await.json()["pid"],
        mount["pid"]
    );
    let list = running.ask("GET", "/mounts", "").await.json();
    assert_eq!(list["mounts"][0]["path"], "/workspace/bucket");
    let one = running.ask("GET", "/mounts/bucket", "").await.json();
    assert_eq!(
        (&one["state"], &one["status"]["memory_resident_bytes"]),
        (&json!("mounted"), &json!(4321))
    );
    let synced = running
        .ask("POST", "/mounts/bucket/sync", "{}")
        .await
        .json();
    assert_eq!(
        (&synced["name"], &synced["in_store_lsn"]),
        (&json!("bucket"), &json!(9))
    );
    assert_eq!(
        running.ask("POST", "/mounts/bucket/sync", "").await.status,
        200
    );
    let log = running
        .ask("GET", "/mounts/bucket/logs?lines=2", "")
        .await
        .json();
    assert_eq!(log["lines"].as_array().unwrap().len(), 2);
    let gone = running
        .ask(
            "POST",
            "/mounts/unmount",
            r#"{"name":"bucket","sync":true}"#,
        )
        .await;
    assert_eq!(gone.json()["state"], "unmounted");
    assert_eq!(
        running.ask("GET", "/mounts", "").await.json(),
        json!({"mounts": []})
    );
}

#[tokio::test]
async fn every_error_has_one_shape_and_its_own_code() {
    let running = start(false).await;
    running
        .ask("POST", "/mounts", r#"{"source":"s3://bucket"}"#)
        .await;
    let large = format!(r#"{{"source":"{}"}}"#, "s".repeat(api::BODY_MAX));
    let cases = [
        ("GET", "/nothing", "", 404, "not_found", "/nothing"),
        ("GET", "/mounts/none", "", 404, "not_found", "none"),
        ("GET", "/mounts/none/logs", "", 404, "not_found", "none"),
        ("POST", "/mounts/none/sync", "{}", 404, "not_found", "none"),
        (
            "POST",
            "/mounts/unmount",
            r#"{"name":"none"}"#,
            404,
            "not_found",
            "none",
        ),
        ("GET", "/mounts/%FF", "", 404, "not_found", "name"),
        ("DELETE", "/mounts", "", 405, "method_not_allowed", "DELETE"),
        (
            "GET",
            "/mounts/unmount",
            "",
            405,
            "method_not_allowed",
            "GET",
        ),
        ("POST", "/health", "", 405, "method_not_allowed", "POST"),
        ("POST", "/mounts", "", 400, "invalid_request", "`source`"),
        (
            "POST",
            "/mounts",
            "{",
            400,
            "invalid_request",
            "not understood",
        ),
        (
            "POST",
            "/mounts",
            "[]",
            400,
            "invalid_request",
            "not understood",
        ),
        (
            "POST",
            "/mounts",
            r#"{"source":5}"#,
            400,
            "invalid_request",
            "expected a string",
        ),
        (
            "POST",
            "/mounts",
            r#"{"source":"s3://b","sauce":1}"#,
            400,
            "invalid_request",
            "`sauce`",
        ),
        (
            "POST",
            "/mounts",
            r#"{"source":"s3://b","options":"ro"}"#,
            400,
            "invalid_request",
            "sequence",
        ),
        (
            "POST",
            "/mounts",
            r#"{"source":"s3://b","credentials":{"key":"x"}}"#,
            400,
            "invalid_request",
            "`key`",
        ),
        (
            "POST",
            "/mounts",
            r#"{"source":"s3://b","source":"s3://c"}"#,
            400,
            "invalid_request",
            "duplicate",
        ),
        (
            "POST",
            "/mounts",
            r#"{"source":"bucket"}"#,
            400,
            "invalid_request",
            "scheme",
        ),
        ("POST", "/mounts", &large, 413, "too_large", "bytes"),
        (
            "POST",
            "/mounts",
            r#"{"source":"s3://other","name":"bucket"}"#,
            409,
            "conflict",
            "another source",
        ),
        (
            "POST",
            "/mounts/unmount",
            r#"{"name":"bucket","force":true}"#,
            400,
            "invalid_request",
            "`force`",
        ),
        (
            "POST",
            "/mounts/unmount",
            r#"{"name":"bucket","sync":"yes"}"#,
            400,
            "invalid_request",
            "boolean",
        ),
        (
            "POST",
            "/mounts/bucket/sync",
            r#"{"deadline":1}"#,
            400,
            "invalid_request",
            "`deadline`",
        ),
        (
            "POST",
            "/mounts/bucket/sync",
            r#"{"deadline_ms":0}"#,
            400,
            "invalid_request",
            "deadline_ms takes",
        ),
        (
            "POST",
            "/mounts/bucket/sync",
            r#"{"deadline_ms":1}"#,
            504,
            "deadline_exceeded",
            "3 records are left",
        ),
        (
            "GET",
            "/mounts/bucket/logs?lines=0",
            "",
            400,
            "invalid_request",
            "lines takes",
        ),
        (
            "GET",
            "/mounts/bucket/logs?lines=5001",
            "",
            400,
            "invalid_request",
            "lines takes",
        ),
        (
            "GET",
            "/mounts/bucket/logs?lines=x",
            "",
            400,
            "invalid_request",
            "query",
        ),
        (
            "GET",
            "/mounts/bucket/logs?line=1",
            "",
            400,
            "invalid_request",
            "`line`",
        ),
        (
            "GET",
            "/events?after=-1",
            "",
            400,
            "invalid_request",
            "after takes",
        ),
        (
            "GET",
            "/events?since=1",
            "",
            400,
            "invalid_request",
            "`since`",
        ),
    ];
    for (method, path, body, status, code, part) in cases {
        let answer = running.ask(method, path, body).await;
        let message = answer.refused(status, code);
        assert!(
            message.contains(part),
            "{method} {path} {body:.80}: {message}"
        );
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(answer.headers["content-security-policy"].contains("default-src 'none'"));
    }
    let stream = UnixStream::connect(&running.socket).await.unwrap();
    let text = request(
        "POST",
        "/mounts",
        &[("content-type", "text/plain")],
        r#"{"source":"s3://b"}"#,
    );
    exchange(stream, &text)
        .await
        .refused(415, "unsupported_media_type");
    let stream = UnixStream::connect(&running.socket).await.unwrap();
    let text = request("GET", "/events", &[("last-event-id", "x")], "");
    exchange(stream, &text)
        .await
        .refused(400, "invalid_request");

    for (error, status, code) in [
        (
            ApiError::StoreUnavailable("http://10.0.0.7:9000 does not answer".into()),
            503,
            "store_unavailable",
        ),
        (
            ApiError::ReadOnly("the volume is only read".into()),
            409,
            "read_only",
        ),
        (
            ApiError::ShuttingDown("the volume is being unmounted".into()),
            503,
            "shutting_down",
        ),
    ] {
        running.host.fail_sync(error);
        let answer = running.ask("POST", "/mounts/bucket/sync", "{}").await;
        let message = answer.refused(status, code);
        assert!(!message.contains("10.0.0.7"), "{message}");
    }

    running.host.set_in_use(true);
    let busy = running
        .ask("POST", "/mounts/unmount", r#"{"name":"bucket"}"#)
        .await;
    assert!(busy.refused(409, "in_use").contains("vim"));
    running
        .host
        .fail_next(ApiError::MountFailed("no such bucket".into()));
    let failed = running
        .ask("POST", "/mounts", r#"{"source":"s3://failing"}"#)
        .await;
    assert_eq!(failed.refused(422, "mount_failed"), "no such bucket");
    for n in 2..=MOUNTS_MAX {
        let body = json!({"source": format!("s3://bucket-{n}")}).to_string();
        assert_eq!(running.ask("POST", "/mounts", &body).await.status, 200);
    }
    let more = running
        .ask("POST", "/mounts", r#"{"source":"s3://one-more"}"#)
        .await;
    more.refused(409, "limit_reached");

    running.host.break_logs();
    let broken = running.ask("GET", "/mounts/bucket/logs", "").await;
    let message = broken.refused(500, "internal");
    assert!(!message.contains("/secret"), "{message}");
    // A mount that died and does not come back: it is known, and nothing can be asked of it.
    for _ in 0..20 {
        let gone = ApiError::MountFailed("the store is gone".into());
        running.host.fail_next(gone);
    }
    running.host.end("/workspace/bucket", Ending::Died);
    for _ in 0..1000 {
        let now = running.ask("GET", "/mounts/bucket", "").await.json();
        // By then it waits for seconds.
        if now["state"] == "waiting" && now["retry_in_ms"].as_u64() > Some(1_000) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running
        .ask("POST", "/mounts/bucket/sync", "{}")
        .await
        .refused(409, "not_mounted");
    let sync = r#"{"name":"bucket","sync":true}"#;
    running
        .ask("POST", "/mounts/unmount", sync)
        .await
        .refused(409, "not_mounted");
}

#[tokio::test]
async fn a_request_with_a_key_is_done_once() {
    let running = start(true).await;
    let ask = |key: &'static str, body: &'static str| {
        let (socket, headers) = (running.socket.clone(), [JSON, ("idempotency-key", key)]);
        async move {
            let stream = UnixStream::connect(socket).await.unwrap();
            exchange(stream, &request("POST", "/mounts", &headers, body)).await
        }
    };
    const BODY: &str = r#"{"source":"s3://bucket"}"#;
    let gate = running.host.gate.lock().await;
    let asking: Vec<_> = (0..8).map(|_| tokio::spawn(ask("k", BODY))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(gate);
    let mut bodies = Vec::new();
    for one in asking {
        let answer = one.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        bodies.push(answer.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert_eq!(running.host.started().len(), 1);
    // Unmounted meanwhile: the answer is still the one that was given.
    running
        .ask("POST", "/mounts/unmount", r#"{"name":"bucket"}"#)
        .await;
    let again = ask("k", BODY).await;
    assert_eq!((again.status, &again.body), (200, &bodies[0]));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(running.host.started().len(), 1);
    let other = ask("k", r#"{"source":"s3://other"}"#).await;
    assert!(other.refused(422, "key_reused").contains("new key"));
    ask("a b", BODY).await.refused(400, "invalid_request");
    assert_eq!(running.host.started().len(), 1);
    let fresh = ask("l", BODY).await;
    assert_eq!(fresh.headers.get("idempotency-replayed"), None);
    assert_eq!((fresh.status, running.host.started().len()), (200, 2));
    // A key belongs to whoever sent it.
    let file = TokenFile::new(running.host.folder().join("control").join(TOKENS_NAME));
    let made = file.create("test", 1, None, [3; 40]).unwrap();
    let bearer = format!("Bearer {}", made.token);
    let headers = [
        JSON,
        ("idempotency-key", "k"),
        ("authorization", bearer.as_str()),
    ];
    let answer = running.tcp("POST", "/mounts", &headers, BODY).await;
    assert_eq!(answer.headers.get("idempotency-replayed"), None);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn over_tcp_only_those_with_a_token_get_anything() {
    let running = start(true).await;
    let file = TokenFile::new(running.host.folder().join("control").join(TOKENS_NAME));
    let made = file.create("test", 1, None, [3; 40]).unwrap();
    let bearer = format!("Bearer {}", made.token);
    for path in [
        "/mounts",
        "/metrics",
        "/events",
        "/openapi.json",
        "/nothing",
        "/mounts/x/logs",
    ] {
        let answer = running.tcp("GET", path, &[], "").await;
        answer.refused(401, "unauthorized");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let answer = running
            .tcp("GET", path, &[("authorization", "Bearer weldr_wrong")], "")
            .await;
        answer.refused(401, "unauthorized");
    }
    running
        .tcp("POST", "/mounts", &[JSON], r#"{"source":"s3://b"}"#)
        .await
        .refused(401, "unauthorized");
    assert!(running.host.started().is_empty());
    let authorized = [("authorization", bearer.as_str()), JSON];
    assert_eq!(
        running.tcp("GET", "/mounts", &authorized, "").await.status,
        200
    );
    assert_eq!(
        running
            .tcp("POST", "/mounts", &authorized, r#"{"source":"s3://b"}"#)
            .await
            .status,
        200
    );
    file.revoke(&made.info.id).unwrap();
    running
        .tcp("GET", "/mounts", &authorized, "")
        .await
        .refused(401, "unauthorized");
}

#[tokio::test]
async fn over_tcp_signed_sessions_are_taken_and_forged_ones_are_not() {
    let running = start(true).await;
    let now = WallClock.now_ms() / 1000;
    let signed = |expires: u64, secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let claims = json!({"sub": "u", "exp": expires});
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let good = signed(now + 3600, SECRET);
    let (_, claims) = good.split_once('.').unwrap();
    let (claims, signature) = claims.split_once('.').unwrap();
    // The header is {"alg":"none"}.
    let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
    let with_signature = format!("eyJhbGciOiJub25lIn0.{claims}.{signature}");
    for (token, status) in [
        (good.clone(), 200),
        (signed(now - 3600, SECRET), 401),
        (
            signed(now + 3600, "another secret of more than 32 bytes"),
            401,
        ),
        (unsigned, 401),
        (with_signature, 401),
    ] {
        let bearer = format!("Bearer {token}");
        let answer = running
            .tcp("GET", "/mounts", &[("authorization", &bearer)], "")
            .await;
        assert_eq!(answer.status, status, "{token}: {answer:?}");
    }
}

#[tokio::test]
async fn health_is_open_and_tells_reasons_only_to_those_who_may_know() {
    let running = start(true).await;
    running
        .ask("POST", "/mounts", r#"{"source":"s3://bucket"}"#)
        .await;
    let health = running.tcp("GET", "/health", &[], "").await;
    assert_eq!(health.status, 200);
    assert_eq!(
        health.json()["parts"],
        json!({"mounts": {"status": "ok"}, "store": {"status": "ok"}})
    );
    running
        .host
        .fail_next(ApiError::MountFailed("the store does not answer".into()));
    running.host.end("/workspace/bucket", Ending::Died);
    let mut local = json!(null);
    for _ in 0..1000 {
        local = running.ask("GET", "/health", "").await.json();
        if local["parts"]["mounts"]["reason"]
            .as_str()
            .is_some_and(|r| r.contains("does not answer"))
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(local["status"], "degraded", "{local}");
    let remote = running.tcp("GET", "/health", &[], "").await.json();
    assert_eq!(remote["status"], "degraded");
    assert_eq!(remote["parts"]["mounts"].get("reason"), None);
    // A wrong token is not the same as none.
    running
        .tcp("GET", "/health", &[("authorization", "Bearer x")], "")
        .await
        .refused(401, "unauthorized");
}

#[tokio::test]
async fn without_a_way_to_tell_who_asks_there_is_no_tcp() {
    let host = FakeHost::new();
    let mut open = settings(&host, true);
    open.auth.session_secret = None;
    let error = serve_control(
        open,
        host,
        Arc::new(NoSandboxes),
        Arc::new(WallClock),
        |_| {},
        std::future::pending(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, StartError::Setting(_)), "{error}");
    assert!(error.to_string().contains("token create"), "{error}");
}

#[tokio::test]
async fn pages_of_other_origins_get_no_permission() {
    let running = start(true).await;
    let preflight = |origin: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type",
            ),
        ]
    };
    let allowed = running
        .tcp("OPTIONS", "/mounts", &preflight(ORIGIN), "")
        .await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], ORIGIN);
    assert!(allowed.headers["access-control-allow-headers"].contains("authorization"));
    assert_eq!(
        allowed.headers.get("access-control-allow-credentials"),
        None
    );
    for origin in [
        "http://evil.example",
        "http://localhost:3000.evil.example",
        "null",
    ] {
        let refused = running
            .tcp("OPTIONS", "/mounts", &preflight(origin), "")
            .await;
        assert_eq!(
            refused.headers.get("access-control-allow-origin"),
            None,
            "{origin}"
        );
        let answer = running
            .tcp("GET", "/health", &[("origin", origin)], "")
            .await;
        assert_eq!(
            answer.headers.get("access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
    let host = FakeHost::new();
    for origin in [
        "*",
        "localhost:3000",
        "http://a/b",
        "http://*.example",
        "null",
    ] {
        let mut wrong = settings(&host, false);
        wrong.origins = vec![origin.into()];
        let error = serve_control(
            wrong,
            host.clone(),
            Arc::new(NoSandboxes),
            Arc::new(WallClock),
            |_| {},
            std::future::pending(),
        )
        .await;
        assert!(matches!(error, Err(StartError::Setting(_))), "{origin}");
    }
}

#[tokio::test]
async fn too_many_requests_are_told_to_wait() {
    let host = FakeHost::new();
    let mut slow = settings(&host, true);
    slow.rates.token = NonZeroU32::new(2).unwrap();
    let made = TokenFile::new(&slow.auth.token_file)
        .create("t", 1, None, [5; 40])
        .unwrap();
    let running = run(host, slow).await;
    let bearer = format!("Bearer {}", made.token);
    let mut refused = None;
    for _ in 0..50 {
        let answer = running
            .tcp("GET", "/openapi.json", &[("authorization", &bearer)], "")
            .await;
        if answer.status != 200 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("a burst is refused");
    refused.refused(429, "rate_limited");
    assert_eq!(refused.headers["retry-after"], "1");
    // Others are not held up by it.
    assert_eq!(running.ask("GET", "/mounts", "").await.status, 200);
    running.end().await.unwrap();

    let host = FakeHost::new();
    let mut slow = settings(&host, false);
    slow.rates.all = NonZeroU32::new(1).unwrap();
    let running = run(host, slow).await;
    let mut codes = Vec::new();
    for _ in 0..10 {
        codes.push(running.ask("GET", "/nothing", "").await.status);
    }
    assert!(codes.contains(&429), "{codes:?}");
}

/// Reads server-sent events from a connection that stays open.
struct Stream {
    stream: UnixStream,
    text: String,
}

impl Stream {
    async fn open(running: &Running, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = UnixStream::connect(&running.socket).await.unwrap();
        stream
            .write_all(request("GET", path, headers, "").as_bytes())
            .await
            .unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    /// Waits until the server has begun to answer: from then on it listens.
    async fn head(&mut self) {
        let mut part = [0; 4096];
        let length = self.stream.read(&mut part).await.unwrap();
        self.text
            .push_str(&String::from_utf8_lossy(&part[..length]));
        assert!(self.text.starts_with("HTTP/1.1 200"), "{}", self.text);
    }

    /// The data of the first `count` events.
    async fn events(&mut self, count: usize) -> Vec<Value> {
        let read = async {
            loop {
                let events: Vec<Value> = self
                    .text
                    .lines()
                    .filter_map(|line| line.strip_prefix("data: "))
                    .map(|data| serde_json::from_str(data).unwrap())
                    .collect();
                if events.len() >= count {
                    return events;
                }
                let mut part = [0; 4096];
                let length = self.stream.read(&mut part).await.unwrap();
                assert!(length > 0, "it ended: {}", self.text);
                self.text
                    .push_str(&String::from_utf8_lossy(&part[..length]));
            }
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("there are events")
    }
}

#[tokio::test]
async fn events_are_followed_and_taken_up_again() {
    let running = start(false).await;
    let mut now = Stream::open(&running, "/events", &[]).await;
    now.head().await;
    let mut only = Stream::open(&running, "/events?mount=other&after=0", &[]).await;
    running
        .ask("POST", "/mounts", r#"{"source":"s3://bucket"}"#)
        .await;
    let first = now.events(2).await;
    assert_eq!(
        (&first[0]["kind"], &first[1]["kind"]),
        (&json!("mount.mounting"), &json!("mount.mounted"))
    );
    assert!(
        now.text.contains("content-type: text/event-stream"),
        "{}",
        now.text
    );
    assert!(
        now.text.contains(&format!("id: {}", first[0]["id"]))
            && now.text.contains("event: mount.mounting")
    );
    drop(now);
    let last = first[0]["id"].to_string();
    let mut again = Stream::open(&running, "/events?after=0", &[("last-event-id", &last)]).await;
    assert_eq!(again.events(1).await[0], first[1]);
    let mut all = Stream::open(&running, "/events?after=0", &[]).await;
    assert_eq!(all.events(1).await[0]["kind"], "sidecar.started");
    running
        .ask("POST", "/mounts", r#"{"source":"s3://other"}"#)
        .await;
    let about_other = only.events(2).await;
    assert!(
        about_other.iter().all(|event| event["mount"] == "other"),
        "{about_other:?}"
    );
}

#[tokio::test]
async fn only_so_many_listen_at_the_same_time() {
    let running = start(false).await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = Stream::open(&running, "/events?after=0", &[]).await;
        stream.events(1).await;
        open.push(stream);
    }
    running
        .ask("GET", "/events", "")
        .await
        .refused(409, "limit_reached");
    open.pop();
    let mut again = None;
    for _ in 0..1000 {
        let mut stream = Stream::open(&running, "/events?after=0", &[]).await;
        let mut part = [0; 64];
        let length = stream.stream.read(&mut part).await.unwrap();
        if String::from_utf8_lossy(&part[..length]).starts_with("HTTP/1.1 200") {
            again = Some(stream);
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        again.is_some(),
        "a place that was given back is taken again"
    );
}

#[tokio::test]
async fn figures_and_the_description_are_served() {
    let running = start(false).await;
    running
        .ask("POST", "/mounts", r#"{"source":"s3://bucket"}"#)
        .await;
    running.ask("GET", "/made-up-by-a-client", "").await;
    let mut text = String::new();
    for _ in 0..1000 {
        text = running.ask("GET", "/metrics", "").await.body;
        if text.contains("weldrfs_mount_memory_resident_bytes{mount=\"bucket\"} 4321") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for part in [
        "weldrfs_control_requests_total{method=\"POST\",route=\"/mounts\",status=\"200\"} 1",
        "weldrfs_control_request_seconds_count{route=\"/mounts\"} 1",
        "weldrfs_mount_state{mount=\"bucket\",state=\"mounted\"} 1",
        "weldrfs_mount_memory_resident_bytes{mount=\"bucket\"} 4321",
        "weldrfs_mount_store_requests{mount=\"bucket\",verb=\"put\"} 17",
        "weldrfs_mounts_limit 5",
        "weldrfs_control_listeners 0",
        "weldrfs_control_database_works 1",
        "route=\"other\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(
        text.ends_with("# EOF\n") && !text.contains("made-up"),
        "{text}"
    );
    let described = running.ask("GET", "/openapi.json", "").await;
    assert_eq!(described.body, super::super::openapi::text());
    let described = described.json();
    // Everything that is routed is described, but the description itself.
    for path in [
        "/mounts",
        "/mounts/unmount",
        "/mounts/{name}",
        "/mounts/{name}/sync",
        "/mounts/{name}/logs",
        "/events",
        "/health",
        "/metrics",
    ] {
        assert!(described["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn the_end_is_told_closes_streams_and_leaves_mounts_alone() {
    let running = start(false).await;
    running
        .ask("POST", "/mounts", r#"{"source":"s3://bucket"}"#)
        .await;
    let mut stream = Stream::open(&running, "/events?after=0", &[]).await;
    stream.events(1).await;
    let (socket, host) = (running.socket.clone(), running.host.clone());
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, SOCKET_MODE);
    running.end().await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.stream.read_to_string(&mut rest))
        .await
        .expect("it is closed")
        .unwrap();
    assert!(rest.contains("sidecar.stopped"), "{rest}");
    assert!(!socket.exists());
    assert_eq!(
        host.discover().await.unwrap().len(),
        1,
        "the mount lives on"
    );
    // And the next one knows it.
    let again = run(host.clone(), settings(&host, false)).await;
    let list = again.ask("GET", "/mounts", "").await.json();
    assert_eq!(
        (&list["mounts"][0]["name"], &list["mounts"][0]["managed"]),
        (&json!("bucket"), &json!(true))
    );
}

#[tokio::test]
async fn a_second_sidecar_is_refused_and_the_first_goes_on() {
    let running = start(false).await;
    let host = FakeHost::new();
    let same_folder = settings(&running.host, false);
    let mut same_socket = settings(&host, false);
    same_socket.socket.clone_from(&running.socket);
    for (second, part) in [(same_folder, "--state-dir"), (same_socket, "--socket")] {
        let never = std::future::pending();
        let (sandboxes, clock) = (Arc::new(NoSandboxes), Arc::new(WallClock));
        let error = serve_control(second, host.clone(), sandboxes, clock, |_| {}, never)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(running.ask("GET", "/mounts", "").await.status, 200);
}
