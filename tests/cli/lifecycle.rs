//! The life of a mount: it answers when the command returns, ends in an orderly way, and survives being killed.

use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{PROGRAM, Place, require_fuse, until};

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// How `child` ended; fails when it does not end.
fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn the_command_returns_when_the_mount_answers_and_again_when_it_is_saved() {
    require_fuse();
    let place = Place::new();
    // Mounting again at once shows that the process before has let go of the volume.
    for _ in 0..3 {
        place.mount();
        let mounts = place.mounts();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert!(
            mounts[0].contains(&format!(" - fuse.weldrfs {} ", place.source())),
            "{mounts:?}"
        );
        std::fs::metadata(place.path("m")).unwrap();
        let status = place.run(&["status", &place.text("m")]).success().stdout;
        assert!(status.contains(&place.source()), "{status}");
        place.run(&["sync", &place.text("m")]).success();
        place.run(&["drop-caches", &place.text("m")]).success();
        place.run(&["umount", "--sync", &place.text("m")]).success();
        assert!(place.mounts().is_empty());
    }
    assert_eq!(
        place.run(&["status"]).success().stdout,
        "no mounts are known here\n"
    );
    let left = place.inventory().into_keys().filter(|path| {
        path.ends_with("volume.sock")
            || path.ends_with("mount.json")
            || path.parent() == Some(&place.path("run"))
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn the_status_as_json_names_the_mount() {
    require_fuse();
    let place = Place::new();
    place.mount();
    let one = place
        .run(&["status", "--json", &place.text("m")])
        .success()
        .stdout;
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["api_version"], 1);
    assert_eq!(one["volume"]["source"], place.source());
    assert_eq!(one["volume"]["mountpoint"], place.text("m"));
    assert!(one["memory_resident_bytes"].as_u64().unwrap() > 0);
    let all = place.run(&["status", "--json"]).success().stdout;
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all[0]["running"], true);
    assert_eq!(all[0]["status"]["volume"]["id"], one["volume"]["id"]);
    // Its log is where the state is, and a state folder given by hand is found without being named again.
    let log =
        std::path::Path::new(one["volume"]["state_dir"].as_str().unwrap()).join("log/weldrfs.log");
    assert!(std::fs::read_to_string(log).unwrap().contains("mounted"));
    place.run(&["umount", &place.text("m")]).success();

    let elsewhere = format!("state_dir={}", place.text("elsewhere"));
    place
        .run(&["mount", &place.source(), &place.text("m"), "-o", &elsewhere])
        .success();
    let status = place.run(&["status", &place.text("m")]).success().stdout;
    assert!(status.contains(&place.text("elsewhere")), "{status}");
    place.run(&["umount", &place.text("m")]).success();
}

#[test]
fn one_volume_is_mounted_once() {
    require_fuse();
    let place = Place::new();
    place.mount();
    let again = place.run(&["mount", &place.source(), &place.text("m")]);
    again.refused(32, &["is already mounted on", "weldrfs umount"]);
    let elsewhere = place.run(&["mount", &place.source(), &place.text("m2")]);
    elsewhere.refused(32, &["is already mounted, on", &place.text("m")]);
    let other = format!("file://{}", place.text("s/other"));
    place
        .run(&["mount", &other, &place.text("m")])
        .refused(32, &["is already a mount of", "choose another place"]);
    assert_eq!(place.mounts().len(), 1);
    place.run(&["umount", &place.text("m")]).success();
}

#[test]
fn a_killed_mount_is_reported_and_cleared_by_the_next() {
    require_fuse();
    let place = Place::new();
    place.mount();
    send(place.pid(), Signal::KILL);
    until("the mount is dead", || {
        rustix::fs::statvfs(place.path("m")).is_err()
    });
    place
        .run(&["status", &place.text("m")])
        .refused(2, &["is gone", "mount it again"]);
    let listed = place.run(&["status"]).success().stdout;
    assert!(listed.contains("not running"), "{listed}");
    let answer = place
        .run(&["mount", &place.source(), &place.text("m")])
        .success();
    assert!(
        answer.stderr.contains("cleared the dead mount"),
        "{answer:?}"
    );
    assert_eq!(place.mounts().len(), 1);
    send(place.pid(), Signal::KILL);
    until("the mount is dead", || {
        rustix::fs::statvfs(place.path("m")).is_err()
    });
    place.run(&["umount", &place.text("m")]).success();
    assert!(place.mounts().is_empty());
}

#[test]
fn a_mount_in_use_is_not_taken_away_unless_lazily() {
    require_fuse();
    let place = Place::new();
    place.mount();
    let held = std::fs::File::open(place.path("m")).unwrap();
    place
        .run(&["umount", &place.text("m")])
        .refused(32, &["is in use", "fuser -vm", "--lazy"]);
    assert_eq!(place.mounts().len(), 1);
    place
        .run(&["umount", &place.text("m/none")])
        .refused(1, &["lies on the mount"]);
    let pid = place.pid();
    place.run(&["umount", "--lazy", &place.text("m")]).success();
    assert!(place.mounts().is_empty());
    held.metadata().unwrap();
    drop(held);
    until("the process ends", || {
        !std::path::Path::new(&format!("/proc/{pid}/exe")).exists()
    });
    place.mount();
    place.run(&["umount", &place.text("m")]).success();
}

#[test]
fn a_signal_ends_a_mount_in_an_orderly_way() {
    require_fuse();
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut child = place.mount_in_foreground();
        let pid = child.id().try_into().unwrap();
        send(pid, Signal::HUP);
        place.run(&["status", &place.text("m")]).success();
        send(pid, signal);
        assert_eq!(ended(&mut child).code(), Some(0), "{signal:?}");
        assert!(place.mounts().is_empty(), "{signal:?}");
    }
    assert_eq!(
        place.run(&["status"]).success().stdout,
        "no mounts are known here\n"
    );
}

#[test]
fn a_second_signal_cuts_open_files_off_and_still_ends_well() {
    require_fuse();
    let place = Place::new();
    let mut child = place.mount_in_foreground();
    let held = std::fs::File::open(place.path("m")).unwrap();
    let pid = child.id().try_into().unwrap();
    send(pid, Signal::TERM);
    until("the mount is out of the table", || {
        place.mounts().is_empty()
    });
    assert!(
        child.try_wait().unwrap().is_none(),
        "open files have a while"
    );
    send(pid, Signal::TERM);
    assert_eq!(ended(&mut child).code(), Some(0));
    // Not fstat, which the kernel answers from memory.
    assert!(rustix::fs::fstatvfs(&held).is_err());
    place.mount();
    place.run(&["umount", &place.text("m")]).success();
}

#[test]
fn a_daemon_holds_nothing_of_its_caller() {
    require_fuse();
    let place = Place::new();
    let line = format!(
        "{PROGRAM} mount {} {} 9>{}",
        place.source(),
        place.text("m"),
        place.text("held")
    );
    let output = place
        .command("timeout")
        .args(["60", "sh", "-c", &line])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let pid = place.pid();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // A descriptor may be closed between being listed and being read.
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        assert_ne!(target, place.path("held"));
    }
    for number in 0..3 {
        assert_eq!(
            std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
                .unwrap()
                .to_str(),
            Some("/dev/null")
        );
    }
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/cwd"))
            .unwrap()
            .to_str(),
        Some("/")
    );
    place.run(&["umount", &place.text("m")]).success();
}
