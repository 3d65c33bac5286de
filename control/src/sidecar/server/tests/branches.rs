//! Branches over the API.

use super::*;

const A: &str = r#"{"mount":"bucket","path":"app","name":"a"}"#;

async fn mounted() -> Running {
    let running = start(false).await;
    mount(&running).await;
    running
}

async fn mount(running: &Running) {
    let body = r#"{"source":"s3://bucket"}"#;
    let answer = running.ask("POST", "/mounts", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

impl Running {
    async fn branches(&self) -> Vec<Value> {
        let list = self.ask("GET", "/branches", "").await;
        assert_eq!(list.status, 200, "{list:?}");
        list.json()["branches"].as_array().unwrap().clone()
    }

    async fn branch(&self, name: &str) {
        let body = json!({"mount": "bucket", "name": name}).to_string();
        let answer = self.ask("POST", "/branches", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_branch_from_request_to_removal() {
    let running = mounted().await;
    let made = running.ask("POST", "/branches", A).await.json();
    for (field, value) in [
        ("id", json!("bucket:a")),
        ("mount", json!("bucket")),
        ("name", json!("a")),
        ("project", json!("app")),
        ("path", json!(".weldr/branches/a")),
        ("folder", json!("/workspace/bucket/.weldr/branches/a")),
        ("state", json!("ready")),
        ("dropped", json!(false)),
        ("in_use", json!([])),
        ("is_new", json!(true)),
    ] {
        assert_eq!(made[field], value, "{field} of {made}");
    }
    let again = running.ask("POST", "/branches", A).await.json();
    assert_eq!(again["is_new"], false);
    assert!(again["used_ms"].as_u64() >= made["used_ms"].as_u64());
    let all = running.ask("POST", "/branches", r#"{"mount":"bucket","name":"all"}"#);
    assert_eq!(all.await.json()["project"], "");
    let list = running.branches().await;
    let ids: Vec<&Value> = list.iter().map(|branch| &branch["id"]).collect();
    assert_eq!(ids, ["bucket:a", "bucket:all"]);
    let of_it = running
        .ask("GET", "/branches?mount=bucket", "")
        .await
        .json();
    assert_eq!(of_it["branches"].as_array().unwrap().len(), 2);
    let one = running.ask("GET", "/branches/bucket:a", "").await.json();
    assert_eq!(one, list[0]);
    // The colon may be written as clients do that write everything so.
    let one = running.ask("GET", "/branches/bucket%3Aa", "").await.json();
    assert_eq!(one, list[0]);
    let synced = running.ask("POST", "/branches/bucket:a/sync", "").await;
    assert_eq!(
        (&synced.json()["id"], &synced.json()["in_store_lsn"]),
        (&json!("bucket:a"), &json!(9))
    );
    let removed = running.ask("DELETE", "/branches/bucket:a", "").await.json();
    assert_eq!(removed["state"], "removed");
    assert_eq!(running.branches().await.len(), 1);
    assert!(
        !running
            .host
            .tree("s3://bucket")
            .lock()
            .branches
            .contains("a")
    );
    let told = running.told("branch.", 4).await;
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "branch.created",
            "branch.created",
            "branch.removing",
            "branch.removed"
        ]
    );
    assert!(told[0].1.contains("a of app"), "{told:?}");
    // The name is free for another directory.
    let other = r#"{"mount":"bucket","path":"lib","name":"a"}"#;
    assert_eq!(
        running.ask("POST", "/branches", other).await.json()["is_new"],
        true
    );
}

#[tokio::test]
async fn every_error_of_branches_has_its_code() {
    let running = mounted().await;
    running.ask("POST", "/branches", A).await;
    let large = format!(r#"{{"mount":"{}"}}"#, "m".repeat(api::BODY_MAX));
    for (method, path, body, status, code, part) in [
        ("POST", "/branches", "", 400, "invalid_request", "`mount`"),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket"}"#,
            400,
            "invalid_request",
            "`name`",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","name":1}"#,
            400,
            "invalid_request",
            "string",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","name":"b","project":"x"}"#,
            400,
            "invalid_request",
            "`project`",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","name":"a/b"}"#,
            400,
            "invalid_request",
            "name takes",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","name":".b"}"#,
            400,
            "invalid_request",
            "name takes",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","name":"b","path":"../x"}"#,
            400,
            "invalid_request",
            "path takes",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","name":"b","path":"missing"}"#,
            400,
            "invalid_request",
            "\"missing\" cannot be branched",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"none","name":"b"}"#,
            404,
            "not_found",
            "no mount",
        ),
        (
            "POST",
            "/branches",
            r#"{"mount":"bucket","path":"lib","name":"a"}"#,
            409,
            "conflict",
            "one of \"app\", not of \"lib\"",
        ),
        ("POST", "/branches", &large, 413, "too_large", "bytes"),
        ("PUT", "/branches", "", 405, "method_not_allowed", "PUT"),
        (
            "GET",
            "/branches?mount=none",
            "",
            404,
            "not_found",
            "no mount",
        ),
        (
            "GET",
            "/branches?of=bucket",
            "",
            400,
            "invalid_request",
            "`of`",
        ),
        ("GET", "/branches/a", "", 404, "not_found", "no branch"),
        (
            "GET",
            "/branches/bucket:b",
            "",
            404,
            "not_found",
            "no branch",
        ),
        ("GET", "/branches/none:a", "", 404, "not_found", "no branch"),
        ("GET", "/branches/%FF", "", 404, "not_found", "no branch"),
        (
            "DELETE",
            "/branches/bucket:b",
            "",
            404,
            "not_found",
            "no branch",
        ),
        (
            "DELETE",
            "/branches/none",
            "",
            404,
            "not_found",
            "no branch",
        ),
        (
            "POST",
            "/branches/bucket:b/sync",
            "",
            404,
            "not_found",
            "no branch",
        ),
        (
            "POST",
            "/branches/bucket:a/sync",
            r#"{"now":1}"#,
            400,
            "invalid_request",
            "`now`",
        ),
        (
            "POST",
            "/branches/bucket:a/sync",
            r#"{"deadline_ms":0}"#,
            400,
            "invalid_request",
            "deadline_ms",
        ),
        (
            "POST",
            "/branches/bucket:a/sync",
            r#"{"deadline_ms":1}"#,
            504,
            "deadline_exceeded",
            "3 records are left",
        ),
    ] {
        let message = running.ask(method, path, body).await.refused(status, code);
        assert!(
            message.contains(part),
            "{method} {path} {body:.80}: {message}"
        );
    }
    let failed = r#"{"mount":"bucket","name":"b"}"#;
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
    ] {
        tree.lock().failure = Some(error);
        let answer = running.ask("POST", "/branches", failed).await;
        let message = answer.refused(status, code);
        assert!(!message.contains("/secret"), "{message}");
        // Whatever was written down about it, nothing is there and nothing is shown.
        assert_eq!(running.branches().await.len(), 1);
    }
}

#[tokio::test]
async fn many_who_ask_for_one_branch_get_the_same() {
    let running = mounted().await;
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let socket = running.socket.clone();
            tokio::spawn(async move {
                let stream = UnixStream::connect(socket).await.unwrap();
                exchange(stream, &request("POST", "/branches", &[JSON], A)).await
            })
        })
        .collect();
    let mut made = 0;
    for one in asking {
        let answer = one.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        made += u32::from(answer.json()["is_new"] == true);
    }
    assert_eq!(made, 1);
    assert_eq!(running.told("branch.created", 1).await.len(), 1);
}

