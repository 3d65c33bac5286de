//! `statfs`.

use crate::common::eventually;
use crate::support::place::Place;
use rustix::fs::statvfs;
use std::path::Path;

const FILE_BYTES: usize = 8 << 20;

/// Blocks of 4 KiB and inodes in use.
fn used(root: &Path) -> (u64, u64) {
    let seen = statvfs(root).expect("statvfs");
    let blocks = (seen.f_blocks - seen.f_bfree) * seen.f_frsize / 4096;
    (blocks, seen.f_files - seen.f_ffree)
}

pub(crate) fn statfs_counts_what_is_used(place: &mut Place) {
    let root = place.root();
    let seen = statvfs(&root).expect("statvfs");
    assert_eq!(
        (seen.f_namemax, seen.f_frsize, seen.f_bsize),
        (255, 4096, 4096)
    );
    assert!(seen.f_bavail <= seen.f_bfree && seen.f_bfree <= seen.f_blocks);
    assert!(seen.f_ffree <= seen.f_files && seen.f_ffree > 0);
    // Everybody else uses the local disk too: what it counts is not ours alone.
    if !place.is_mount() {
        return;
    }
    assert_eq!(seen.f_ffree, 1 << 32);
    let (blocks, inodes) = used(&root);
    std::fs::write(root.join("file"), vec![1; FILE_BYTES]).expect("write");
    std::fs::create_dir(root.join("folder")).expect("mkdir");
    let grown = (blocks + FILE_BYTES as u64 / 4096, inodes + 2);
    assert_eq!(used(&root), grown);
    // Holes take nothing, and a copy that shares its bytes counts as the file that it is.
    let sparse = std::fs::File::create(root.join("sparse")).expect("create");
    sparse.set_len(1 << 40).expect("truncate");
    assert_eq!(used(&root), (grown.0, grown.1 + 1));
    drop(sparse);
    for name in ["file", "sparse"] {
        std::fs::remove_file(root.join(name)).expect("unlink");
    }
    std::fs::remove_dir(root.join("folder")).expect("rmdir");
    // What is removed is counted until the kernel has let go of it.
    eventually("everything is free again", || {
        used(&root) == (blocks, inodes)
    });
}

pub(crate) fn statfs_is_the_same_after_a_remount(place: &mut Place) {
    let root = place.root();
    std::fs::write(root.join("file"), vec![1; FILE_BYTES]).expect("write");
    let look = || {
        let seen = statvfs(&root).expect("statvfs");
        (used(&root), seen.f_fsid, seen.f_namemax, seen.f_frsize)
    };
    let before = look();
    place.remount();
    if place.is_mount() {
        assert_eq!(look(), before);
        // FUSE has none to give: programs that want to tell volumes apart take the device number.
        assert_eq!(before.1, 0);
    }
}

/// What ext4 answers by ioctl, a mount does not: flags of `chattr`, where the blocks of a file lie.
pub(crate) fn flags_and_block_maps(place: &mut Place) {
    let file = std::fs::File::create(place.root().join("file")).expect("create");
    let flags = rustix::fs::ioctl_getflags(&file);
    match place.is_mount() {
        true => assert_eq!(flags, Err(rustix::io::Errno::NOTTY)),
        false => assert!(flags.is_ok(), "{flags:?}"),
    }
}
