//! The trash: listing it, bringing something back, and the end of what is in it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use weldrfs_meta::{
    Ino, MAX_TRASH_BYTES, MAX_TRASH_NAMES, MetaError, Order, PurgeLimits, RestoredTrash,
    TrashEntry, TrashRestore,
};

use super::snapshots::RESTORE_WAIT;
use super::{Aside, Engine, Result};
use crate::error::FsError;

/// Part of the disk that the trash leaves free where the store is a directory on it: one in so many.
const FREE_SHARE: u64 = 20;
/// How long a writer that finds no room waits for what the trash gave back.
const GIVE_WAY_WAIT: Duration = Duration::from_secs(5);
/// For how long what was ended may not have become free space yet: the grace of gc, and a round of it.
const FREED_AFTER: Duration = Duration::from_secs(7 * 3_600);

/// What is brought back from the trash.
#[derive(Clone, Copy, Debug)]
pub struct TrashTarget<'a> {
    /// Where it was, below the root.
    pub path: &'a [u8],
    /// Where it goes, below the root; where it was when `None`.
    pub to: Option<&'a [u8]>,
    /// Nothing that was removed later, milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// How much something was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrashFigures {
    /// Names.
    pub names: u64,
    /// Bytes that no name leads to any more.
    pub bytes: u64,
}

/// What was ended for lack of space and is not free space yet: when, in milliseconds since 1970, and how many bytes.
#[derive(Debug, Default)]
pub(super) struct GivenWay(Vec<(u64, u64)>);

/// When the trash last gave way to writers that found no room.
pub(super) type GaveWay = Mutex<Option<Instant>>;

