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

    fn purge_batch(
        &self,
        batch: &[(TrashedName, bool)],
        purged: &mut Purged,
        now_ns: i64,
    ) -> Result<()> {
        let mut tx = self.begin(now_ns)?;
        let mut orphans: FxHashSet<Ino> = FxHashSet::default();
        let (mut names, mut bytes) = (0, 0);
        for (row, is_last) in batch {
            // It was removed once more meanwhile: what SQLite says is old.
            if self.overlay.has_trash(row.ino) {
                continue;
            }
            if *is_last {
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
