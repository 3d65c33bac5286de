//! A change of many rows in the making: entries and inodes of the present tree, and copies of what is at some state.
//!
//! Keeps the directories' counts and hashes and the numbers of links right. It reads tables and changes none.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::{Cookie, Ino};
use crate::namespace::{FIRST_COOKIE, ino_of, ms_of};
use crate::rows::{Dirent, InodeRow, MAX_LINKS, Name, TrashRow};
use crate::sqlite::at::At;
use crate::sqlite::open::named;
use crate::sqlite::trash;

/// Rows that one restore or clone may change. All of them are in memory at once.
const MAX_CHANGES: usize = 4 << 20;

/// An inode that the edit changes. There may be millions, so the row that was before is not kept.
struct Touched {
    /// The links it has in the tables; none for one that the edit makes.
    nlink_before: Option<u32>,
    /// The bytes it maps, if it is a file in the trash.
    trashed_before: Option<u64>,
    row: InodeRow,
}

/// One entry of a directory that a change of many rows added, replaced or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryChange {
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    pub name: Name,
    /// What it named before, with the type as in `d_type`; none: it was not there.
    pub was: Option<(Ino, u8)>,
    /// What it names now.
    pub is: Option<(Ino, u8)>,
}

/// What an edit came to.
pub(crate) struct Edited {
    /// By the inodes they belong to, each row once.
    pub(crate) changes: Arc<Vec<Change>>,
    /// Entries that were added, replaced or removed in directories that were there before.
    pub(crate) entries: Vec<EntryChange>,
    /// How many entries were added to directories that the edit made.
    pub(crate) inner: u64,
    /// Inodes that were there before and that change.
    pub(crate) inodes: Vec<Ino>,
    /// Those of them that are directories. Of others only the row changes.
    pub(crate) dirs: Vec<Ino>,
    /// Those of them that have no name any more, neither in the tree nor in the trash.
    pub(crate) orphans: Arc<Vec<Ino>>,
    /// Those of them that are no directories and have no name in the tree any more.
    pub(crate) replaced: Vec<Ino>,
    /// Inodes that were made, and how many bytes they map.
    pub(crate) born: (i64, i64),
    /// Inodes without a name that came to the trash, less those that left it, and the bytes that they map.
    pub(crate) trash: (i64, i64),
}

/// The edit.
pub(crate) struct Edit<'c, 'n> {
    pub(super) now: At<'c>,
    now_ns: i64,
    number: &'n mut dyn FnMut() -> Ino,
    touched: FxHashMap<Ino, Touched>,
    dropped: FxHashSet<Ino>,
    changes: Vec<Change>,
    entries: Vec<EntryChange>,
    inner: u64,
    /// Directories that lost their names, with where they had them.
    lost: FxHashMap<Ino, (Ino, Name)>,
    trash: (i64, i64),
}

impl<'c, 'n> Edit<'c, 'n> {
    /// `number` gives inode numbers that nothing has.
    pub(crate) fn new(now: At<'c>, now_ns: i64, number: &'n mut dyn FnMut() -> Ino) -> Self {
        Self {
            now,
            now_ns,
            number,
            touched: FxHashMap::default(),
            dropped: FxHashSet::default(),
            changes: Vec::new(),
            entries: Vec::new(),
            inner: 0,
            lost: FxHashMap::default(),
            trash: (0, 0),
        }
    }

    pub(crate) fn push(&mut self, change: Change) -> Result<()> {
        if self.changes.len() >= MAX_CHANGES {
            return Err(MetaError::Invalid(
                "more than four million rows would change at once",
            ));
        }
        self.changes.push(change);
        Ok(())
    }

