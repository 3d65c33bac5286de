//! Whose clock it is: with the kernel's write-back the kernel stamps writes, and the mount everything else.

use crate::mount::Volume;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Enough for some to be made and written to in the same tick of the kernel.
const FILES: usize = 200;

#[test]
fn nothing_written_is_older_than_what_was_there_before() {
    let disk = tempfile::tempdir().unwrap();
    later_is_not_older(disk.path());
    for option in ["kernel_writeback=off", "kernel_writeback=on"] {
        println!("{option}");
        let mut volume = Volume::mounted_with(&[option]);
        later_is_not_older(&volume.root());
        volume.unmount();
    }
}

fn later_is_not_older(folder: &Path) {
    let mut latest = (0, 0);
    let mut check = |file: &File, what: &str| {
        let found = file.metadata().unwrap();
        let (changed, modified) = (
            (found.ctime(), found.ctime_nsec()),
            (found.mtime(), found.mtime_nsec()),
        );
        assert!(
            changed >= latest && modified >= latest,
            "{what}: {changed:?} and {modified:?} are before {latest:?}"
        );
        latest = changed.max(modified);
    };
    for n in 0..FILES {
        let path = folder.join(n.to_string());
        let mut file = File::create(&path).unwrap();
        check(&file, "a new file");
        file.write_all(b"x").unwrap();
        check(&file, "a write");
        fs::remove_file(path).unwrap();
    }
}
