//! A dev server and a compiler that wait for inotify see every change that is made through the mount.

use crate::health::{assert_healthy, bounded, guest, on_mount, require, script, volume};
use crate::support::scripts::{inputs_with, succeed};
use std::process::Command;
use std::time::Duration;

const INSTALL_DEADLINE: Duration = Duration::from_secs(300);
const DEADLINE_S: u64 = 600;

#[test]
fn a_dev_server_sees_every_change() {
    require(&["npm", "node", "git"]);
    let inputs = inputs_with("small", &["app"]);
    let _guest = guest();
    let mut volume = volume();
    let project = on_mount(&volume, "project");
    succeed(
        Command::new("cp")
            .arg("-r")
            .arg(inputs.join("app/."))
            .arg(&project),
        INSTALL_DEADLINE,
    );
    succeed(
        Command::new("npm")
            .args([
                "ci",
                "--offline",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--cache",
            ])
            .arg(inputs.join("npm-cache"))
            .current_dir(&project),
        INSTALL_DEADLINE,
    );
    let mut command = bounded(DEADLINE_S, "node");
    command.arg(script("watching.mjs")).arg(&project);
    print!(
        "{}",
        succeed(&mut command, Duration::from_secs(DEADLINE_S + 60))
    );
    assert_healthy(&mut volume);
}
