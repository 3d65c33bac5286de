//! What happens to bytes and attributes of files.

use super::*;
use crate::{AttrChange, FallocMode, TimeSet};
use weldrfs_meta::XattrMode;

/// Where a file ends that has a large hole, at most.
const FAR_BYTES: u64 = 2 << 20;
/// A write that is cut into two extents.
const HUGE_BYTES: u64 = 1_300_000;
const XATTRS: [&str; 3] = ["user.a", "user.b", "security.c"];

impl Run {
    pub(super) fn bytes(&mut self) -> Arc<[u8]> {
        let len = match self.rng.random_range(0..100) {
            0..55 => self.rng.random_range(1..300),
            55..85 => self.rng.random_range(300..9_000),
            85..99 => self.rng.random_range(9_000..120_000),
            _ => HUGE_BYTES,
        };
        let mut bytes = content(self.rng.random(), len as usize);
        // Some can be made smaller by packing.
        if self.rng.random() {
            bytes.iter_mut().skip(8).for_each(|byte| *byte &= 3);
        }
        bytes.into()
    }

    pub(super) fn write_some(&mut self, ino: Ino, at: u64) {
        let data = self.bytes();
        let written = self.engine().write(ino, at, &data, false);
        assert_eq!(written.unwrap(), data.len(), "{}", self.what());
        self.now.live.content_mut(ino).write(at, &data);
        self.adopt_time(ino);
    }

    pub(super) fn write(&mut self) {
        let Some((path, ino)) = self.some_file() else {
            return;
        };
        let size = self.now.live.content(ino).size;
        let at = self.rng.random_range(0..=size);
        self.doing = format!("write to {path} at {at}");
        self.write_some(ino, at);
    }

    pub(super) fn append(&mut self) {
        let Some((path, ino)) = self.some_file() else {
            return;
        };
        self.doing = format!("append to {path}");
        for _ in 0..self.rng.random_range(1..4) {
            let size = self.now.live.content(ino).size;
            self.write_some(ino, size);
        }
    }

    pub(super) fn write_far_away(&mut self) {
        let Some((path, ino)) = self.some_file() else {
            return;
        };
        let at = self.rng.random_range(0..FAR_BYTES);
        self.doing = format!("write to {path} at {at}, behind a hole");
        self.write_some(ino, at);
    }

    pub(super) fn truncate(&mut self) {
        let Some((path, ino)) = self.some_file() else {
            return;
        };
        let size = self.now.live.content(ino).size;
        let to = match self.rng.random_range(0..4) {
            0 => 0,
            1 => size + self.rng.random_range(0..50_000),
            _ => self.rng.random_range(0..=size),
        };
        self.doing = format!("truncate {path} from {size} to {to}");
        let change = AttrChange {
            size: Some(to),
            ..AttrChange::default()
        };
        self.engine().setattr(ino, change).unwrap();
        self.now.live.content_mut(ino).resize(to);
        self.adopt_time(ino);
    }

    pub(super) fn punch(&mut self) {
        let Some((path, ino)) = self.some_file() else {
            return;
        };
        let size = self.now.live.content(ino).size;
        let at = self.rng.random_range(0..=size);
        let len = self.rng.random_range(1..=size + 1);
        self.doing = format!("punch a hole into {path} at {at}, {len} bytes");
        let mode = FallocMode::PunchHole;
        self.engine().fallocate(ino, mode, at, len, false).unwrap();
        self.now.live.content_mut(ino).punch(at, at + len);
        self.adopt_time(ino);
    }

