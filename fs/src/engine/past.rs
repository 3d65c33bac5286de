//! Snapshots as directories: `.snapshots/NAME` at the root, read-only, found by lookup.
//!
//! Owns their inode numbers and what is read of them. What is in a snapshot has a number of its own: bit 62, the epoch of the
//! snapshot, and the inode's number in the volume. So nothing is kept for it, and the same file has the same number for as
//! long as the snapshot is there.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use weldrfs_meta::{
    Cookie, EntryChange, Epoch, Ino, InodeRow, MetaError, Piece, ROOT_INO, SeekTo, Snapshot,
    SnapshotView,
};

use super::snapshots::Aside;
use super::{Attr, DirEntry, Engine, Kind, Result};
use crate::error::FsError;

/// Marks the numbers of what is in snapshots; inodes of the volume count up from 1 and never get here.
const PAST: u64 = 1 << 62;
/// Below the epoch: the inode's number in the volume.
const INO_BITS: u32 = 40;
/// Between it and the mark: the epoch.
const EPOCH_BITS: u32 = 22;
/// The directory of all snapshots: no epoch, no inode.
const SNAPSHOTS_INO: Ino = Ino(PAST);
/// Its name at the root. What has this name in the volume hides it.
const SNAPSHOTS_NAME: &[u8] = b".snapshots";
/// Where it is in the root's listing: behind everything.
const LAST_COOKIE: u64 = i64::MAX as u64;
/// Cookies below this one are those of `.` and `..`.
const FIRST_COOKIE: u64 = 2;

/// What a number outside of the present names.
enum Past {
    /// The directory of all snapshots.
    List,
    /// An inode at a snapshot.
    At(Epoch, Ino),
}

fn past(ino: Ino) -> Option<Past> {
    if ino.0 & PAST == 0 {
        return None;
    }
    let low = (1 << INO_BITS) - 1;
    let epoch = (ino.0 & !PAST) >> INO_BITS;
    Some(match epoch {
        0 => Past::List,
        _ => Past::At(Epoch(epoch), Ino(ino.0 & low)),
    })
}

/// The number of an inode at a snapshot; there is none for more than 4 million snapshots or 10^12 inodes.
fn number(epoch: Epoch, ino: Ino) -> Result<Ino> {
    match epoch.0 >> EPOCH_BITS == 0 && ino.0 >> INO_BITS == 0 {
        true => Ok(Ino(PAST | epoch.0 << INO_BITS | ino.0)),
        false => Err(MetaError::NotFound.into()),
    }
}

/// An inode of a snapshot, as it is shown.
fn shown(epoch: Epoch, row: InodeRow) -> Result<Attr> {
    let mut attr = Attr::from(row);
    attr.ino = number(epoch, row.ino)?;
    attr.parent = match row.ino {
        ROOT_INO => SNAPSHOTS_INO,
        _ => number(epoch, row.parent)?,
    };
    Ok(attr)
}

