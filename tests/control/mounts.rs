//! Mounts over the API and by the command line: from nothing to unmounted.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::json;

use crate::sidecar::Sidecar;
use crate::support::{require_fuse, until};

#[test]
fn over_the_socket_from_nothing_to_unmounted() {
    require_fuse();
    let sidecar = Sidecar::start();
    let mount = sidecar.mount("project");
    assert_eq!(
        (&mount["name"], &mount["state"]),
        (&json!("project"), &json!("mounted"))
    );
    assert_eq!(mount["path"], sidecar.place.text("ws/project"));
    // The same again, many times at once, is the same mount.
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| sidecar.mount("project")))
            .collect();
        for asked in asking {
            assert_eq!(asked.join().unwrap()["pid"], mount["pid"]);
        }
    });
    std::fs::write(sidecar.place.path("ws/project/file"), "written").unwrap();
    let synced = sidecar.ask("POST", "/mounts/project/sync", "{}").success();
    assert!(synced["in_store_lsn"].as_u64().unwrap() > 0, "{synced}");
    let details = sidecar.ask("GET", "/mounts/project", "").success();
    assert_eq!(details["status"]["pid"], mount["pid"]);
    let log = sidecar
        .ask("GET", "/mounts/project/logs?lines=100", "")
        .success();
    assert!(log["lines"].to_string().contains("mounted"), "{log}");

    // In use: it stays, and says by whom.
    let open = std::fs::File::open(sidecar.place.path("ws/project/file")).unwrap();
    let busy = sidecar.ask("POST", "/mounts/unmount", r#"{"name":"project"}"#);
    let message = busy.refused(409, "in_use");
    assert!(
        message.contains(&format!("(process {})", std::process::id())),
        "{message}"
    );
    drop(open);
    // A process that a test beside this one starts holds all that this one has open, until its exec.
    until("it is unmounted", || {
        sidecar
            .ask(
                "POST",
                "/mounts/unmount",
                r#"{"name":"project","sync":true}"#,
            )
            .status
            == 200
    });
    assert_eq!(
        sidecar.ask("GET", "/mounts", "").success(),
        json!({"mounts": []})
    );
    assert!(sidecar.place.mounts().is_empty());
    let events = sidecar.events("project");
    assert_eq!(events.first().unwrap(), "mount.mounting");
    assert_eq!(events.last().unwrap(), "mount.unmounted");

    sidecar.mount("project");
    let text = std::fs::read_to_string(sidecar.place.path("ws/project/file")).unwrap();
    assert_eq!(text, "written");
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn by_the_command_line_from_nothing_to_unmounted() {
    require_fuse();
    let sidecar = Sidecar::start();
    assert_eq!(
        sidecar.run(&["mounts", "ls"]).success().stdout,
        "no mounts are known here\n"
    );
    let mut following = sidecar
        .command()
        .args(["events", "--json", "--after", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (source, elsewhere) = (sidecar.source("vol"), sidecar.place.text("m2/deep/er"));
    let added = sidecar.run_json(&[
        "mounts",
        "add",
        &source,
        &elsewhere,
        "--name",
        "mine",
        "-o",
        "fsname=a\\,b,noatime",
        "--json",
    ]);
    assert_eq!(
        (&added["name"], &added["options"]),
        (&json!("mine"), &json!(["fsname=a,b", "noatime"]))
    );
    assert!(
        sidecar.place.mounts()[0].contains(" a,b "),
        "{:?}",
        sidecar.place.mounts()
    );
    let said = sidecar.run(&["mounts", "ls"]).success().stdout;
    assert!(
        said.lines().nth(1).unwrap().starts_with("mine  mounted"),
        "{said}"
    );
    let list = sidecar.run_json(&["mounts", "ls", "--json"]);
    assert_eq!(list["mounts"][0]["path"], elsewhere);
    let synced = sidecar.run_json(&["mounts", "sync", "mine", "--json"]);
    assert_eq!(synced["name"], "mine");
    let shown = sidecar.run(&["mounts", "ls", "mine"]).success().stdout;
    assert!(
        shown.contains("mine is mounted") && shown.contains("everything is in the store"),
        "{shown}"
    );
    let log = sidecar
        .run(&["mounts", "logs", "mine", "--lines", "2"])
        .success()
        .stdout;
    assert_eq!(log.lines().count(), 2, "{log}");
    sidecar
        .run(&["mounts", "add", &sidecar.source("other"), "--name", "mine"])
        .refused(1, &["another source"]);
    sidecar
        .run(&["mounts", "add", &source, "-o", "no_such_option"])
        .refused(1, &["no_such_option"]);
    sidecar
        .run(&["mounts", "sync", "none"])
        .refused(1, &["no mount \"none\""]);
    sidecar.run(&["mounts", "rm", "mine", "--sync"]).success();
    sidecar
        .run(&["mounts", "rm", "mine"])
        .refused(1, &["no mount"]);

    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let events =
        lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let kinds: Vec<_> = events
        .map(|event| event["kind"].as_str().unwrap().to_owned())
        .take_while(|kind| kind != "mount.unmounted")
        .collect();
    assert_eq!(kinds[0], "sidecar.started");
    assert!(kinds.contains(&"mount.mounted".to_owned()), "{kinds:?}");
    following.kill().unwrap();
    following.wait().unwrap();
}

#[test]
fn without_a_sidecar_the_commands_say_so() {
    let mut sidecar = Sidecar::start();
    sidecar.stop();
    for arguments in [["mounts", "ls"].as_slice(), &["events"]] {
        sidecar
            .run(arguments)
            .refused(1, &["no sidecar answers", "control.sock"]);
    }
}

#[test]
fn what_was_mounted_by_hand_is_known_and_kept_apart() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    sidecar.place.mount();
    let seen = sidecar.listed("m").expect("it is seen");
    assert_eq!(
        (&seen["managed"], &seen["pid"]),
        (&json!(false), &json!(sidecar.place.pid()))
    );
    assert_eq!(sidecar.ask("POST", "/mounts/m/sync", "").status, 200);
    // It is told its share of the disk.
    until("it is told", || {
        sidecar
            .listed("m")
            .is_some_and(|mount| mount["budget"]["applied"] == true)
    });
    let status = sidecar.ask("GET", "/mounts/m", "").success();
    assert_eq!(
        status["status"]["cache"]["pack_budget_bytes"],
        status["budget"]["cache_bytes"]
    );
    assert_eq!(
        status["status"]["cache"]["frame_budget_bytes"],
        status["budget"]["buffer_bytes"]
    );
    sidecar.kill();
    sidecar.start_again();
    assert_eq!(
        sidecar.listed("m").expect("it is seen again")["pid"],
        seen["pid"]
    );
    sidecar
        .place
        .run(&["umount", &sidecar.place.text("m")])
        .success();
    until("its end is noticed", || sidecar.listed("m").is_none());
    assert!(sidecar.events("m").contains(&"mount.stopped".to_owned()));
}

#[test]
fn what_is_unmounted_by_hand_stays_so() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let mount = sidecar.mount("project");
    sidecar
        .place
        .run(&["umount", mount["path"].as_str().unwrap()])
        .success();
    until("it is noticed", || {
        sidecar.listed("project").unwrap()["state"] == "stopped"
    });
    sidecar.kill();
    sidecar.start_again();
    assert_eq!(sidecar.listed("project").unwrap()["state"], "stopped");
    assert!(sidecar.place.mounts().is_empty());
    sidecar.mount("project");
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn as_many_as_there_may_be_share_the_disk_and_one_more_is_refused() {
    require_fuse();
    let sidecar = Sidecar::start_with(&["--max-mounts", "3"], &[]);
    let first = sidecar.mount("v1")["budget"]["cache_bytes"]
        .as_u64()
        .unwrap();
    sidecar.mount("v2");
    sidecar.mount("v3");
    let body = json!({"source": sidecar.source("v4")}).to_string();
    let message = sidecar
        .ask("POST", "/mounts", &body)
        .refused(409, "limit_reached");
    assert!(message.contains("3 mounts"), "{message}");
    let budget = |name: &str| {
        let details = sidecar.ask("GET", &format!("/mounts/{name}"), "").success();
        details["status"]["cache"]["pack_budget_bytes"]
            .as_u64()
            .unwrap()
    };
    until("the first has less", || budget("v1") < first * 2 / 3);
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"v2"}"#)
        .success();
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"v3"}"#)
        .success();
    until("it has more again", || budget("v1") > first * 2 / 3);
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"v1"}"#)
        .success();
}