#[tokio::test]
async fn a_branch_that_something_uses_is_not_removed() {
    let running = mounted().await;
    running.ask("POST", "/branches", A).await;
    running.host.set_users(&["node (process 7)"]);
    let refused = running.ask("DELETE", "/branches/bucket:a", "").await;
    assert!(refused.refused(409, "in_use").contains("node (process 7)"));
    assert_eq!(running.branches().await[0]["state"], "ready");
    running.host.set_users(&[]);
    // One that takes long: it is being removed meanwhile, and so is the answer to who asks again.
    let gate = running.host.removing.lock().await;
    for _ in 0..2 {
        let removing = running.ask("DELETE", "/branches/bucket:a", "").await.json();
        assert_eq!(removing["state"], "removing");
    }
    let again = running.ask("POST", "/branches", A).await;
    assert!(again.refused(409, "conflict").contains("being removed"));
    let exec = r#"{"mount":"bucket","path":".weldr/branches/a","command":["true"]}"#;
    let refused = running.ask("POST", "/exec", exec).await;
    assert!(refused.refused(409, "in_use").contains("being removed"));
    let unmount = r#"{"name":"bucket"}"#;
    let refused = running.ask("POST", "/mounts/unmount", unmount).await;
    assert!(
        refused
            .refused(409, "in_use")
            .contains("removal of the branch a")
    );
    drop(gate);
    running.told("branch.removed", 1).await;
    assert_eq!(running.branches().await, [json!(null); 0]);
    for _ in 0..1000 {
        // The mount is let go a moment later.
        if running.ask("POST", "/mounts/unmount", unmount).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the mount is still held");
}

#[tokio::test]
async fn a_removal_that_fails_is_told_and_tried_again() {
    let running = mounted().await;
    running.ask("POST", "/branches", A).await;
    *running.host.fail_removal.lock() = true;
    let removing = running.ask("DELETE", "/branches/bucket:a", "").await.json();
    assert_eq!(removing["state"], "removing");
    let told = running.told("branch.failed", 1).await;
    assert!(!told[0].1.contains("/secret"), "{told:?}");
    // Looking at the branches goes on with it.
    running.branches().await;
    running.told("branch.removed", 1).await;
    assert_eq!(running.branches().await, [json!(null); 0]);
}

#[tokio::test]
async fn what_happens_beside_the_sidecar_is_seen() {
    let running = mounted().await;
    running.branch("gone").await;
    let tree = running.host.tree("s3://bucket");
    tree.lock().branches.clear();
    for name in ["found", ".hidden", "not a name"] {
        tree.lock().branches.insert(name.into());
    }
    let list = running.branches().await;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (&list[0]["id"], &list[0]["project"]),
        (&json!("bucket:found"), &json!(null))
    );
    let told = running.told("branch.", 3).await;
    assert!(
        told.iter()
            .any(|(kind, text)| kind == "branch.lost" && text.contains("gone"))
    );
    assert!(
        told.iter()
            .any(|(kind, text)| kind == "branch.found" && text.contains("found"))
    );
    // Whoever asks for it says of what it is one.
    let body = r#"{"mount":"bucket","path":"app","name":"found"}"#;
    let again = running.ask("POST", "/branches", body).await.json();
    assert_eq!(
        (&again["project"], &again["is_new"]),
        (&json!("app"), &json!(false))
    );
    // What is unmounted is not shown, and is there again with its mount, whatever its name is then.
    let unmount = r#"{"name":"bucket"}"#;
    running.ask("POST", "/mounts/unmount", unmount).await;
    assert_eq!(running.branches().await, [json!(null); 0]);
    running
        .ask("GET", "/branches/bucket:found", "")
        .await
        .refused(404, "not_found");
    let other = r#"{"source":"s3://bucket","name":"other"}"#;
    running.ask("POST", "/mounts", other).await;
    assert_eq!(running.branches().await[0]["id"], "other:found");
    // Another volume under the old name has none of it.
    let elsewhere = r#"{"source":"s3://elsewhere","name":"bucket"}"#;
    running.ask("POST", "/mounts", elsewhere).await;
    let list = running.branches().await;
    assert_eq!(list.len(), 1, "{list:?}");
}

