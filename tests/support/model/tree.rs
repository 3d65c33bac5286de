//! The reference tree: answers every operation the way POSIX and Linux say.
//!
//! Checks no permissions: the kernel does that before a file system is asked.

use super::content::Content;
use super::ops::{Answer, Expected, Id, Kind, Observed, Op, ROOT, Seen, Stamp};
use std::collections::BTreeMap;

pub(super) const NAME_MAX: usize = 255;

#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(Content),
    Dir(BTreeMap<Vec<u8>, Id>),
    Symlink(Vec<u8>),
    Special,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) nlink: u32,
    /// How many times the kernel has looked it up: it lives while this or `nlink` is above 0.
    pub(crate) retained: u64,
    pub(crate) parent: Id,
    pub(crate) atime: Stamp,
    pub(crate) mtime: Stamp,
    pub(crate) ctime: Stamp,
    pub(crate) body: Body,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The whole tree.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Id, Node>,
    pub(super) next: Id,
    pub(super) step: u64,
}

pub(super) type Refused = Vec<i32>;

pub(super) fn gone() -> Refused {
    vec![libc::ENOENT, libc::ESTALE]
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: 2,
            retained: 1,
            parent: ROOT,
            atime: Stamp::Unknown(0),
            mtime: Stamp::Unknown(0),
            ctime: Stamp::Unknown(0),
            body: Body::Dir(BTreeMap::new()),
            xattrs: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            step: 0,
        }
    }

    /// A new mount: nothing is open, so what has no name is gone.
    pub(crate) fn reopen(&mut self) {
        for node in self.nodes.values_mut() {
            node.retained = 0;
        }
        self.nodes.retain(|_, node| node.nlink > 0);
    }

    /// Somebody listed every directory, which changes access times.
    pub(crate) fn directories_listed(&mut self) {
        self.step += 1;
        let unknown = Stamp::Unknown(self.step);
        for node in self
            .nodes
            .values_mut()
            .filter(|node| node.kind == Kind::Dir)
        {
            node.atime = unknown;
        }
    }

    /// Answers `op`. What the rules leave to the file system (how much a copy copied, where exactly
    /// a hole begins) is taken from `observed` after checking that it is allowed.
    pub(crate) fn apply(&mut self, op: &Op, observed: &Observed) -> Expected {
        self.step += 1;
        match op {
            Op::Lookup { dir, name } => self.child(*dir, name).map(|id| self.attr(id)),
            Op::Getattr { node } => self.live(*node).map(|_| self.attr(*node)),
            Op::Setattr { node, change } => self.setattr(*node, change),
            Op::Readlink { node } => self.readlink(*node),
            Op::Make {
                dir,
                name,
                kind,
                mode,
                rdev,
                uid,
                gid,
            } => {
                let body = if *kind == Kind::File {
                    Body::File(Content::default())
                } else {
                    Body::Special
                };
                self.create(*dir, name, *kind, *mode, *rdev, (*uid, *gid), body)
            }
            Op::Mkdir {
                dir,
                name,
                mode,
                uid,
                gid,
            } => self.create(
                *dir,
                name,
                Kind::Dir,
                *mode,
                0,
                (*uid, *gid),
                Body::Dir(BTreeMap::new()),
            ),
            Op::Symlink {
                dir,
                name,
                target,
                uid,
                gid,
            } => self.create(
                *dir,
                name,
                Kind::Symlink,
                0o777,
                0,
                (*uid, *gid),
                Body::Symlink(target.clone()),
            ),
            Op::Link { node, dir, name } => self.link(*node, *dir, name),
            Op::Unlink { dir, name } => self.unlink(*dir, name),
            Op::Rmdir { dir, name } => self.rmdir(*dir, name),
            Op::Rename {
                from,
                to,
                noreplace,
                exchange,
            } => self.rename((from.0, &from.1), (to.0, &to.1), *noreplace, *exchange),
            Op::Read { node, offset, len } => {
                let bytes = self.file(*node)?.read(*offset, *len);
                self.touch_atime(*node);
                Ok(Answer::Bytes(bytes))
            }
            Op::Write {
                node,
                offset,
                data,
                kill_suid,
            } => self.write(*node, *offset, data, *kill_suid),
            Op::Fallocate {
                node,
                mode,
                offset,
                len,
            } => self.fallocate(*node, *mode, *offset, *len),
            Op::Seek { node, offset, hole } => self.seek(*node, *offset, *hole, observed),
            Op::CopyRange { from, to, len } => self.copy_range(*from, *to, *len, observed),
            Op::Fsync { node, .. } => self.live(*node).map(|_| Answer::Done),
            Op::Readdir { dir, .. } => self.readdir(*dir, observed),
            Op::Setxattr {
                node,
                name,
                value,
                when,
            } => self.setxattr(*node, name, value, *when),
            Op::Getxattr { node, name } => match self.live(*node)?.xattrs.get(name) {
                Some(value) => Ok(Answer::Bytes(value.clone())),
                None => Err(vec![libc::ENODATA]),
            },
            Op::Listxattr { node } => Ok(Answer::Names(
                self.live(*node)?.xattrs.keys().cloned().collect(),
            )),
            Op::Removexattr { node, name } => self.removexattr(*node, name),
            Op::Retain { node, times } => {
                self.live_mut(*node)?.retained += times;
                Ok(Answer::Done)
            }
            Op::Forget { node, times } => {
                let kept = self.live_mut(*node)?;
                kept.retained = kept.retained.saturating_sub(*times);
                self.reclaim(*node);
                Ok(Answer::Done)
            }
        }
    }

    pub(crate) fn seen(&self, id: Id) -> Option<Seen> {
        let node = self.nodes.get(&id)?;
        let size = match &node.body {
            Body::File(content) => content.len(),
            Body::Symlink(target) => target.len() as u64,
            Body::Dir(_) | Body::Special => 0,
        };
        Some(Seen {
            id,
            kind: node.kind,
            mode: node.mode,
            nlink: node.nlink,
            uid: node.uid,
            gid: node.gid,
            rdev: node.rdev,
            size,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
        })
    }

    pub(super) fn attr(&self, id: Id) -> Answer {
        self.seen(id).map_or(Answer::Done, Answer::Attr)
    }

    pub(crate) fn live(&self, id: Id) -> Result<&Node, Refused> {
        self.nodes.get(&id).ok_or_else(gone)
    }

    pub(super) fn live_mut(&mut self, id: Id) -> Result<&mut Node, Refused> {
        self.nodes.get_mut(&id).ok_or_else(gone)
    }

    pub(super) fn file(&self, id: Id) -> Result<&Content, Refused> {
        match &self.live(id)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(vec![libc::EISDIR]),
            Body::Symlink(_) | Body::Special => Err(vec![libc::EINVAL]),
        }
    }

    pub(super) fn file_mut(&mut self, id: Id) -> Result<&mut Content, Refused> {
        match &mut self.live_mut(id)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(vec![libc::EISDIR]),
            Body::Symlink(_) | Body::Special => Err(vec![libc::EINVAL]),
        }
    }

    pub(super) fn entries(&self, dir: Id) -> Result<&BTreeMap<Vec<u8>, Id>, Refused> {
        match &self.live(dir)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(vec![libc::ENOTDIR]),
        }
    }

    pub(super) fn entries_mut(&mut self, dir: Id) -> Result<&mut BTreeMap<Vec<u8>, Id>, Refused> {
        match &mut self.live_mut(dir)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(vec![libc::ENOTDIR]),
        }
    }

    pub(super) fn child(&self, dir: Id, name: &[u8]) -> Result<Id, Refused> {
        let entries = self.entries(dir)?;
        if name.len() > NAME_MAX {
            return Err(vec![libc::ENAMETOOLONG]);
        }
        entries.get(name).copied().ok_or_else(|| vec![libc::ENOENT])
    }

    pub(super) fn reclaim(&mut self, id: Id) {
        if self
            .nodes
            .get(&id)
            .is_some_and(|n| n.nlink == 0 && n.retained == 0)
        {
            self.nodes.remove(&id);
        }
    }

    pub(super) fn touch_atime(&mut self, id: Id) {
        let unknown = Stamp::Unknown(self.step);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.atime = unknown;
        }
    }

    pub(super) fn ctime_changed(&mut self, id: Id) {
        let now = Stamp::Clock(self.step);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.ctime = now;
        }
    }

    pub(super) fn content_changed(&mut self, id: Id) {
        let now = Stamp::Clock(self.step);
        if let Some(node) = self.nodes.get_mut(&id) {
            (node.mtime, node.ctime) = (now, now);
        }
    }

    pub(super) fn dir_changed(&mut self, dir: Id) {
        self.content_changed(dir);
    }

    pub(super) fn ctime_unknown(&mut self, id: Id) {
        let unknown = Stamp::Unknown(self.step);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.ctime = unknown;
        }
    }
}
