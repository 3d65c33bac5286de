//! Every error of mounts, and those that all endpoints share.

use super::*;

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
