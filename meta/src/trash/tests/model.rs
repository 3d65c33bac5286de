//! Random histories: what the trash has is what was removed and was old enough, and it comes back as it was. The steps are
//! among those of the snapshots' histories, so that restores, clones, crashes and removals of snapshots come between.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::error::MetaError;
use crate::ids::Ino;
use crate::namespace::ms_of;
use crate::namespace::tests::healthy;
use crate::snapshot::tests::model::Run;
use crate::snapshot::tests::tree::{self, Seen, Tree, below, show};
use crate::sqlite::trash;
use crate::trash::{PurgeLimits, TrashRestore};

/// An inode, the directory that it was in, and its name there.
type Key = (Ino, Ino, Vec<u8>);

/// What the trash has to have.
pub(crate) struct Expected {
    /// Names.
    keys: BTreeSet<Key>,
    /// What they named, as it was last seen.
    seen: BTreeMap<Ino, Seen>,
    /// Inodes from this number on are too young.
    pub(crate) old_below: Ino,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            keys: BTreeSet::new(),
            seen: BTreeMap::new(),
            old_below: Ino(0),
        }
    }
}

impl Run {
    /// Everything is old from now on.
    pub(crate) fn grown_up(&mut self) {
        self.trash.old_below = self.ns.numbers.next_ino();
    }

    fn keys(&self) -> BTreeSet<Key> {
        self.ns.checkpoint(self.ns.acknowledged()).unwrap();
        let rows = self.ns.readers.with(trash::all).unwrap();
        rows.into_iter()
            .map(|r| (r.ino, r.parent, r.name.to_vec()))
            .collect()
    }

    pub(crate) fn check_trash(&self) {
        assert_eq!(self.keys(), self.trash.keys, "step {}", self.step);
        assert!(self.ns.trash_names() >= self.trash.keys.len() as u64);
    }

    /// A name was removed, and with it the inode that is told.
    pub(crate) fn removed(&mut self, seen: &Seen, gone: Option<Ino>) {
        let ino = seen.row.ino;
        let has_names = self.trash.keys.iter().any(|(_, dir, _)| *dir == ino);
        let is_kept = ino < self.trash.old_below || (seen.row.is_dir() && has_names);
        let is_last = seen.row.is_dir() || seen.row.nlink == 1;
        assert_eq!(
            gone,
            (is_last && !is_kept).then_some(ino),
            "step {}",
            self.step
        );
        if is_kept {
            self.trash
                .keys
                .insert((ino, seen.parent, seen.name.clone()));
            self.trash.seen.insert(ino, seen.clone());
        }
    }

    /// A restore of a snapshot puts directories into the trash of which something is there, and takes nothing.
    pub(crate) fn dirs_were_kept(&mut self) {
        let keys = self.keys();
        assert!(keys.is_superset(&self.trash.keys), "step {}", self.step);
        let is_parent = |ino: &Ino| keys.iter().any(|(_, dir, _)| dir == ino);
        for (ino, ..) in keys.difference(&self.trash.keys) {
            assert!(is_parent(ino), "step {}: {ino}", self.step);
        }
        self.trash.keys = keys;
    }

    pub(crate) fn change_trash(&mut self, tree: &Tree) {
        self.check_trash();
        match self.rng.random_range(0..8) {
            0..2 => {
                self.ns.cut(|_| ()).unwrap();
                self.grown_up();
            }
            2 => self.remove_some_tree(tree),
            3 => self.end_some(tree),
            _ => self.bring_back(tree),
        }
        healthy(&self.ns);
    }

    /// As `rm -rf` does.
    fn remove_some_tree(&mut self, tree: &Tree) {
        let dirs = tree.iter().filter(|(p, s)| !p.is_empty() && s.row.is_dir());
        let dirs: Vec<_> = dirs.map(|(p, _)| p.clone()).collect();
        if dirs.is_empty() {
            return;
        }
        let top = &dirs[self.rng.random_range(0..dirs.len())];
        // The deepest first.
        let paths = tree
            .keys()
            .filter(|p| *p == top || p.starts_with(&below(top, b"")));
        for path in paths.rev() {
            let mut seen = tree[path].clone();
            seen.row = self.ns.getattr(seen.row.ino).unwrap();
            let (parent, name, now) = (seen.parent, seen.name.clone(), self.now());
            let gone = match seen.row.is_dir() {
                true => self.ns.rmdir(parent, &name, now).unwrap(),
                false => self.ns.unlink(parent, &name, now).unwrap(),
            };
            self.removed(&seen, gone);
            self.ns
                .reclaim(&gone.into_iter().collect::<Vec<_>>(), now)
                .unwrap();
        }
    }

