//! Times of files.

use crate::common::{must, root_process, set_mode};
use crate::support::calls::{At, Call, Process, Stamp};
use crate::support::mount::Volume;
use crate::support::place::Place;
use rustix::fs::{AtFlags, CWD, StatxFlags, Timespec, Timestamps, XattrFlags, utimensat};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

/// Longer than a tick of the clock that ext4 reads.
const TICK: Duration = Duration::from_millis(12);
const LONG_AGO: (i64, i64) = (1_000_000_000, 123_456_789);

fn set(path: &Path, accessed: (i64, i64), modified: (i64, i64)) {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: spec(accessed),
        last_modification: spec(modified),
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

fn stat(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).expect("stat")
}

fn accessed(path: &Path) -> (i64, i64) {
    (stat(path).atime(), stat(path).atime_nsec())
}

fn modified(path: &Path) -> (i64, i64) {
    (stat(path).mtime(), stat(path).mtime_nsec())
}

pub(crate) fn times_are_kept_to_the_nanosecond(place: &mut Place) {
    let root = place.root();
    fs::write(root.join("file"), "").expect("write");
    fs::create_dir(root.join("folder")).expect("mkdir");
    symlink("nowhere", root.join("link")).expect("symlink");
    let cases = [
        (0, 0),
        (0, 1),
        (-1, 999_999_999),
        (-1, 1),
        (-2_000_000_000, 5),
        LONG_AGO,
        (4_102_444_800, 999_999_999),
        (8_589_934_592, 7),
    ];
    for case in cases {
        let other = (case.0 / 2, 77);
        for name in ["file", "folder", "link"] {
            set(&root.join(name), other, case);
        }
        place.remount();
        for name in ["file", "folder", "link"] {
            let path = root.join(name);
            assert_eq!((accessed(&path), modified(&path)), (other, case), "{name}");
        }
    }
}

pub(crate) fn times_now_and_omitted(place: &mut Place) {
    let root = place.root();
    fs::write(root.join("file"), "").expect("write");
    symlink("nowhere", root.join("link")).expect("symlink");
    let mut process = root_process(place);
    now_and_omitted(&mut process, &root, "file", 0);
    now_and_omitted(
        &mut process,
        &root,
        "link",
        libc::AT_SYMLINK_NOFOLLOW as u32,
    );
}

fn now_and_omitted(process: &mut Process, root: &Path, name: &str, flags: u32) {
    let path = root.join(name);
    set(&path, LONG_AGO, LONG_AGO);
    let mut times = |accessed, modified| {
        let call = Call::Times {
            at: At::root(name),
            accessed,
            modified,
            flags,
        };
        must(process, call)
    };
    let created = stat(&path).ctime();
    times(Stamp::Omit, Stamp::Now);
    assert_eq!(accessed(&path), LONG_AGO);
    assert!(modified(&path).0 >= created);
    times(Stamp::Now, Stamp::At(5, 6));
    assert!(accessed(&path).0 >= created);
    assert_eq!(modified(&path), (5, 6));
    let before = (
        accessed(&path),
        stat(&path).ctime(),
        stat(&path).ctime_nsec(),
    );
    std::thread::sleep(TICK);
    times(Stamp::Omit, Stamp::Omit);
    let after = (
        accessed(&path),
        stat(&path).ctime(),
        stat(&path).ctime_nsec(),
    );
    assert_eq!(before, after, "to omit both changes nothing at all");
}

/// Both keep what lies beyond their range as its end; the ranges differ.
pub(crate) fn times_at_the_ends_of_the_range(place: &mut Place) {
    let path = place.root().join("file");
    fs::write(&path, "").expect("write");
    let (first, last) = match place.is_mount() {
        true => ((-9_223_372_037, 145_224_192), (9_223_372_036, 854_775_807)),
        // Of inodes of 256 bytes: 34 bits from 1901 on.
        false => ((-(1 << 31), 0), ((1 << 34) - (1 << 31) - 1, 0)),
    };
    set(&path, first, last);
    assert_eq!((accessed(&path), modified(&path)), (first, last));
    set(&path, (-(1 << 40), 0), (1 << 40, 0));
    place.remount();
    assert_eq!((accessed(&path), modified(&path)), (first, last));
}

/// Reading does not change it on a mount, whatever the mount's options say. On ext4 with `relatime` it does.
pub(crate) fn access_time_and_reading(place: &mut Place) {
    let root = place.root();
    let (file, folder, link) = (root.join("file"), root.join("folder"), root.join("link"));
    fs::write(&file, "content").expect("write");
    fs::create_dir(&folder).expect("mkdir");
    symlink("file", &link).expect("symlink");
    let all = [&file, &folder, &link];
    for path in all {
        set(path, LONG_AGO, LONG_AGO);
    }
    let options = rustix::fs::statvfs(&root).expect("statvfs").f_flag;
    let silent = options.contains(rustix::fs::StatVfsMountFlags::NOATIME);
    fs::read(&link).expect("read");
    fs::read_dir(&folder).expect("list").for_each(drop);
    fs::read_link(&link).expect("readlink");
    for path in all {
        let kept = accessed(path) == LONG_AGO;
        assert_eq!(kept, place.is_mount() || silent, "{}", path.display());
    }
    // A program that sets it itself has its way.
    set(&file, (7, 8), LONG_AGO);
    fs::read(&file).expect("read");
    if place.is_mount() {
        assert_eq!(accessed(&file), (7, 8));
    }
}

