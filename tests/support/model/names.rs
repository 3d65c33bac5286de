//! Names in the reference tree: making, linking, removing, listing.

use super::ops::{Answer, Expected, Id, Kind, Observed, Stamp};
use super::tree::{Body, NAME_MAX, Node, Refused, Tree, gone};
use std::collections::BTreeMap;

const S_ISGID: u32 = 0o2000;

impl Tree {
    /// Every reason why `name` cannot be made in `dir`.
    fn refuse_new(&self, dir: Id, name: &[u8]) -> Result<(), Refused> {
        let entries = self.entries(dir)?;
        let mut refused = Vec::new();
        if name.len() > NAME_MAX {
            refused.push(libc::ENAMETOOLONG);
        }
        if entries.contains_key(name) {
            refused.push(libc::EEXIST);
        }
        if self.live(dir)?.nlink == 0 {
            refused.push(libc::ENOENT);
        }
        if refused.is_empty() {
            Ok(())
        } else {
            Err(refused)
        }
    }

    #[expect(clippy::too_many_arguments, reason = "these are mknod's arguments")]
    pub(super) fn create(
        &mut self,
        dir: Id,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u32,
        owner: (u32, u32),
        body: Body,
    ) -> Expected {
        self.refuse_new(dir, name)?;
        let parent = self.live(dir)?;
        let inherits = parent.mode & S_ISGID != 0;
        let gid = if inherits { parent.gid } else { owner.1 };
        let mode = if inherits && kind == Kind::Dir {
            mode | S_ISGID
        } else {
            mode
        };
        let id = self.next;
        self.next += 1;
        let now = Stamp::Clock(self.step);
        let nlink = if kind == Kind::Dir { 2 } else { 1 };
        let (uid, xattrs) = (owner.0, BTreeMap::new());
        let node = Node {
            kind,
            mode,
            uid,
            gid,
            rdev,
            nlink,
            retained: 0,
            parent: dir,
            atime: now,
            mtime: now,
            ctime: now,
            body,
            xattrs,
        };
        self.nodes.insert(id, node);
        self.entries_mut(dir)?.insert(name.to_vec(), id);
        if kind == Kind::Dir {
            self.live_mut(dir)?.nlink += 1;
        }
        self.dir_changed(dir);
        Ok(self.attr(id))
    }

    pub(super) fn link(&mut self, node: Id, dir: Id, name: &[u8]) -> Expected {
        let mut refused = self.refuse_new(dir, name).err().unwrap_or_default();
        match self.nodes.get(&node) {
            None => refused.extend(gone()),
            Some(n) if n.kind == Kind::Dir => refused.push(libc::EPERM),
            Some(n) if n.nlink == 0 => refused.push(libc::ENOENT),
            Some(_) => {}
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        self.entries_mut(dir)?.insert(name.to_vec(), node);
        self.live_mut(node)?.nlink += 1;
        self.ctime_changed(node);
        self.dir_changed(dir);
        Ok(self.attr(node))
    }

    pub(super) fn unlink(&mut self, dir: Id, name: &[u8]) -> Expected {
        let id = self.child(dir, name)?;
        if self.live(id)?.kind == Kind::Dir {
            return Err(vec![libc::EISDIR, libc::EPERM]);
        }
        self.entries_mut(dir)?.remove(name);
        self.dir_changed(dir);
        self.drop_name(id)?;
        Ok(Answer::Done)
    }

    pub(super) fn rmdir(&mut self, dir: Id, name: &[u8]) -> Expected {
        let id = self.child(dir, name)?;
        if !self.entries(id)?.is_empty() {
            return Err(vec![libc::ENOTEMPTY, libc::EEXIST]);
        }
        self.entries_mut(dir)?.remove(name);
        self.live_mut(dir)?.nlink -= 1;
        self.dir_changed(dir);
        self.drop_name(id)?;
        Ok(Answer::Done)
    }

    /// One name less: a directory has only the one.
    pub(super) fn drop_name(&mut self, id: Id) -> Result<(), Refused> {
        let node = self.live_mut(id)?;
        node.nlink = if node.kind == Kind::Dir {
            0
        } else {
            node.nlink - 1
        };
        self.ctime_changed(id);
        self.reclaim(id);
        Ok(())
    }

    pub(super) fn readlink(&mut self, id: Id) -> Expected {
        let Body::Symlink(target) = &self.live(id)?.body else {
            return Err(vec![libc::EINVAL]);
        };
        let target = target.clone();
        self.touch_atime(id);
        Ok(Answer::Bytes(target))
    }

    pub(super) fn readdir(&mut self, dir: Id, observed: &Observed) -> Expected {
        let listed = self.entries(dir)?.clone();
        // Linux refuses to list a removed directory; an engine below it may list it as empty.
        if self.live(dir)?.nlink == 0 && matches!(observed, Err(libc::ENOENT)) {
            return Err(vec![libc::ENOENT]);
        }
        let mut entries = BTreeMap::new();
        for (name, id) in listed {
            entries.insert(name, (id, self.live(id)?.kind));
        }
        self.touch_atime(dir);
        Ok(Answer::Entries(entries))
    }
}
