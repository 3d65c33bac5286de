//! Where a check runs: on the local disk, which shows that the check is right, then on a mount.

#![allow(dead_code, reason = "every test program uses its own part of this")]

use crate::support::ext4::require_ext4;
use crate::support::mount::{Volume, require_fuse};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder to work in that may be remounted.
pub(crate) enum Place {
    /// A folder of the local disk.
    Disk(tempfile::TempDir),
    /// A mounted volume of its own.
    Mount(Box<Volume>),
}

impl Place {
    /// The folder; anybody may walk into it.
    pub(crate) fn root(&self) -> PathBuf {
        match self {
            Self::Disk(folder) => folder.path().to_owned(),
            Self::Mount(volume) => volume.root(),
        }
    }

    pub(crate) fn is_mount(&self) -> bool {
        matches!(self, Self::Mount(_))
    }

    /// Unmounts and mounts; nothing below it may be open.
    pub(crate) fn remount(&mut self) {
        if let Self::Mount(volume) = self {
            volume.remount();
        }
    }

    /// The most memory the mount process ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        match self {
            Self::Disk(_) => None,
            Self::Mount(volume) => Some(volume.memory().1),
        }
    }
}

/// Runs a check on the local disk and on a mount.
pub(crate) fn on_disk_and_mount(check: impl Fn(&mut Place)) {
    require_fuse();
    let disk = tempfile::Builder::new()
        .prefix("weldrfs-disk-")
        .tempdir()
        .expect("a temporary folder can be made");
    require_ext4(disk.path());
    open_to_all(disk.path());
    println!("on the local disk");
    check(&mut Place::Disk(disk));
    println!("on a mount");
    // allow_other: some checks act as another user.
    let mut mount = Place::Mount(Box::new(Volume::mounted_with(&["allow_other"])));
    open_to_all(mount.root().parent().unwrap_or(Path::new("/")));
    check(&mut mount);
    if let Place::Mount(volume) = &mut mount {
        volume.unmount();
    }
}

fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .expect("the mode can be set");
}