impl GivenWay {
    /// Bytes that are still to become free, as of `now_ms`.
    fn pending(&mut self, now_ms: u64) -> u64 {
        let after = u64::try_from(FREED_AFTER.as_millis()).unwrap_or(u64::MAX);
        self.0
            .retain(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < after);
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Engine {
    /// What is in the trash at and below a path (empty: everywhere), oldest first; what was removed together is one entry.
    ///
    /// # Errors
    /// `EIO` when the tables cannot be read.
    pub fn trash(&self, path: &[u8]) -> Result<Vec<TrashEntry>> {
        Ok(self.ns.trash(path)?)
    }

    /// Brings something back from the trash, all at once. Directories above it that are gone are made again.
    ///
    /// # Errors
    /// `ENOENT` when the trash has nothing of this path, or the new place is in no directory; `EEXIST` when something is
    /// there; `ENOTDIR` when a file is in the way; `EROFS`.
    pub fn restore_trash(&self, target: TrashTarget<'_>) -> Result<RestoredTrash> {
        self.restore_trash_on(&Order::default(), target)
    }

    /// The same, unless it is taken back before it begins. Entries and inodes are not told: the onlooker has them.
    ///
    /// # Errors
    /// The same, and `ECANCELED`.
    pub fn restore_trash_on(
        &self,
        order: &Order,
        target: TrashTarget<'_>,
    ) -> Result<RestoredTrash> {
        // What is still written into a file that a restore has just replaced is not written to what comes back.
        let one = self.restoring.try_lock_for(RESTORE_WAIT);
        let _one = one.ok_or(FsError::Late("another restore is under way"))?;
        let to = target.to.map(|to| self.place_of(to)).transpose()?;
        let what = TrashRestore {
            path: target.path,
            to,
            until_ms: target.until_ms,
        };
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let restored = self.ns.restore_trash_on(order, what, self.now_ns());
        let mut restored = restored.map_err(|error| match error {
            MetaError::NotFound => FsError::NotInTrash(shown(target.path)),
            MetaError::Exists => FsError::TrashPlaceTaken(shown(target.to.unwrap_or(target.path))),
            other => other.into(),
        })?;
        self.tell(Aside {
            entries: std::mem::take(&mut restored.entries),
            inodes: std::mem::take(&mut restored.inodes),
        });
        self.end(&restored.orphans);
        Ok(restored)
    }

    /// The directory and the name of a path that may be free.
    fn place_of<'a>(&self, path: &'a [u8]) -> Result<(Ino, &'a [u8])> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let dir = self.walk(above)?.ino;
        // A snapshot does not change.
        Ok((self.place(dir, name)?, name))
    }

    /// Ends everything in the trash that was removed up to a time, milliseconds since 1970.
    ///
    /// # Errors
    /// `EROFS`; what was ended before an error stays ended.
    pub fn empty_trash(&self, until_ms: u64) -> Result<TrashFigures> {
        self.purge(PurgeLimits::until(until_ms), &|| false)
    }

    /// Ends what has been in the trash for `keep`, and the oldest of it when there is too much or the disk is nearly full.
    /// Returns early when `stop` says so.
    ///
    /// # Errors
    /// As [`Engine::empty_trash`].
    pub(crate) fn tidy_trash(
        &self,
        keep: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<TrashFigures> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.now_ms();
        let mut ended = match now_ms.checked_sub(keep_ms) {
            Some(until_ms) => self.purge(PurgeLimits::until(until_ms), stop)?,
            None => TrashFigures::default(),
        };
        let (names, bytes) = self.trash_excess(now_ms);
        if names > 0 {
            let limits = PurgeLimits {
                names,
                ..PurgeLimits::until(u64::MAX)
            };
            ended.add(self.purge(limits, stop)?);
        }
        if bytes > 0 {
            let limits = PurgeLimits {
                bytes,
                ..PurgeLimits::until(u64::MAX)
            };
            let gone = self.purge(limits, stop)?;
            self.given_way.lock().0.push((now_ms, gone.bytes));
            ended.add(gone);
        }
        Ok(ended)
    }

    /// Names and bytes that the trash has too many.
    fn trash_excess(&self, now_ms: u64) -> (u64, u64) {
        let usage = self.ns.usage();
        let names = self.ns.trash_names().saturating_sub(MAX_TRASH_NAMES);
        let mut bytes = usage.trash_bytes.saturating_sub(MAX_TRASH_BYTES);
        if self.store_is_local {
            let disk = rustix::fs::statvfs(&self.space);
            let short = disk.map_or(0, |disk| {
                let floor = disk.f_blocks * disk.f_frsize / FREE_SHARE;
                floor.saturating_sub(disk.f_bavail * disk.f_frsize)
            });
            let pending = self.given_way.lock().pending(now_ms);
            bytes = bytes
                .max(short.saturating_sub(pending))
                .min(usage.trash_bytes);
        }
        (names, bytes)
    }

    /// A writer has waited for room in vain. Returns whether it makes sense to wait on, because the trash gave back some.
    pub(super) fn trash_gives_way(&self) -> bool {
        let mut last = self.gave_way.lock();
        if last.is_some_and(|at| at.elapsed() < GIVE_WAY_WAIT) {
            return true;
        }
        if !self.empty_staged_trash() {
            return false;
        }
        *last = Some(Instant::now());
        if let Some(press) = self.pressure.get() {
            press();
        }
        true
    }

    /// Ends what is in the trash and not in the store yet, so that segments can be given back. Returns whether there was any.
    fn empty_staged_trash(&self) -> bool {
        let limits = PurgeLimits {
            in_segments: true,
            ..PurgeLimits::until(u64::MAX)
        };
        match self.purge(limits, &|| false) {
            Ok(ended) => {
                if ended.names > 0 {
                    tracing::warn!(
                        names = ended.names,
                        bytes = ended.bytes,
                        "the trash gave way: staging is full"
                    );
                }
                ended.bytes > 0
            }
            Err(error) => {
                tracing::warn!(%error, "the trash could not give way to what is written");
                false
            }
        }
    }

    fn purge(&self, limits: PurgeLimits, stop: &dyn Fn() -> bool) -> Result<TrashFigures> {
        let mut ended = TrashFigures::default();
        loop {
            let left = PurgeLimits {
                names: limits.names.saturating_sub(ended.names),
                bytes: limits.bytes.saturating_sub(ended.bytes),
                ..limits
            };
            let purged = self.ns.purge_trash(left, self.now_ns())?;
            self.end(&purged.orphans);
            ended.names += purged.names;
            ended.bytes += purged.bytes;
            if !purged.more || purged.names == 0 || stop() {
                return Ok(ended);
            }
        }
    }
}

impl TrashFigures {
    fn add(&mut self, more: Self) {
        self.names += more.names;
        self.bytes += more.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gave_way_counts_until_it_is_free() {
        let hours = |n: u64| n * 3_600_000;
        let mut given = GivenWay(vec![(hours(1), 10), (hours(5), 20)]);
        assert_eq!(given.pending(hours(6)), 30);
        assert_eq!(given.pending(hours(9)), 20);
        assert_eq!(given.pending(hours(13)), 0);
    }
}
