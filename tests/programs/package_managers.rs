//! npm, pnpm, bun and cargo with their caches and stores on the mount give what they give on the local disk.

use crate::health::{assert_healthy, bounded, guest, on_disk, on_mount, require, script, volume};
use crate::support::scripts::{difference, inputs_with, succeed};
use std::time::Duration;

const DEADLINE_S: u64 = 900;

#[test]
fn package_managers_install_and_build_the_same_as_on_the_local_disk() {
    require(&["npm", "node", "cargo"]);
    let inputs = inputs_with("small", &["app", "crate", "pnpm"]);
    let _guest = guest();
    let mut volume = volume();
    let folders = [on_disk(&volume, "packages"), on_mount(&volume, "packages")];
    let listings = ["disk", "mount"].map(|name| volume.beside(&format!("packages-{name}")));
    for (folder, listing) in folders.iter().zip(&listings) {
        let mut command = bounded(DEADLINE_S, "bash");
        command
            .arg(script("package_managers.sh"))
            .arg(folder)
            .arg(&inputs)
            .arg(listing);
        succeed(&mut command, Duration::from_secs(DEADLINE_S + 60));
    }
    let [disk, mount] = listings.each_ref().map(|path| std::fs::read(path).unwrap());
    assert!(disk.len() > 100_000, "the listing is too short to be one");
    assert!(
        disk == mount,
        "something was installed differently:\n{}",
        difference(&listings[0], &listings[1])
    );
    assert_healthy(&mut volume);
}
