//! Snapshots of mounts over the API.

use super::*;

const SNAPSHOTS: &str = "/mounts/bucket/snapshots";

async fn mounted() -> Running {
    let running = start(false).await;
    let body = r#"{"source":"s3://bucket"}"#;
    let answer = running.ask("POST", "/mounts", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    running
}

impl Running {
    /// The events about `bucket` of a kind that begins with `prefix`, as kind and message.
    pub(super) async fn told(&self, prefix: &str, count: usize) -> Vec<(String, String)> {
        let mut stream = Stream::open(self, "/events?after=0&mount=bucket", &[]).await;
        for n in 1..1000 {
            let events = stream.events(n).await;
            let told: Vec<_> = events
                .iter()
                .map(|event| {
                    let text = |name: &str| event[name].as_str().unwrap().to_owned();
                    (text("kind"), text("message"))
                })
                .filter(|(kind, _)| kind.starts_with(prefix))
                .collect();
            if told.len() >= count {
                return told;
            }
        }
        panic!("there are not {count} events of {prefix}");
    }
}

#[tokio::test]
async fn a_snapshot_from_request_to_removal() {
    let running = mounted().await;
    let made = running
        .ask("POST", SNAPSHOTS, r#"{"name":"be fore/a","note":"why"}"#)
        .await;
    made.refused(400, "invalid_request");
    let made = running
        .ask("POST", SNAPSHOTS, r#"{"name":"be fore","note":"why"}"#)
        .await
        .json();
    assert_eq!(
        (&made["name"], &made["note"], &made["owner"]),
        (&json!("be fore"), &json!("why"), &json!(""))
    );
    // Without a body it gets a name by itself.
    let other = running.ask("POST", SNAPSHOTS, "").await.json();
    let list = running.ask("GET", SNAPSHOTS, "").await.json();
    assert_eq!(list, json!({"snapshots": [made, other]}));
    let one = running
        .ask("GET", &format!("{SNAPSHOTS}/be%20fore"), "")
        .await;
    assert_eq!(one.json(), made);

    running.host.tree("s3://bucket").lock().differences = 3;
    let restore = format!("{SNAPSHOTS}/be%20fore/restore");
    let restored = running.ask("POST", &restore, r#"{"path":"./src/"}"#).await;
    let restored = restored.json();
    assert_eq!(
        (&restored["path"], &restored["names"], &restored["snapshot"]),
        (&json!("src"), &json!(3), &json!("be fore"))
    );
    let safety = restored["safety"]["name"].as_str().unwrap();
    assert!(safety.starts_with("before-restore-"), "{restored}");
    let again = running.ask("POST", &restore, "").await.json();
    assert_eq!(
        (&again["safety"], &again["path"]),
        (&json!(null), &json!(""))
    );

    let removed = running
        .ask("DELETE", &format!("{SNAPSHOTS}/be%20fore"), "")
        .await;
    assert_eq!(removed.json(), made);
    let told = running.told("snapshot.", 5).await;
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "snapshot.created",
            "snapshot.created",
            "snapshot.restored",
            "snapshot.restored",
            "snapshot.removed"
        ]
    );
    assert!(
        told[2].1.contains("src") && told[2].1.contains(safety),
        "{told:?}"
    );
    // Nothing of it holds the mount.
    let gone = running
        .ask("POST", "/mounts/unmount", r#"{"name":"bucket"}"#)
        .await;
    assert_eq!(gone.status, 200, "{gone:?}");
}

#[tokio::test]
async fn differences_come_in_pages_with_figures_of_all_of_them() {
    let running = mounted().await;
    for name in ["a", "b"] {
        let body = json!({ "name": name }).to_string();
        running.ask("POST", SNAPSHOTS, &body).await;
    }
    running.host.tree("s3://bucket").lock().differences = 2_500;
    let page = |query: &'static str| {
        let path = format!("{SNAPSHOTS}/a/diff{query}");
        let running = &running;
        async move { running.ask("GET", &path, "").await }
    };
    let first = page("").await.json();
    let count = |page: &Value| page["differences"].as_array().unwrap().len();
    assert_eq!((count(&first), &first["next_offset"]), (1000, &json!(1000)));
    assert_eq!(
        first["stat"],
        json!({"paths": 2500, "counted": 2500, "created": 625, "deleted": 625, "renamed": 625, "changed": 625,
               "bytes_before": 2500, "bytes_after": 7500})
    );
    assert_eq!((&first["from"], &first["to"]), (&json!("a"), &json!(null)));
    let last = page("?offset=2400&limit=10000&to=b&path=src").await.json();
    assert_eq!((count(&last), &last["next_offset"]), (100, &json!(null)));
    assert_eq!((&last["to"], &last["path"]), (&json!("b"), &json!("src")));
    assert_eq!(last["differences"][0]["path"], "srcfile-002400");
    let beyond = page("?offset=100000").await.json();
    assert_eq!((count(&beyond), &beyond["next_offset"]), (0, &json!(null)));
    for (query, part) in [
        ("?limit=0", "limit takes"),
        ("?limit=10001", "limit takes"),
        ("?offset=100001", "offset takes"),
        ("?offset=-1", "query"),
        ("?from=a", "`from`"),
        ("?path=../x", "path takes"),
        ("?path=/x", "path takes"),
    ] {
        let message = page(query).await.refused(400, "invalid_request");
        assert!(message.contains(part), "{query}: {message}");
    }
    let unknown = page("?to=c").await.refused(404, "not_found");
    assert!(unknown.contains("\"c\""), "{unknown}");
}

#[tokio::test]
async fn every_error_of_snapshots_has_its_code() {
    let running = mounted().await;
    running.ask("POST", SNAPSHOTS, r#"{"name":"a"}"#).await;
    let large = format!(r#"{{"note":"{}"}}"#, "n".repeat(api::BODY_MAX));
    let a = format!("{SNAPSHOTS}/a");
    let (restore, none) = (format!("{a}/restore"), format!("{SNAPSHOTS}/none"));
    let (restore_none, diff_none) = (format!("{none}/restore"), format!("{none}/diff"));
    let of_none = "/mounts/none/snapshots";
    let (a_of_none, restore_of_none) = (format!("{of_none}/a"), format!("{of_none}/a/restore"));
    let diff_of_none = format!("{of_none}/a/diff");
    for (method, path, body, status, code, part) in [
        ("GET", of_none, "", 404, "not_found", "none"),
        ("POST", of_none, "{}", 404, "not_found", "none"),
        ("GET", &a_of_none, "", 404, "not_found", "no mount"),
        ("DELETE", &a_of_none, "", 404, "not_found", "no mount"),
        ("POST", &restore_of_none, "{}", 404, "not_found", "no mount"),
        ("GET", &diff_of_none, "", 404, "not_found", "no mount"),
        ("GET", &none, "", 404, "not_found", "no snapshot"),
        ("DELETE", &none, "", 404, "not_found", "no snapshot"),
        ("POST", &restore_none, "{}", 404, "not_found", "no snapshot"),
        ("GET", &diff_none, "", 404, "not_found", "no snapshot"),
        (
            "GET",
            "/mounts/bucket/snapshots/%FF",
            "",
            404,
            "not_found",
            "name",
        ),
        ("PUT", &a, "", 405, "method_not_allowed", "PUT"),
        ("GET", &restore, "", 405, "method_not_allowed", "GET"),
        (
            "POST",
            SNAPSHOTS,
            r#"{"name":"a"}"#,
            409,
            "conflict",
            "already",
        ),
        (
            "POST",
            SNAPSHOTS,
            r#"{"name":""}"#,
            400,
            "invalid_request",
            "name",
        ),
        (
            "POST",
            SNAPSHOTS,
            r#"{"nam":"b"}"#,
            400,
            "invalid_request",
            "`nam`",
        ),
        (
            "POST",
            SNAPSHOTS,
            r#"{"name":5}"#,
            400,
            "invalid_request",
            "expected a string",
        ),
        (
            "POST",
            SNAPSHOTS,
            "[",
            400,
            "invalid_request",
            "not understood",
        ),
        ("POST", SNAPSHOTS, &large, 413, "too_large", "bytes"),
        (
            "POST",
            &restore,
            r#"{"paths":""}"#,
            400,
            "invalid_request",
            "`paths`",
        ),
        (
            "POST",
            &restore,
            r#"{"path":1}"#,
            400,
            "invalid_request",
            "expected a string",
        ),
        (
            "POST",
            &restore,
            r#"{"path":"../x"}"#,
            400,
            "invalid_request",
            "path takes",
        ),
        ("POST", &restore, &large, 413, "too_large", "bytes"),
    ] {
        let message = running.ask(method, path, body).await.refused(status, code);
        assert!(
            message.contains(part),
            "{method} {path} {body:.80}: {message}"
        );
    }
    let tree = running.host.tree("s3://bucket");
    for (error, status, code) in [
        (
            ApiError::ReadOnly("it is only read".into()),
            409,
            "read_only",
        ),
        (
            ApiError::Internal("broken at /secret/place".into()),
            500,
            "internal",
        ),
        (
            ApiError::DeadlineExceeded("too much waits".into()),
            504,
            "deadline_exceeded",
        ),
        (
            ApiError::ShuttingDown("it is being unmounted".into()),
            503,
            "shutting_down",
        ),
    ] {
        for (method, path, body) in [
            ("POST", SNAPSHOTS, "{}"),
            ("DELETE", a.as_str(), ""),
            ("POST", &restore, "{}"),
            ("GET", &format!("{a}/diff"), ""),
        ] {
            tree.lock().failure = Some(error.clone());
            let message = running.ask(method, path, body).await.refused(status, code);
            assert!(!message.contains("/secret"), "{message}");
        }
    }
    // What is unmounted has no snapshots to show.
    let unmount = r#"{"name":"bucket"}"#;
    running.ask("POST", "/mounts/unmount", unmount).await;
    running
        .ask("GET", SNAPSHOTS, "")
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn a_snapshot_with_a_key_is_made_once() {
    let running = mounted().await;
    let ask = |path: String, key: &'static str, body: &'static str| {
        let (socket, headers) = (running.socket.clone(), [JSON, ("idempotency-key", key)]);
        async move {
            let stream = UnixStream::connect(socket).await.unwrap();
            exchange(stream, &request("POST", &path, &headers, body)).await
        }
    };
    let asking: Vec<_> = (0..8)
        .map(|_| tokio::spawn(ask(SNAPSHOTS.into(), "k", "{}")))
        .collect();
    let mut bodies = Vec::new();
    for one in asking {
        let answer = one.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        bodies.push(answer.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    let tree = running.host.tree("s3://bucket");
    assert_eq!(tree.lock().snapshots.len(), 1);
    let name = tree.lock().snapshots[0].name.clone();
    // A sidecar that was killed after the snapshot was made and before it was answered.
    let host = running.host.clone();
    running.end().await.unwrap();
    let sql = "UPDATE answer SET answer = NULL";
    assert_eq!(tamper(&host.folder().join("control"), sql), 1);
    let running = run(host.clone(), settings(&host, false)).await;
    let headers = [JSON, ("idempotency-key", "k")];
    let stream = UnixStream::connect(&running.socket).await.unwrap();
    let again = exchange(stream, &request("POST", SNAPSHOTS, &headers, "{}")).await;
    assert_eq!(again.json()["name"], json!(name));
    assert_eq!(tree.lock().snapshots.len(), 1);
    // The same key for the same body of another mount is another request.
    let stream = UnixStream::connect(&running.socket).await.unwrap();
    let other = request("POST", "/mounts/other/snapshots", &headers, "{}");
    exchange(stream, &other).await.refused(422, "key_reused");
    // Going back with a key, again and again, is going back once.
    tree.lock().differences = 5;
    let restore = format!("{SNAPSHOTS}/{name}/restore");
    let headers = [JSON, ("idempotency-key", "r")];
    let mut answers = Vec::new();
    for _ in 0..2 {
        let stream = UnixStream::connect(&running.socket).await.unwrap();
        answers.push(exchange(stream, &request("POST", &restore, &headers, "{}")).await);
        tree.lock().differences = 7;
    }
    assert_eq!(answers[0].body, answers[1].body);
    assert_eq!(answers[1].headers["idempotency-replayed"], "true");
    assert_eq!(tree.lock().differences, 7);
}
