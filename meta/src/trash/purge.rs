//! The end of what is in the trash: by age, when there is too much of it, or when somebody empties it.
//!
//! Works in small batches, each one record in the journal, so that nobody waits for it. What loses its last name here
//! becomes an orphan and goes like any other.

use rustc_hash::FxHashSet;

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::Ino;
use crate::namespace::Namespace;
use crate::sqlite::trash::{self, TrashedName};

/// Names that are looked for at a time.
const LOOK: usize = 4096;
/// Names that one record ends.
const BATCH: usize = 256;

/// What is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeLimits {
    /// Only what was removed up to this time, milliseconds since 1970.
    pub until_ms: u64,
    /// At most so many names.
    pub names: u64,
    /// No more once this many bytes have lost their last name.
    pub bytes: u64,
    /// Only files of which something lies in a segment: what gives room on the local disk at once.
    pub in_segments: bool,
}

impl PurgeLimits {
    /// Everything that was removed up to a time.
    pub fn until(until_ms: u64) -> Self {
        Self {
            until_ms,
            names: u64::MAX,
            bytes: u64::MAX,
            in_segments: false,
        }
    }
}

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Names.
    pub names: u64,
    /// Bytes of inodes that have no name any more.
    pub bytes: u64,
    /// These inodes: to be reclaimed when nobody holds them.
    pub orphans: Vec<Ino>,
    /// Whether there may be more.
    pub more: bool,
}

impl Namespace {
    /// Ends the oldest names in the trash, a few thousand at most: whoever wants more calls it again.
    ///
    /// # Errors
    /// What a commit can fail with. What was ended before is not known then; it is found again at the next mount.
    pub fn purge_trash(&self, limits: PurgeLimits, now_ns: i64) -> Result<Purged> {
        // A restore changes the tables by itself, and what it brings back must not be ended.
        let _held = self.holding.lock();
        let puts = self.trash.puts();
        self.checkpoint(self.acknowledged())?;
        let limit = LOOK.min(usize::try_from(limits.names).unwrap_or(LOOK));
        let (found, names) = self.readers.with(|c| {
            let found = trash::oldest(c, limits.until_ms, limits.in_segments, limit)?;
            Ok((found, trash::names(c)?))
        })?;
        self.trash.counted(puts, names);
        let mut purged = Purged {
            more: found.len() == limit,
            ..Purged::default()
        };
        for batch in found.chunks(BATCH) {
            if purged.bytes >= limits.bytes {
                purged.more = false;
                break;
            }
            self.purge_batch(batch, &mut purged, now_ns)?;
        }
        // Directories follow what was in them.
        purged.more |= purged.names > 0 && purged.names < limits.names;
        purged.more &= purged.bytes < limits.bytes;
        let gone = purged.names;
        self.trash.counted(puts, names.saturating_sub(gone));
        Ok(purged)
    }

    fn purge_batch(&self, batch: &[TrashedName], purged: &mut Purged, now_ns: i64) -> Result<()> {
        let mut tx = self.begin(now_ns)?;
        let mut orphans: FxHashSet<Ino> = FxHashSet::default();
        let (mut names, mut bytes) = (0, 0);
        for row in batch {
            // It was removed once more meanwhile: what SQLite says is old. And what is still written into a file that a
            // restore has just replaced is to be moved before the file goes.
            if self.overlay.has_trash(row.ino) || self.replaced.watches(row.ino) {
                continue;
            }
            // Since it was looked for, names may have come and gone, and be in SQLite already.
            let as_it_is = self.readers.with(|c| trash::is_last(c, row))?;
            let Some(is_last) = as_it_is else {
                continue;
            };
            if is_last {
                match tx.get(row.ino) {
                    Ok(at) if tx.row(at).nlink == 0 => {
                        bytes += tx.row(at).allocated;
                        if !tx.row(at).is_dir() {
                            tx.row_mut(at).parent = Ino(0);
                        }
                        tx.changes.push(Change::PutOrphan(row.ino));
                        orphans.insert(row.ino);
                    }
                    Ok(_) | Err(MetaError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            tx.changes.push(Change::DelTrash {
                ino: row.ino,
                parent: row.parent,
                name: row.name.clone(),
            });
            names += 1;
        }
        tx.commit()?;
        purged.names += names;
        purged.bytes += bytes;
        purged.orphans.extend(orphans);
        Ok(())
    }

    /// Names in the trash, or a few more.
    pub fn trash_names(&self) -> u64 {
        self.trash.names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ROOT_INO;
    use crate::namespace::tests::{healthy, write};
    use crate::trash::tests::{make, make_dir, publish, quiet};

    /// What was looked for is ended in batches, and others go on meanwhile.
    #[test]
    fn a_name_that_was_removed_since_it_was_looked_for_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let ns = quiet(tmp.path(), true);
        let (a, b) = (make_dir(&ns, ROOT_INO, "a"), make_dir(&ns, ROOT_INO, "b"));
        let f = make(&ns, a, "f");
        write(&ns, f, 0, 100, 4096);
        ns.link(f, b, b"f", 1).unwrap();
        publish(&ns);
        ns.unlink(a, b"f", 5_000_000_000).unwrap();
        ns.checkpoint(ns.acknowledged()).unwrap();
        let found = ns
            .readers
            .with(|c| trash::oldest(c, u64::MAX, false, 10))
            .unwrap();
        assert_eq!(found.len(), 1);
        // Its last name goes, and SQLite knows it already.
        ns.unlink(b, b"f", 9_000_000_000).unwrap();
        ns.checkpoint(ns.acknowledged()).unwrap();
        let mut purged = Purged::default();
        ns.purge_batch(&found, &mut purged, 10_000_000_000).unwrap();
        assert_eq!((purged.names, &purged.orphans[..]), (1, &[][..]));
        healthy(&ns);
        // And one that is not there any more is nobody's.
        ns.purge_batch(&found, &mut purged, 11_000_000_000).unwrap();
        assert_eq!(purged.names, 1);
        healthy(&ns);
        assert_eq!(ns.trash(b"").unwrap().len(), 1);
        let purged = ns
            .purge_trash(PurgeLimits::until(u64::MAX), 12_000_000_000)
            .unwrap();
        assert_eq!(purged.orphans, [f]);
    }
}
