//! Copies of directories that share the extents of what they were made from.

use rustc_hash::FxHashMap;

use crate::error::{MetaError, Result};
use crate::ids::{Cookie, Epoch, Ino};
use crate::namespace::{Namespace, check_name};
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::open::named;

use super::Order;
use super::edit::{Edit, Edited};

/// Where a copy goes.
#[derive(Clone, Copy, Debug)]
pub struct CloneTo<'a> {
    /// The directory that gets the new entry.
    pub parent: Ino,
    /// The name of the copy, which must be free.
    pub name: &'a [u8],
    /// A directory that is left out, with everything in it.
    pub without: Option<Ino>,
}

impl Namespace {
    /// Copies a directory of the present, or of a snapshot, with everything in it, all at once. Hard links within it are
    /// hard links in the copy; times of access and content, owners and attributes are the same. Returns the copy's row.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Exists`, `NameTooLong`, `Invalid`; what a commit can fail with. Nothing has happened then.
    pub fn clone_tree(
        &self,
        from: Option<Epoch>,
        source: Ino,
        to: CloneTo<'_>,
        now_ns: i64,
    ) -> Result<InodeRow> {
        self.clone_tree_on(&Order::default(), from, source, to, now_ns)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `TakenBack`.
    pub fn clone_tree_on(
        &self,
        order: &Order,
        from: Option<Epoch>,
        source: Ino,
        to: CloneTo<'_>,
        now_ns: i64,
    ) -> Result<InodeRow> {
        let _held = self.holding.lock();
        let from = from.map(|epoch| self.point(epoch)).transpose()?;
        self.checkpoint(self.acknowledged())?;
        let mut tx = self.begin_growing(now_ns)?;
        let dir = tx.dir(to.parent)?;
        check_name(to.name)?;
        if tx.find(dir, to.name)?.is_some() {
            return Err(MetaError::Exists);
        }
        tx.rest()?;
        let edited = {
            let mut number = || tx.next_ino();
            self.look(|c| {
                let now = At::present(c);
                let at = from.map_or(now, |point| At::snapshot(c, point));
                copy(at, Edit::new(now, now_ns, &mut number), source, to, now_ns)
            })?
        };
        order.begin()?;
        tx.commit_bulk(&edited, to.parent)?;
        self.lookup(to.parent, to.name)
    }
}

fn copy(
    at: At<'_>,
    mut edit: Edit<'_, '_>,
    source: Ino,
    to: CloneTo<'_>,
    now_ns: i64,
) -> Result<Edited> {
    let row = named(at.inode(source))?.filter(|r| r.nlink > 0);
    let row = row.ok_or(MetaError::NotFound)?;
    if !row.is_dir() {
        return Err(MetaError::NotDir);
    }
    let top = edit.copy(at, &row)?;
    edit.row(top)?.btime_ns = now_ns;
    edit.set_entry(to.parent, &Name::from(to.name), Some((top, row.kind())))?;
    edit.row(to.parent)?.mtime_ns = now_ns;
    let mut files: FxHashMap<Ino, Ino> = FxHashMap::default();
    let mut dirs = vec![(source, top)];
    while let Some((of, into)) = dirs.pop() {
        for (name, dirent) in named(at.dirents(of, Cookie(0), usize::MAX))? {
            if Some(dirent.ino) == to.without {
                continue;
            }
            let made = match files.get(&dirent.ino) {
                Some(found) => *found,
                None => {
                    let row = named(at.inode(dirent.ino))?.ok_or_else(|| {
                        MetaError::damaged(
                            "metadata database",
                            format!("{} is missing", dirent.ino),
                        )
                    })?;
                    let made = edit.copy(at, &row)?;
                    edit.row(made)?.btime_ns = now_ns;
                    match row.is_dir() {
                        true => dirs.push((dirent.ino, made)),
                        false => drop(files.insert(dirent.ino, made)),
                    }
                    made
                }
            };
            edit.set_entry(into, &name, Some((made, dirent.kind)))?;
        }
    }
    edit.finish()
}
