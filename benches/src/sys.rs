//! What only root may ask of the kernel: dropping its caches, and read-ahead.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::error::{At, Result};
use crate::process::run;

const SYNC_DEADLINE: Duration = Duration::from_secs(600);

/// Writes everything back and empties the kernel's caches of files, names and attributes, of all file systems.
pub(crate) fn drop_caches() -> Result<()> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    run(&mut Command::new("sync"), SYNC_DEADLINE)?;
    std::fs::write(FILE, "3").at(FILE)
}

/// Raises the kernel's read-ahead of a FUSE mount. A hint: failing to give it is no error.
pub(crate) fn raise_read_ahead(mount: &Path, kib: &str) {
    if let Ok(found) = std::fs::metadata(mount) {
        let (major, minor) = (
            rustix::fs::major(found.dev()),
            rustix::fs::minor(found.dev()),
        );
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = std::fs::write(path, kib);
    }
}
