//! Files, directories and links in memory, behind one lock. Owns lifetimes: what has neither a name nor a lookup of the
//! kernel's is gone.
//!
//! Must keep nothing on a disk and do no more than the coding workloads need: it measures what FUSE costs.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::node::{Body, Change, New, Node};

pub(crate) const ROOT: u64 = 1;
/// Largest file: all of it is in memory.
const MAX_FILE_BYTES: u64 = 4 << 30;

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// All inodes.
pub(crate) struct Tree(RwLock<State>);

struct State {
    nodes: FxHashMap<u64, Node>,
    next_ino: u64,
}

impl Default for Tree {
    fn default() -> Self {
        let root = New {
            kind: FileType::Directory,
            perm: 0o755,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            target: None,
        };
        let mut nodes = FxHashMap::default();
        nodes.insert(ROOT, Node::new(ROOT, ROOT, &root));
        Self(RwLock::new(State {
            nodes,
            next_ino: ROOT + 1,
        }))
    }
}

impl State {
    fn node(&self, ino: u64) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, ino: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    fn find(&self, parent: u64, name: &[u8]) -> Result<Option<u64>> {
        let dir = self.node(parent)?.dir()?;
        Ok(dir.by_name.get(name).map(|(_, ino)| *ino))
    }

    fn is_dir(&self, ino: u64) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.dir().is_ok())
    }

    /// Puts a name into a directory.
    fn enter(&mut self, parent: u64, name: &[u8], ino: u64) -> Result<()> {
        let is_dir = self.is_dir(ino);
        let node = self.node_mut(parent)?;
        let dir = node.dir_mut()?;
        let cookie = dir.next_cookie;
        dir.next_cookie += 1;
        dir.by_name.insert(name.to_vec(), (cookie, ino));
        dir.by_cookie.insert(cookie, name.to_vec());
        node.attr.nlink += u32::from(is_dir);
        node.changed();
        if is_dir {
            self.node_mut(ino)?.dir_mut()?.parent = parent;
        }
        Ok(())
    }

    /// Takes a name out of a directory; the inode stays.
    fn leave(&mut self, parent: u64, name: &[u8]) -> Result<u64> {
        let node = self.node_mut(parent)?;
        let dir = node.dir_mut()?;
        let (cookie, ino) = dir.by_name.remove(name).ok_or(Errno::ENOENT)?;
        dir.by_cookie.remove(&cookie);
        node.changed();
        let is_dir = self.is_dir(ino);
        self.node_mut(parent)?.attr.nlink -= u32::from(is_dir);
        Ok(ino)
    }

    /// One name less; the inode goes when nobody holds it.
    fn unlinked(&mut self, ino: u64) -> Result<()> {
        let node = self.node_mut(ino)?;
        node.attr.nlink = match node.body {
            Body::Dir(_) => 0,
            _ => node.attr.nlink.saturating_sub(1),
        };
        node.attr.ctime = SystemTime::now();
        self.drop_if_unused(ino);
        Ok(())
    }

    fn drop_if_unused(&mut self, ino: u64) {
        let unused = self
            .nodes
            .get(&ino)
            .is_some_and(|node| node.attr.nlink == 0 && node.lookups.load(Ordering::Acquire) == 0);
        if unused {
            self.nodes.remove(&ino);
        }
    }

    /// Whether `ino` may take the place of `old`.
    fn may_replace(&self, ino: u64, old: u64) -> Result<()> {
        match (self.is_dir(ino), self.node(old)?.dir()) {
            (true, Ok(dir)) if dir.by_name.is_empty() => Ok(()),
            (true, Ok(_)) => Err(Errno::ENOTEMPTY),
            (true, Err(_)) => Err(Errno::ENOTDIR),
            (false, Ok(_)) => Err(Errno::EISDIR),
            (false, Err(_)) => Ok(()),
        }
    }
}

impl Tree {
    /// The inode behind a name, held for the kernel; `None` when there is none.
    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<FileAttr>> {
        let state = self.0.read();
        match state.find(parent, name)? {
            None => Ok(None),
            Some(ino) => {
                let node = state.node(ino)?;
                node.lookups.fetch_add(1, Ordering::AcqRel);
                Ok(Some(node.attr))
            }
        }
    }

    pub(crate) fn forget(&self, ino: u64, n: u64) {
        let may_go = {
            let state = self.0.read();
            let Some(node) = state.nodes.get(&ino) else {
                return;
            };
            let before = node.lookups.fetch_sub(n, Ordering::AcqRel);
            before == n && node.attr.nlink == 0
        };
        if may_go {
            self.0.write().drop_if_unused(ino);
        }
    }

    pub(crate) fn attr(&self, ino: u64) -> Result<FileAttr> {
        Ok(self.0.read().node(ino)?.attr)
    }

