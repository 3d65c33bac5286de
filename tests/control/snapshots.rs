//! Snapshots of real mounts over the API.

use serde_json::{Value, json};

use crate::sidecar::Sidecar;
use crate::support::{require_fuse, until};

const SNAPSHOTS: &str = "/mounts/project/snapshots";

fn names(sidecar: &Sidecar) -> Vec<String> {
    let list = sidecar.ask("GET", SNAPSHOTS, "").success();
    let snapshots = list["snapshots"].as_array().unwrap().iter();
    snapshots
        .map(|s| s["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_turn_is_taken_back_and_the_taking_back_too() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    let at = |name: &str| sidecar.place.path("ws/project").join(name);
    std::fs::create_dir_all(at("src/deep")).unwrap();
    std::fs::write(at("src/a"), "one").unwrap();
    std::fs::write(at("other"), "one").unwrap();
    let made = sidecar.ask("POST", SNAPSHOTS, r#"{"name":"before","note":"why"}"#);
    assert_eq!(made.success()["note"], "why");
    std::fs::write(at("src/a"), "two").unwrap();
    std::fs::write(at("other"), "two").unwrap();
    std::fs::write(at("src/deep/new"), "untracked").unwrap();

    let diff = sidecar.ask("GET", &format!("{SNAPSHOTS}/before/diff?path=src"), "");
    let diff = diff.success();
    let paths: Vec<&str> = diff["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["src/a", "src/deep/new"]);
    assert_eq!(
        (&diff["stat"]["created"], &diff["stat"]["changed"]),
        (&json!(1), &json!(1))
    );

    let restore = format!("{SNAPSHOTS}/before/restore");
    let restored = sidecar.ask("POST", &restore, r#"{"path":"src"}"#).success();
    assert_eq!(std::fs::read_to_string(at("src/a")).unwrap(), "one");
    assert!(!at("src/deep/new").exists());
    assert_eq!(
        std::fs::read_to_string(at("other")).unwrap(),
        "two",
        "not asked for"
    );
    let safety = restored["safety"]["name"].as_str().unwrap();
    let back = format!("{SNAPSHOTS}/{safety}/restore");
    sidecar.ask("POST", &back, "").success();
    assert_eq!(std::fs::read_to_string(at("src/a")).unwrap(), "two");
    assert_eq!(
        std::fs::read_to_string(at("src/deep/new")).unwrap(),
        "untracked"
    );

    for (method, path, body, status, code) in [
        ("POST", SNAPSHOTS, r#"{"name":"before"}"#, 409, "conflict"),
        (
            "POST",
            SNAPSHOTS,
            r#"{"name":"a/b"}"#,
            400,
            "invalid_request",
        ),
        (
            "POST",
            SNAPSHOTS,
            r#"{"name":".."}"#,
            400,
            "invalid_request",
        ),
        (
            "POST",
            &restore,
            r#"{"path":"not/there"}"#,
            400,
            "invalid_request",
        ),
        ("DELETE", &format!("{SNAPSHOTS}/none"), "", 404, "not_found"),
        (
            "GET",
            &format!("{SNAPSHOTS}/none/diff"),
            "",
            404,
            "not_found",
        ),
        (
            "GET",
            &format!("{SNAPSHOTS}/{safety}/diff?to=before"),
            "",
            400,
            "invalid_request",
        ),
    ] {
        sidecar.ask(method, path, body).refused(status, code);
    }
    for name in names(&sidecar) {
        sidecar
            .ask("DELETE", &format!("{SNAPSHOTS}/{name}"), "")
            .success();
    }
    assert_eq!(names(&sidecar), [""; 0]);
    let events = sidecar.events("project");
    for kind in ["snapshot.created", "snapshot.restored", "snapshot.removed"] {
        assert!(events.iter().any(|one| one == kind), "{kind}: {events:?}");
    }
    // What was made beside the sidecar is seen like any other.
    let by_hand = [
        "snapshot",
        "create",
        &sidecar.place.text("ws/project"),
        "by-hand",
    ];
    sidecar.run(&by_hand).success();
    assert_eq!(names(&sidecar), ["by-hand"]);
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn many_at_the_same_time_are_as_many_snapshots_and_one_name_is_one() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    let statuses = |body: &(dyn Fn(usize) -> Value + Sync)| -> Vec<u16> {
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..12)
                .map(|n| {
                    let (sidecar, body) = (&sidecar, body(n).to_string());
                    scope.spawn(move || sidecar.ask("POST", SNAPSHOTS, &body).status)
                })
                .collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        })
    };
    let one = statuses(&|_| json!({"name": "one"}));
    assert_eq!(
        one.iter().filter(|status| **status == 200).count(),
        1,
        "{one:?}"
    );
    assert!(
        one.iter().all(|status| [200, 409].contains(status)),
        "{one:?}"
    );
    let many = statuses(&|n| json!({"name": format!("s-{n}")}));
    assert!(many.iter().all(|status| *status == 200), "{many:?}");
    assert_eq!(names(&sidecar).len(), 13);
    until("it is unmounted", || {
        let unmount = sidecar.ask("POST", "/mounts/unmount", r#"{"name":"project"}"#);
        unmount.status == 200
    });
}
