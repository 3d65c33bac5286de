//! Snapshots of the volume: making, listing, removing, comparing, restoring, cloning.
//!
//! What changes here was asked for by nobody who holds a part of the tree. So whoever does, the kernel, is told
//! ([`Onlooker`]), and no lock is held meanwhile: to forget what it knows it may have to wait for requests of its own.

use std::time::{Duration, UNIX_EPOCH};

use weldrfs_meta::{
    CloneTo, Difference, Epoch, Ino, MetaError, NewSnapshot, ROOT_INO, Restored, Snapshot,
};

use super::{Attr, Engine, Result};
use crate::error::FsError;

/// How many names are tried when the time alone is taken.
const NAME_TRIES: u32 = 100;

/// Names and inodes that changed without a request for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    /// Entries, by directory and name, that were added, replaced or removed.
    pub(crate) entries: Vec<(Ino, Box<[u8]>)>,
    /// Inodes whose attributes changed.
    pub(crate) inodes: Vec<Ino>,
}

/// Who remembers parts of the tree outside of the engine.
pub(crate) trait Onlooker: Send + Sync {
    /// Brings in what was written and is held back, as far as it can.
    fn bring_in(&self);

    /// Forgets what has changed, and tells whoever watches the tree.
    fn changed(&self, aside: &Aside);
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

    pub(super) fn tell(&self, aside: &Aside) {
        if let Some(onlooker) = self.onlooker.get() {
            onlooker.changed(aside);
        }
    }

    /// Makes a snapshot of everything acknowledged so far.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `EINVAL` and `ENAMETOOLONG` for what cannot be one, `EROFS`.
    pub fn create_snapshot(&self, names: SnapshotNames) -> Result<Snapshot> {
        self.bring_in();
        let given = names.name.clone();
        let new = NewSnapshot {
            name: given.clone().unwrap_or_else(|| self.free_name("")),
            note: names.note,
            owner: names.owner,
            kept: names.kept,
            made_ms: self.clock.now_ms(),
        };
        let name = new.name.clone();
        let made = self.ns.create_snapshot(new).map_err(|error| match error {
            MetaError::Exists => FsError::SnapshotExists(name),
            other => other.into(),
        })?;
        self.tell(&self.list_of_snapshots(&made));
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
        self.ns.remove_snapshot(name, self.now_ns())?;
        self.tell(&self.list_of_snapshots(&removed));
        Ok(())
    }

    /// What differs at and below a path (empty: everywhere) between a snapshot and a newer one, or the present.
    ///
    /// # Errors
    /// `ENOENT` when there is no such snapshot, `EINVAL` when the first is not the older one.
    pub fn diff(&self, older: &str, newer: Option<&str>, path: &[u8]) -> Result<Vec<Difference>> {
        let older = self.snapshot(older)?.epoch;
        let newer = newer.map(|newer| self.snapshot(newer)).transpose()?;
        if newer.is_none() {
            self.bring_in();
        }
        let mut found = self.ns.diff(older, newer.map(|newer| newer.epoch))?;
        found.retain(|one| {
            is_within(&one.path, path)
                || one.from.as_ref().is_some_and(|from| is_within(from, path))
        });
        Ok(found)
    }

    /// Makes everything at and below a path (empty: everywhere) what it was at a snapshot, all at once, and a snapshot
    /// of the present before that. Files that somebody holds keep their content for them.
    ///
    /// # Errors
    /// `ENOENT` when there is no such snapshot or it has no such path, `ENOTDIR` when a file is in the way, `EROFS`.
    pub fn restore(&self, name: &str, path: &[u8]) -> Result<Restored> {
        let from = self.snapshot(name)?;
        self.bring_in();
        let safety = NewSnapshot {
            name: self.free_name("before-restore-"),
            note: format!("what was there before {name} was restored"),
            owner: "restore".into(),
            kept: false,
            made_ms: self.clock.now_ms(),
        };
        let restored = self.ns.restore(from.epoch, path, safety, self.now_ns());
        let restored = restored.map_err(|error| match error {
            MetaError::NotFound => FsError::NotInSnapshot {
                snapshot: name.to_owned(),
                path: String::from_utf8_lossy(path).into_owned(),
            },
            other => other.into(),
        })?;
        let mut aside = Aside {
            entries: entries_of(&restored),
            inodes: restored.inodes.clone(),
        };
        if let Some(safety) = &restored.safety {
            aside.entries.extend(self.list_of_snapshots(safety).entries);
        }
        // Before anything is reclaimed: what the kernel found meanwhile is counted once it has let go of the name.
        self.tell(&aside);
        for orphan in &restored.orphans {
            self.orphaned(Some(*orphan))?;
        }
        Ok(restored)
    }

    /// Copies a directory, of the present or of a snapshot, to a new name; the copy shares its content.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EEXIST`, `EINVAL`, `EROFS` when the place is in a snapshot.
    pub fn clone_tree(&self, source: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.bring_in();
        let (epoch, source): (Option<Epoch>, Ino) = self.state_of(source)?;
        let to = CloneTo {
            parent: self.present(parent)?,
            name,
        };
        let made = self.ns.clone_tree(epoch, source, to, self.now_ns())?;
        self.tell(&Aside {
            entries: vec![(parent, name.into())],
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

fn entries_of(restored: &Restored) -> Vec<(Ino, Box<[u8]>)> {
    let entries = restored.entries.iter();
    entries
        .map(|(dir, name)| (*dir, Box::from(&name[..])))
        .collect()
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
