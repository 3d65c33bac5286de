//! The trash: names that were removed, and what they named, for as long as they are kept. What is in it is told by `list`,
//! brought back by `restore` and ended by `purge`.
//!
//! Removing a name is one record, with or without: the inode stays, and a row says what it was called. So a tree is put
//! together again from rows whose directories are in the trash too. What was made since the last publication and the last
//! snapshot is not kept, its inode number tells: lock and temporary files leave nothing.

mod list;
mod purge;
mod restore;
#[cfg(test)]
pub(crate) mod tests;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::changes::Change;
use crate::ids::Ino;
use crate::namespace::Namespace;
use crate::sqlite::trash::{self, TrashedName};

pub use list::TrashEntry;
pub use purge::{PurgeLimits, Purged};
pub use restore::{RestoredTrash, TrashRestore};

/// Names that the trash holds at most; the oldest ones give way. A listing has them all in memory.
pub const MAX_TRASH_NAMES: u64 = 500_000;
/// Bytes that the trash holds at most; the oldest ones give way.
pub const MAX_TRASH_BYTES: u64 = 64 << 30;
/// How far the trash may go beyond before anybody has made room. What is removed then is gone.
const SLACK_NAMES: u64 = MAX_TRASH_NAMES / 4;
/// What was removed from a tree with no longer pauses before the tree itself went is a part of it, milliseconds.
const SAME_DELETION_GAP_MS: u64 = 60_000;

/// What is known of the trash without asking the tables.
#[derive(Debug)]
pub(crate) struct Trash {
    /// Whether what is removed goes there.
    on: AtomicBool,
    /// Inodes from this number on are too young for it.
    young_from: AtomicU64,
    /// Inodes in it that have no name, and the bytes that they map.
    inodes: AtomicI64,
    bytes: AtomicI64,
    /// Names that were ever put there.
    puts: AtomicU64,
    /// What these have to be reduced by to be those that are there, at least.
    gone: AtomicU64,
}

impl Trash {
    /// `next_ino` is the first inode number that was not given yet; `held` what is there.
    pub(crate) fn new(on: bool, next_ino: u64, held: Held) -> Self {
        Self {
            on: AtomicBool::new(on),
            young_from: AtomicU64::new(next_ino),
            inodes: AtomicI64::new(held.inodes),
            bytes: AtomicI64::new(held.bytes),
            puts: AtomicU64::new(held.names),
            gone: AtomicU64::new(0),
        }
    }

    /// Whether an inode was made since the last publication and the last snapshot.
    pub(crate) fn is_young(&self, ino: Ino) -> bool {
        ino.0 >= self.young_from.load(Ordering::Acquire)
    }

    /// Inodes below this number are old from now on.
    pub(crate) fn grown_up(&self, next_ino: Ino) {
        self.young_from.fetch_max(next_ino.0, Ordering::AcqRel);
    }

    /// Whether it takes what is removed.
    pub(crate) fn takes(&self) -> bool {
        self.on.load(Ordering::Relaxed) && self.names() < MAX_TRASH_NAMES + SLACK_NAMES
    }

    /// Whether there can be any name in it.
    pub(crate) fn may_have_names(&self) -> bool {
        self.names() > 0
    }

    /// Names in it, or a few more.
    pub(crate) fn names(&self) -> u64 {
        let puts = self.puts.load(Ordering::Acquire);
        puts.saturating_sub(self.gone.load(Ordering::Acquire))
    }

    /// Inodes in it that have no name, and the bytes that they map.
    pub(crate) fn held(&self) -> (u64, u64) {
        let of = |n: &AtomicI64| n.load(Ordering::Relaxed).max(0) as u64;
        (of(&self.inodes), of(&self.bytes))
    }

