//! The local copies of packs: files in one directory, a budget, a free-space floor, least recently used out first.
//!
//! Never evicts a pack that is not uploaded, nor one that is kept: the store has it, and somebody may delete it there
//! before anything else names it. Does not look into packs and does not talk to the store.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::disk::{remove_if_there, sync_dir, write_new};
use crate::error::{Error, Result, io_at};
use crate::ids::PackId;

const PACK_PREFIX: &str = "pack-";
const TEMP_PREFIX: &str = "tmp-";
/// A second name of a copy that is kept.
const KEPT_PREFIX: &str = "kept-";
/// Most files kept open.
const MAX_OPEN: NonZeroUsize = NonZeroUsize::new(128).expect("it is not 0");

/// Tells free and total bytes of the disk below a directory; an input, so that tests can fill the disk.
pub(super) type SpaceProbe = Box<dyn Fn(&Path) -> io::Result<(u64, u64)> + Send + Sync>;

/// Whether a copy is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// Not uploaded: never evicted, and made durable.
    Only,
    /// The store has it too.
    Clean,
}

/// The local copies of packs.
pub(super) struct LocalPacks {
    dir: PathBuf,
    floor_ratio: f64,
    space: SpaceProbe,
    temps: AtomicU64,
    state: Mutex<State>,
}

struct State {
    entries: FxHashMap<PackId, Entry>,
    kept: FxHashSet<PackId>,
    open: LruCache<PackId, Arc<File>>,
    /// Bytes of all entries and of those being written.
    bytes: u64,
    budget: u64,
    clock: u64,
    evicted: u64,
}

struct Entry {
    len: u64,
    copy: Copy,
    /// The clock at the last use.
    used: u64,
}

/// Figures of the local copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LocalTotals {
    pub(super) packs: u64,
    pub(super) bytes: u64,
    pub(super) only_packs: u64,
    pub(super) only_bytes: u64,
    pub(super) evicted: u64,
    pub(super) budget: u64,
}

/// Free and total bytes by statvfs.
pub(super) fn disk_space(dir: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok((
        stat.f_bavail.saturating_mul(stat.f_frsize),
        stat.f_blocks.saturating_mul(stat.f_frsize),
    ))
}

