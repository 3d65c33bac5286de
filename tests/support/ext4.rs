//! The local disk that a mount is compared with has to be ext4.

use std::path::Path;

/// What `statfs` calls ext4.
const EXT4: i64 = 0xef53;

/// Stops the test where the folder is on another file system: what is expected there would be another's ways.
pub(crate) fn require_ext4(folder: &Path) {
    let kind = rustix::fs::statfs(folder)
        .expect("the disk can be asked")
        .f_type;
    assert!(
        kind == EXT4,
        "{} is not on ext4 (type {kind:#x}): set TMPDIR to a folder that is",
        folder.display()
    );
}
