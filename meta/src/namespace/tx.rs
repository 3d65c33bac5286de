//! One mutation in the making: it collects changes under the commit lock and makes them real all at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::MutexGuard;

use crate::cache::Node;
use crate::changes::Change;
use crate::codec::encode_changes;
use crate::error::{MetaError, Result};
use crate::ids::{Cookie, ExtentId, Ino, Lsn};
use crate::rows::{Dirent, InodeRow, Location, MAX_NAME_BYTES, Name, TrashRow};
use crate::settings::CAP_WAIT;

use super::{CommitState, Namespace};

/// An inode in the working set of a mutation.
struct Working {
    node: Arc<Node>,
    before: InodeRow,
    row: InodeRow,
    dropped: bool,
}

/// A place in the working set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct At(usize);

pub(crate) struct Tx<'a> {
    ns: &'a Namespace,
    pub(crate) state: MutexGuard<'a, CommitState>,
    pub(crate) now_ns: i64,
    pub(crate) changes: Vec<Change>,
    working: Vec<Working>,
    newborn: Option<Ino>,
    /// The location a `GrowLocation` starts from.
    growing: Option<Arc<Location>>,
}

impl Namespace {
    /// Starts a mutation: waits for room, then for the commit lock.
    pub(crate) fn begin(&self, now_ns: i64) -> Result<Tx<'_>> {
        self.check_writable()?;
        self.wait_for_room()?;
        self.wait_for_permit()?;
        let mut state = self.commit.lock();
        // It may have ended while this one waited for the lock.
        while !self.is_permitted() {
            drop(state);
            self.wait_for_permit()?;
            state = self.commit.lock();
        }
        // It may have turned read-only while this one waited.
        self.check_writable()?;
        Ok(Tx {
            ns: self,
            state,
            now_ns,
            changes: Vec::with_capacity(6),
            working: Vec::new(),
            newborn: None,
            growing: None,
        })
    }

    /// The same for a mutation that needs space for good: on a full disk what is left is for those that make room.
    pub(crate) fn begin_growing(&self, now_ns: i64) -> Result<Tx<'_>> {
        if self.reserve.is_used() {
            return Err(MetaError::NoSpace);
        }
        self.begin(now_ns)
    }

    fn wait_for_room(&self) -> Result<()> {
        if self.has_room() {
            return Ok(());
        }
        let deadline = Instant::now() + CAP_WAIT;
        let (lock, bell) = &self.room;
        let mut guard = lock.lock();
        while !self.has_room() {
            self.checkpointer.nudge();
            self.check_writable()?;
            if bell.wait_until(&mut guard, deadline).timed_out() && !self.has_room() {
                return Err(MetaError::Overloaded(CAP_WAIT.as_secs()));
            }
        }
        Ok(())
    }

    /// Whether a mutation can go on without waiting for a checkpoint.
    pub fn has_room(&self) -> bool {
        let (records, bytes) = self.overlay.waiting();
        if records >= self.settings.checkpoint_records || bytes >= self.settings.dirty_cap_bytes / 2
        {
            self.checkpointer.nudge();
        }
        bytes < self.settings.dirty_cap_bytes
            && self.journal.bytes() <= self.settings.journal_cap_bytes
    }
}

