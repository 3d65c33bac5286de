//! System calls on what inodes hold: bytes, attributes, extended attributes.

use super::folder::{FolderSubject, NS, done, kind_of, magic, seen};
use super::ops::{Answer, Change, Falloc, Id, Kind, Op, Time, XattrWhen};
use rustix::fs::{self, AtFlags, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const XATTR_BUFFER: usize = 128 << 10;

impl FolderSubject {
    pub(super) fn content(&mut self, op: &Op, number: &dyn Fn(Id) -> u64) -> Result<Answer, Errno> {
        match op {
            Op::Read { node, offset, len } => {
                let fd = self.file(number(*node), false)?;
                let mut buffer = vec![0; *len];
                let mut at = 0;
                while at < buffer.len() {
                    match rustix::io::pread(&fd, &mut buffer[at..], offset + at as u64)? {
                        0 => break,
                        n => at += n,
                    }
                }
                buffer.truncate(at);
                Ok(Answer::Bytes(buffer))
            }
            Op::Write {
                node, offset, data, ..
            } => {
                let fd = self.file(number(*node), true)?;
                Ok(Answer::Count(rustix::io::pwrite(&fd, data, *offset)? as u64))
            }
            Op::Fallocate {
                node,
                mode,
                offset,
                len,
            } => {
                let mut flags = fs::FallocateFlags::empty();
                match mode {
                    Falloc::Allocate { keep_size } => {
                        flags.set(fs::FallocateFlags::KEEP_SIZE, *keep_size)
                    }
                    Falloc::PunchHole => {
                        flags = fs::FallocateFlags::PUNCH_HOLE | fs::FallocateFlags::KEEP_SIZE
                    }
                    Falloc::ZeroRange { keep_size } => {
                        flags = fs::FallocateFlags::ZERO_RANGE;
                        flags.set(fs::FallocateFlags::KEEP_SIZE, *keep_size);
                    }
                }
                done(fs::fallocate(
                    self.file(number(*node), true)?,
                    flags,
                    *offset,
                    *len,
                ))
            }
            Op::Seek { node, offset, hole } => {
                let whence = if *hole {
                    SeekFrom::Hole(*offset)
                } else {
                    SeekFrom::Data(*offset)
                };
                Ok(Answer::Count(fs::seek(
                    self.file(number(*node), false)?,
                    whence,
                )?))
            }
            Op::CopyRange { from, to, len } => {
                let source = self.file(number(from.0), false)?;
                let target = self.file(number(to.0), true)?;
                let (mut from, mut to) = (from.1, to.1);
                let copied = fs::copy_file_range(
                    &source,
                    Some(&mut from),
                    &target,
                    Some(&mut to),
                    *len as usize,
                )?;
                Ok(Answer::Count(copied as u64))
            }
            other => unreachable!("{other:?} is handled elsewhere"),
        }
    }

    pub(super) fn setattr(&mut self, number: u64, change: &Change) -> Result<Answer, Errno> {
        if let Some(size) = change.size {
            fs::ftruncate(self.file(number, true)?, size)?;
        }
        let fd = self.get(number)?;
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (
                change.uid.map(fs::Uid::from_raw),
                change.gid.map(fs::Gid::from_raw),
            );
            fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            fs::chmod(magic(fd), Mode::from(mode))?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = fs::Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            fs::utimensat(fs::CWD, magic(fd), &times, AtFlags::empty())?;
        }
        let stat = fs::fstat(fd)?;
        Ok(seen(&stat, number))
    }

    pub(super) fn fsync(&mut self, number: u64, datasync: bool) -> Result<Answer, Errno> {
        let fd = self.get(number)?;
        if !matches!(kind_of(&fs::fstat(fd)?), Kind::File | Kind::Dir) {
            return Ok(Answer::Done);
        }
        let opened = fs::open(magic(fd), OFlags::RDONLY, Mode::empty())?;
        done(if datasync {
            fs::fdatasync(opened)
        } else {
            fs::fsync(opened)
        })
    }

    pub(super) fn xattr(&mut self, op: &Op, number: &dyn Fn(Id) -> u64) -> Result<Answer, Errno> {
        let mut buffer = vec![0u8; XATTR_BUFFER];
        match op {
            Op::Setxattr {
                node,
                name,
                value,
                when,
            } => {
                let flags = match when {
                    XattrWhen::Any => XattrFlags::empty(),
                    XattrWhen::Create => XattrFlags::CREATE,
                    XattrWhen::Replace => XattrFlags::REPLACE,
                };
                done(fs::setxattr(
                    magic(self.get(number(*node))?),
                    OsStr::from_bytes(name),
                    value,
                    flags,
                ))
            }
            Op::Getxattr { node, name } => {
                let n = fs::getxattr(
                    magic(self.get(number(*node))?),
                    OsStr::from_bytes(name),
                    &mut buffer[..],
                )?;
                buffer.truncate(n);
                Ok(Answer::Bytes(buffer))
            }
            Op::Listxattr { node } => {
                let n = fs::listxattr(magic(self.get(number(*node))?), &mut buffer[..])?;
                let names = buffer[..n]
                    .split(|&b| b == 0)
                    .filter(|name| !name.is_empty());
                Ok(Answer::Names(names.map(<[u8]>::to_vec).collect()))
            }
            Op::Removexattr { node, name } => done(fs::removexattr(
                magic(self.get(number(*node))?),
                OsStr::from_bytes(name),
            )),
            other => unreachable!("{other:?} is handled elsewhere"),
        }
    }
}

fn timespec(time: Option<Time>) -> fs::Timespec {
    match time {
        None => fs::Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        Some(Time::Now) => fs::Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW,
        },
        Some(Time::At(at)) => fs::Timespec {
            tv_sec: at.div_euclid(NS),
            tv_nsec: at.rem_euclid(NS),
        },
    }
}
