//! The project's folder, and who its owner is in the sandbox and on the machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use weldrfs_control::{Identity, SandboxOrder, open_folder};

use super::mounts::{Attributes, copy};

/// The project's folder, without following a symbolic link out of the mount or anywhere.
///
/// # Errors
/// What the operating system says; a link on the way is ELOOP.
pub(in crate::shim) fn open_project(order: &SandboxOrder) -> io::Result<OwnedFd> {
    open_folder(&order.mountpoint, &order.folder)
}

/// A copy of the mount from the project's folder on, to be put into a root. With `owners` its owner is shown as
/// `user`, who is checked to get in.
///
/// # Errors
/// Also when the mount cannot show other owners, or does not let others in.
pub(in crate::shim) fn copy_project(
    project: &OwnedFd,
    owners: Option<(BorrowedFd<'_>, Identity)>,
) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        read_only: false,
        owners: owners.map(|(owners, _)| owners),
    };
    let tree = copy(project.as_fd(), attributes)?;
    if let Some((_, user)) = owners
        && !owns(user, &tree)
    {
        return Err(io::Error::other("the mount does not let others in"));
    }
    Ok(tree)
}

/// Whether `user` can look at the folder, and sees itself as its owner.
fn owns(user: Identity, folder: &OwnedFd) -> bool {
    // SAFETY: the shim has one thread, and the child makes system calls only.
    let child = unsafe { libc::fork() };
    match child {
        -1 => false,
        0 => {
            // SAFETY: system calls of a process that nothing else uses; the structure lives until they return.
            unsafe {
                let mut found: libc::stat = std::mem::zeroed();
                let is_owner = libc::setgroups(0, std::ptr::null()) == 0
                    && libc::setresgid(user.gid, user.gid, user.gid) == 0
                    && libc::setresuid(user.uid, user.uid, user.uid) == 0
                    && libc::fstat(folder.as_raw_fd(), &raw mut found) == 0
                    && found.st_uid == user.uid
                    && found.st_gid == user.gid;
                libc::_exit(i32::from(!is_owner))
            }
        }
        child => {
            let mut status = 0;
            // SAFETY: it is our child; the place for the status lives until the call returns.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_leads_out_of_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("mount");
        std::fs::create_dir_all(mountpoint.join("app/deep")).unwrap();
        std::os::unix::fs::symlink("/etc", mountpoint.join("out")).unwrap();
        std::os::unix::fs::symlink("app", mountpoint.join("in")).unwrap();
        std::fs::write(mountpoint.join("file"), "").unwrap();
        let open = |folder: &str| {
            let order = crate::shim::tests::order(&mountpoint, folder);
            open_project(&order).is_ok()
        };
        assert!(open("") && open("app") && open("app/deep"));
        for bad in [
            "out",
            "in",
            "in/deep",
            "..",
            "app/../..",
            "file",
            "missing",
            "/etc",
        ] {
            assert!(!open(bad), "{bad}");
        }
    }
}
