//! Keys of buckets: they reach the mount, and nothing else.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::json;

use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Settings};
use crate::sidecar::{Sidecar, kill};
use crate::support::{require_fuse, until};

fn body(server: &S3Server, secret: &str) -> String {
    json!({
        "source": format!("s3://{BUCKET}/project"),
        "name": "project",
        "options": [format!("endpoint={}", server.endpoint()), "path_style"],
        "credentials": {"access_key_id": ACCESS_KEY, "secret_access_key": secret},
    })
    .to_string()
}

#[test]
fn keys_of_a_mount_show_nowhere_and_outlive_its_process_and_the_machine() {
    require_fuse();
    let server = S3Server::start(Settings::default());
    let mut sidecar = Sidecar::start();
    let mount = sidecar
        .ask("POST", "/mounts", &body(&server, SECRET_KEY))
        .success();
    let pid = mount["pid"].as_i64().unwrap();
    std::fs::write(sidecar.place.path("ws/project/file"), "kept").unwrap();
    sidecar.ask("POST", "/mounts/project/sync", "").success();

    for name in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{pid}/{name}")).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains(SECRET_KEY), "{name}: {text}");
    }
    for path in [
        "/mounts",
        "/mounts/project",
        "/mounts/project/logs?lines=1000",
        "/metrics",
        "/health",
    ] {
        assert!(
            !sidecar.ask("GET", path, "").body.contains(SECRET_KEY),
            "{path}"
        );
    }
    assert!(!sidecar.log().contains(SECRET_KEY));
    let database = std::fs::read(sidecar.place.path("state/control/control.db-wal")).unwrap();
    assert!(!String::from_utf8_lossy(&database).contains(SECRET_KEY));
    for name in [
        "run/credentials/project",
        "state/control/credentials/project",
    ] {
        let mode = std::fs::metadata(sidecar.place.path(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    sidecar.kill();
    kill(pid, Signal::KILL);
    std::fs::remove_dir_all(sidecar.place.path("run")).unwrap();
    sidecar.start_again();
    until("it is mounted again", || {
        sidecar.listed("project").unwrap()["state"] == "mounted"
    });
    let text = std::fs::read_to_string(sidecar.place.path("ws/project/file")).unwrap();
    assert_eq!(text, "kept");
    sidecar
        .ask(
            "POST",
            "/mounts/unmount",
            r#"{"name":"project","sync":true}"#,
        )
        .success();
    assert!(!sidecar.place.path("run/credentials/project").exists());
    assert!(
        !sidecar
            .place
            .path("state/control/credentials/project")
            .exists()
    );
}

#[test]
fn keys_that_are_given_again_replace_those_of_a_mount_that_runs() {
    require_fuse();
    let server = S3Server::start(Settings::default());
    let sidecar = Sidecar::start();
    let mount = |secret| {
        sidecar
            .ask("POST", "/mounts", &body(&server, secret))
            .success()
    };
    let first = mount(SECRET_KEY);
    server.set_keys("another-secret", None);
    std::fs::write(sidecar.place.path("ws/project/file"), "kept").unwrap();
    let refused = sidecar.ask("POST", "/mounts/project/sync", "");
    assert_ne!(refused.status, 200, "{}", refused.body);
    let again = mount("another-secret");
    assert_eq!(first["pid"], again["pid"], "the same mount");
    sidecar.ask("POST", "/mounts/project/sync", "").success();
    let unmount = r#"{"name":"project","sync":true}"#;
    sidecar.ask("POST", "/mounts/unmount", unmount).success();
}

#[test]
fn wrong_keys_are_told_without_the_address_of_the_store() {
    require_fuse();
    let server = S3Server::start(Settings::default());
    let sidecar = Sidecar::start();
    let refused = sidecar.ask("POST", "/mounts", &body(&server, "wrong-secret"));
    let message = refused.refused(422, "mount_failed");
    assert!(
        !message.contains("127.0.0.1") && !message.contains("wrong-secret"),
        "{message}"
    );
    // Which file the keys came from is in the log only.
    assert!(sidecar.log().contains("run/credentials/project"));
    assert!(!message.contains("run/credentials"), "{message}");
    assert!(!sidecar.log().contains("wrong-secret"));
    assert_eq!(
        sidecar.ask("GET", "/mounts", "").success(),
        json!({"mounts": []})
    );
}