impl<'a> Tx<'a> {
    pub(crate) fn namespace(&self) -> &'a Namespace {
        self.ns
    }

    /// Brings an inode that is alive into the working set.
    pub(crate) fn get(&mut self, ino: Ino) -> Result<At> {
        if let Some(at) = self.working.iter().position(|w| w.node.ino == ino) {
            return Ok(At(at));
        }
        let node = self.ns.node(ino)?;
        let row = {
            let state = node.state.read();
            if state.dead {
                return Err(MetaError::NotFound);
            }
            state.row
        };
        self.working.push(Working {
            node,
            before: row,
            row,
            dropped: false,
        });
        Ok(At(self.working.len() - 1))
    }

    /// The same for a directory that can take or lose entries.
    pub(crate) fn dir(&mut self, ino: Ino) -> Result<At> {
        let at = self.get(ino)?;
        match self.row(at) {
            row if !row.is_dir() => Err(MetaError::NotDir),
            row if row.nlink == 0 => Err(MetaError::NotFound),
            _ => Ok(at),
        }
    }

    /// The same for a regular file.
    pub(super) fn file(&mut self, ino: Ino) -> Result<At> {
        let at = self.get(ino)?;
        match self.row(at) {
            row if row.is_dir() => Err(MetaError::IsDir),
            row if !row.is_file() => Err(MetaError::Invalid("not a regular file")),
            _ => Ok(at),
        }
    }

    pub(crate) fn row(&self, at: At) -> &InodeRow {
        &self.working[at.0].row
    }

    pub(crate) fn row_mut(&mut self, at: At) -> &mut InodeRow {
        &mut self.working[at.0].row
    }

    pub(super) fn node(&self, at: At) -> Arc<Node> {
        Arc::clone(&self.working[at.0].node)
    }

    pub(crate) fn find(&self, dir: At, name: &[u8]) -> Result<Option<Dirent>> {
        self.ns.find_in(&self.working[dir.0].node, name)
    }

    /// Makes an inode. The caller gives it a name.
    pub(super) fn make(&mut self, row: InodeRow) -> InodeRow {
        let ino = self.next_ino();
        let row = InodeRow { ino, ..row };
        self.newborn = Some(ino);
        self.working.push(Working {
            node: Arc::new(Node::newborn(row)),
            before: row,
            row,
            dropped: false,
        });
        row
    }

    pub(crate) fn next_ino(&mut self) -> Ino {
        Ino(self.ns.numbers.ino.fetch_add(1, Ordering::AcqRel))
    }

    pub(super) fn next_extent(&mut self) -> ExtentId {
        ExtentId(self.ns.numbers.extent.fetch_add(1, Ordering::AcqRel))
    }

    pub(super) fn growing(&mut self, location: Arc<Location>) {
        self.growing = Some(location);
    }

    /// Adds an entry; the name must be free.
    pub(super) fn add_entry(&mut self, dir: At, name: &[u8], ino: Ino, kind: u8) {
        let now = self.now_ns;
        let row = self.row_mut(dir);
        let dirent = Dirent {
            ino,
            kind,
            cookie: Cookie(row.next_cookie),
        };
        row.next_cookie += 1;
        row.size += 1;
        row.entries_hash = row.entries_hash.wrapping_add(dirent.hash(name));
        row.mtime_ns = now;
        row.ctime_ns = now;
        let parent = row.ino;
        self.changes.push(Change::PutDirent {
            parent,
            name: Name::from(name),
            dirent,
        });
    }

    /// Removes an entry that was found.
    pub(super) fn remove_entry(&mut self, dir: At, name: &[u8], dirent: Dirent) {
        let now = self.now_ns;
        let row = self.row_mut(dir);
        row.size = row.size.saturating_sub(1);
        row.entries_hash = row.entries_hash.wrapping_sub(dirent.hash(name));
        row.mtime_ns = now;
        row.ctime_ns = now;
        let parent = row.ino;
        self.changes.push(Change::DelDirent {
            parent,
            name: Name::from(name),
        });
    }

    /// Makes an entry name another inode, in its place.
    pub(super) fn replace_entry(&mut self, dir: At, name: &[u8], old: Dirent, ino: Ino, kind: u8) {
        let now = self.now_ns;
        let row = self.row_mut(dir);
        let dirent = Dirent {
            ino,
            kind,
            cookie: old.cookie,
        };
        row.entries_hash = row
            .entries_hash
            .wrapping_sub(old.hash(name))
            .wrapping_add(dirent.hash(name));
        row.mtime_ns = now;
        row.ctime_ns = now;
        let parent = row.ino;
        self.changes.push(Change::PutDirent {
            parent,
            name: Name::from(name),
            dirent,
        });
    }

    /// Takes one link from an inode that had `name` in `dir`. The name goes to the trash if it is kept there. One that has
    /// no other name lives as long as it is there; otherwise it is an orphan, which lives until it is reclaimed, and is
    /// returned.
    pub(super) fn unlink_inode(&mut self, at: At, dir: At, name: &[u8]) -> Option<Ino> {
        let now = self.now_ns;
        let row = self.row_mut(at);
        row.nlink = if row.is_dir() {
            0
        } else {
            row.nlink.saturating_sub(1)
        };
        row.ctime_ns = now;
        let row = *row;
        if !self.is_kept(&row) {
            if row.nlink > 0 {
                return None;
            }
            self.changes.push(Change::PutOrphan(row.ino));
            return Some(row.ino);
        }
        let Working { before, .. } = &self.working[dir.0];
        let (parent, dir_mtime_ns) = (before.ino, before.mtime_ns);
        if row.nlink == 0 && !row.is_dir() {
            self.row_mut(at).parent = parent;
        }
        self.put_trash(TrashRow {
            ino: row.ino,
            parent,
            name: Name::from(name),
            deleted_ms: ms_of(now),
            dir_mtime_ns,
        });
        None
    }

    fn put_trash(&mut self, row: TrashRow) {
        self.keep_young_dir(row.parent);
        self.changes.push(Change::PutTrash(row));
    }

    /// A directory that was made since the last publication is kept for what is in the trash of it.
    pub(crate) fn keep_young_dir(&mut self, dir: Ino) {
        if self.ns.trash.is_young(dir) {
            self.state.young_dirs.insert(dir);
        }
    }

    /// Whether a name of an inode is kept in the trash when it is removed.
    fn is_kept(&self, row: &InodeRow) -> bool {
        let trash = &self.ns.trash;
        let is_young = trash.is_young(row.ino);
        if row.is_dir() {
            // What is in the trash of it would not know where it was.
            return match is_young {
                true => self.state.young_dirs.contains(&row.ino),
                false => trash.takes() || trash.may_have_names(),
            };
        }
        !is_young && (trash.takes() || (trash.may_have_names() && self.ns.may_be_in_trash(row.ino)))
    }

    /// Removes an inode for good.
    pub(super) fn drop_inode(&mut self, at: At) {
        let working = &mut self.working[at.0];
        working.dropped = true;
        self.changes.push(Change::DropInode(working.node.ino));
    }

    /// Journal, then memory, then the answer. On an error nothing has happened.
    pub(crate) fn commit(mut self) -> Result<Lsn> {
        self.settle()
    }

    /// The same, keeping the commit lock for more.
    pub(crate) fn settle(&mut self) -> Result<Lsn> {
        for w in &self.working {
            if !w.dropped && (w.row != w.before || Some(w.node.ino) == self.newborn) {
                self.changes.push(Change::PutInode(w.row));
            }
        }
        if self.changes.is_empty() {
            return Ok(self.ns.journal.last());
        }
        let nodes: Vec<Arc<Node>> = self.working.iter().map(|w| Arc::clone(&w.node)).collect();
        let mut locked: Vec<_> = nodes.iter().map(|n| (n.ino, n.state.write())).collect();
        let lsn = self.append()?;
        for change in &self.changes {
            let ino = ino_of(change);
            if let Some((_, state)) = locked.iter_mut().find(|(i, _)| Some(*i) == ino) {
                state.apply(change);
            }
        }
        if self.ns.replaced.is_watching() {
            let changed = self.working.iter().filter(|w| !w.dropped);
            changed.for_each(|w| self.ns.replaced.note(w.node.ino));
        }
        self.count();
        if let Some(ino) = self.newborn
            && let Some(w) = self.working.iter().find(|w| w.node.ino == ino)
        {
            self.ns.cache.insert(Arc::clone(&w.node));
        }
        for w in self.working.iter().filter(|w| w.dropped) {
            self.ns.cache.remove(w.node.ino);
        }
        drop(locked);
        self.changes.clear();
        self.working.clear();
        self.newborn = None;
        Ok(lsn)
    }

    /// Appends to the journal and to the overlay.
    fn append(&self) -> Result<Lsn> {
        let lsn = self
            .ns
            .journal
            .append(ms_of(self.now_ns), |out| encode_changes(&self.changes, out))?;
        let growing = || self.growing.clone();
        // The base of a growing extent was read before anything was written: this cannot fail half way.
        self.ns
            .overlay
            .apply(lsn, &self.changes, self.newborn, |_| Ok(growing()))?;
        for change in &self.changes {
            if let Change::PutLocation { extent, .. } | Change::GrowLocation { extent, .. } = change
                && let Some(location) = self.ns.overlay.location(*extent)
            {
                self.ns.cache.put_location(*extent, location);
            }
        }
        Ok(lsn)
    }

    fn count(&self) {
        for w in &self.working {
            let (born, before) = match Some(w.node.ino) == self.newborn {
                true => (1, 0),
                false => (0, w.before.allocated as i64),
            };
            let (died, after) = if w.dropped {
                (1, 0)
            } else {
                (0, w.row.allocated as i64)
            };
            if born != died {
                self.ns.inodes.fetch_add(born - died, Ordering::Relaxed);
            }
            if before != after {
                self.ns.bytes.fetch_add(after - before, Ordering::Relaxed);
            }
            // Whoever has it open may still write to it.
            let (was, is) = (w.before.is_trashed_file(), w.row.is_trashed_file());
            let bytes_of = |in_trash: bool, row: &InodeRow| match in_trash {
                true => row.allocated as i64,
                false => 0,
            };
            let bytes = bytes_of(is && !w.dropped, &w.row) - bytes_of(was, &w.before);
            let inodes = i64::from(is && !w.dropped) - i64::from(was);
            self.ns.trash.count(inodes, bytes);
        }
        self.ns.trash.count_names(&self.changes, |ino| {
            let found = self.working.iter().find(|w| w.node.ino == ino);
            found.is_some_and(|w| w.row.is_dir())
        });
    }
}

