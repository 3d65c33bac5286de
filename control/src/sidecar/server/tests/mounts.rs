//! Mounts over the API.

use super::*;

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