impl Engine {
    /// Lists `.snapshots` at the root, too.
    pub fn show_snapshots(&self) {
        self.shows_snapshots.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// `EROFS` for what is in a snapshot.
    pub(super) fn present(&self, ino: Ino) -> Result<Ino> {
        match past(ino) {
            None => Ok(ino),
            Some(_) => Err(FsError::InSnapshot),
        }
    }

    /// A directory whose entry `name` may change.
    ///
    /// # Errors
    /// `EROFS` for what is in a snapshot, and for the directory of snapshots.
    pub(super) fn place(&self, parent: Ino, name: &[u8]) -> Result<Ino> {
        let parent = self.present(parent)?;
        match self.is_list(parent, name)? {
            true => Err(FsError::InSnapshot),
            false => Ok(parent),
        }
    }

    fn is_list(&self, parent: Ino, name: &[u8]) -> Result<bool> {
        if parent != ROOT_INO || name != SNAPSHOTS_NAME {
            return Ok(false);
        }
        match self.ns.lookup(parent, name) {
            Ok(_) => Ok(false),
            Err(MetaError::NotFound) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Where an inode is, and its number there.
    ///
    /// # Errors
    /// `EINVAL` for the directory of snapshots.
    pub(super) fn state_of(&self, ino: Ino) -> Result<(Option<Epoch>, Ino)> {
        match past(ino) {
            None => Ok((None, ino)),
            Some(Past::At(epoch, ino)) => Ok((Some(epoch), ino)),
            Some(Past::List) => Err(MetaError::Invalid("all snapshots at once").into()),
        }
    }

    /// Whether a change is one of the directory of snapshots alone.
    pub(crate) fn is_of_list(aside: &Aside) -> bool {
        let mut dirs = aside.entries.iter().map(|entry| entry.dir);
        aside.inodes.is_empty() && dirs.all(|dir| dir == SNAPSHOTS_INO)
    }

    /// What changes in the tree when a snapshot comes or goes.
    pub(super) fn list_of_snapshots(&self, snapshot: &Snapshot, is_there: bool) -> Aside {
        let top = number(snapshot.epoch, ROOT_INO).unwrap_or(SNAPSHOTS_INO);
        let top = (top, libc::DT_DIR);
        Aside {
            entries: vec![EntryChange {
                dir: SNAPSHOTS_INO,
                name: snapshot.name.as_bytes().into(),
                was: (!is_there).then_some(top),
                is: is_there.then_some(top),
            }],
            inodes: Vec::new(),
        }
    }

    /// Whether anybody can know something of the directory of snapshots.
    pub(super) fn is_list_known(&self) -> bool {
        self.list_was_shown.load(Ordering::Acquire)
    }

    fn list_attr(&self) -> Attr {
        self.list_was_shown.store(true, Ordering::Release);
        let snapshots = self.ns.snapshots();
        let made_ms = snapshots.last().map_or(0, |newest| newest.made_ms);
        let made_ns = i64::try_from(made_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        Attr {
            ino: SNAPSHOTS_INO,
            kind: Kind::Dir,
            mode: 0o555,
            nlink: u32::try_from(snapshots.len()).unwrap_or(u32::MAX - 2) + 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 4096,
            blocks: 8,
            atime_ns: made_ns,
            mtime_ns: made_ns,
            ctime_ns: made_ns,
            btime_ns: made_ns,
            parent: ROOT_INO,
        }
    }

    /// Looks at the volume as it was where the inode is in a snapshot.
    fn at<T>(
        &self,
        epoch: Epoch,
        look: impl FnOnce(SnapshotView<'_>) -> weldrfs_meta::Result<T>,
    ) -> Result<T> {
        Ok(look(self.ns.at(epoch)?)?)
    }

    /// Finds a name outside of the present, and the directory of snapshots; `None`: ask the present.
    pub(super) fn past_lookup(&self, parent: Ino, name: &[u8]) -> Option<Result<Attr>> {
        match past(parent) {
            None => match self.is_list(parent, name) {
                Ok(true) => Some(Ok(self.list_attr())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            },
            Some(Past::List) => Some(self.past_root(name)),
            Some(Past::At(epoch, dir)) => Some(
                self.at(epoch, |view| view.lookup(dir, name))
                    .and_then(|row| shown(epoch, row)),
            ),
        }
    }

    fn past_root(&self, name: &[u8]) -> Result<Attr> {
        let name = std::str::from_utf8(name).map_err(|_| MetaError::NotFound)?;
        let epoch = self.ns.snapshot(name)?.epoch;
        shown(epoch, self.at(epoch, |view| view.getattr(ROOT_INO))?)
    }

    /// Attributes of what is not in the present.
    pub(super) fn past_attr(&self, ino: Ino) -> Option<Result<Attr>> {
        Some(match past(ino)? {
            Past::List => Ok(self.list_attr()),
            Past::At(epoch, ino) => self
                .at(epoch, |view| view.getattr(ino))
                .and_then(|row| shown(epoch, row)),
        })
    }

    /// Entries of a directory that is not in the present.
    pub(super) fn past_readdir(
        &self,
        ino: Ino,
        after: u64,
        max: usize,
    ) -> Option<Result<Vec<DirEntry>>> {
        Some(match past(ino)? {
            Past::List => self.list_snapshots(after, max),
            Past::At(epoch, ino) => self.list_past(epoch, ino, after, max),
        })
    }

    fn list_snapshots(&self, after: u64, max: usize) -> Result<Vec<DirEntry>> {
        let snapshots = self.ns.snapshots().into_iter();
        let behind = snapshots.filter(|s| s.epoch.0 + FIRST_COOKIE > after);
        let entry = |snapshot: Snapshot| {
            Ok(DirEntry {
                ino: number(snapshot.epoch, ROOT_INO)?,
                kind: Kind::Dir,
                cookie: snapshot.epoch.0 + FIRST_COOKIE,
                name: snapshot.name.into_bytes().into(),
            })
        };
        behind.take(max).map(entry).collect()
    }

    fn list_past(&self, epoch: Epoch, dir: Ino, after: u64, max: usize) -> Result<Vec<DirEntry>> {
        let found = self.at(epoch, |view| view.readdir(dir, Cookie(after), max))?;
        let entry = |found: weldrfs_meta::DirEntry| {
            Ok(DirEntry {
                ino: number(epoch, found.ino)?,
                ..DirEntry::from(found)
            })
        };
        found.into_iter().map(entry).collect()
    }

    /// Puts the directory of snapshots behind the last entry of the root, where it is to be seen.
    pub(super) fn with_list(
        &self,
        dir: Ino,
        max: usize,
        entries: &mut Vec<DirEntry>,
    ) -> Result<()> {
        let is_wanted = dir == ROOT_INO
            && entries.len() < max
            && self.shows_snapshots.load(Ordering::Relaxed)
            && self.is_list(dir, SNAPSHOTS_NAME)?;
        if is_wanted {
            entries.push(DirEntry {
                name: Bytes::from_static(SNAPSHOTS_NAME),
                ino: SNAPSHOTS_INO,
                kind: Kind::Dir,
                cookie: LAST_COOKIE,
            });
        }
        Ok(())
    }

    /// Whether a cookie is behind everything.
    pub(super) fn is_listed(after: u64) -> bool {
        after >= LAST_COOKIE
    }

    /// The target of a symbolic link that is not in the present.
    pub(super) fn past_readlink(&self, ino: Ino) -> Option<Result<Bytes>> {
        Some(match past(ino)? {
            Past::List => Err(MetaError::Invalid("not a symbolic link").into()),
            Past::At(epoch, ino) => self.at(epoch, |view| view.readlink(ino)).map(Bytes::from),
        })
    }

    /// Extended attributes of what is not in the present.
    pub(super) fn past_xattrs(&self, ino: Ino) -> Option<Result<Vec<(Bytes, Bytes)>>> {
        let (epoch, ino) = match past(ino)? {
            Past::List => return Some(Ok(Vec::new())),
            Past::At(epoch, ino) => (epoch, ino),
        };
        let found = self.at(epoch, |view| view.xattrs(ino));
        let own = |(name, value): (std::sync::Arc<[u8]>, Vec<u8>)| {
            (Bytes::copy_from_slice(&name), Bytes::from(value))
        };
        Some(found.map(|all| all.into_iter().map(own).collect()))
    }

    /// The size of a file and its runs in a range, wherever it is.
    pub(super) fn map(&self, ino: Ino, offset: u64, len: u64) -> Result<(u64, Vec<Piece>)> {
        match past(ino) {
            None => Ok(self.ns.map(ino, offset, len)?),
            Some(Past::At(epoch, ino)) => self.at(epoch, |view| view.map(ino, offset, len)),
            Some(Past::List) => Err(MetaError::IsDir.into()),
        }
    }

    /// `lseek` in a file that is not in the present.
    pub(super) fn past_seek(&self, ino: Ino, offset: u64, whence: SeekTo) -> Option<Result<u64>> {
        past(ino)?;
        Some(self.map(ino, offset, u64::MAX).and_then(|(size, pieces)| {
            let nothing = MetaError::NoSuchOffset;
            if offset >= size {
                return Err(nothing.into());
            }
            match whence {
                SeekTo::Data => Ok(pieces.first().ok_or(nothing)?.offset),
                SeekTo::Hole => Ok(pieces
                    .iter()
                    .take_while({
                        let mut end = offset;
                        move |piece| {
                            std::mem::replace(&mut end, piece.offset + piece.len) == piece.offset
                        }
                    })
                    .last()
                    .map_or(offset, |last| last.offset + last.len)),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_snapshots_come_apart_again_and_none_is_of_the_present() {
        assert!(past(Ino(1)).is_none());
        assert!(past(Ino((1 << 62) - 1)).is_none());
        assert!(matches!(past(SNAPSHOTS_INO), Some(Past::List)));
        for (epoch, ino) in [(1, 1), (7, 123_456), ((1 << 22) - 1, (1 << 40) - 1)] {
            let made = number(Epoch(epoch), Ino(ino)).unwrap();
            assert!(made.0 < 1 << 63, "programs take inode numbers for signed");
            assert!(
                matches!(past(made), Some(Past::At(e, i)) if e.0 == epoch && i.0 == ino),
                "{epoch} {ino}"
            );
        }
        assert!(number(Epoch(1 << 22), Ino(1)).is_err());
        assert!(number(Epoch(1), Ino(1 << 40)).is_err());
    }
}
