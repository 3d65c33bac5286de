//! rsync, tar, cp, find and du: there and back, and everything is still the same.

use crate::health::{assert_healthy, bounded, guest, on_disk, on_mount, require, script, volume};
use crate::support::scripts::succeed;
use std::time::Duration;

const DEADLINE_S: u64 = 600;

#[test]
fn copying_there_and_back_changes_nothing() {
    require(&["rsync", "tar", "setfacl", "find", "diff"]);
    let _guest = guest();
    let mut volume = volume();
    let (disk, mount) = (on_disk(&volume, "copying"), on_mount(&volume, "copying"));
    let mut command = bounded(DEADLINE_S, "bash");
    command.arg(script("copying.sh")).arg(disk).arg(mount);
    print!(
        "{}",
        succeed(&mut command, Duration::from_secs(DEADLINE_S + 60))
    );
    assert_healthy(&mut volume);
}
