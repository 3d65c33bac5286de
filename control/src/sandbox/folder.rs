//! Opening a project's folder below its mount. Whoever works on the mount may put a link in its place.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

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
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    Ok(openat2(mountpoint, folder, flags, Mode::empty(), inside)?)
}