    /// The row of an inode, to be changed.
    pub(crate) fn row(&mut self, ino: Ino) -> Result<&mut InodeRow> {
        use std::collections::hash_map::Entry;
        let touched = match self.touched.entry(ino) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(free) => {
                let row = named(self.now.inode(ino))?.ok_or_else(|| missing(ino))?;
                free.insert(Touched {
                    nlink_before: Some(row.nlink),
                    trashed_before: row.is_trashed_file().then_some(row.allocated),
                    row,
                })
            }
        };
        Ok(&mut touched.row)
    }

    /// The row of an inode as it is by now, which does not count as changing it.
    fn seen(&self, ino: Ino) -> Result<InodeRow> {
        match self.touched.get(&ino) {
            Some(touched) => Ok(touched.row),
            None => named(self.now.inode(ino))?.ok_or_else(|| missing(ino)),
        }
    }

    /// Whether the edit made this inode.
    pub(crate) fn is_born(&self, ino: Ino) -> bool {
        self.touched
            .get(&ino)
            .is_some_and(|t| t.nlink_before.is_none())
    }

    /// Makes an inode like another one of some state, with its attributes, target and runs and without a name. It shares
    /// the other's extents.
    pub(crate) fn copy(&mut self, at: At<'_>, of: &InodeRow) -> Result<Ino> {
        let ino = (self.number)();
        let is_dir = of.is_dir();
        let row = InodeRow {
            ino,
            nlink: if is_dir { 2 } else { 0 },
            size: if is_dir { 0 } else { of.size },
            entries_hash: 0,
            next_cookie: if is_dir { FIRST_COOKIE } else { 0 },
            parent: Ino(0),
            ctime_ns: self.now_ns,
            ..*of
        };
        let made = Touched {
            nlink_before: None,
            trashed_before: None,
            row,
        };
        self.touched.insert(ino, made);
        for (name, value) in named(at.xattrs(of.ino))? {
            self.push(Change::PutXattr { ino, name, value })?;
        }
        if of.is_file() {
            for run in named(at.runs(of.ino))? {
                self.push(Change::PutExtent(run.row(ino)))?;
            }
        }
        if of.is_symlink() {
            let target = named(at.symlink(of.ino))?.ok_or_else(|| missing(of.ino))?;
            self.push(Change::PutSymlink { ino, target })?;
        }
        Ok(ino)
    }

    /// Gives a directory the attributes that another one has at some state.
    pub(super) fn dress(&mut self, dir: Ino, at: At<'_>, like: &InodeRow) -> Result<()> {
        let now_ns = self.now_ns;
        let wanted = named(at.xattrs(like.ino))?;
        let present = match self.is_born(dir) {
            true => wanted.clone(),
            false => named(self.now.xattrs(dir))?,
        };
        let row = self.seen(dir)?;
        let dressed = InodeRow {
            mode: like.mode,
            uid: like.uid,
            gid: like.gid,
            atime_ns: like.atime_ns,
            mtime_ns: like.mtime_ns,
            ..row
        };
        if dressed == row && present == wanted {
            return Ok(());
        }
        *self.row(dir)? = InodeRow {
            ctime_ns: now_ns,
            ..dressed
        };
        for (name, _) in &present {
            if wanted.iter().all(|(n, _)| n != name) {
                let name = Name::clone(name);
                self.push(Change::DelXattr { ino: dir, name })?;
            }
        }
        for (name, value) in wanted {
            if !present.contains(&(Name::clone(&name), value.clone())) {
                self.push(Change::PutXattr {
                    ino: dir,
                    name,
                    value,
                })?;
            }
        }
        Ok(())
    }

    /// Makes an entry of a directory name `to`, or nothing, whatever it names now. Returns what it named, if that was a
    /// directory.
    pub(crate) fn set_entry(
        &mut self,
        dir: Ino,
        name: &Name,
        to: Option<(Ino, u8)>,
    ) -> Result<Option<Ino>> {
        let was = match self.is_born(dir) {
            true => None,
            false => named(self.now.dirent(dir, name))?,
        };
        if was.map(|d| (d.ino, d.kind)) == to {
            return Ok(None);
        }
        let now_ns = self.now_ns;
        if let Some(was) = was {
            let row = self.row(dir)?;
            row.size = row.size.saturating_sub(1);
            row.entries_hash = row.entries_hash.wrapping_sub(was.hash(name));
        }
        let row = self.row(dir)?;
        row.ctime_ns = now_ns;
        let cookie = match was {
            Some(was) => was.cookie,
            None => Cookie(row.next_cookie),
        };
        if let Some((ino, kind)) = to {
            let dirent = Dirent { ino, kind, cookie };
            row.next_cookie = row.next_cookie.max(cookie.0 + 1);
            row.size += 1;
            row.entries_hash = row.entries_hash.wrapping_add(dirent.hash(name));
            self.link(dir, ino)?;
            self.push(Change::PutDirent {
                parent: dir,
                name: Name::clone(name),
                dirent,
            })?;
        } else {
            self.push(Change::DelDirent {
                parent: dir,
                name: Name::clone(name),
            })?;
        }
        match self.is_born(dir) {
            // Nobody knows the directory, nor what is in it.
            true => self.inner += 1,
            false => self.entries.push(EntryChange {
                dir,
                name: Name::clone(name),
                was: was.map(|d| (d.ino, d.kind)),
                is: to,
            }),
        }
        let Some(was) = was else { return Ok(None) };
        let ended = self.unlink(dir, was)?;
        if let Some(ended) = ended {
            self.lost.insert(ended, (dir, Name::clone(name)));
        }
        Ok(ended)
    }

    fn link(&mut self, dir: Ino, ino: Ino) -> Result<()> {
        let now_ns = self.now_ns;
        let row = self.row(ino)?;
        row.ctime_ns = now_ns;
        if row.is_dir() {
            row.parent = dir;
            self.row(dir)?.nlink += 1;
            return Ok(());
        }
        row.nlink += 1;
        match row.nlink > MAX_LINKS {
            true => Err(MetaError::TooManyLinks),
            false => Ok(()),
        }
    }

    fn unlink(&mut self, dir: Ino, was: Dirent) -> Result<Option<Ino>> {
        let now_ns = self.now_ns;
        let row = self.row(was.ino)?;
        row.ctime_ns = now_ns;
        if row.is_dir() {
            self.row(dir)?.nlink -= 1;
            return Ok(Some(was.ino));
        }
        row.nlink = row.nlink.saturating_sub(1);
        Ok(None)
    }

    /// Ends directories that lost their names, with all that is in them. Directories in `kept` have another place.
    pub(super) fn drop_trees(&mut self, mut tops: Vec<Ino>, kept: &FxHashSet<Ino>) -> Result<()> {
        while let Some(dir) = tops.pop() {
            if kept.contains(&dir) || !self.dropped.insert(dir) {
                continue;
            }
            for (name, _) in named(self.now.dirents(dir, Cookie(0), usize::MAX))? {
                tops.extend(self.set_entry(dir, &name, None)?);
            }
            self.row(dir)?.nlink = 0;
        }
        Ok(())
    }

    /// Counts directories that come to the trash (or leave it): their rows do not tell.
    pub(crate) fn count_trash(&mut self, dirs: i64) {
        self.trash.0 += dirs;
    }

    /// Directories that lost their names stay, in the trash, as long as anything is there that was in them.
    fn keep_dirs(&mut self) -> Result<FxHashSet<Ino>> {
        let mut kept: FxHashSet<Ino> = FxHashSet::default();
        let is_over = |touched: &Touched| touched.row.is_dir() && touched.row.nlink == 0;
        let over = self.touched.iter().filter(|(_, t)| is_over(t));
        let over: Vec<Ino> = over.map(|(ino, _)| *ino).collect();
        for dir in over {
            let mut at = dir;
            if !named(trash::has_names_of(self.now.connection(), dir))? {
                continue;
            }
            while let Some((parent, name)) = self.lost.get(&at).cloned() {
                if self.touched.get(&at).is_none_or(|t| !is_over(t)) || !kept.insert(at) {
                    break;
                }
                let dir_mtime_ns = self.seen(parent)?.mtime_ns;
                self.push(Change::PutTrash(TrashRow {
                    ino: at,
                    parent,
                    name,
                    deleted_ms: ms_of(self.now_ns),
                    dir_mtime_ns,
                }))?;
                self.row(at)?.parent = parent;
                at = parent;
            }
        }
        self.count_trash(kept.len() as i64);
        Ok(kept)
    }

    /// What it came to.
    pub(crate) fn finish(mut self) -> Result<Edited> {
        let kept = self.keep_dirs()?;
        let (mut orphans, mut replaced, mut born) = (Vec::new(), Vec::new(), (0, 0));
        let (mut is_born, mut dirs) = (FxHashSet::default(), Vec::new());
        for (ino, touched) in std::mem::take(&mut self.touched) {
            let Touched {
                nlink_before,
                trashed_before,
                mut row,
            } = touched;
            let is_over = row.nlink == 0 && nlink_before.is_none_or(|before| before > 0);
            if is_over && nlink_before.is_some() && !row.is_dir() {
                replaced.push(ino);
            }
            let mut is_orphan = is_over && !kept.contains(&ino);
            // One that has other names in the trash stays there by them.
            if is_orphan
                && !row.is_dir()
                && let Some(dir) = named(trash::dir_of(self.now.connection(), ino))?
            {
                row.parent = dir;
                is_orphan = false;
            }
            if let Some(bytes) = trashed_before {
                self.trash.0 -= 1;
                self.trash.1 -= bytes as i64;
            }
            if row.is_trashed_file() {
                self.trash.0 += 1;
                self.trash.1 += row.allocated as i64;
            }
            match nlink_before {
                Some(_) if row.is_dir() => dirs.push(ino),
                Some(_) => {}
                None => {
                    is_born.insert(ino);
                    born = (born.0 + 1, born.1 + row.allocated as i64);
                }
            }
            self.push(Change::PutInode(row))?;
            if is_orphan {
                orphans.push(ino);
            }
        }
        let changed = self.changes.iter().filter_map(ino_of);
        let inodes: BTreeSet<Ino> = changed.filter(|ino| !is_born.contains(ino)).collect();
        let inodes = inodes.into_iter().collect();
        orphans.sort_unstable();
        // In this order the pages of the tables are touched once.
        self.changes.sort_unstable_by_key(ino_of);
        Ok(Edited {
            changes: Arc::new(self.changes),
            entries: self.entries,
            inner: self.inner,
            inodes,
            dirs,
            orphans: Arc::new(orphans),
            replaced,
            born,
            trash: self.trash,
        })
    }
}

fn missing(ino: Ino) -> MetaError {
    MetaError::damaged(
        "metadata database",
        format!("{ino} is missing although it is in use"),
    )
}