    fn end_some(&mut self, tree: &Tree) {
        let now_ms = ms_of(self.now());
        let until_ms = self.rng.random_range(0..=now_ms + 1000);
        let limits = PurgeLimits {
            names: self.rng.random_range(1..20),
            ..PurgeLimits::until(until_ms)
        };
        let purged = self.ns.purge_trash(limits, self.now()).unwrap();
        assert!(purged.names <= limits.names);
        let keys = self.keys();
        assert!(keys.is_subset(&self.trash.keys));
        let gone = self.trash.keys.len() - keys.len();
        assert_eq!(gone as u64, purged.names, "step {}", self.step);
        self.trash.keys = keys;
        for orphan in &purged.orphans {
            assert!(self.trash.keys.iter().all(|(ino, ..)| ino != orphan));
            assert_eq!(self.ns.getattr(*orphan).unwrap().nlink, 0);
        }
        if self.rng.random() {
            self.ns.reclaim(&purged.orphans, self.now()).unwrap();
        }
        assert_eq!(tree::now(&self.ns), *tree, "step {}", self.step);
    }

    fn bring_back(&mut self, tree: &Tree) {
        let listed = self.ns.trash(b"").unwrap();
        let files: u64 = listed.iter().map(|e| e.files).sum();
        let is_file = |key: &&Key| !self.ns.getattr(key.0).unwrap().is_dir();
        let names = self.trash.keys.iter().filter(is_file);
        // Every name of a file is in exactly one entry.
        assert_eq!(files, names.count() as u64, "step {}", self.step);
        if listed.is_empty() {
            return;
        }
        let entry = listed[self.rng.random_range(0..listed.len())].clone();
        let what = format!("step {}: {} from the trash", self.step, show(&entry.path));
        let restored = self.ns.restore_trash(
            TrashRestore {
                path: &entry.path,
                to: None,
                until_ms: Some(entry.deleted_ms),
            },
            self.now(),
        );
        let restored = match restored {
            Ok(restored) => restored,
            Err(MetaError::Exists) => return assert!(tree.contains_key(&entry.path), "{what}"),
            Err(MetaError::NotDir) => {
                let above = |p: &&Vec<u8>| entry.path.starts_with(&below(p, b""));
                let mut files = tree.iter().filter(|(_, s)| !s.row.is_dir());
                return assert!(files.any(|(p, _)| above(&p)), "{what}");
            }
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(!tree.contains_key(&entry.path), "{what}");
        self.look_at(tree, &entry.path, &what);
        let keys = self.keys();
        let left = self.trash.keys.len() - keys.len();
        assert_eq!(left as u64, restored.names, "{what}");
        self.trash.keys = keys;
        if self.rng.random() {
            self.ns.reclaim(&restored.orphans, self.now()).unwrap();
        }
        self.ns.drop_caches();
    }

    /// What came back is what it was, and nothing else has changed.
    fn look_at(&self, before: &Tree, path: &[u8], what: &str) {
        let after = tree::now(&self.ns);
        for (p, seen) in before {
            let now = after.get(p);
            let now = now.unwrap_or_else(|| panic!("{what}: lost {}", show(p)));
            assert_eq!(now.row.ino, seen.row.ino, "{what}: {}", show(p));
            assert_eq!(
                (&now.runs, &now.xattrs),
                (&seen.runs, &seen.xattrs),
                "{what}"
            );
        }
        let new = after.iter().filter(|(p, _)| !before.contains_key(*p));
        let inos: BTreeSet<Ino> = before.values().map(|s| s.row.ino).collect();
        for (p, seen) in new {
            let is_above = path.starts_with(&below(p, b""));
            let is_below = p == path || p.starts_with(&below(path, b""));
            assert!(is_above || is_below, "{what}: {}", show(p));
            if seen.row.is_dir() || inos.contains(&seen.row.ino) {
                continue;
            }
            let was = &self.trash.seen[&seen.row.ino];
            assert_eq!(seen.likeness(), was.likeness(), "{what}: {}", show(p));
        }
    }
}
