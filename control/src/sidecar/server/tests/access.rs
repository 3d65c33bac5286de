//! Who may ask, and how often.

use super::*;

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
        json!({
            "mounts": {"status": "ok"}, "previews": {"status": "ok"}, "workflows": {"status": "ok"},
            "store": {"status": "ok"},
        })
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
