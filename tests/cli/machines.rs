//! Several machines and one volume: who may write it, what becomes of whoever lost it, and going back in time.

use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::bucket::{Bucket, source};
use crate::machine::{two_machines, writes};
use crate::s3_server::Settings;
use crate::support::{require_fuse, until};

#[test]
fn a_stopped_machine_that_was_overruled_writes_nothing_more_and_loses_nothing() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (old, new) = two_machines(&bucket);
    old.mount("").success();
    std::fs::write(old.file("shared"), "1").unwrap();
    old.sync().success();
    let status = old.status();
    assert_eq!(status["epoch"], 1);
    assert!(status["lease_left_ms"].as_u64().unwrap() > 600_000);
    let pid = old.pid();
    std::fs::write(old.file("unpublished"), "kept").unwrap();
    kill_process(pid, Signal::STOP).unwrap();

    new.mount("")
        .refused(32, &["is held by", "process", "take_over"]);
    new.mount("take_over").success();
    assert_eq!(std::fs::read_to_string(new.file("shared")).unwrap(), "1");
    std::fs::write(new.file("shared"), "2").unwrap();
    new.sync().success();

    kill_process(pid, Signal::CONT).unwrap();
    // It finds out at its next publication, some seconds from now, or when it is told to publish.
    old.sync().refused(2, &["gone on without this machine"]);
    assert_eq!(writes(&old.file("late")), Err(Some(libc::EROFS)));
    assert_eq!(
        std::fs::read_to_string(old.file("unpublished")).unwrap(),
        "kept"
    );
    old.unmount();
    new.unmount();

    old.mount("")
        .refused(32, &["never published", "diverged=keep"]);
    assert_eq!(old.copies(), Vec::<String>::new());
    old.mount("diverged=keep").success();
    assert_eq!(std::fs::read_to_string(old.file("shared")).unwrap(), "2");
    assert!(!old.file("unpublished").exists());
    let copies = old.copies();
    assert_eq!(copies.len(), 1, "{copies:?}");

    // The copy is looked at beside the volume.
    let copy = format!("divergent={}", copies[0]);
    let beside = bucket.place.text("m2");
    old.run(&["mount", &source(), &beside, "-o", &copy])
        .success();
    assert_eq!(
        std::fs::read_to_string(new.file("unpublished")).unwrap(),
        "kept"
    );
    assert_eq!(writes(&new.file("x")), Err(Some(libc::EROFS)));
    old.run(&["umount", &beside]).success();
    let wrong = old.run(&["mount", &source(), &beside, "-o", "divergent=divergent-x"]);
    wrong.refused(32, &["there is no divergent copy", &copies[0]]);
    old.unmount();
}

#[test]
fn a_killed_machine_takes_its_own_volume_back_and_another_has_to_ask() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (one, other) = two_machines(&bucket);
    one.mount("").success();
    std::fs::write(one.file("f"), "1").unwrap();
    kill_process(one.pid(), Signal::KILL).unwrap();
    until("the mount is dead", || {
        rustix::fs::statvfs(one.root()).is_err()
    });
    other.mount("").refused(32, &["is held by"]);
    one.mount("").success();
    assert_eq!(std::fs::read_to_string(one.file("f")).unwrap(), "1");
    one.unmount();
    // Given back, it is free at once, and who has nothing of its own follows.
    for machine in [&other, &one, &other] {
        machine.mount("").success();
        let before = std::fs::read_to_string(machine.file("f")).unwrap();
        std::fs::write(machine.file("f"), before + "+").unwrap();
        machine.unmount();
    }
    one.mount("").success();
    assert_eq!(std::fs::read_to_string(one.file("f")).unwrap(), "1+++");
    one.unmount();
}

#[test]
fn a_volume_goes_back_in_time_and_forth_again() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (machine, _) = two_machines(&bucket);
    machine
        .run(&["restore", "--list", &source()])
        .refused(2, &["no volume"]);
    machine.mount("").success();
    for text in ["one", "two", "three"] {
        std::fs::write(machine.file("f"), text).unwrap();
        machine.sync().success();
        // Points are named by seconds.
        std::thread::sleep(Duration::from_millis(1_100));
    }
    let listed = machine.run(&["restore", "--list", "--json", &source()]);
    let listed: serde_json::Value = serde_json::from_str(&listed.success().stdout).unwrap();
    let listed = listed.as_array().unwrap();
    let at = |n: usize| {
        let ms = listed[listed.len() - n]["at_ms"].as_u64().unwrap();
        let at = std::time::UNIX_EPOCH + Duration::from_millis(ms);
        humantime::format_rfc3339_millis(at).to_string()
    };
    assert_eq!(listed.last().unwrap()["newest"], true);

    // A look beside the mount.
    let beside = bucket.place.text("m2");
    let look = format!("at={}", at(2));
    machine
        .run(&["mount", &source(), &beside, "-o", &look])
        .success();
    let seen = bucket.place.path("m2").join("f");
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "two");
    std::fs::write(machine.file("f"), "four").unwrap();
    machine.sync().success();
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "two");
    machine.run(&["umount", &beside]).success();

    let (one, three) = (at(3), at(1));
    let back = |at: &str| machine.run(&["restore", "--at", at, &source()]);
    back(&one).refused(1, &["is mounted on", "unmount it first"]);
    machine.unmount();
    for (at, text) in [(&one, "one"), (&three, "three"), (&one, "one")] {
        back(at).success();
        machine.mount("").success();
        assert_eq!(std::fs::read_to_string(machine.file("f")).unwrap(), text);
        machine.unmount();
    }
    back("2001-01-01T00:00:00Z").refused(2, &["no restore point is as old", "the oldest is of"]);
    back("soon").refused(1, &["soon", "30m"]);
    back("0s").success();
}

/// Some hosts give a machine five seconds between SIGTERM and SIGKILL, whatever its store does meanwhile.
#[test]
fn a_mount_that_has_five_seconds_to_stop_loses_nothing() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (machine, _) = two_machines(&bucket);
    machine.mount("").success();
    machine.sync().success();
    for n in 0..50 {
        std::fs::write(machine.file(&format!("f{n}")), format!("content {n}")).unwrap();
    }
    let pid = machine.pid();
    // Nothing gets to the store before the end.
    bucket.server.set_latency(Duration::from_secs(60));
    kill_process(pid, Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(bucket.place.mounts().is_empty(), "the mount goes at once");
    kill_process(pid, Signal::KILL).unwrap();
    bucket.server.set_latency(Duration::ZERO);

    machine.mount("").success();
    for n in 0..50 {
        let text = std::fs::read_to_string(machine.file(&format!("f{n}"))).unwrap();
        assert_eq!(text, format!("content {n}"));
    }
    machine.sync().success();
    machine.unmount();
}