    pub(crate) fn count(&self, inodes: i64, bytes: i64) {
        if inodes != 0 {
            self.inodes.fetch_add(inodes, Ordering::Relaxed);
        }
        if bytes != 0 {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts names that were put there, and directories, whose rows do not tell.
    pub(crate) fn count_names(&self, changes: &[Change], is_dir: impl Fn(Ino) -> bool) {
        for change in changes {
            match change {
                Change::PutTrash(row) => {
                    self.puts.fetch_add(1, Ordering::AcqRel);
                    self.count(i64::from(is_dir(row.ino)), 0);
                }
                Change::DelTrash { ino, .. } => self.count(-i64::from(is_dir(*ino)), 0),
                _ => {}
            }
        }
    }

    fn puts(&self) -> u64 {
        self.puts.load(Ordering::Acquire)
    }

    /// Of the names that had been put there by `puts`, `names` are left.
    fn counted(&self, puts: u64, names: u64) {
        self.gone
            .store(puts.saturating_sub(names), Ordering::Release);
    }
}

impl Namespace {
    /// Whether another name of an inode may be in the trash. One that is there stays there with its last name.
    pub(crate) fn may_be_in_trash(&self, ino: Ino) -> bool {
        self.overlay.has_trash(ino)
            || self
                .readers
                .with(|c| trash::dir_of(c, ino))
                .is_ok_and(|dir| dir.is_some())
    }

    /// What there was before `next_ino` was given is old enough for the trash: it was published.
    pub(crate) fn grown_up(&self, next_ino: Ino) {
        self.trash.grown_up(next_ino);
        let mut state = self.commit.lock();
        state.young_dirs.retain(|dir| self.trash.is_young(*dir));
    }
}

/// How much is in the trash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) names: u64,
    pub(crate) inodes: i64,
    pub(crate) bytes: i64,
}

/// Rows of the trash, by the directories that they were in.
#[derive(Debug, Default)]
struct Rows {
    all: Vec<TrashedName>,
    /// Places in `all`.
    by_dir: FxHashMap<Ino, Vec<usize>>,
    /// Directories that are in the trash themselves, each with its place.
    dirs: FxHashMap<Ino, usize>,
}

impl Rows {
    fn new(all: Vec<TrashedName>) -> Self {
        let mut rows = Self {
            all,
            ..Self::default()
        };
        for (at, row) in rows.all.iter().enumerate() {
            rows.by_dir.entry(row.parent).or_default().push(at);
            if row.is_dir() {
                rows.dirs.insert(row.ino, at);
            }
        }
        rows
    }

    /// What was in a directory that is in the trash.
    fn inside(&self, at: usize) -> &[usize] {
        match self.all[at].is_dir() {
            true => self
                .by_dir
                .get(&self.all[at].ino)
                .map_or(&[], Vec::as_slice),
            false => &[],
        }
    }

    /// `top` and what was removed together with it: everything that was in it, until there was a longer pause before, and
    /// of two of one name the newer one. Second: the tops of the rest.
    fn together(&self, top: usize, allowed: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<usize>) {
        let mut below: Vec<(u64, usize, usize)> = Vec::new();
        let mut open = vec![(0, top)];
        while let Some((depth, at)) = open.pop() {
            for at in self.inside(at).iter().copied().filter(|at| allowed(*at)) {
                below.push((self.all[at].deleted_ms, depth, at));
                open.push((depth + 1, at));
            }
        }
        // The newest first. What was in a directory was removed before it, or within the same tick of the clock.
        below.sort_by_key(|(ms, depth, at)| (Reverse(*ms), *depth, Reverse(*at)));
        let mut last_ms = self.all[top].deleted_ms;
        let mut has_paused = false;
        let (mut together, mut rest) = (vec![top], Vec::new());
        let mut is_in: FxHashSet<Ino> = FxHashSet::from_iter([self.all[top].ino]);
        let mut names: FxHashSet<(Ino, &[u8])> = FxHashSet::default();
        for (deleted_ms, _, at) in below {
            let row = &self.all[at];
            has_paused |= last_ms.saturating_sub(deleted_ms) > SAME_DELETION_GAP_MS;
            last_ms = deleted_ms;
            let has_place = !has_paused && is_in.contains(&row.parent);
            if !has_place || !names.insert((row.parent, &row.name)) {
                rest.push(at);
                continue;
            }
            together.push(at);
            if row.is_dir() {
                is_in.insert(row.ino);
            }
        }
        let of_rest: FxHashSet<Ino> = rest.iter().map(|at| self.all[*at].ino).collect();
        let is_top = |at: &usize| {
            let above = self.all[*at].parent;
            !(self.dirs.contains_key(&above) && of_rest.contains(&above))
        };
        let tops = rest.into_iter().filter(is_top).collect();
        (together, tops)
    }
}