    /// Makes an inode with a name, held for the kernel.
    pub(crate) fn make(&self, parent: u64, name: &[u8], new: &New<'_>) -> Result<FileAttr> {
        let mut state = self.0.write();
        if state.find(parent, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let ino = state.next_ino;
        state.next_ino += 1;
        let node = Node::new(ino, parent, new);
        node.lookups.store(1, Ordering::Release);
        let attr = node.attr;
        state.nodes.insert(ino, node);
        state.enter(parent, name, ino)?;
        Ok(attr)
    }

    pub(crate) fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<FileAttr> {
        let mut state = self.0.write();
        if state.is_dir(ino) {
            return Err(Errno::EPERM);
        }
        if state.find(parent, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let node = state.node_mut(ino)?;
        node.attr.nlink += 1;
        node.attr.ctime = SystemTime::now();
        node.lookups.fetch_add(1, Ordering::AcqRel);
        let attr = node.attr;
        state.enter(parent, name, ino)?;
        Ok(attr)
    }

    /// Removes a name: of a directory when `of_dir`, else of anything else.
    pub(crate) fn remove(&self, parent: u64, name: &[u8], of_dir: bool) -> Result<()> {
        let mut state = self.0.write();
        let ino = state.find(parent, name)?.ok_or(Errno::ENOENT)?;
        match (of_dir, state.node(ino)?.dir()) {
            (true, Ok(dir)) if !dir.by_name.is_empty() => return Err(Errno::ENOTEMPTY),
            (true, Err(errno)) => return Err(errno),
            (false, Ok(_)) => return Err(Errno::EISDIR),
            _ => {}
        }
        state.leave(parent, name)?;
        state.unlinked(ino)
    }

    pub(crate) fn rename(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        noreplace: bool,
        exchange: bool,
    ) -> Result<()> {
        let mut state = self.0.write();
        let ino = state.find(parent, name)?.ok_or(Errno::ENOENT)?;
        let old = state.find(new_parent, new_name)?;
        if exchange {
            let old = old.ok_or(Errno::ENOENT)?;
            state.leave(parent, name)?;
            state.leave(new_parent, new_name)?;
            state.enter(parent, name, old)?;
            return state.enter(new_parent, new_name, ino);
        }
        match old {
            Some(_) if noreplace => return Err(Errno::EEXIST),
            // Two names of one file: nothing happens, says POSIX.
            Some(old) if old == ino => return Ok(()),
            Some(old) => {
                state.may_replace(ino, old)?;
                state.leave(new_parent, new_name)?;
                state.unlinked(old)?;
            }
            None => {}
        }
        state.leave(parent, name)?;
        state.enter(new_parent, new_name, ino)?;
        state.node_mut(ino)?.attr.ctime = SystemTime::now();
        Ok(())
    }

    pub(crate) fn readlink<T>(&self, ino: u64, answer: impl FnOnce(&[u8]) -> T) -> Result<T> {
        match &self.0.read().node(ino)?.body {
            Body::Link(target) => Ok(answer(target)),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn change(&self, ino: u64, change: &Change) -> Result<FileAttr> {
        let mut state = self.0.write();
        let node = state.node_mut(ino)?;
        if let Some(size) = change.size {
            let Body::File(content) = &mut node.body else {
                return Err(Errno::EISDIR);
            };
            if size > MAX_FILE_BYTES {
                return Err(Errno::EFBIG);
            }
            content.resize(size as usize, 0);
            node.resized();
            node.changed();
        }
        let attr = &mut node.attr;
        attr.perm = change.perm.unwrap_or(attr.perm);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.atime = change.atime.unwrap_or(attr.atime);
        attr.mtime = change.mtime.unwrap_or(attr.mtime);
        attr.ctime = SystemTime::now();
        Ok(*attr)
    }

    /// Hands the bytes of a range to `answer`; fewer at the end of the file.
    pub(crate) fn read<T>(
        &self,
        ino: u64,
        offset: u64,
        len: usize,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        match &self.0.read().node(ino)?.body {
            Body::File(content) => {
                let from = content.len().min(offset as usize);
                let to = content.len().min(from.saturating_add(len));
                Ok(answer(&content[from..to]))
            }
            _ => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        if end > MAX_FILE_BYTES {
            return Err(Errno::EFBIG);
        }
        let mut state = self.0.write();
        let node = state.node_mut(ino)?;
        let Body::File(content) = &mut node.body else {
            return Err(Errno::EISDIR);
        };
        let (from, end) = (offset as usize, end as usize);
        if content.len() == from {
            content.extend_from_slice(data);
        } else {
            if content.len() < end {
                content.resize(end, 0);
            }
            content[from..end].copy_from_slice(data);
        }
        node.resized();
        node.changed();
        Ok(())
    }

    /// The directory itself and the one above it.
    pub(crate) fn dots(&self, ino: u64) -> Result<(FileAttr, FileAttr)> {
        let state = self.0.read();
        let node = state.node(ino)?;
        let parent = node.dir()?.parent;
        Ok((node.attr, state.node(parent)?.attr))
    }

    /// Gives the entries behind a cookie to `push` until it says that it is full. With `hold`, every entry taken is
    /// held for the kernel.
    pub(crate) fn list(
        &self,
        ino: u64,
        after: u64,
        hold: bool,
        mut push: impl FnMut(u64, &[u8], &FileAttr) -> bool,
    ) -> Result<()> {
        let state = self.0.read();
        let dir = state.node(ino)?.dir()?;
        for (cookie, name) in dir.by_cookie.range(after + 1..) {
            let Some((_, child)) = dir.by_name.get(name) else {
                continue;
            };
            let node = state.node(*child)?;
            if push(*cookie, name, &node.attr) {
                break;
            }
            if hold {
                node.lookups.fetch_add(1, Ordering::AcqRel);
            }
        }
        Ok(())
    }
}
