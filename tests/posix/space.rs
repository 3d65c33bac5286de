//! Room: `statfs`, and how long a file may be.

use crate::common::eventually;
use crate::support::place::Place;
use rustix::fs::statvfs;
use rustix::io::Errno;
use std::os::unix::fs::FileExt;
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
    let Place::Mount(volume) = place else {
        return;
    };
    let disk = statvfs(volume.beside("state")).expect("statvfs");
    let [here, below] = [&seen, &disk].map(|seen| seen.f_bavail * seen.f_frsize);
    assert!(
        here.abs_diff(below) < below / 4,
        "{here} bytes are free, on the local disk {below}"
    );
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

pub(crate) fn largest_file(place: &mut Place) {
    let largest = match place.is_mount() {
        true => (1 << 63) - 4096,
        // 2^32 blocks of 4 KiB but one.
        false => (1u64 << 44) - 4096,
    };
    let path = place.root().join("file");
    let file = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    let errno = |error: std::io::Error| Errno::from_io_error(&error);
    for beyond in [largest + 1, largest + 4095] {
        let refused = file.set_len(beyond).expect_err("it is too long");
        assert_eq!(errno(refused), Some(Errno::FBIG), "{beyond}");
    }
    let refused = file.write_at(b"x", largest).expect_err("it is too far");
    assert_eq!(errno(refused), Some(Errno::FBIG));
    assert_eq!(file.metadata().expect("stat").len(), 0);
    file.set_len(largest).expect("it can be as long");
    // What fits is written.
    assert_eq!(file.write_at(b"end", largest - 2).expect("write"), 2);
    drop(file);
    place.remount();
    let file = std::fs::File::open(&path).expect("open");
    assert_eq!(file.metadata().expect("stat").len(), largest);
    let mut end = [1; 4];
    assert_eq!(file.read_at(&mut end, largest - 3).expect("read"), 3);
    assert_eq!(end, *b"\0en\x01");
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
