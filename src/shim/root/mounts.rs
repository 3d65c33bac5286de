//! What the root of a sandbox is mounted with: copies of mounts, private folders, single files. Every error says what was
//! attempted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_remount, move_mount,
    open_tree,
};

/// What was attempted, and how it failed.
pub(super) fn attempt<T, E: std::fmt::Display>(
    what: &str,
    done: Result<T, E>,
) -> Result<T, String> {
    done.map_err(|error| format!("{what}: {error}"))
}

/// How a copy of a mount is restricted, beside having no set-id bits and no devices.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) read_only: bool,
    /// A user namespace that says how owners are shown.
    pub(super) owners: Option<BorrowedFd<'a>>,
}

/// A copy of what is mounted at the folder, from it on down, without what is mounted below it. Nobody sees it before it is
/// [put](put) somewhere, in whichever mount namespace.
pub(super) fn copy(folder: impl AsFd, attributes: Attributes<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(folder, "", flags)?;
    restrict_copy(&tree, attributes)?;
    Ok(tree)
}

/// Puts a copy on a folder.
pub(super) fn put(tree: &OwnedFd, target: &Path) -> Result<(), String> {
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    attempt(
        &format!("nothing can be mounted on {}", target.display()),
        move_mount(tree, "", CWD, target, from),
    )
}

/// A read-only copy of what is mounted at `source`. A file system that cannot show other owners is shown with its own; what
/// is hidden is hidden all the same.
pub(super) fn copy_read_only(
    source: &Path,
    owners: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, String> {
    use rustix::fs::{Mode, OFlags};
    let what = format!("{} cannot be shown", source.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder = attempt(&what, rustix::fs::open(source, flags, Mode::empty()))?;
    let plain = Attributes {
        read_only: true,
        owners: None,
    };
    match copy(&folder, Attributes { owners, ..plain }) {
        Ok(tree) => Ok(tree),
        Err(_) => attempt(&what, copy(&folder, plain)),
    }
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn restrict_copy(tree: &OwnedFd, attributes: Attributes<'_>) -> io::Result<()> {
    const RDONLY: u64 = 0x1;
    const NOSUID: u64 = 0x2;
    const NODEV: u64 = 0x4;
    const IDMAP: u64 = 0x0010_0000;
    let owners = attributes.owners;
    let raw = MountAttributes {
        set: NOSUID
            | NODEV
            | if attributes.read_only { RDONLY } else { 0 }
            | if owners.is_some() { IDMAP } else { 0 },
        clear: 0,
        propagation: 0,
        user_namespace: owners.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(0)),
    };
    // SAFETY: the structure is the kernel's, its size is given, and it lives until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            AtFlags::EMPTY_PATH.bits(),
            std::ptr::from_ref(&raw),
            std::mem::size_of::<MountAttributes>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A private folder in memory.
pub(super) fn tmpfs(target: &Path, options: &str, more: MountFlags) -> Result<(), String> {
    let what = format!("no private folder on {}", target.display());
    let options = attempt(&what, CString::new(options))?;
    let flags = MountFlags::NOSUID | more;
    attempt(
        &what,
        mount("tmpfs", target, "tmpfs", flags, options.as_c_str()),
    )
}

/// Shows the file `source` at `target`.
pub(super) fn bind_read_only(source: &Path, target: &Path) -> Result<(), String> {
    let what = format!("{} cannot be bound", target.display());
    attempt(&what, mount_bind(source, target))?;
    make_read_only(target, MountFlags::NODEV)
}

/// Nothing is changed in it any more.
pub(super) fn make_read_only(target: &Path, more: MountFlags) -> Result<(), String> {
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::RDONLY | more;
    attempt(
        &format!("{} cannot be restricted", target.display()),
        mount_remount(target, flags, c""),
    )
}