#[test]
fn a_mount_that_fails_says_why_and_leaves_nothing() {
    require_fuse();
    let sidecar = Sidecar::start();
    std::fs::create_dir_all(sidecar.place.path("s/full")).unwrap();
    std::fs::write(sidecar.place.path("s/full/other"), "x").unwrap();
    let body = json!({"source": sidecar.source("full")}).to_string();
    let message = sidecar
        .ask("POST", "/mounts", &body)
        .refused(422, "mount_failed");
    assert!(message.contains("other"), "{message}");
    assert!(!message.contains(&sidecar.place.text("state")), "{message}");
    assert_eq!(
        sidecar.ask("GET", "/mounts", "").success(),
        json!({"mounts": []})
    );
    assert!(sidecar.events("full").contains(&"mount.failed".to_owned()));
    assert_eq!(sidecar.ask("GET", "/health", "").success()["status"], "ok");
}

#[test]
fn everything_it_writes_is_its_owners_and_the_socket_its_groups() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    sidecar.run(&["control", "token", "create"]).success();
    let mode = |name: &str| {
        let found = std::fs::symlink_metadata(sidecar.place.path(name)).unwrap();
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode("run/control.sock"), 0o660);
    assert_eq!((mode("run"), mode("state/control")), (0o700, 0o700));
    // But what it mounts on is for those whom the mount lets in.
    assert_eq!(mode("ws"), 0o755);
    let mut seen = 0;
    for folder in ["run", "state/control"] {
        for entry in std::fs::read_dir(sidecar.place.path(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                seen += 1;
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{}", entry.path().display());
            }
        }
    }
    assert!(seen >= 4, "{seen} files");
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn the_description_that_is_served_is_the_one_that_is_kept() {
    let sidecar = Sidecar::start();
    let kept =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/control/openapi.json"))
            .unwrap();
    assert_eq!(sidecar.ask("GET", "/openapi.json", "").body, kept);
    assert_eq!(sidecar.run(&["control", "openapi"]).success().stdout, kept);
}
