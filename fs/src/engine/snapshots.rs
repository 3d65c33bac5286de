//! Snapshots of the volume: making, listing, removing, comparing, restoring, cloning.
//!
//! What changes here was asked for by nobody who holds a part of the tree. So whoever does, the kernel, is told
//! ([`Onlooker`]), and no lock is held meanwhile: to forget what it knows it may have to wait for requests of its own.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use weldrfs_meta::{
    CloneTo, Difference, EntryChange, Epoch, Ino, MetaError, NewSnapshot, Order, ROOT_INO,
    Restored, Snapshot,
};

use super::{Attr, Engine, Result};
use crate::error::FsError;

/// How many names are tried when the time alone is taken.
const NAME_TRIES: u32 = 100;
/// How many free names are tried: others choose theirs at the same time.
const FREE_NAMES: usize = 10;
/// What a diff of the present looks at before it is read a piece at a time.
const LONG_DIFF: u64 = 5000;
/// How long a restore waits for another one to end.
pub(super) const RESTORE_WAIT: Duration = Duration::from_secs(10 * 60);

/// Names and inodes that changed without a request for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    /// Entries that were added, replaced or removed.
    pub(crate) entries: Vec<EntryChange>,
    /// Inodes whose attributes changed.
    pub(crate) inodes: Vec<Ino>,
}

/// Who remembers parts of the tree outside of the engine.
pub(crate) trait Onlooker: Send + Sync {
    /// Brings in what was written and is held back, as far as it can.
    fn bring_in(&self);

    /// Forgets what has changed, and tells whoever watches the tree.
    fn changed(&self, aside: Arc<Aside>);
}

/// What a new snapshot is called; without a name it is the time.
#[derive(Clone, Debug, Default)]
pub struct SnapshotNames {
    /// Its name.
    pub name: Option<String>,
    /// Why it is made.
    pub note: String,
    /// Who makes it.
    pub owner: String,
    /// Whether it stays until somebody removes it.
    pub kept: bool,
}

impl Engine {
    /// Says who has to be told of changes that nobody asked for.
    pub(crate) fn set_onlooker(&self, onlooker: std::sync::Arc<dyn Onlooker>) {
        // A volume has one mount.
        let _ = self.onlooker.set(onlooker);
    }

    pub(super) fn bring_in(&self) {
        if let Some(onlooker) = self.onlooker.get() {
            onlooker.bring_in();
        }
    }

    pub(super) fn tell(&self, aside: Aside) {
        if let Some(onlooker) = self.onlooker.get() {
            onlooker.changed(Arc::new(aside));
        }
    }

    /// A snapshot came or went. Where nobody has seen the list of them, nobody is told: to tell is to open the snapshot,
    /// which takes as long as bringing everything into the tables.
    fn tell_of_list(&self, snapshot: &Snapshot, is_there: bool) {
        if self.is_list_known() {
            self.tell(self.list_of_snapshots(snapshot, is_there));
        }
    }

