//! The page and its sessions.

use super::*;

const FILES: [(&str, &str); 3] = [
    ("/", "text/html"),
    ("/page.js", "text/javascript"),
    ("/page.css", "text/css"),
];

/// A sidecar on TCP, and the header with a token for it.
async fn started() -> (Running, String, String) {
    let running = start(true).await;
    let file = TokenFile::new(running.host.folder().join("control").join(TOKENS_NAME));
    let made = file.create("page", 1, None, [3; 40]).unwrap();
    (running, format!("Bearer {}", made.token), made.info.id)
}

/// The cookie to send, and the second secret.
async fn session(running: &Running, bearer: &str) -> (String, String) {
    let headers = [("authorization", bearer)];
    let begun = running.tcp("POST", "/session", &headers, "").await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let cookie = begun.headers["set-cookie"].clone();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let json = begun.json();
    assert_eq!(json["is_local"], false);
    let pair = cookie.split(';').next().unwrap().to_owned();
    (pair, json["csrf"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_page_is_open_and_holds_nothing_that_a_page_could_be_made_to_run() {
    let running = start(true).await;
    let wrong = [
        ("cookie", "weldrfs_session=00"),
        ("authorization", "Bearer x"),
    ];
    for (path, kind) in FILES {
        for headers in [&[] as &[_], &wrong[..1], &wrong[1..]] {
            let answer = running.tcp("GET", path, headers, "").await;
            assert_eq!(answer.status, 200, "{path} {headers:?}: {answer:?}");
            assert!(answer.headers["content-type"].starts_with(kind), "{path}");
            let may = &answer.headers["content-security-policy"];
            assert!(
                may.contains("default-src 'none'; script-src 'self'"),
                "{may}"
            );
            assert!(!may.contains("unsafe") && may.contains("frame-ancestors 'none'"));
            assert_eq!(answer.headers["x-frame-options"], "DENY");
            assert_eq!(answer.headers["cross-origin-opener-policy"], "same-origin");
            assert_eq!(
                answer.headers["cross-origin-resource-policy"],
                "same-origin"
            );
        }
        assert_eq!(running.ask("GET", path, "").await.status, 200);
    }
    // The policy would not run these; there are none to begin with.
    let page = running.tcp("GET", "/", &[], "").await.body;
    for (at, _) in page.match_indices("<script") {
        assert!(page[at..].starts_with("<script src=\"/page.js\""), "{page}");
    }
    for bad in [
        "<style",
        " style=",
        " onclick",
        " onload",
        " onsubmit",
        "javascript:",
        "http:",
        "https:",
    ] {
        assert!(!page.contains(bad), "{bad}");
    }
    let script = running.tcp("GET", "/page.js", &[], "").await.body;
    for bad in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "localStorage",
    ] {
        assert!(!script.contains(bad), "{bad}");
    }
    // Everything else says that it is no page.
    let answer = running.tcp("GET", "/mounts", &[], "").await;
    let may = &answer.headers["content-security-policy"];
    assert_eq!(may, "default-src 'none'; frame-ancestors 'none'");
    answer.refused(401, "unauthorized");
    for (path, _) in FILES {
        let answer = running.tcp("POST", path, &[], "").await;
        answer.refused(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn a_session_begins_with_a_token_only() {
    let (running, bearer, _) = started().await;
    for headers in [
        &[] as &[_],
        &[("authorization", "Bearer weldr_wrong")],
        &[("cookie", "weldrfs_session=00")],
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let answer = running.tcp(method, "/session", headers, "").await;
            answer.refused(401, "unauthorized");
            assert_eq!(answer.headers.get("set-cookie"), None);
        }
    }
    let (cookie, csrf) = session(&running, &bearer).await;
    // A session does not beget another one.
    let headers = [("cookie", cookie.as_str()), ("x-csrf-token", csrf.as_str())];
    let answer = running.tcp("POST", "/session", &headers, "").await;
    answer.refused(401, "unauthorized");
    // Nor does its cookie lead to its secret.
    let answer = running.tcp("GET", "/session", &headers[..1], "").await;
    assert_eq!(
        answer.json(),
        json!({"is_local": false, "csrf": null, "ends_ms": null})
    );
    // Over the socket there is nothing to begin.
    for method in ["POST", "GET"] {
        let local = running.ask(method, "/session", "").await;
        assert_eq!(local.json()["is_local"], true);
        assert_eq!(local.headers.get("set-cookie"), None);
    }
}

#[tokio::test]
async fn a_cookie_alone_looks_and_changes_nothing() {
    let (running, bearer, _) = started().await;
    let (cookie, csrf) = session(&running, &bearer).await;
    let (other_cookie, other_csrf) = session(&running, &bearer).await;
    let cookies = [("cookie", cookie.as_str()), JSON];
    for path in [
        "/mounts",
        "/branches",
        "/metrics",
        "/openapi.json",
        "/session",
    ] {
        let answer = running.tcp("GET", path, &cookies, "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    const BODY: &str = r#"{"source":"s3://b"}"#;
    for (method, path, body) in [
        ("POST", "/mounts", BODY),
        ("POST", "/mounts/unmount", r#"{"name":"b"}"#),
        ("POST", "/mounts/b/snapshots", "{}"),
        ("DELETE", "/mounts/b/snapshots/a", ""),
        ("POST", "/branches", r#"{"mount":"b","name":"a"}"#),
        ("DELETE", "/branches/b:a", ""),
        ("POST", "/exec", r#"{"mount":"b","command":"true"}"#),
        ("DELETE", "/session", ""),
    ] {
        let answer = running.tcp(method, path, &cookies, body).await;
        answer.refused(403, "forbidden");
        for wrong in ["", "x", other_csrf.as_str()] {
            let headers = [cookies[0], JSON, ("x-csrf-token", wrong)];
            let answer = running.tcp(method, path, &headers, body).await;
            answer.refused(403, "forbidden");
        }
    }
    assert!(running.host.started().is_empty());
    // The secret alone is nothing.
    let headers = [JSON, ("x-csrf-token", csrf.as_str())];
    let answer = running.tcp("POST", "/mounts", &headers, BODY).await;
    answer.refused(401, "unauthorized");
    // Both together are as good as the token.
    let headers = [cookies[0], JSON, ("x-csrf-token", csrf.as_str())];
    let answer = running.tcp("POST", "/mounts", &headers, BODY).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // A page of another origin is not told that it may send either.
    let preflight = [
        ("origin", ORIGIN),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-csrf-token"),
    ];
    let answer = running.tcp("OPTIONS", "/mounts", &preflight, "").await;
    assert!(!answer.headers["access-control-allow-headers"].contains("csrf"));
    assert_eq!(answer.headers.get("access-control-allow-credentials"), None);
    // It ends when it is asked to, and the other one goes on.
    let ended = running.tcp("DELETE", "/session", &headers, "").await;
    assert_eq!(ended.status, 200);
    assert!(ended.headers["set-cookie"].contains("Max-Age=0"));
    let answer = running.tcp("GET", "/mounts", &cookies, "").await;
    answer.refused(401, "unauthorized");
    let others = [("cookie", other_cookie.as_str())];
    assert_eq!(running.tcp("GET", "/mounts", &others, "").await.status, 200);
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_with_the_sidecar() {
    let (running, bearer, id) = started().await;
    let (cookie, csrf) = session(&running, &bearer).await;
    let headers = [
        ("cookie", cookie.as_str()),
        JSON,
        ("x-csrf-token", csrf.as_str()),
    ];
    assert_eq!(
        running.tcp("GET", "/mounts", &headers, "").await.status,
        200
    );
    let file = TokenFile::new(running.host.folder().join("control").join(TOKENS_NAME));
    assert!(file.revoke(&id).unwrap());
    for (method, body) in [("GET", ""), ("POST", r#"{"source":"s3://b"}"#)] {
        let answer = running.tcp(method, "/mounts", &headers, body).await;
        answer.refused(401, "unauthorized");
    }
    let made = file.create("again", 1, None, [4; 40]).unwrap();
    let (cookie, _) = session(&running, &format!("Bearer {}", made.token)).await;
    let host = running.host.clone();
    running.end().await.unwrap();
    let running = run(host.clone(), settings(&host, true)).await;
    let headers = [("cookie", cookie.as_str())];
    let answer = running.tcp("GET", "/mounts", &headers, "").await;
    answer.refused(401, "unauthorized");
}

#[tokio::test]
async fn events_are_followed_with_a_cookie() {
    let (running, bearer, _) = started().await;
    let (cookie, _) = session(&running, &bearer).await;
    let mut stream = TcpStream::connect(running.tcp.unwrap()).await.unwrap();
    let asked = request("GET", "/events?after=0", &[("cookie", &cookie)], "");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("sidecar.started") {
        let mut part = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut part));
        let length = read.await.expect("it answers").unwrap();
        assert!(length > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
