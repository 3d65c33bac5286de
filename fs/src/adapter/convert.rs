//! Values of ours to values of fuser's and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use weldrfs_meta::{Ino, TimeSet};

use crate::engine::{Attr, Kind};

pub(super) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: time(attr.btime_ns),
        kind: kind(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The attributes of no inode, for an answer that nothing is there.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    match ns >= 0 {
        true => UNIX_EPOCH + distance,
        false => UNIX_EPOCH - distance,
    }
}

/// The nanoseconds of a time in a request.
///
/// fuser 0.18 reads a time before 1970, which the kernel gives as negative seconds plus nanoseconds, as negative
/// seconds minus nanoseconds. This takes it back.
pub(super) fn ns(time: SystemTime) -> i64 {
    const SECOND: i128 = 1_000_000_000;
    let ns = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => {
            let read = before.duration();
            i128::from(read.subsec_nanos()) - i128::from(read.as_secs()) * SECOND
        }
    };
    ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

pub(super) fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(at) => TimeSet::At(ns(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_read_as_the_kernel_means_them() {
        // What fuser makes of -2 s + 800,000,000 ns.
        assert_eq!(
            ns(UNIX_EPOCH - Duration::new(2, 800_000_000)),
            -1_200_000_000
        );
        assert_eq!(ns(UNIX_EPOCH - Duration::new(2, 0)), -2_000_000_000);
        assert_eq!(ns(UNIX_EPOCH + Duration::new(2, 5)), 2_000_000_005);
    }

    #[test]
    fn times_are_shown_to_the_nanosecond() {
        assert_eq!(
            time(-1_200_000_000),
            UNIX_EPOCH - Duration::new(1, 200_000_000)
        );
        assert_eq!(time(2_000_000_005), UNIX_EPOCH + Duration::new(2, 5));
        assert_eq!(
            time(i64::MIN),
            UNIX_EPOCH - Duration::from_nanos(i64::MIN.unsigned_abs())
        );
    }
}
