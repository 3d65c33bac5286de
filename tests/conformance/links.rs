//! The greatest link count, which pjdfstest cannot ask a FUSE mount for.

use crate::mount::Volume;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// What README.md promises.
const MOST_NAMES: u64 = 65_000;

#[test]
fn a_file_has_65000_names_and_no_more() {
    let mut volume = Volume::mounted();
    let folder = volume.root();
    let file = folder.join("0");
    fs::write(&file, "x").unwrap();
    for name in 1..MOST_NAMES {
        fs::hard_link(&file, folder.join(name.to_string())).unwrap();
    }
    let refused = fs::hard_link(&file, folder.join("more")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMLINK));
    assert_eq!(fs::metadata(&file).unwrap().nlink(), MOST_NAMES);
    // A name that goes makes room for another one.
    fs::remove_file(folder.join("1")).unwrap();
    fs::hard_link(&file, folder.join("more")).unwrap();
    volume.remount();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), MOST_NAMES);
    volume.unmount();
}
