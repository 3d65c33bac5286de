//! A folder on the local disk to compare with: ext4, and read without noting the access, as a mount of ours is.

use crate::support::ext4::require_ext4;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The folder; gone with this.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("weldrfs-ext4-")
            .tempdir()
            .expect("a temporary folder can be made");
        require_ext4(folder.path());
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
            .expect("the mode can be set");
        mount_bind(folder.path(), folder.path()).expect("a folder can be mounted on itself");
        let disk = Self { folder };
        mount_remount(
            disk.folder.path(),
            MountFlags::BIND | MountFlags::NOATIME,
            "",
        )
        .expect("a mount can be made one that notes no access");
        disk
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Before the folder is removed, which a mountpoint cannot be.
        let _ = unmount(self.folder.path(), UnmountFlags::DETACH);
    }
}
