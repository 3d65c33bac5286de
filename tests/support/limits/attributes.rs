//! What hangs on a file besides its bytes: xattrs, times, set-uid bits, pipes, sockets, locks.

use crate::support::place::Place;
use crate::support::scripts::{in_repository, succeed};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

const HELPER_DEADLINE: Duration = Duration::from_secs(120);
const NOBODY: u32 = 65_534;
/// More than ext4 takes, the most that Linux does.
const LARGEST_XATTR: usize = 65_536;

pub(crate) fn extended_attributes(place: &mut Place) {
    let path = place.root().join("file");
    fs::write(&path, "").expect("write");
    let largest = if place.is_mount() {
        LARGEST_XATTR
    } else {
        1_000
    };
    let value = vec![0xeeu8; largest];
    rustix::fs::setxattr(&path, "user.large", &value, XattrFlags::empty()).expect("set");
    rustix::fs::setxattr(&path, "user.empty", b"", XattrFlags::CREATE).expect("set");
    rustix::fs::setxattr(&path, "trusted.mine", b"\0\xff", XattrFlags::empty()).expect("set");
    let twice = rustix::fs::setxattr(&path, "user.empty", b"x", XattrFlags::CREATE);
    assert_eq!(twice, Err(rustix::io::Errno::EXIST));
    let absent = rustix::fs::setxattr(&path, "user.absent", b"x", XattrFlags::REPLACE);
    assert_eq!(absent, Err(rustix::io::Errno::NODATA));
    for _ in 0..2 {
        let mut buffer = vec![0u8; LARGEST_XATTR];
        let n = rustix::fs::listxattr(&path, &mut buffer[..]).expect("list");
        let mut names: Vec<&[u8]> = buffer[..n]
            .split(|&b| b == 0)
            .filter(|name| !name.is_empty())
            .collect();
        names.sort();
        assert_eq!(names, [&b"trusted.mine"[..], b"user.empty", b"user.large"]);
        let n = rustix::fs::getxattr(&path, "user.large", &mut buffer[..]).expect("get");
        assert!(buffer[..n] == value, "the large value differs");
        let small = rustix::fs::getxattr(&path, "user.large", &mut buffer[..10]);
        assert_eq!(small, Err(rustix::io::Errno::RANGE));
        assert_eq!(
            rustix::fs::getxattr(&path, "user.empty", &mut buffer[..]),
            Ok(0)
        );
        place.remount();
    }
    rustix::fs::removexattr(&path, "user.large").expect("remove");
    let mut buffer = [0u8; 10];
    let removed = rustix::fs::getxattr(&path, "user.large", &mut buffer[..]);
    assert_eq!(removed, Err(rustix::io::Errno::NODATA));
}

pub(crate) fn times_to_the_nanosecond(place: &mut Place) {
    let root = place.root();
    let cases = [
        (1_234_567_890, 123_456_789),
        (-1_000_000, 999_999_999),
        (0, 1),
        (4_102_444_800, 0),
    ];
    for (i, (seconds, nanos)) in cases.iter().enumerate() {
        let path = root.join(format!("times-{i}"));
        fs::write(&path, "x").expect("write");
        let at = Timespec {
            tv_sec: *seconds,
            tv_nsec: *nanos,
        };
        let times = Timestamps {
            last_access: at,
            last_modification: at,
        };
        rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).expect("utimensat");
    }
    for _ in 0..2 {
        for (i, (seconds, nanos)) in cases.iter().enumerate() {
            let seen = fs::metadata(root.join(format!("times-{i}"))).expect("stat");
            assert_eq!(
                (seen.mtime(), seen.mtime_nsec()),
                (*seconds, *nanos),
                "mtime of case {i}"
            );
            assert_eq!(
                (seen.atime(), seen.atime_nsec()),
                (*seconds, *nanos),
                "atime of case {i}"
            );
        }
        place.remount();
    }
}

