//! Removes folders of mounts. A program that works on a mount may put a symbolic link anywhere, also while this runs: none is
//! followed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// Removes the directory `folder` below `mountpoint`, with everything in it.
///
/// # Errors
/// What stopped it.
pub(super) fn remove(mountpoint: &Path, folder: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let above = match beneath(mountpoint, above) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        above => above?,
    };
    // By the descriptor, whatever its path leads to by now.
    let path = PathBuf::from(format!("/proc/self/fd/{}", above.as_raw_fd())).join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn beneath(mountpoint: &Path, folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(mountpoint, flags, Mode::empty())?;
    if folder.as_os_str().is_empty() {
        return Ok(root);
    }
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    Ok(openat2(&root, folder, flags, Mode::empty(), inside)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_goes_with_everything_in_it_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, outside) = (dir.path().join("mount"), dir.path().join("outside"));
        let branch = mount.join(".weldr/branches/b");
        std::fs::create_dir_all(branch.join("deep/er")).unwrap();
        std::fs::create_dir_all(outside.join("branches/b")).unwrap();
        std::fs::write(outside.join("branches/b/file"), "stays").unwrap();
        symlink(&outside, branch.join("deep/link")).unwrap();
        let folder = Path::new(".weldr/branches/b");
        remove(&mount, folder).unwrap();
        assert!(!branch.exists());
        // Gone is gone.
        remove(&mount, folder).unwrap();
        remove(&mount, Path::new("not/there")).unwrap();

        // What leads out of the mount is refused, wherever on the way.
        std::fs::remove_dir_all(mount.join(".weldr")).unwrap();
        symlink(&outside, mount.join(".weldr")).unwrap();
        assert!(remove(&mount, folder).is_err());
        // A link in the place of the branch is removed, and not what it leads to.
        std::fs::remove_file(mount.join(".weldr")).unwrap();
        std::fs::create_dir_all(mount.join(".weldr/branches")).unwrap();
        symlink(outside.join("branches/b"), &branch).unwrap();
        remove(&mount, folder).unwrap();
        assert!(std::fs::symlink_metadata(&branch).is_err());
        assert!(remove(&mount, Path::new("../outside")).is_err());
        assert!(outside.join("branches/b/file").exists());
    }
}
