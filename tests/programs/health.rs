//! What all these tests have in common: how long they run, and how the mount has to be when a program is done.

use crate::support::mount::{Volume, require_fuse};
use crate::support::scripts::{difference, in_repository, treesum};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Whether the long runs were asked for.
pub(crate) fn full() -> bool {
    match std::env::var("WELDRFS_PROGRAMS").as_deref() {
        Ok("full") => true,
        Ok("short") | Err(_) => false,
        Ok(other) => panic!("WELDRFS_PROGRAMS is {other:?}, \"short\" or \"full\" was expected"),
    }
}

/// Some stressors copy the table of mounts, and hold every mount in it while they run.
static MOUNTS: RwLock<()> = RwLock::new(());

/// For a test whose mount nobody may hold. Taken before the volume, so that it ends after it.
pub(crate) fn guest() -> RwLockReadGuard<'static, ()> {
    MOUNTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that holds all mounts.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MOUNTS.write().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted volume that every user may use.
pub(crate) fn volume() -> Volume {
    require_fuse();
    let volume = Volume::mounted_with(&["allow_other"]);
    for folder in [volume.root().parent().unwrap(), &volume.root()] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    volume
}

/// A new folder on the mount.
pub(crate) fn on_mount(volume: &Volume, name: &str) -> PathBuf {
    let folder = volume.root().join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// A new folder beside the mount, on the local disk.
pub(crate) fn on_disk(volume: &Volume, name: &str) -> PathBuf {
    let folder = volume.beside(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// A file of this folder of tests.
pub(crate) fn script(name: &str) -> PathBuf {
    in_repository("tests/programs").join(name)
}

/// A program with all its children that is ended after some seconds.
pub(crate) fn bounded(seconds: u64, program: &str) -> Command {
    // timeout(1) ends the whole group: what a program leaves running would keep the mount busy.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &seconds.to_string(), program]);
    command
}

/// Fails when a program that a test needs is not installed.
pub(crate) fn require(programs: &[&str]) {
    for program in programs {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|p| p.join(program).exists()));
        assert!(
            found,
            "this test needs {program}, which `scripts/dev setup` installs"
        );
    }
}

/// The mount still answers, logged no trouble, and all of it is the same after a remount and from the store.
pub(crate) fn assert_healthy(volume: &mut Volume) {
    let [first, second, third] =
        ["first", "second", "third"].map(|name| volume.beside(&format!("listing-{name}")));
    let before = treesum(&volume.root(), &first);
    volume.remount();
    let after = treesum(&volume.root(), &second);
    assert_eq!(
        before,
        after,
        "a remount changed the tree:\n{}",
        difference(&first, &second)
    );
    volume.sync_and_drop_caches();
    volume.remount();
    volume.sync_and_drop_caches();
    let cold = treesum(&volume.root(), &third);
    assert_eq!(
        before,
        cold,
        "the tree came back from the store as another:\n{}",
        difference(&first, &third)
    );
    volume.unmount();
    let log = std::fs::read_to_string(volume.beside("mount.log")).unwrap();
    let trouble: Vec<&str> = log
        .lines()
        .filter(|line| {
            line.contains(" ERROR ") || line.contains(" WARN ") || line.contains("panicked")
        })
        .collect();
    assert!(trouble.is_empty(), "the mount logged trouble: {trouble:#?}");
}