#[tokio::test]
async fn a_mount_that_knows_no_branches_says_so() {
    let running = start(false).await;
    running.host.start_old_ones();
    mount(&running).await;
    let refused = running.ask("POST", "/branches", A).await;
    assert!(refused.refused(409, "conflict").contains("older version"));
    assert_eq!(running.branches().await, [json!(null); 0]);
    // A mount that does not run has none to make.
    for _ in 0..20 {
        let gone = ApiError::MountFailed("the store is gone".into());
        running.host.fail_next(gone);
    }
    running.host.end("/workspace/bucket", Ending::Died);
    for _ in 0..1000 {
        let now = running.ask("GET", "/mounts/bucket", "").await.json();
        if now["state"] == "waiting" && now["retry_in_ms"].as_u64() > Some(1_000) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = running.ask("POST", "/branches", A).await;
    refused.refused(409, "not_mounted");
}

/// Everything that a sidecar may have been killed in.
#[tokio::test]
async fn whatever_a_sidecar_was_killed_in_the_next_one_brings_rows_and_directories_together() {
    let running = mounted().await;
    for name in ["ready", "made", "lost", "half", "removed"] {
        running.branch(name).await;
    }
    let host = running.host.clone();
    running.end().await.unwrap();
    for (name, state) in [
        ("made", "creating"),
        ("lost", "creating"),
        ("half", "removing"),
        ("removed", "removing"),
    ] {
        let sql = format!("UPDATE branch SET state = '{state}' WHERE name = '{name}'");
        assert_eq!(tamper(&host.folder().join("control"), &sql), 1);
    }
    let tree = host.tree("s3://bucket");
    for name in ["lost", "removed"] {
        tree.lock().branches.remove(name);
    }
    let running = run(host.clone(), settings(&host, false)).await;
    // By itself, before anybody asks.
    for _ in 0..4000 {
        if !tree.lock().branches.contains("half") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = running.told("branch.removed", 2).await;
    assert_eq!(told.len(), 2, "{told:?}");
    let list = running.branches().await;
    let states: Vec<(&str, &str)> = list
        .iter()
        .map(|b| (b["name"].as_str().unwrap(), b["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("made", "ready"), ("ready", "ready")]);
    assert_eq!(
        tree.lock().branches.iter().collect::<Vec<_>>(),
        ["made", "ready"]
    );
}

#[tokio::test]
async fn a_branch_with_a_key_is_answered_as_the_first_time() {
    let running = mounted().await;
    let headers = [JSON, ("idempotency-key", "k")];
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let stream = UnixStream::connect(&running.socket).await.unwrap();
        let answer = exchange(stream, &request("POST", "/branches", &headers, A)).await;
        assert_eq!(answer.json()["is_new"], true);
        bodies.push(answer.body);
    }
    assert_eq!(bodies[0], bodies[1]);
    let stream = UnixStream::connect(&running.socket).await.unwrap();
    let other = A.replace("\"a\"", "\"b\"");
    exchange(stream, &request("POST", "/branches", &headers, &other))
        .await
        .refused(422, "key_reused");
}
