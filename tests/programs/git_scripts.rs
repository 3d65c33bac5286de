//! Git's own test scripts do on a mount what they do on the local disk.

use crate::health::{assert_healthy, bounded, full, on_disk, on_mount, require, script, volume};
use crate::support::scripts::{inputs_with, succeed};
use std::path::Path;
use std::time::Duration;

/// Some of each area that meets the file system.
const SHORT: &[&str] = &[
    "t0001-*", "t0002-*", "t0004-*", "t0060-*", "t1006-*", "t1400-*", "t1404-*", "t1700-*",
    "t2000-*", "t2022-*", "t3010-*", "t3700-*", "t4015-*", "t5304-*", "t5601-*", "t7063-*",
    "t7300-*", "t7508-*",
];
const FULL: &[&str] = &["t0*", "t1*", "t2*", "t3*", "t4*", "t5*", "t6*", "t7*"];
const DEADLINE_S: u64 = 10_800;

fn run(git: &Path, user: Option<&str>) {
    let mut volume = volume();
    // Both are equally long: tests that make sockets are skipped where the name gets too long.
    let (disk, mount) = (on_disk(&volume, "disk-gi"), on_mount(&volume, "git"));
    assert_eq!(disk.as_os_str().len(), mount.as_os_str().len());
    let mut command = bounded(DEADLINE_S, "python3");
    command.arg(script("git_scripts.py"));
    command.arg(git).arg(&disk).arg(&mount);
    command.arg("--known").arg(script("git_known.txt"));
    for pattern in if full() { FULL } else { SHORT } {
        command.args(["--scripts", pattern]);
    }
    command.args(user.map(|user| format!("--user={user}")));
    print!(
        "{}",
        succeed(&mut command, Duration::from_secs(DEADLINE_S + 60))
    );
    assert_healthy(&mut volume);
}

#[test]
fn gits_own_tests_end_as_on_the_local_disk() {
    require(&["make", "perl", "setpriv"]);
    let git = inputs_with("small", &["git"]).join("git/built");
    // Root is stopped by no permission, so more is skipped for it.
    run(&git, Some("nobody"));
    if full() {
        run(&git, None);
    }
}
