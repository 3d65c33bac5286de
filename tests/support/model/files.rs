//! What the reference tree's inodes hold: bytes, attributes, extended attributes.

use super::ops::{Answer, Change, Expected, Falloc, Id, Observed, Stamp, Time, XattrWhen};
use super::tree::{NAME_MAX, Tree};

const XATTR_VALUE_MAX: usize = 65_536;
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

impl Tree {
    pub(super) fn setattr(&mut self, id: Id, change: &Change) -> Expected {
        let now = Stamp::Clock(self.step);
        let unknown = Stamp::Unknown(self.step);
        self.live(id)?;
        let mut mtime = None;
        if let Some(size) = change.size {
            let content = self.file_mut(id).map_err(|mut refused| {
                refused.push(libc::EINVAL);
                refused
            })?;
            mtime = Some(if content.len() == size { unknown } else { now });
            content.truncate(size);
        }
        let node = self.live_mut(id)?;
        if change.kill_suid {
            node.mode = without_suid(node.mode);
        }
        node.mode = change.mode.unwrap_or(node.mode);
        node.uid = change.uid.unwrap_or(node.uid);
        node.gid = change.gid.unwrap_or(node.gid);
        let stamp = |time| match time {
            Time::Now => now,
            Time::At(at) => Stamp::Exact(at),
        };
        node.atime = change.atime.map_or(node.atime, stamp);
        node.mtime = change.mtime.map(stamp).or(mtime).unwrap_or(node.mtime);
        let only_same_size = mtime == Some(unknown);
        node.ctime = if only_same_size { unknown } else { now };
        Ok(self.attr(id))
    }

    pub(super) fn write(&mut self, id: Id, offset: u64, data: &[u8], kill_suid: bool) -> Expected {
        self.file_mut(id)?.write(offset, data);
        if !data.is_empty() {
            self.content_changed(id);
            if kill_suid {
                let node = self.live_mut(id)?;
                node.mode = without_suid(node.mode);
            }
        }
        Ok(Answer::Count(data.len() as u64))
    }

    pub(super) fn fallocate(&mut self, id: Id, mode: Falloc, offset: u64, len: u64) -> Expected {
        let unknown = Stamp::Unknown(self.step);
        let content = self.file_mut(id)?;
        let end = offset + len;
        match mode {
            Falloc::Allocate { keep_size: true } => {}
            Falloc::Allocate { keep_size: false } => content.extend_to(end),
            Falloc::PunchHole => content.clear(offset, end),
            Falloc::ZeroRange { keep_size } => {
                content.clear(offset, end);
                if !keep_size {
                    content.extend_to(end);
                }
            }
        }
        let node = self.live_mut(id)?;
        (node.mtime, node.ctime) = (unknown, unknown);
        Ok(Answer::Done)
    }

    pub(super) fn seek(&self, id: Id, offset: u64, hole: bool, observed: &Observed) -> Expected {
        let content = self.file(id)?;
        if offset >= content.len() {
            return Err(vec![libc::ENXIO]);
        }
        match observed {
            Ok(Answer::Count(at)) if hole => {
                // Every file ends in a hole; before that, nothing says where holes must be shown,
                // but what is shown as one must be zeros.
                let real = *at == content.len() || content.is_zero(*at, *at + 1);
                if *at >= offset && *at <= content.len() && real {
                    Ok(Answer::Count(*at))
                } else {
                    Err(Vec::new())
                }
            }
            Ok(Answer::Count(at)) => {
                let skips_zeros =
                    *at >= offset && *at < content.len() && content.is_zero(offset, *at);
                if skips_zeros {
                    Ok(Answer::Count(*at))
                } else {
                    Err(Vec::new())
                }
            }
            Err(libc::ENXIO) if !hole && content.is_zero(offset, content.len()) => {
                Err(vec![libc::ENXIO])
            }
            _ => Err(Vec::new()),
        }
    }

    pub(super) fn copy_range(
        &mut self,
        from: (Id, u64),
        to: (Id, u64),
        len: u64,
        observed: &Observed,
    ) -> Expected {
        let source = self.file(from.0)?;
        let available = source.len().saturating_sub(from.1).min(len);
        self.file(to.0)?;
        let overlaps =
            |len: u64| from.0 == to.0 && len > 0 && from.1 < to.1 + len && to.1 < from.1 + len;
        // Linux cuts the length at the end of the source before it looks for an overlap.
        let refused = matches!(observed, Err(libc::EINVAL));
        if overlaps(available) || (overlaps(len) && refused) {
            return Err(vec![libc::EINVAL]);
        }
        let copied = match observed {
            Ok(Answer::Count(n)) if *n <= available && (*n > 0 || available == 0) => *n,
            _ => available,
        };
        if copied > 0 {
            let bytes = self.file(from.0)?.read(from.1, copied as usize);
            self.file_mut(to.0)?.write(to.1, &bytes);
            self.content_changed(to.0);
            self.touch_atime(from.0);
        }
        Ok(Answer::Count(copied))
    }

    pub(super) fn setxattr(
        &mut self,
        id: Id,
        name: &[u8],
        value: &[u8],
        when: XattrWhen,
    ) -> Expected {
        let exists = self.live(id)?.xattrs.contains_key(name);
        let mut refused = Vec::new();
        match when {
            XattrWhen::Create if exists => refused.push(libc::EEXIST),
            XattrWhen::Replace if !exists => refused.push(libc::ENODATA),
            _ => {}
        }
        if name.len() > NAME_MAX {
            refused.push(libc::ERANGE);
        }
        if value.len() > XATTR_VALUE_MAX {
            refused.extend([libc::E2BIG, libc::ERANGE, libc::ENOSPC]);
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        self.live_mut(id)?
            .xattrs
            .insert(name.to_vec(), value.to_vec());
        self.ctime_changed(id);
        Ok(Answer::Done)
    }

    pub(super) fn removexattr(&mut self, id: Id, name: &[u8]) -> Expected {
        if self.live_mut(id)?.xattrs.remove(name).is_none() {
            return Err(vec![libc::ENODATA]);
        }
        self.ctime_changed(id);
        Ok(Answer::Done)
    }
}

fn without_suid(mode: u32) -> u32 {
    let group = if mode & S_IXGRP != 0 { S_ISGID } else { 0 };
    mode & !(S_ISUID | group)
}