    pub(super) fn copy_range(&mut self) {
        let Some(((from_path, from), (to_path, to))) = self.some_file().zip(self.some_file())
        else {
            return;
        };
        let source = self.now.live.content(from).clone();
        let whole = self.rng.random();
        let (at, len) = match whole {
            true => (0, source.size),
            false => (
                self.rng.random_range(0..=source.size),
                self.rng.random_range(0..=source.size),
            ),
        };
        let to_at = match whole {
            true => 0,
            false => self.rng.random_range(0..=self.now.live.content(to).size),
        };
        self.doing = format!("share {len} bytes of {from_path} at {at} with {to_path} at {to_at}");
        let copied = self
            .engine()
            .copy_file_range(from, at, to, to_at, len, false);
        let wanted = len.min(source.size.saturating_sub(at));
        if from == to && at < to_at + wanted && to_at < at + wanted {
            let errno = copied.map_err(|error| error.errno());
            assert_eq!(errno, Err(libc::EINVAL), "{}", self.what());
            return;
        }
        assert_eq!(copied.unwrap(), wanted, "{}", self.what());
        self.now.live.content_mut(to).share(&source, at, to_at, len);
        self.adopt_time(to);
    }

    pub(super) fn change_attributes(&mut self) {
        let (path, ino) = self.some(|_| true).unwrap();
        let mut change = AttrChange::default();
        let rng = &mut self.rng;
        match rng.random_range(0..4) {
            0 => change.mode = [0o600, 0o644, 0o755, 0o1777].choose(rng).copied(),
            1 => change.uid = Some(rng.random_range(0..3)),
            2 => change.gid = Some(rng.random_range(0..3)),
            _ => change.mtime = Some(TimeSet::At(rng.random_range(-5..5) * 1_000_000_007)),
        }
        self.doing = format!("change {path}: {change:?}");
        let attr = self.engine().setattr(ino, change).unwrap();
        let node = self.now.live.node_mut(ino);
        node.mode = change.mode.unwrap_or(node.mode);
        node.owner.0 = change.uid.unwrap_or(node.owner.0);
        node.owner.1 = change.gid.unwrap_or(node.owner.1);
        if let Some(TimeSet::At(ns)) = change.mtime {
            node.mtime_ns = ns;
        }
        let mtime_ns = node.mtime_ns;
        assert_eq!(attr.mtime_ns, mtime_ns, "{}", self.what());
    }

    pub(super) fn change_xattrs(&mut self) {
        let (path, ino) = self.some(|_| true).unwrap();
        let name = *XATTRS.choose(&mut self.rng).unwrap();
        if self.rng.random() {
            let value = vec![self.rng.random_range(0..3_u8); self.rng.random_range(0..40)];
            self.doing = format!("set {name} of {path}");
            let set = self
                .engine()
                .setxattr(ino, name.as_bytes(), &value, XattrMode::Any);
            set.unwrap();
            self.now
                .live
                .node_mut(ino)
                .xattrs
                .insert(name.to_owned(), value);
        } else {
            self.doing = format!("remove {name} of {path}");
            let removed = self.engine().removexattr(ino, name.as_bytes()).is_ok();
            let was = self.now.live.node_mut(ino).xattrs.remove(name);
            assert_eq!(removed, was.is_some(), "{}", self.what());
        }
    }

    /// Somebody opens a file.
    pub(super) fn hold(&mut self) {
        let Some((path, ino)) = self.some_file() else {
            return;
        };
        self.doing = format!("open {path}");
        if self.held.insert(ino) {
            self.engine().retain(ino, 1);
        }
    }

    /// Somebody closes a file.
    pub(super) fn let_go(&mut self) {
        let Some(ino) = self.held.iter().copied().choose(&mut self.rng) else {
            return;
        };
        self.doing = format!("close {ino}");
        self.held.remove(&ino);
        self.engine().forget(ino, 1);
        if self.unnamed.remove(&ino).is_some() {
            self.is_gone(ino);
        }
    }

    /// Who has a file without a name open can go on writing to it.
    pub(super) fn write_to_held(&mut self) {
        let Some(ino) = self.unnamed.keys().copied().choose(&mut self.rng) else {
            return;
        };
        self.doing = format!("write to {ino}, which has no name");
        let data = self.bytes();
        self.engine().write(ino, 0, &data, false).unwrap();
        let node = Arc::make_mut(self.unnamed.get_mut(&ino).unwrap());
        if let Body::File(content) = &mut node.body {
            content.write(0, &data);
        }
    }
}
