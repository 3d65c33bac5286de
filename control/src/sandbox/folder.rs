//! Opening a project's folder below its mount. Whoever works on the mount may put a link in its place.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// How what is below a folder of somebody else is opened: nothing outside of it, over no link, and on no other mount.
pub(crate) const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The folder below the mount (empty: all of it), to be named only, without following a symbolic link out of the mount or
/// anywhere.
///
/// # Errors
/// What the operating system says; a link on the way is ELOOP.
pub fn open_folder(mountpoint: &Path, folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mountpoint = open(mountpoint, flags, Mode::empty())?;
    if folder.as_os_str().is_empty() {
        return Ok(mountpoint);
    }
    Ok(openat2(mountpoint, folder, flags, Mode::empty(), INSIDE)?)
}