impl LocalPacks {
    /// Opens (or makes) the directory. What is in it is clean, but for `only`; last uses are the files' times.
    pub(super) fn open(
        dir: PathBuf,
        budget: u64,
        floor_ratio: f64,
        space: SpaceProbe,
        only: &FxHashSet<PackId>,
    ) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(io_at("create", &dir))?;
        let kept = restore_kept(&dir)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(io_at("list", &dir))? {
            let entry = entry.map_err(io_at("list", &dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(TEMP_PREFIX) {
                remove_if_there(&path).map_err(io_at("remove", &path))?;
            } else if let Some(Ok(id)) = name.strip_prefix(PACK_PREFIX).map(str::parse::<PackId>) {
                let info = entry.metadata().map_err(io_at("look at", &path))?;
                let modified = info.modified().map_err(io_at("look at", &path))?;
                found.push((modified, id, info.len()));
            }
        }
        found.sort_unstable();
        let mut state = State {
            entries: FxHashMap::default(),
            kept,
            open: LruCache::new(MAX_OPEN),
            bytes: 0,
            budget,
            clock: 0,
            evicted: 0,
        };
        for (_, id, len) in found {
            let copy = match only.contains(&id) {
                true => Copy::Only,
                false => Copy::Clean,
            };
            state.bytes += len;
            state.insert(id, len, copy);
        }
        let local = Self {
            dir,
            floor_ratio,
            space,
            temps: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        local.set_budget(budget);
        Ok(local)
    }

    pub(super) fn path(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{PACK_PREFIX}{id}"))
    }

    fn kept_path(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{KEPT_PREFIX}{id}"))
    }

    pub(super) fn contains(&self, id: PackId) -> bool {
        self.state.lock().entries.contains_key(&id)
    }

    /// Whether this copy is the only one; `None` when there is no copy.
    pub(super) fn copy(&self, id: PackId) -> Option<Copy> {
        self.state.lock().entries.get(&id).map(|entry| entry.copy)
    }

    /// Opens a copy and its length in bytes, which counts as a use. A clean copy that somebody removed is forgotten.
    pub(super) fn file(&self, id: PackId) -> Result<Option<(Arc<File>, u64)>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.clock += 1;
        let Some(entry) = state.entries.get_mut(&id) else {
            return Ok(None);
        };
        entry.used = state.clock;
        let len = entry.len;
        if let Some(file) = state.open.get(&id) {
            return Ok(Some((Arc::clone(file), len)));
        }
        let path = self.path(id);
        match File::open(&path) {
            Ok(file) => {
                let file = Arc::new(file);
                state.open.put(id, Arc::clone(&file));
                Ok(Some((file, len)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && entry.copy == Copy::Clean => {
                state.remove(id);
                Ok(None)
            }
            Err(error) => Err(io_at("open", &path)(error)),
        }
    }

    /// Keeps a copy. One that is the only one is always kept, and is durable when this returns; a clean one is kept
    /// only if there is room. Returns whether it was kept.
    pub(super) fn put(&self, id: PackId, bytes: &[u8], copy: Copy) -> Result<bool> {
        let len = bytes.len() as u64;
        if self.contains(id) {
            return Ok(true);
        }
        if !self.make_room(len, copy == Copy::Only) {
            return Ok(false);
        }
        let number = self.temps.fetch_add(1, Ordering::Relaxed);
        let temp = self.dir.join(format!("{TEMP_PREFIX}{id}-{number}"));
        let path = self.path(id);
        let durable = copy == Copy::Only;
        let written = write_new(&temp, bytes, durable)
            .and_then(|()| std::fs::rename(&temp, &path))
            .and_then(|()| if durable { sync_dir(&self.dir) } else { Ok(()) });
        let mut state = self.state.lock();
        if let Err(error) = written {
            state.bytes -= len;
            drop(state);
            for left in [&temp, &path] {
                // The first error is reported; what is left is an unreferenced copy at the next start.
                let _ = std::fs::remove_file(left);
            }
            return Err(io_at("write", &path)(error));
        }
        state.insert(id, len, copy);
        Ok(true)
    }

    /// A copy is to be kept once there is one.
    pub(super) fn expect(&self, id: PackId) {
        self.state.lock().kept.insert(id);
    }

    /// Keeps a copy of what the store has, durably, until it is released. Returns whether there was room.
    pub(super) fn keep(&self, id: PackId, bytes: &[u8]) -> Result<bool> {
        // From here on it is not evicted.
        self.expect(id);
        let (path, kept) = (self.path(id), self.kept_path(id));
        self.put(id, bytes, Copy::Clean).and_then(|is_there| {
            if is_there {
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| remove_if_there(&kept))
                    .and_then(|()| std::fs::hard_link(&path, &kept))
                    .and_then(|()| sync_dir(&self.dir))
                    .map_err(io_at("keep", &path))?;
            }
            Ok(is_there)
        })
    }

    /// The packs whose copies are kept, or would be if there were room.
    pub(super) fn kept(&self) -> Vec<PackId> {
        self.state.lock().kept.iter().copied().collect()
    }

    /// Copies need not be kept any longer.
    pub(super) fn release(&self, ids: &[PackId]) {
        for id in ids {
            let path = self.kept_path(*id);
            match remove_if_there(&path) {
                Ok(()) => drop(self.state.lock().kept.remove(id)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a local copy stays longer than it must");
                }
            }
        }
    }

    /// The store has it now.
    pub(super) fn mark_clean(&self, id: PackId) {
        if let Some(entry) = self.state.lock().entries.get_mut(&id) {
            entry.copy = Copy::Clean;
        }
    }

    /// Drops a copy: any, or only a clean one. Returns the bytes it had.
    pub(super) fn drop_copy(&self, id: PackId, any: bool) -> Result<u64> {
        let mut state = self.state.lock();
        match state.entries.get(&id) {
            Some(entry) if any || entry.copy == Copy::Clean => {}
            _ => return Ok(0),
        }
        for path in [self.kept_path(id), self.path(id)] {
            remove_if_there(&path).map_err(io_at("remove", &path))?;
        }
        state.kept.remove(&id);
        Ok(state.remove(id))
    }

    /// Drops all clean copies; returns the bytes they had.
    pub(super) fn evict_all(&self) -> u64 {
        let mut state = self.state.lock();
        let mut freed = 0;
        for (id, _) in state.clean_by_use() {
            freed += self.evict(&mut state, id);
        }
        freed
    }

    /// Drops the copies of these packs that are clean and not kept; returns the bytes they had.
    pub(super) fn evict_these(&self, ids: &[PackId]) -> u64 {
        let mut state = self.state.lock();
        let mut freed = 0;
        for id in ids {
            if state.is_evictable(*id) {
                freed += self.evict(&mut state, *id);
            }
        }
        freed
    }

    /// Bytes of the copies of these packs that are the only ones, or kept.
    pub(super) fn bytes_not_evictable(&self, ids: &[PackId]) -> u64 {
        let state = self.state.lock();
        let fixed = ids.iter().filter(|id| !state.is_evictable(**id));
        let entries = fixed.filter_map(|id| state.entries.get(id));
        entries.map(|entry| entry.len).sum()
    }

    /// Changes the budget, and evicts what is above it or below the floor.
    pub(super) fn set_budget(&self, budget: u64) {
        let mut state = self.state.lock();
        state.budget = budget;
        let over = self.excess(&state, 0);
        self.evict_oldest(&mut state, over);
    }

    pub(super) fn not_uploaded(&self) -> Vec<PackId> {
        let state = self.state.lock();
        let only = state.entries.iter().filter(|(_, e)| e.copy == Copy::Only);
        only.map(|(id, _)| *id).collect()
    }

    pub(super) fn totals(&self) -> LocalTotals {
        let state = self.state.lock();
        let mut totals = LocalTotals {
            evicted: state.evicted,
            budget: state.budget,
            ..LocalTotals::default()
        };
        for entry in state.entries.values() {
            totals.packs += 1;
            totals.bytes += entry.len;
            if entry.copy == Copy::Only {
                totals.only_packs += 1;
                totals.only_bytes += entry.len;
            }
        }
        totals
    }

    /// Reserves `len` bytes, evicting as needed. Unless it `must` succeed, nothing is evicted in vain.
    fn make_room(&self, len: u64, must: bool) -> bool {
        let mut state = self.state.lock();
        let over = self.excess(&state, len);
        let evictable: u64 = state.clean_by_use().iter().map(|(_, len)| len).sum();
        if !must && evictable < over {
            return false;
        }
        self.evict_oldest(&mut state, over);
        state.bytes += len;
        true
    }

    /// By how many bytes `more` would break the budget or the floor, whichever is worse.
    fn excess(&self, state: &State, more: u64) -> u64 {
        let over_budget = state
            .bytes
            .saturating_add(more)
            .saturating_sub(state.budget);
        let below_floor = match (self.space)(&self.dir) {
            Ok((free, total)) => {
                let floor = (total as f64 * self.floor_ratio) as u64;
                floor.saturating_add(more).saturating_sub(free)
            }
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "free space is not known");
                0
            }
        };
        over_budget.max(below_floor)
    }

    fn evict_oldest(&self, state: &mut State, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut freed = 0;
        for (id, _) in state.clean_by_use() {
            if freed >= bytes {
                break;
            }
            freed += self.evict(state, id);
        }
    }

    /// Under the lock: a copy fetched anew at the same time must not lose its file.
    fn evict(&self, state: &mut State, id: PackId) -> u64 {
        let path = self.path(id);
        if let Err(error) = remove_if_there(&path) {
            tracing::warn!(path = %path.display(), %error, "local copy cannot be evicted");
            return 0;
        }
        state.evicted += 1;
        state.remove(id)
    }
}

impl State {
    /// The caller has counted the bytes.
    fn insert(&mut self, id: PackId, len: u64, copy: Copy) {
        self.clock += 1;
        let used = self.clock;
        if let Some(old) = self.entries.insert(id, Entry { len, copy, used }) {
            self.bytes -= old.len;
            self.open.pop(&id);
        }
    }

