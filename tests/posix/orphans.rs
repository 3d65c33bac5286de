//! Files without a name that somebody has open, and what becomes of them when the mount's process dies.

use crate::common::{eventually, must};
use crate::support::calls::{At, Call};
use crate::support::mount::Volume;
use crate::support::place::Place;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use weldrfs_fs::{Source, StoreWait, VolumeConfig};

const BYTES: usize = 4 << 20;
const COUNT: usize = 20;

/// Blocks and inodes in use.
fn used(root: &Path) -> (u64, u64) {
    let seen = rustix::fs::statvfs(root).expect("statvfs");
    (seen.f_blocks - seen.f_bfree, seen.f_files - seen.f_ffree)
}

pub(crate) fn unlinked_file_lives_until_it_is_closed(place: &mut Place) {
    let root = place.root();
    let before = used(&root);
    let path = root.join("file");
    fs::write(&path, vec![5; BYTES]).expect("write");
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    fs::remove_file(&path).expect("unlink");
    assert!(!path.exists());
    let mut back = vec![0; BYTES];
    file.read_exact_at(&mut back, 0).expect("read");
    assert!(back.iter().all(|b| *b == 5), "its content changed");
    file.write_all_at(&[6], 10 << 20).expect("write");
    assert_eq!(file.metadata().expect("stat").len(), (10 << 20) + 1);
    // A way back to a name there is not, as on ext4 for what was not made without one.
    let through = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&file));
    let linked = rustix::fs::linkat(
        rustix::fs::CWD,
        through,
        rustix::fs::CWD,
        root.join("again"),
        rustix::fs::AtFlags::SYMLINK_FOLLOW,
    );
    assert_eq!(linked, Err(rustix::io::Errno::NOENT));
    drop(file);
    if place.is_mount() {
        eventually("its space is free", || used(&root) == before);
    }
}

/// Files, directories, pipes: all that is open and has no name when the process is killed.
fn leave_orphans(volume: &Volume) -> (Vec<File>, crate::support::calls::Process) {
    let root = volume.root();
    let mut files = Vec::new();
    for i in 0..COUNT {
        let path = root.join(format!("orphan-{i}"));
        fs::write(&path, vec![i as u8 + 1; BYTES / COUNT]).expect("write");
        rustix::fs::setxattr(&path, "user.x", b"gone", rustix::fs::XattrFlags::empty())
            .expect("setxattr");
        files.push(File::open(&path).expect("open"));
        match i % 3 {
            0 => fs::remove_file(&path).expect("unlink"),
            1 => fs::rename(root.join("kept"), &path)
                .and_then(|()| fs::rename(&path, root.join("kept")))
                .expect("rename over it"),
            _ => {
                fs::hard_link(&path, root.join("second")).expect("link");
                fs::remove_file(&path).expect("unlink");
                fs::remove_file(root.join("second")).expect("unlink");
            }
        }
    }
    fs::create_dir(root.join("folder")).expect("mkdir");
    let mut process =
        crate::support::calls::Process::start(&root, &crate::support::calls::ROOT_USER);
    must(
        &mut process,
        Call::Chdir {
            at: At::root("folder"),
        },
    );
    fs::remove_dir(root.join("folder")).expect("rmdir");
    (files, process)
}

pub(crate) fn orphans_are_reclaimed_after_a_crash() {
    // This is about orphans: what is published in the middle would be in the trash instead.
    let mut volume = Volume::mounted_with(&["trash=off"]);
    let root = volume.root();
    fs::write(root.join("kept"), "kept").expect("write");
    let before = used(&root);
    let held = leave_orphans(&volume);
    let with_orphans = used(&root);
    assert!(
        with_orphans.0 >= before.0 + (BYTES / 4096) as u64 - COUNT as u64
            && with_orphans.1 == before.1 + COUNT as u64 + 1,
        "{with_orphans:?} in use with the orphans, {before:?} before"
    );
    // Some of them are in the tables by now, some in the journal only.
    File::open(&root)
        .and_then(|dir| dir.sync_all())
        .expect("fsync");
    volume.kill();
    drop(held);
    volume.detach();
    volume.mount();
    assert_eq!(used(&root), before, "blocks and inodes in use");
    assert_eq!(fs::read_to_string(root.join("kept")).expect("read"), "kept");
    assert_eq!(
        fs::read_dir(&root).expect("list").count(),
        1,
        "names in the root"
    );
    volume.unmount();
    check(&volume);
}

/// Every invariant of the tables.
fn check(volume: &Volume) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let config = VolumeConfig {
        source: Source::Directory(volume.beside("store")),
        state_base: volume.beside("state"),
        cache_dir: None,
        cache_bytes: 256 << 20,
        frame_cache_bytes: 4 << 20,
        free_floor_ratio: 0.0,
        staging_limit_bytes: None,
        checkpoint_interval: Duration::from_secs(1),
        read_deadline: Duration::from_secs(30),
        read_only: false,
        max_uploads: 5,
        upload_delay: Duration::ZERO,
        trust_store: false,
        store_wait: StoreWait::Never,
        lease: weldrfs_fs::LeaseTerm::Auto,
        claim: weldrfs_fs::Claim::default(),
        trash: Duration::from_secs(7 * 86_400),
        divergent: None,
        at_ms: None,
    };
    let opened = weldrfs_fs::Volume::open(config, runtime.handle().clone()).expect("it opens");
    let report = opened.check().expect("the tables can be read");
    opened.close().expect("it closes");
    assert_eq!(report.findings, vec![], "invariants");
    assert_eq!(report.inodes, 2, "the root and one file");
}
