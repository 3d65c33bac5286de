//! What is served beside mounts, and the end of a sidecar.

use super::*;

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
    assert_eq!(described.body, crate::sidecar::openapi::text());
    let described = described.json();
    // Everything that is routed is described, but the description itself.
    for path in [
        "/mounts",
        "/mounts/unmount",
        "/mounts/{name}",
        "/mounts/{name}/sync",
        "/mounts/{name}/logs",
        "/mounts/{name}/snapshots",
        "/mounts/{name}/snapshots/{id}",
        "/mounts/{name}/snapshots/{id}/restore",
        "/mounts/{name}/snapshots/{id}/diff",
        "/branches",
        "/branches/{id}",
        "/branches/{id}/sync",
        "/exec",
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