    fn remove(&mut self, id: PackId) -> u64 {
        self.open.pop(&id);
        let len = self.entries.remove(&id).map_or(0, |entry| entry.len);
        self.bytes -= len;
        len
    }

    fn is_evictable(&self, id: PackId) -> bool {
        let is_clean = |entry: &Entry| entry.copy == Copy::Clean;
        self.entries.get(&id).is_some_and(is_clean) && !self.kept.contains(&id)
    }

    /// Clean copies and their lengths, least recently used first.
    fn clean_by_use(&self) -> Vec<(PackId, u64)> {
        let clean = self
            .entries
            .iter()
            .filter(|(id, e)| e.copy == Copy::Clean && !self.kept.contains(*id));
        let mut clean: Vec<_> = clean.map(|(id, e)| (e.used, *id, e.len)).collect();
        clean.sort_unstable();
        clean.into_iter().map(|(_, id, len)| (id, len)).collect()
    }
}

/// Moves the kept copies of one directory into another, durably; that of a state that is set aside. Neither is open.
///
/// # Errors
/// [`Error::Io`]. What was moved stays moved.
pub fn move_kept(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(io_at("create", to))?;
    for id in restore_kept(from)? {
        let name = format!("{KEPT_PREFIX}{id}");
        let (old, new) = (from.join(&name), to.join(&name));
        match std::fs::rename(&old, &new) {
            // The cache may be on another disk than the state.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let bytes = std::fs::read(&old).map_err(io_at("read", &old))?;
                remove_if_there(&new).map_err(io_at("remove", &new))?;
                write_new(&new, &bytes, true).map_err(io_at("write", &new))?;
                std::fs::remove_file(&old).map_err(io_at("remove", &old))?;
            }
            moved => moved.map_err(io_at("move", &old))?,
        }
    }
    sync_dir(to).map_err(io_at("sync", to))?;
    sync_dir(from).map_err(io_at("sync", from))
}