/// A write or a chown by somebody without privileges takes the set-uid and set-gid bits away.
pub(crate) fn setuid_is_cleared(place: &mut Place) {
    let root = place.root();
    let mode = |name: &str| {
        fs::metadata(root.join(name))
            .expect("stat")
            .permissions()
            .mode()
            & 0o7777
    };
    for name in ["written", "cut", "owned", "kept"] {
        let path = root.join(name);
        fs::write(&path, "program").expect("write");
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
        assert_eq!(mode(name), 0o6755);
    }
    let script = "import os, sys\n\
                  os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
                  os.pwrite(os.open(sys.argv[1], os.O_WRONLY), b'changed', 0)\n\
                  os.truncate(sys.argv[2], 3)\n";
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .arg(root.join("written"))
        .arg(root.join("cut"));
    succeed(&mut command, HELPER_DEADLINE);
    std::os::unix::fs::chown(root.join("owned"), Some(1), Some(1)).expect("chown");
    place.remount();
    assert_eq!(
        (mode("written"), mode("cut"), mode("owned"), mode("kept")),
        (0o755, 0o755, 0o755, 0o6755)
    );
    assert_eq!(fs::read(root.join("written")).expect("read"), b"changed");
    assert_eq!(fs::read(root.join("cut")).expect("read"), b"pro");
    executed_without_a_look_before(&root.join("id"));
}

/// Somebody writes to a set-user-id program of root's and executes it at once: nobody has asked for its mode since.
fn executed_without_a_look_before(program: &std::path::Path) {
    fs::copy("/usr/bin/id", program).expect("copy");
    fs::set_permissions(program, fs::Permissions::from_mode(0o4777)).expect("chmod");
    let script = "import os, sys\n\
                  os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
                  fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)\n\
                  os.write(fd, b'x'); os.close(fd)\n\
                  os.execv(sys.argv[1], ['id', '-u'])\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(program);
    assert_eq!(succeed(&mut command, HELPER_DEADLINE).trim(), "65534");
}

pub(crate) fn pipes_and_sockets(place: &mut Place) {
    let root = place.root();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).expect("mkfifo");
    let writing = fifo.clone();
    let writer = std::thread::spawn(move || fs::write(writing, "through the pipe"));
    assert_eq!(fs::read_to_string(&fifo).expect("read"), "through the pipe");
    writer.join().expect("the thread ends").expect("write");

    let socket = root.join("socket");
    // A socket's name has at most 107 bytes, and the folder's may be as long.
    let folder = fs::File::open(&root).expect("open");
    let short = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    let listener = UnixListener::bind(&short).expect("bind");
    let answering = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("accept");
        peer.write_all(b"hello").expect("write");
    });
    let mut said = String::new();
    UnixStream::connect(&short)
        .expect("connect")
        .read_to_string(&mut said)
        .expect("read");
    answering.join().expect("the thread ends");
    assert_eq!(said, "hello");

    drop(folder);
    place.remount();
    let folder = fs::File::open(&root).expect("open");
    let short = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    assert!(
        fs::symlink_metadata(&fifo)
            .expect("stat")
            .file_type()
            .is_fifo()
    );
    assert!(
        fs::symlink_metadata(&socket)
            .expect("stat")
            .file_type()
            .is_socket()
    );
    assert!(
        UnixStream::connect(&short).is_err(),
        "nobody listens any more"
    );
    fs::remove_file(&socket).expect("unlink");
    fs::remove_file(&fifo).expect("unlink");
}

pub(crate) fn locks_between_processes(place: &mut Place) {
    let mut command = Command::new("python3");
    command
        .arg(in_repository("tests/support/locks.py"))
        .arg(place.root().join("locked"));
    println!("{}", succeed(&mut command, HELPER_DEADLINE).trim());
}

pub(crate) fn statfs(place: &mut Place) {
    let seen = rustix::fs::statvfs(place.root()).expect("statvfs");
    assert_eq!(seen.f_namemax, 255);
    assert!(seen.f_blocks > 0, "no blocks at all");
    assert!(
        seen.f_bavail <= seen.f_bfree && seen.f_bfree <= seen.f_blocks,
        "more free than there is"
    );
    assert!(seen.f_files > 0 && seen.f_ffree > 0, "no inodes");
}
