//! pjdfstest, whole, on mounts with different options, as root and with its unprivileged users.

use crate::exclusions::{Exclusions, Outcome, Outcomes, outcomes};
use crate::mount::{Volume, finish};
use crate::tools::tool;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(1_200);
const CONFIG: &str = include_str!("pjdfstest.toml");
const EXCLUSIONS: &str = include_str!("pjdfstest-exclusions.toml");
/// In the configuration, for the cases that do not remount.
const NO_REMOUNT: &str = "allow_remount = false";
/// Remounts as the kernel does it: mount(8) would ask the program, which refuses to change a mount that runs.
const MOUNT: &str = "#!/bin/sh\nexec /bin/mount --internal-only \"$@\"\n";
/// The cases that remount read-only, by a part of their names.
const REMOUNTING: &str = "erofs";

#[test]
fn pjdfstest_on_a_mount() {
    check(&[]);
}

#[test]
fn pjdfstest_on_a_mount_that_answers_open() {
    check(&["no_open=off", "no_opendir=off"]);
}

#[test]
fn pjdfstest_on_a_mount_with_writeback_in_the_kernel() {
    check(&["kernel_writeback=on"]);
}

fn check(options: &[&str]) {
    let options = [options, &["allow_other"]].concat();
    let mut volume = Volume::mounted_with(&options);
    let folder = volume.root();
    let aside = folder.parent().unwrap();
    for folder in [aside, &folder] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    let mut ended = run(aside, &folder, false);
    // Apart, because some of the other cases keep files open for writing, and no file system turns read-only then.
    ended.extend(run(aside, &folder, true));
    let count = |wanted| ended.values().filter(|(end, _)| *end == wanted).count();
    let (failed, skipped) = (count(Outcome::Failed), count(Outcome::Skipped));
    println!("{} cases, {failed} failed, {skipped} skipped", ended.len());
    let complaints = Exclusions::parse(EXCLUSIONS).complaints(&ended);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    volume.unmount();
}

/// Runs the cases that remount, or all others, in a folder. `aside` is on another file system.
fn run(aside: &Path, folder: &Path, remounting: bool) -> Outcomes {
    assert!(CONFIG.contains(NO_REMOUNT));
    let config = match remounting {
        true => CONFIG.replace(NO_REMOUNT, "allow_remount = true"),
        false => CONFIG.to_owned(),
    };
    let (file, mount, second) = (
        aside.join("pjdfstest.toml"),
        aside.join("bin/mount"),
        aside.join("second"),
    );
    fs::write(&file, config).unwrap();
    fs::create_dir_all(aside.join("bin")).unwrap();
    fs::create_dir_all(&second).unwrap();
    fs::write(&mount, MOUNT).unwrap();
    fs::set_permissions(&mount, Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(tool("pjdfstest"));
    command
        .arg("--configuration-file")
        .arg(&file)
        .arg("--path")
        .arg(folder)
        .arg("--secondary-fs")
        .arg(&second)
        .args(remounting.then_some(REMOUNTING))
        .env("PATH", format!("{}:{path}", aside.join("bin").display()))
        .env("NO_COLOR", "1");
    let output = finish(&mut command, DEADLINE);
    // It ends with an error when any case fails; what counts is what it says about each.
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains("Summary: "),
        "pjdfstest broke off ({}):\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    outcomes(&printed)
}
