//! Git's own test scripts do on a mount what they do on the local disk.

use crate::health::{
    assert_healthy, bounded, full, guest, on_disk, on_mount, require, script, volume,
};
use crate::support::mount::Volume;
use crate::support::scripts::{inputs_with, succeed};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Some of each area that meets the file system.
const SHORT: &[&str] = &[
    "t0001-*", "t0002-*", "t0004-*", "t0060-*", "t1006-*", "t1400-*", "t1404-*", "t1700-*",
    "t2000-*", "t2022-*", "t3010-*", "t3700-*", "t4015-*", "t5304-*", "t5601-*", "t7063-*",
    "t7300-*", "t7508-*",
];
const FULL: &[&str] = &["t0*", "t1*", "t2*", "t3*", "t4*", "t5*", "t6*", "t7*"];
/// Tests that pass at least: somewhat fewer than did when this was written.
const SHORT_PASS: u32 = 1_300;
const FULL_PASS: u32 = 23_000;
/// Of fewer scripts: nobody has counted all of them as root.
const FULL_PASS_AS_ROOT: u32 = 11_000;
const DEADLINE_S: u64 = 10_800;
const COPY_DEADLINE: Duration = Duration::from_secs(120);

/// The built tree where an unprivileged user can get at it: the folder of the inputs may be below somebody's home. Its
/// programs and tests run each other by absolute names, which are those of the folder it was built in.
fn within_reach(built: &Path, volume: &Volume) -> PathBuf {
    let here = volume.beside("git-built");
    succeed(
        Command::new("cp").arg("-a").arg(built).arg(&here),
        COPY_DEADLINE,
    );
    for folder in here.ancestors() {
        assert!(
            std::fs::metadata(folder).unwrap().mode() & 0o001 != 0,
            "other users cannot enter {}: set TMPDIR to a folder that everybody may enter",
            folder.display()
        );
    }
    let wrapper = std::fs::read_to_string(here.join("bin-wrappers/git")).unwrap();
    let built_in = wrapper
        .lines()
        .find_map(|line| line.strip_prefix("GIT_EXEC_PATH='")?.strip_suffix('\''))
        .expect("git's starter names the folder it was built in");
    let starters = std::fs::read_dir(here.join("bin-wrappers")).unwrap();
    let starters = starters.map(|entry| entry.unwrap().path());
    for file in starters.chain([here.join("GIT-BUILD-OPTIONS")]) {
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(built_in, here.to_str().unwrap())).unwrap();
    }
    here
}

fn run(built: &Path, user: Option<&str>) {
    let _guest = guest();
    let mut volume = volume();
    let git = within_reach(built, &volume);
    // Both are equally long: tests that make sockets are skipped where the name gets too long.
    let (disk, mount) = (on_disk(&volume, "disk-gi"), on_mount(&volume, "git"));
    assert_eq!(disk.as_os_str().len(), mount.as_os_str().len());
    let mut command = bounded(DEADLINE_S, "python3");
    command.arg(script("git_scripts.py"));
    command.arg(git).arg(&disk).arg(&mount);
    command.arg("--known").arg(script("git_known.txt"));
    let least = match user {
        _ if !full() => SHORT_PASS,
        Some(_) => FULL_PASS,
        None => FULL_PASS_AS_ROOT,
    };
    command.args(["--at-least", &least.to_string()]);
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