/// Milliseconds of a time in nanoseconds, both since 1970.
pub(crate) fn ms_of(ns: i64) -> u64 {
    u64::try_from(ns / 1_000_000).unwrap_or(0)
}

/// The inode whose cached content a change touches.
pub(crate) fn ino_of(change: &Change) -> Option<Ino> {
    match change {
        Change::PutInode(row) => Some(row.ino),
        Change::DropInode(ino)
        | Change::DelExtent { ino, .. }
        | Change::CutExtents { ino, .. }
        | Change::PutXattr { ino, .. }
        | Change::DelXattr { ino, .. }
        | Change::PutSymlink { ino, .. } => Some(*ino),
        Change::PutDirent { parent, .. } | Change::DelDirent { parent, .. } => Some(*parent),
        Change::PutExtent(row) => Some(row.ino),
        Change::PutLocation { .. }
        | Change::GrowLocation { .. }
        | Change::PutOrphan(_)
        | Change::DelOrphan(_)
        | Change::PutTrash(_)
        | Change::DelTrash { .. }
        | Change::PutSnapshot { .. }
        | Change::Bulk(_) => None,
    }
}

/// Refuses what cannot be a name.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > MAX_NAME_BYTES {
        return Err(MetaError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(MetaError::Invalid("not a name"));
    }
    Ok(())
}
