//! Where a mount is known to differ from ext4, with the reason. Each entry is shown to be true by a test of its name, so
//! that one which is no longer true does not stay. The generator makes no such calls.

use super::pair::Step;
use crate::support::calls::{Answer, At, Call, Outcome, Stat};

const EXT4_NAME: &str = "file";
/// More than ext4 can address with blocks of 4 KiB.
const BEYOND_EXT4: i64 = 1 << 45;
/// More than fits beside ext4's inode.
const LARGE_XATTR: usize = 20_000;

/// A difference: calls, and what the last of them answers.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) calls: fn() -> Vec<Step>,
    pub(crate) disk: fn() -> Outcome,
    pub(crate) mount: fn() -> Outcome,
}

fn file() -> At {
    At::root(EXT4_NAME)
}

fn create() -> Step {
    let call = Call::Open {
        at: file(),
        flags: (libc::O_RDWR | libc::O_CREAT) as u32,
        mode: 0o666,
        slot: 0,
    };
    (0, call)
}

fn write(at: i64, len: usize) -> Step {
    let call = Call::Write {
        slot: 0,
        len,
        at: Some(at),
        fill: 1,
    };
    (0, call)
}

fn allocate(mode: i32) -> Step {
    let call = Call::Allocate {
        slot: 0,
        mode,
        offset: 4096,
        len: 4096,
    };
    (0, call)
}

fn seek(offset: i64, whence: i32) -> Step {
    let call = Call::Seek {
        slot: 0,
        offset,
        whence,
    };
    (0, call)
}

fn chmod(mode: u32) -> Step {
    (0, Call::Chmod { at: file(), mode })
}

fn stat() -> Step {
    let call = Call::Stat {
        at: file(),
        flags: 0,
    };
    (0, call)
}

fn with_mode(mode: u32, size: u64) -> Outcome {
    Ok(Answer::Stat(Stat {
        mode: libc::S_IFREG | mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        size,
        rdev: (0, 0),
        ino: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
    }))
}

fn done() -> Outcome {
    Ok(Answer::Done)
}

fn unsupported() -> Outcome {
    Err(libc::EOPNOTSUPP)
}

/// All of them.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        name: "known_no_file_without_a_name",
        reason: "O_TMPFILE: the FUSE library does not know the request",
        calls: || {
            let call = Call::Open {
                at: At::root("."),
                flags: (libc::O_TMPFILE | libc::O_RDWR) as u32,
                mode: 0o600,
                slot: 0,
            };
            vec![(0, call)]
        },
        disk: done,
        mount: unsupported,
    },
    Known {
        name: "known_no_whiteouts",
        reason: "RENAME_WHITEOUT serves overlayfs alone, which takes no FUSE mount as its upper layer",
        calls: || {
            let call = Call::Rename {
                from: file(),
                to: At::root("other"),
                flags: libc::RENAME_WHITEOUT,
            };
            vec![create(), (0, call)]
        },
        disk: done,
        mount: || Err(libc::EINVAL),
    },
    Known {
        name: "known_no_collapsing",
        reason: "FALLOC_FL_COLLAPSE_RANGE moves what lies behind a range; programs go on without it",
        calls: || {
            vec![
                create(),
                write(0, 16_384),
                allocate(libc::FALLOC_FL_COLLAPSE_RANGE),
            ]
        },
        disk: done,
        mount: unsupported,
    },
    Known {
        name: "known_no_inserting",
        reason: "FALLOC_FL_INSERT_RANGE: the same",
        calls: || {
            vec![
                create(),
                write(0, 16_384),
                allocate(libc::FALLOC_FL_INSERT_RANGE),
            ]
        },
        disk: done,
        mount: unsupported,
    },
    Known {
        name: "known_room_that_was_read_is_a_hole",
        reason: "ext4 reports allocated room as data once it was read; here room that nobody wrote to is a hole",
        calls: || {
            let read = Call::Read {
                slot: 0,
                len: 8192,
                at: Some(0),
            };
            vec![
                create(),
                allocate(0),
                (0, read),
                seek(4096, libc::SEEK_DATA),
            ]
        },
        disk: || Ok(Answer::Number(4096)),
        mount: || Err(libc::ENXIO),
    },
    Known {
        name: "known_holes_are_exact",
        reason: "holes are kept to the byte, on ext4 to the block",
        calls: || vec![create(), write(5_000, 10), seek(0, libc::SEEK_DATA)],
        disk: || Ok(Answer::Number(4096)),
        mount: || Ok(Answer::Number(5_000)),
    },
    Known {
        name: "known_copied_holes_are_holes",
        reason: "copy_file_range copies a hole as a hole, on ext4 as zeros",
        calls: || {
            let copy = Call::Copy {
                from: 0,
                from_at: 0,
                to: 0,
                to_at: 16_384,
                len: 4096,
            };
            vec![
                create(),
                write(4096, 4096),
                (0, copy),
                seek(16_384, libc::SEEK_DATA),
            ]
        },
        disk: || Ok(Answer::Number(16_384)),
        mount: || Err(libc::ENXIO),
    },
    Known {
        name: "known_larger_files",
        reason: "a file ends at 2^63 - 4096 bytes, on ext4 at 16 TiB",
        calls: || {
            let call = Call::SetLen {
                slot: 0,
                len: BEYOND_EXT4,
            };
            vec![create(), (0, call)]
        },
        disk: || Err(libc::EFBIG),
        mount: done,
    },
    Known {
        name: "known_larger_attributes",
        reason: "an extended attribute has up to 64 KiB, on ext4 what fits into a block",
        calls: || {
            let call = Call::SetXattr {
                at: file(),
                follow: true,
                name: "user.large".to_owned(),
                len: LARGE_XATTR,
                fill: 1,
                flags: 0,
            };
            vec![create(), (0, call)]
        },
        disk: || Err(libc::ENOSPC),
        mount: done,
    },
    Known {
        name: "known_chown_of_nothing_keeps_set_id_bits",
        reason: "the kernel does not tell a mount of a chown that changes neither owner nor group",
        calls: || {
            let call = Call::Chown {
                at: file(),
                uid: None,
                gid: None,
                flags: 0,
            };
            vec![create(), chmod(0o6755), (0, call), stat()]
        },
        disk: || with_mode(0o755, 0),
        mount: || with_mode(0o6755, 0),
    },
    Known {
        name: "known_set_group_id_without_group_execution_stays",
        reason: "the kernel does not tell a mount which groups a writer is in",
        calls: || {
            let open = Call::Open {
                at: file(),
                flags: libc::O_WRONLY as u32,
                mode: 0,
                slot: 0,
            };
            let (_, by_root) = write(0, 1);
            vec![create(), chmod(0o2666), (1, open), (1, by_root), stat()]
        },
        disk: || with_mode(0o666, 1),
        mount: || with_mode(0o2666, 1),
    },
];