/// The options that mount(8) has for it are taken, and change nothing.
pub(crate) fn access_time_and_mount_options() {
    for option in ["atime", "relatime", "noatime"] {
        let volume = Volume::mounted_with(&[option]);
        let path = volume.root().join("file");
        fs::write(&path, "content").expect("write");
        set(&path, LONG_AGO, LONG_AGO);
        fs::read(&path).expect("read");
        assert_eq!(accessed(&path), LONG_AGO, "{option}");
    }
}

/// Which of atime, mtime and ctime of `path` an action changes.
fn changed(path: &Path, action: impl FnOnce()) -> String {
    let times = || {
        let seen = stat(path);
        [
            ('a', (seen.atime(), seen.atime_nsec())),
            ('m', (seen.mtime(), seen.mtime_nsec())),
            ('c', (seen.ctime(), seen.ctime_nsec())),
        ]
    };
    let before = times();
    std::thread::sleep(TICK);
    action();
    let after = times();
    let differ = before.iter().zip(after).filter(|(a, b)| **a != *b);
    differ.map(|((letter, _), _)| *letter).collect()
}

type Action<'a> = Box<dyn FnOnce() + 'a>;

pub(crate) fn what_changes_which_time(place: &mut Place) {
    let root = place.root();
    let (folder, path) = (root.join("folder"), root.join("folder/file"));
    fs::create_dir(&folder).expect("mkdir");
    let made = changed(&folder, || fs::write(&path, "content").expect("write"));
    assert_eq!(made, "mc", "the directory of a new file");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    let other = folder.join("other");
    let of_file: Vec<(&str, &str, Action<'_>)> = vec![
        (
            "write",
            "mc",
            Box::new(|| file.write_all_at(b"x", 0).expect("write")),
        ),
        (
            "write nothing",
            "",
            Box::new(|| file.write_all_at(b"", 0).expect("write")),
        ),
        (
            "truncate",
            "mc",
            Box::new(|| file.set_len(3).expect("truncate")),
        ),
        (
            "truncate to the same",
            "mc",
            Box::new(|| file.set_len(3).expect("truncate")),
        ),
        ("chmod", "c", Box::new(|| set_mode(&path, 0o600))),
        (
            "chown",
            "c",
            Box::new(|| chown(&path, Some(5), None).expect("chown")),
        ),
        (
            "link",
            "c",
            Box::new(|| fs::hard_link(&path, &other).expect("link")),
        ),
        (
            "unlink",
            "c",
            Box::new(|| fs::remove_file(&other).expect("unlink")),
        ),
        (
            "rename",
            "c",
            Box::new(|| {
                fs::rename(&path, &other).expect("rename");
                fs::rename(&other, &path).expect("rename");
            }),
        ),
        (
            "setxattr",
            "c",
            Box::new(|| {
                rustix::fs::setxattr(&path, "user.x", b"", XattrFlags::empty()).expect("setxattr");
            }),
        ),
        (
            "open",
            "",
            Box::new(|| drop(fs::File::open(&path).expect("open"))),
        ),
    ];
    for (what, letters, action) in of_file {
        assert_eq!(changed(&path, action), letters, "{what}");
    }
    let renamed = changed(&folder, || fs::rename(&path, &other).expect("rename"));
    assert_eq!(renamed, "mc", "the directory of a renamed file");
    let written = changed(&folder, || fs::write(&other, "more").expect("write"));
    assert_eq!(written, "", "the directory of a written file");
    let removed = changed(&folder, || fs::remove_file(&other).expect("unlink"));
    assert_eq!(removed, "mc", "the directory of an unlinked file");
}

/// FUSE has no way to ask for it that the library below the mount speaks.
pub(crate) fn birth_time(place: &mut Place) {
    let path = place.root().join("file");
    fs::write(&path, "").expect("write");
    let seen = rustix::fs::statx(CWD, &path, AtFlags::empty(), StatxFlags::ALL).expect("statx");
    let has = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::BTIME);
    assert_eq!(has, !place.is_mount());
}

/// Bytes through a named pipe move the pipe's times on ext4. On a mount they go past the mount.
pub(crate) fn times_of_a_named_pipe(place: &mut Place) {
    let path = place.root().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("mkfifo");
    let mut pipe = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    let touched = changed(&path, || {
        std::io::Write::write_all(&mut pipe, b"x").expect("write");
    });
    assert_eq!(touched, if place.is_mount() { "" } else { "mc" });
}