/// The kept copies in a directory, under their other name too.
fn restore_kept(dir: &Path) -> Result<FxHashSet<PackId>> {
    let mut kept = FxHashSet::default();
    for entry in std::fs::read_dir(dir).map_err(io_at("list", dir))? {
        let entry = entry.map_err(io_at("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let id = name
            .to_str()
            .and_then(|name| name.strip_prefix(KEPT_PREFIX))
            .and_then(|id| id.parse::<PackId>().ok());
        if let Some(id) = id {
            match std::fs::hard_link(&path, dir.join(format!("{PACK_PREFIX}{id}"))) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_at("link", &path)(error));
                }
                _ => drop(kept.insert(id)),
            }
        }
    }
    Ok(kept)
}

impl std::fmt::Debug for LocalPacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalPacks")
            .field("dir", &self.dir)
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

/// A damaged local copy that is the only one.
pub(super) fn only_copy_damaged(id: PackId, frame: Option<usize>, detail: &str) -> Error {
    Error::DamagedPack {
        pack: id,
        frame,
        detail: format!("{detail}, and it was not uploaded yet"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn id(n: u8) -> PackId {
        PackId([n; 16])
    }

    fn open(dir: &Path, budget: u64, only: &[PackId]) -> LocalPacks {
        let only = only.iter().copied().collect();
        let plenty: SpaceProbe = Box::new(|_| Ok((u64::MAX, 1 << 40)));
        LocalPacks::open(dir.into(), budget, 0.01, plenty, &only).unwrap()
    }

    fn ids(local: &LocalPacks) -> Vec<u8> {
        (0..=255).filter(|n| local.contains(id(*n))).collect()
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn kept_copies_are_not_evicted_until_they_are_released() {
        let dir = tempfile::tempdir().unwrap();
        let local = open(dir.path(), 300, &[]);
        assert!(local.keep(id(1), &[1; 200]).unwrap());
        assert!(!local.keep(id(2), &[2; 200]).unwrap(), "there is no room");
        local.release(&[id(2)]);
        assert!(local.put(id(3), &[3; 100], Copy::Clean).unwrap());
        assert_eq!(local.evict_all(), 100);
        assert_eq!((ids(&local), local.kept()), (vec![1], vec![id(1)]));
        drop(local);
        // Somebody tidied up; the other name still has it.
        std::fs::remove_file(dir.path().join(format!("pack-{}", id(1)))).unwrap();
        let local = open(dir.path(), 300, &[]);
        assert_eq!((local.evict_all(), local.kept()), (0, vec![id(1)]));
        local.release(&[id(1), id(9)]);
        assert_eq!(local.kept(), []);
        assert_eq!((local.evict_all(), files(dir.path())), (200, 0));
        assert!(local.keep(id(4), &[4; 100]).unwrap());
        local.drop_copy(id(4), true).unwrap();
        assert_eq!((local.kept(), files(dir.path())), (vec![], 0));
    }

    #[test]
    fn least_recently_used_clean_copies_go_first_and_only_copies_never() {
        let dir = tempfile::tempdir().unwrap();
        let local = open(dir.path(), 500, &[]);
        assert!(local.put(id(1), &[1; 100], Copy::Only).unwrap());
        for n in 2..=5 {
            assert!(local.put(id(n), &[n; 100], Copy::Clean).unwrap());
        }
        assert_eq!(ids(&local), [1, 2, 3, 4, 5]);
        local.file(id(2)).unwrap().unwrap();
        assert!(local.put(id(6), &[6; 150], Copy::Clean).unwrap());
        assert_eq!(ids(&local), [1, 2, 5, 6]);
        assert_eq!(local.totals().evicted, 2);
        assert!(
            !local.put(id(7), &[7; 401], Copy::Clean).unwrap(),
            "no room even when all clean ones go"
        );
        assert_eq!(ids(&local), [1, 2, 5, 6], "so none goes in vain");
        assert!(local.put(id(8), &[8; 1000], Copy::Only).unwrap());
        assert_eq!(ids(&local), [1, 8], "what is new is always kept");
        assert_eq!(
            (local.totals().bytes, local.totals().only_bytes),
            (1100, 1100)
        );
        assert_eq!(local.evict_all(), 0);
        local.mark_clean(id(8));
        assert_eq!(local.evict_all(), 1000);
        assert_eq!((ids(&local), files(dir.path())), (vec![1], 1));
    }

    #[test]
    fn a_smaller_budget_evicts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let local = open(dir.path(), 1000, &[]);
        for n in 1..=4 {
            local.put(id(n), &[n; 100], Copy::Clean).unwrap();
        }
        local.set_budget(250);
        assert_eq!(ids(&local), [3, 4]);
        assert_eq!(local.drop_copy(id(3), false).unwrap(), 100);
        assert_eq!(local.totals().bytes, 100);
    }

    #[test]
    fn of_named_copies_those_go_that_are_clean_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let local = open(dir.path(), 5000, &[]);
        local.put(id(1), &[1; 100], Copy::Only).unwrap();
        for n in 2..=4 {
            local.put(id(n), &[n; 100], Copy::Clean).unwrap();
        }
        local.expect(id(2));
        let named = [1, 2, 3, 9].map(id);
        assert_eq!(local.bytes_not_evictable(&named), 200);
        assert_eq!(local.evict_these(&named), 100);
        assert_eq!(ids(&local), [1, 2, 4]);
        local.release(&[id(2)]);
        assert_eq!(local.evict_these(&named), 100);
        assert_eq!((ids(&local), local.totals().bytes), (vec![1, 4], 200));
    }

    #[test]
    fn the_free_space_floor_holds_for_clean_copies() {
        let dir = tempfile::tempdir().unwrap();
        // A disk of 10,000 bytes that only this cache writes to; 1,000 of them are to stay free.
        let probe: SpaceProbe = Box::new(|dir| {
            let used: u64 = std::fs::read_dir(dir)?
                .map(|e| e.and_then(|e| e.metadata()).map_or(0, |i| i.len()))
                .sum();
            Ok((10_000 - used, 10_000))
        });
        let none = FxHashSet::default();
        let local = LocalPacks::open(dir.path().into(), u64::MAX, 0.1, probe, &none).unwrap();
        assert!(local.put(id(1), &[0; 5000], Copy::Clean).unwrap());
        assert!(local.put(id(2), &[0; 4000], Copy::Clean).unwrap());
        assert!(local.put(id(3), &[0; 1], Copy::Clean).unwrap());
        assert_eq!(ids(&local), [2, 3]);
        local.put(id(4), &[0; 5999], Copy::Only).unwrap();
        assert_eq!(ids(&local), [3, 4]);
        assert!(!local.put(id(5), &[0; 3100], Copy::Clean).unwrap());
    }

    #[test]
    fn reopening_finds_copies_by_age_and_sweeps_drafts() {
        let dir = tempfile::tempdir().unwrap();
        let local = open(dir.path(), 1000, &[]);
        for n in 1..=4 {
            local.put(id(n), &[n; 100], Copy::Clean).unwrap();
            let age = Duration::from_secs(1000 * u64::from(n));
            let file = File::options().write(true).open(local.path(id(n))).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        drop(local);
        std::fs::write(dir.path().join("tmp-left"), b"draft").unwrap();
        std::fs::write(dir.path().join("somebody's"), b"notes").unwrap();
        let local = open(dir.path(), 300, &[id(4)]);
        assert_eq!(ids(&local), [1, 2, 4], "the oldest clean one went");
        assert_eq!(local.not_uploaded(), [id(4)]);
        assert_eq!(files(dir.path()), 4);
        assert!(dir.path().join("somebody's").exists());
    }

    #[test]
    fn a_copy_that_somebody_removed_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let local = open(dir.path(), 1000, &[]);
        local.put(id(1), &[1; 100], Copy::Clean).unwrap();
        local.put(id(2), &[1; 100], Copy::Only).unwrap();
        for n in [1, 2] {
            std::fs::remove_file(local.path(id(n))).unwrap();
        }
        assert!(local.file(id(1)).unwrap().is_none());
        assert!(local.file(id(2)).is_err());
        assert_eq!(local.totals().bytes, 100);
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("packs");
        let local = open(&inner, 1000, &[]);
        std::fs::remove_dir(&inner).unwrap();
        assert!(local.put(id(1), &[1; 100], Copy::Only).is_err());
        assert_eq!((ids(&local), local.state.lock().bytes), (vec![], 0));
    }
}