    /// Makes a snapshot of everything acknowledged so far.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `EINVAL` and `ENAMETOOLONG` for what cannot be one, `EROFS`.
    pub fn create_snapshot(&self, names: SnapshotNames) -> Result<Snapshot> {
        self.create_snapshot_on(&Order::default(), names)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `ECANCELED`.
    pub fn create_snapshot_on(&self, order: &Order, names: SnapshotNames) -> Result<Snapshot> {
        self.bring_in();
        let new = |name| NewSnapshot {
            name,
            note: names.note.clone(),
            owner: names.owner.clone(),
            kept: names.kept,
            made_ms: self.clock.now_ms(),
        };
        let made = match &names.name {
            Some(name) => {
                let made = self.ns.create_snapshot_on(order, new(name.clone()));
                made.map_err(|error| match error {
                    MetaError::Exists => FsError::SnapshotExists(name.clone()),
                    other => other.into(),
                })?
            }
            None => {
                self.under_a_free_name("", |name| self.ns.create_snapshot_on(order, new(name)))?
            }
        };
        self.tell_of_list(&made, true);
        Ok(made)
    }

    /// Makes something under a name of its own: one that is free may be taken before it is.
    fn under_a_free_name<T>(
        &self,
        prefix: &str,
        make: impl Fn(String) -> weldrfs_meta::Result<T>,
    ) -> weldrfs_meta::Result<T> {
        let mut made = make(self.free_name(prefix));
        for _ in 1..FREE_NAMES {
            if !matches!(made, Err(MetaError::Exists)) {
                break;
            }
            made = make(self.free_name(prefix));
        }
        made
    }

    /// The same by nobody's order, to be thinned out by age.
    pub(crate) fn automatic_snapshot(&self) -> Result<Snapshot> {
        let made = self.under_a_free_name("auto-", |name| {
            self.ns.create_snapshot(NewSnapshot {
                name,
                note: String::new(),
                owner: "automatic".into(),
                kept: false,
                made_ms: self.clock.now_ms(),
            })
        })?;
        self.tell_of_list(&made, true);
        Ok(made)
    }

    /// A name made of the time that no snapshot has yet.
    fn free_name(&self, prefix: &str) -> String {
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now_ms());
        let stamp = humantime::format_rfc3339_seconds(now).to_string();
        // A colon in a path is a nuisance to many programs.
        let stamp = format!("{prefix}{}", stamp.replace(':', "-"));
        let taken = self.ns.snapshots();
        let is_free = |name: &String| taken.iter().all(|s| s.name != *name);
        let mut names = (2..NAME_TRIES).map(|n| format!("{stamp}-{n}"));
        match is_free(&stamp) {
            true => stamp,
            false => names.find(is_free).unwrap_or(stamp),
        }
    }

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.ns.snapshots()
    }

    /// The snapshot of a name.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        self.ns.snapshot(name).map_err(|error| match error {
            MetaError::NotFound => FsError::NoSnapshot(name.to_owned()),
            other => other.into(),
        })
    }

    /// Removes a snapshot. What only it needed is garbage then.
    ///
    /// # Errors
    /// `ENOENT`; `EROFS`.
    pub fn remove_snapshot(&self, name: &str) -> Result<()> {
        let removed = self.snapshot(name)?;
        let result = self.ns.remove_snapshot(name, self.now_ns());
        // While it was going nobody found it; if it stays, whoever looked then must look again.
        self.tell_of_list(&removed, result.is_err());
        Ok(result?)
    }

    /// What differs at and below a path (empty: everywhere) between a snapshot and a newer one, or the present.
    ///
    /// # Errors
    /// `ENOENT` when there is no such snapshot, `EINVAL` when the first is not the older one.
    pub fn diff(&self, older: &str, newer: Option<&str>, path: &[u8]) -> Result<Vec<Difference>> {
        let older = self.snapshot(older)?.epoch;
        let newer = newer.map(|newer| self.snapshot(newer)).transpose()?;
        let mut found = match newer {
            Some(newer) => self.ns.diff(older, Some(newer.epoch))?,
            None => {
                self.bring_in();
                self.diff_to_present(older)?
            }
        };
        found.retain(|one| {
            let was = one.from.as_ref().or(one.old_path.as_ref());
            is_within(&one.path, path) || was.is_some_and(|was| is_within(was, path))
        });
        Ok(found)
    }

    /// The same for the present. If it takes long, writers must not be held up, nor be seen: a snapshot is made for so long.
    fn diff_to_present(&self, older: Epoch) -> Result<Vec<Difference>> {
        let is_long = self.ns.changed_since(older, LONG_DIFF)? >= LONG_DIFF;
        if !is_long || self.ns.read_only().is_some() {
            return Ok(self.ns.diff(older, None)?);
        }
        let present = self.under_a_free_name("diff-", |name| {
            self.ns.create_snapshot(NewSnapshot {
                name,
                note: "the present of a diff that is under way".into(),
                owner: "diff".into(),
                kept: false,
                made_ms: self.clock.now_ms(),
            })
        });
        let present = match present {
            // To look is not refused where there is no room.
            Err(MetaError::NoSpace | MetaError::TooManySnapshots(_)) => {
                return Ok(self.ns.diff(older, None)?);
            }
            present => present?,
        };
        let found = self.ns.diff(older, Some(present.epoch));
        if let Err(error) = self.ns.remove_snapshot(&present.name, self.now_ns()) {
            tracing::warn!(%error, name = present.name, "the snapshot of a diff stays until it is thinned out");
        }
        // Whoever listed snapshots meanwhile has seen it.
        self.tell_of_list(&present, false);
        Ok(found?)
    }

    /// Makes everything at and below a path (empty: everywhere) what it was at a snapshot, all at once, and a snapshot
    /// of the present before that. Files that somebody holds keep their content for them.
    ///
    /// # Errors
    /// `ENOENT` when there is no such snapshot or it has no such path, `ENOTDIR` when a file is in the way, `EROFS`.
    pub fn restore(&self, name: &str, path: &[u8]) -> Result<Restored> {
        self.restore_on(&Order::default(), name, path)
            .map(|(restored, _)| restored)
    }

    /// The same, unless it is taken back before it begins. Also tells into how many files that were replaced something was
    /// written before their names were forgotten: it is in the snapshot of the present. Names and inodes are not told: the
    /// onlooker has them.
    ///
    /// # Errors
    /// The same, and `ECANCELED`.
    pub fn restore_on(&self, order: &Order, name: &str, path: &[u8]) -> Result<(Restored, usize)> {
        let one = self.restoring.try_lock_for(RESTORE_WAIT);
        let _one = one.ok_or(FsError::Late("another restore is under way"))?;
        let from = self.snapshot(name)?;
        self.bring_in();
        let restored = self.under_a_free_name("before-restore-", |safety| {
            let safety = NewSnapshot {
                name: safety,
                note: format!("what was there before {name} was restored"),
                owner: "restore".into(),
                kept: false,
                made_ms: self.clock.now_ms(),
            };
            self.ns
                .restore_on(order, from.epoch, path, safety, self.now_ns())
        });
        let mut restored = restored.map_err(|error| match error {
            MetaError::NotFound => FsError::NotInSnapshot {
                snapshot: name.to_owned(),
                path: String::from_utf8_lossy(path).into_owned(),
            },
            other => other.into(),
        })?;
        let aside = Aside {
            entries: std::mem::take(&mut restored.entries),
            inodes: std::mem::take(&mut restored.inodes),
        };
        // Before anything is reclaimed: what the kernel found meanwhile is counted once it has let go of the name.
        self.tell(aside);
        // Before what was written is reclaimed with the files it was written to.
        let late = self.ns.keep_late_writes(&restored, self.now_ns());
        // What it has may be remembered from now on.
        if let Some(safety) = &restored.safety {
            self.tell_of_list(safety, true);
        }
        // What was written is left where it is if it could not be kept: until the next mount.
        let late = late.map_err(|error| FsError::LateWrites {
            snapshot: restored
                .safety
                .as_ref()
                .map_or(String::new(), |s| s.name.clone()),
            error,
        })?;
        for orphan in &restored.orphans {
            self.orphaned(Some(*orphan))?;
        }
        Ok((restored, late))
    }

    /// Copies a directory, of the present or of a snapshot, to a new name; the copy shares its content.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EEXIST`, `EINVAL`, `EROFS` when the place is in a snapshot.
    pub fn clone_tree(&self, source: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.clone_tree_on(&Order::default(), source, parent, name)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `ECANCELED`.
    pub fn clone_tree_on(
        &self,
        order: &Order,
        source: Ino,
        parent: Ino,
        name: &[u8],
    ) -> Result<Attr> {
        self.clone_without(order, source, None, parent, name)
    }

    /// The same, without the directory `left_out` of the source.
    pub(super) fn clone_without(
        &self,
        order: &Order,
        source: Ino,
        left_out: Option<Ino>,
        parent: Ino,
        name: &[u8],
    ) -> Result<Attr> {
        self.bring_in();
        let (epoch, source): (Option<Epoch>, Ino) = self.state_of(source)?;
        let left_out = left_out.map(|dir| self.state_of(dir)).transpose()?;
        let to = CloneTo {
            parent: self.place(parent, name)?,
            name,
            without: left_out.map(|(_, dir)| dir),
        };
        let made = self
            .ns
            .clone_tree_on(order, epoch, source, to, self.now_ns())?;
        self.tell(Aside {
            entries: vec![EntryChange {
                dir: parent,
                name: name.into(),
                was: None,
                is: Some((made.ino, made.kind())),
            }],
            inodes: vec![parent],
        });
        Ok(made.into())
    }

    /// What a path below the root names; symbolic links are not followed.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn walk(&self, path: &[u8]) -> Result<Attr> {
        let mut found = self.getattr(ROOT_INO)?;
        for name in path.split(|byte| *byte == b'/').filter(|n| !n.is_empty()) {
            found = self.lookup(found.ino, name)?;
        }
        Ok(found)
    }
}

/// Whether a path is `top` or below it; everything is below the empty one.
fn is_within(path: &[u8], top: &[u8]) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| top.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_within_itself_and_what_is_above_it_and_not_in_its_namesakes() {
        for (path, top, within) in [
            ("a", "", true),
            ("a", "a", true),
            ("a/b", "a", true),
            ("ab", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(
                is_within(path.as_bytes(), top.as_bytes()),
                within,
                "{path} {top}"
            );
        }
    }
}
