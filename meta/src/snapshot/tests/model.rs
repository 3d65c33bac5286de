//! Random histories: whatever happens after a snapshot, it shows what was there when it was made, a diff tells what
//! differs from it, and a restore brings it back. `WELDRFS_TEST_SEED` repeats one; each failure prints its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::error::MetaError;
use crate::ids::{Epoch, Ino, ROOT_INO};
use crate::namespace::tests::{dir, file, healthy, open, write};
use crate::namespace::{
    AttrChange, FallocMode, Namespace, NewNode, RenameFlags, TimeSet, XattrMode,
};
use crate::snapshot::{CloneTo, Difference, Restored, Snapshot};

use super::called;
use super::tree::{self, From, Tree, assert_alike, below, part, show};
use crate::trash::tests::model::Expected;

const HISTORIES: u64 = 24;
const STEPS: u32 = 350;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) struct Run {
    pub(crate) rng: SmallRng,
    pub(crate) ns: Arc<Namespace>,
    folder: tempfile::TempDir,
    /// What the snapshots have to show.
    kept: BTreeMap<Epoch, (Snapshot, Tree)>,
    pub(crate) step: u32,
    bytes: u64,
    /// What the trash has to have.
    pub(crate) trash: Expected,
}

#[test]
fn random_histories_agree_with_what_was_seen() {
    let seeds = match std::env::var("WELDRFS_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..HISTORIES).collect(),
    };
    for seed in seeds {
        let _says = Says(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run {
            rng: SmallRng::seed_from_u64(seed),
            ns: open(folder.path()),
            folder,
            kept: BTreeMap::new(),
            step: 0,
            bytes: 4096,
            trash: Expected::default(),
        };
        run.grown_up();
        for step in 0..STEPS {
            run.step = step;
            run.act();
        }
        run.compare_all();
    }
}

/// Prints the seed of a history that fails.
struct Says(u64);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("WELDRFS_TEST_SEED={}", self.0);
        }
    }
}

impl Run {
    /// Now and then two operations have one time, and there are pauses.
    pub(crate) fn now(&self) -> i64 {
        i64::from(self.step / 2) * 9_000_000_000
    }

    fn one_of<'t>(&mut self, tree: &'t Tree, is: impl Fn(u32) -> bool) -> Option<&'t [u8]> {
        let found: Vec<_> = tree
            .iter()
            .filter(|(_, s)| is(s.row.mode & libc::S_IFMT))
            .collect();
        match found.len() {
            0 => None,
            n => Some(found[self.rng.random_range(0..n)].0),
        }
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.rng.random_range(0..NAMES.len())]
    }

    fn act(&mut self) {
        let tree = tree::now(&self.ns);
        match self.rng.random_range(0..100) {
            0..40 => self.change_names(&tree),
            40..70 => self.change_files(&tree),
            70..78 => self.make_snapshot(&tree),
            78..80 => self.remove_snapshot(),
            80..84 => self.restore(&tree),
            84..86 => self.clone_some(&tree),
            86..92 => self.ns.checkpoint(self.ns.acknowledged()).unwrap(),
            92..94 => self.ns.drop_caches(),
            94..96 => self.reopen(&tree),
            96..98 => self.change_trash(&tree),
            _ => self.compare(&tree),
        }
    }

    fn change_names(&mut self, tree: &Tree) {
        let now = self.now();
        let into = self.one_of(tree, |m| m == libc::S_IFDIR).unwrap();
        let into_ino = tree[into].row.ino;
        let name = self.name().as_bytes();
        let entry = self.any(tree);
        let ns = Arc::clone(&self.ns);
        let deep = into.iter().filter(|b| **b == b'/').count() > 2;
        match self.rng.random_range(0..12) {
            0..3 => drop(ns.create(into_ino, name, &file(), now)),
            3..5 if !deep => drop(ns.create(into_ino, name, &dir(), now)),
            5 => {
                let link = NewNode {
                    mode: libc::S_IFLNK | 0o777,
                    target: Some(name),
                    ..file()
                };
                drop(ns.create(into_ino, name, &link, now));
            }
            6 => {
                let pipe = NewNode {
                    mode: libc::S_IFIFO | 0o600,
                    ..file()
                };
                drop(ns.create(into_ino, name, &pipe, now));
            }
            7..9 => {
                let Some(seen) = entry.and_then(|e| tree.get(&e)) else {
                    return;
                };
                let gone = match seen.row.is_dir() {
                    true => ns.rmdir(seen.parent, &seen.name, now).unwrap_or(None),
                    false => ns.unlink(seen.parent, &seen.name, now).unwrap(),
                };
                if ns.lookup(seen.parent, &seen.name).is_err() {
                    self.removed(seen, gone);
                }
                // Some stay open.
                if let Some(gone) = gone.filter(|_| self.rng.random()) {
                    ns.reclaim(&[gone], now).unwrap();
                }
            }
            9..11 => {
                let Some(seen) = entry.and_then(|e| tree.get(&e)) else {
                    return;
                };
                let flags = RenameFlags {
                    exchange: self.rng.random_ratio(1, 4),
                    noreplace: false,
                };
                let renamed = ns.rename(seen.parent, &seen.name, into_ino, name, flags, now);
                let replaced = tree.get(&below(into, name)).filter(|_| !flags.exchange);
                if let (Ok(gone), Some(replaced)) = (renamed, replaced)
                    && replaced.row.ino != seen.row.ino
                {
                    self.removed(replaced, gone);
                }
            }
            _ => {
                let Some(seen) = entry.and_then(|e| tree.get(&e)) else {
                    return;
                };
                drop(ns.link(seen.row.ino, into_ino, name, now));
            }
        }
    }

    /// The path of anything but the root.
    fn any(&mut self, tree: &Tree) -> Option<Vec<u8>> {
        let found: Vec<_> = tree.keys().filter(|p| !p.is_empty()).collect();
        match found.len() {
            0 => None,
            n => Some(found[self.rng.random_range(0..n)].clone()),
        }
    }

    fn change_files(&mut self, tree: &Tree) {
        let now = self.now();
        let ns = Arc::clone(&self.ns);
        if self.rng.random_ratio(1, 3) {
            return self.change_attributes(tree);
        }
        let Some(path) = self.one_of(tree, |m| m == libc::S_IFREG) else {
            return;
        };
        let ino = tree[path].row.ino;
        let at = self.rng.random_range(0..60);
        let len = self.rng.random_range(1..20);
        match self.rng.random_range(0..8) {
            0..4 => {
                // Sometimes right behind the last bytes, so that an extent grows.
                let size = tree[path].row.size;
                let at = if self.rng.random() { size } else { at };
                self.bytes += if self.rng.random() { 0 } else { 100 };
                write(&ns, ino, at, len, self.bytes);
                self.bytes += len;
            }
            4 => {
                let size = Some(at);
                let shorter = AttrChange {
                    size,
                    ..AttrChange::default()
                };
                ns.setattr(ino, &shorter, now).unwrap();
            }
            5 => ns
                .fallocate(ino, FallocMode::PunchHole, at, len, false, now)
                .unwrap(),
            _ => {
                let Some(other) = self.one_of(tree, |m| m == libc::S_IFREG) else {
                    return;
                };
                let to = (tree[other].row.ino, self.rng.random_range(0..60));
                drop(ns.share((ino, at / 2), to, 30, false, now));
            }
        }
    }

    fn change_attributes(&mut self, tree: &Tree) {
        let now = self.now();
        let ns = Arc::clone(&self.ns);
        let ino = self.any(tree).map_or(ROOT_INO, |path| tree[&path].row.ino);
        let mut change = AttrChange::default();
        match self.rng.random_range(0..5) {
            0 => change.mode = Some([0o600, 0o644, 0o755][self.rng.random_range(0..3)]),
            1 => change.uid = Some(self.rng.random_range(0..3)),
            2 => change.mtime = Some(TimeSet::At(now / 3)),
            3 => {
                let value = [self.rng.random_range(0..3)];
                return ns
                    .setxattr(ino, self.name().as_bytes(), &value, XattrMode::Any, now)
                    .unwrap();
            }
            _ => return drop(ns.removexattr(ino, self.name().as_bytes(), now)),
        }
        ns.setattr(ino, &change, now).unwrap();
    }

    fn make_snapshot(&mut self, tree: &Tree) {
        let name = format!("s{}", self.step);
        let made = self.ns.create_snapshot(called(&name)).unwrap();
        assert!(matches!(
            self.ns.create_snapshot(called(&name)),
            Err(MetaError::Exists)
        ));
        self.trash.old_below = made.next_ino;
        self.kept.insert(made.epoch, (made, tree.clone()));
    }

    fn remove_snapshot(&mut self) {
        if let Some((_, (snapshot, _))) = self.some_snapshot() {
            self.ns.remove_snapshot(&snapshot.name, self.now()).unwrap();
            self.kept.remove(&snapshot.epoch);
            assert!(matches!(
                self.ns.at(snapshot.epoch),
                Err(MetaError::NotFound)
            ));
        }
    }

    fn some_snapshot(&mut self) -> Option<(Epoch, (Snapshot, Tree))> {
        match self.kept.len() {
            0 => None,
            n => {
                let (epoch, kept) = self.kept.iter().nth(self.rng.random_range(0..n)).unwrap();
                Some((*epoch, kept.clone()))
            }
        }
    }

    fn reopen(&mut self, tree: &Tree) {
        self.ns.abandon();
        self.ns = open(self.folder.path());
        let kept: Vec<_> = self.kept.values().map(|(s, _)| s.clone()).collect();
        assert_eq!(self.ns.snapshots(), kept);
        assert_eq!(tree::now(&self.ns), *tree);
        self.grown_up();
        self.check_trash();
    }

    fn restore(&mut self, before: &Tree) {
        let Some((epoch, (_, then))) = self.some_snapshot() else {
            return;
        };
        // Everything, or something that the snapshot has.
        let path = match self.rng.random() {
            true => Vec::new(),
            false => self.any(&then).unwrap_or_default(),
        };
        let what = format!(
            "step {}: restore of {:?} at {epoch}",
            self.step,
            show(&path)
        );
        let safety = called(&format!("safety{}", self.step));
        let restored = match self.ns.restore(epoch, &path, safety, self.now()) {
            Ok(restored) => restored,
            Err(MetaError::NotDir) => {
                assert!(is_in_the_way(before, &path), "{what}");
                return;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        let after = tree::now(&self.ns);
        assert_alike(&part(&after, &path), &part(&then, &path), &what);
        self.check_outside(before, &after, &path, &what);
        self.check_identity(before, &after, &then, &path, &what);
        self.ns.drop_caches();
        assert_eq!(tree::now(&self.ns), after, "{what}");
        let announced: BTreeSet<(Ino, &[u8])> = restored
            .entries
            .iter()
            .map(|e| (e.dir, &e.name[..]))
            .collect();
        // What is in new directories nobody knows yet.
        let known: BTreeSet<Ino> = before.values().map(|s| s.row.ino).collect();
        let changes = entry_changes(before, &after);
        for line in changes.into_iter().filter(|(dir, _)| known.contains(dir)) {
            assert!(
                announced.contains(&(line.0, &line.1[..])),
                "{what}: {line:?}"
            );
        }
        let mut before = before.clone();
        self.write_late(&restored, &mut before);
        let before = &before;
        match restored.safety.clone() {
            Some(safety) => drop(self.kept.insert(safety.epoch, (safety, before.clone()))),
            None => assert_eq!(&after, before, "{what}"),
        }
        if path.is_empty() {
            let found = self.ns.diff(epoch, None).unwrap();
            assert_eq!(found, vec![], "{what}");
        }
        if self.rng.random() {
            self.ns.reclaim(&restored.orphans, self.now()).unwrap();
        }
        healthy(&self.ns);
        self.dirs_were_kept();
        if let Some((_, (safety, _))) = self.kept.last_key_value() {
            self.trash.old_below = self.trash.old_below.max(safety.next_ino);
        }
    }

    /// Somebody has replaced files open and changes them: it was like that before the restore.
    fn write_late(&mut self, restored: &Restored, before: &mut Tree) {
        for ino in &restored.orphans {
            let is_file = self.ns.getattr(*ino).unwrap().is_file();
            if !is_file || self.rng.random_range(0..3) > 0 {
                continue;
            }
            let (offset, len) = (self.rng.random_range(0..100), self.rng.random_range(1..50));
            match self.rng.random_range(0..4) {
                0 => {
                    let set = AttrChange {
                        size: Some(offset),
                        ..AttrChange::default()
                    };
                    self.ns.setattr(*ino, &set, self.now() + 1).unwrap();
                }
                1 => {
                    let value = offset.to_string();
                    let set = self.ns.setxattr(
                        *ino,
                        b"user.late",
                        value.as_bytes(),
                        XattrMode::Any,
                        self.now() + 1,
                    );
                    set.unwrap();
                }
                _ => {
                    write(&self.ns, *ino, offset, len, self.bytes);
                    self.bytes += 4096;
                }
            }
            match self.rng.random_range(0..4) {
                0 => {
                    let name = format!("late{}-{ino}", self.step);
                    let made = self.ns.create_snapshot(called(&name)).unwrap();
                    self.kept.insert(made.epoch, (made, tree::now(&self.ns)));
                }
                1 | 2 => self.ns.checkpoint(self.ns.acknowledged()).unwrap(),
                _ => {}
            }
        }
        let kept = self.ns.keep_late_writes(restored, self.now()).unwrap();
        let mut differ = BTreeSet::new();
        for seen in before.values_mut() {
            let ino = seen.row.ino;
            if restored.orphans.contains(&ino) && seen.row.is_file() {
                let (parent, nlink) = (seen.row.parent, seen.row.nlink);
                let was = seen.clone();
                let from = From::Now(&self.ns);
                seen.row = from.row(ino);
                (seen.row.parent, seen.row.nlink) = (parent, nlink);
                (seen.runs, seen.xattrs) = (from.runs(ino), from.xattrs(ino));
                // The restore itself is a change of the inode, and no write.
                if (&seen.runs, &seen.xattrs, seen.row.size, seen.row.mtime_ns)
                    == (&was.runs, &was.xattrs, was.row.size, was.row.mtime_ns)
                {
                    seen.row.ctime_ns = was.row.ctime_ns;
                } else {
                    differ.insert(ino);
                }
            }
        }
        assert!(kept >= differ.len(), "{kept} of {differ:?}");
    }

    /// Nothing beside the path was touched, but links to files that came back as copies.
    fn check_outside(&self, before: &Tree, after: &Tree, path: &[u8], what: &str) {
        let is_outside = |p: &[u8]| {
            p != path && !p.starts_with(&below(path, b"")) && !path.starts_with(&below(p, b""))
        };
        for (p, seen) in before
            .iter()
            .filter(|(p, _)| !path.is_empty() && is_outside(p))
        {
            let now = after
                .get(p)
                .unwrap_or_else(|| panic!("{what}: lost {}", show(p)));
            assert_eq!(seen.row.ino, now.row.ino, "{what}: {}", show(p));
            assert_eq!(seen.likeness(), now.likeness(), "{what}: {}", show(p));
        }
    }

    /// Directories keep their numbers, and so do files that had not changed; the others get new ones, and the old ones
    /// keep what they had.
    fn check_identity(&self, before: &Tree, after: &Tree, then: &Tree, path: &[u8], what: &str) {
        let inos: BTreeSet<Ino> = before.values().map(|s| s.row.ino).collect();
        for (p, was) in part(before, path) {
            let (Some(is), Some(old)) = (part(after, path).remove(&p), then.get(&full(path, &p)))
            else {
                continue;
            };
            if was.row.ino == is.row.ino || inos.contains(&is.row.ino) {
                continue;
            }
            // A new inode where there was one of the snapshot's.
            let was_dir = was.row.is_dir() && old.row.ino == was.row.ino;
            assert!(!was_dir, "{what}: {} is another directory", show(&p));
            if !was.row.is_dir() {
                let row = self.ns.getattr(was.row.ino).unwrap();
                assert_eq!(row.size, was.row.size, "{what}: {}", show(&p));
                if row.is_file() {
                    let runs = tree::read(From::Now(&self.ns), was.row.ino);
                    assert_eq!(runs[&Vec::new()].runs, was.runs, "{what}: {}", show(&p));
                }
            }
        }
    }

    fn clone_some(&mut self, tree: &Tree) {
        let into = self.one_of(tree, |m| m == libc::S_IFDIR).unwrap().to_vec();
        let name = self.name().as_bytes();
        let from_snapshot = self.some_snapshot().filter(|_| self.rng.random());
        let (epoch, source) = match &from_snapshot {
            Some((epoch, (_, then))) => (Some(*epoch), then),
            None => (None, tree),
        };
        let of = self.one_of(source, |m| m == libc::S_IFDIR).unwrap();
        // A copy of everything in everything soon fills the disk.
        if tree.len() + part(source, of).len() > 80 {
            return;
        }
        let to = CloneTo {
            parent: tree[&into].row.ino,
            name,
            without: None,
        };
        let at = below(&into, name);
        let made = self
            .ns
            .clone_tree(epoch, source[of].row.ino, to, self.now());
        if tree.contains_key(&at) {
            assert!(matches!(made, Err(MetaError::Exists)));
            return;
        }
        let what = format!(
            "step {}: clone of {:?} to {:?}",
            self.step,
            show(of),
            show(&at)
        );
        let made = made.unwrap_or_else(|e| panic!("{what}: {e}"));
        let after = tree::now(&self.ns);
        assert_alike(&part(&after, &at), &part(source, of), &what);
        assert_eq!(after[&at].row, made, "{what}");
        let inos: BTreeSet<Ino> = tree.values().map(|s| s.row.ino).collect();
        for seen in part(&after, &at).values() {
            assert!(!inos.contains(&seen.row.ino), "{what}");
        }
        self.ns.drop_caches();
        assert_eq!(tree::now(&self.ns), after, "{what}");
        healthy(&self.ns);
    }

    /// Everything the snapshots tell, against what was seen.
    fn compare(&mut self, tree: &Tree) {
        healthy(&self.ns);
        let usage = self.ns.usage();
        let totals = self.ns.readers.with(crate::sqlite::read::totals).unwrap();
        let held = self.ns.readers.with(crate::sqlite::trash::held).unwrap();
        let in_trash = (usage.trash_inodes as i64, usage.trash_bytes as i64);
        assert_eq!(in_trash, (held.inodes, held.bytes), "step {}", self.step);
        let all = (
            usage.inodes + usage.trash_inodes,
            usage.bytes + usage.trash_bytes,
        );
        assert_eq!(all, totals, "step {}", self.step);
        let Some((epoch, (snapshot, then))) = self.some_snapshot() else {
            return;
        };
        let what = format!("step {}: snapshot {}", self.step, snapshot.name);
        let view = self.ns.at(epoch).unwrap();
        assert_eq!(tree::read(From::At(view), ROOT_INO), then, "{what}");
        let found = self.ns.diff(epoch, None).unwrap();
        assert_eq!(
            lines(&found),
            tree::differences(&then, tree),
            "{what} to now"
        );
        if let Some((newer, (_, later))) = self.some_snapshot().filter(|(e, _)| *e >= epoch) {
            let found = self.ns.diff(epoch, Some(newer)).unwrap();
            let should = tree::differences(&then, &later);
            assert_eq!(lines(&found), should, "{what} to {newer}");
        }
    }

    fn compare_all(&mut self) {
        let tree = tree::now(&self.ns);
        for (epoch, (snapshot, then)) in &self.kept {
            let what = format!("snapshot {}", snapshot.name);
            let view = self.ns.at(*epoch).unwrap();
            assert_eq!(&tree::read(From::At(view), ROOT_INO), then, "{what}");
            let found = self.ns.diff(*epoch, None).unwrap();
            assert_eq!(lines(&found), tree::differences(then, &tree), "{what}");
        }
        healthy(&self.ns);
        // Without snapshots nothing is kept.
        for (snapshot, _) in std::mem::take(&mut self.kept).into_values() {
            self.ns.remove_snapshot(&snapshot.name, self.now()).unwrap();
            healthy(&self.ns);
        }
        assert_eq!(tree::now(&self.ns), tree);
        self.ns.close().unwrap();
        assert_eq!(kept_rows(self.folder.path()), 0);
    }
}

/// Rows of all tables of old rows.
pub(super) fn kept_rows(folder: &Path) -> i64 {
    let c = rusqlite::Connection::open(folder.join("meta.db")).unwrap();
    let tables = crate::sqlite::capture::UNDO;
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}_undo");
        c.query_row(&sql, [], |r| r.get::<_, i64>(0)).unwrap()
    };
    tables.iter().map(|(table, _, _)| count(table)).sum()
}

/// A diff as `tree::differences` says it.
fn lines(found: &[Difference]) -> BTreeSet<String> {
    let line = |d: &Difference| {
        if d.before.is_none() || d.after.is_none() {
            let what = if d.after.is_none() {
                "deleted"
            } else {
                "created"
            };
            return format!("{} {what}", show(&d.path));
        }
        let flags = [
            (d.content, "content"),
            (d.mode, "mode"),
            (d.owner, "owner"),
            (d.xattrs, "xattrs"),
        ];
        let what: Vec<_> = flags
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, w)| *w)
            .collect();
        match &d.from {
            Some(from) => format!("{} from {} {}", show(&d.path), show(from), what.join(" ")),
            None => format!("{} {}", show(&d.path), what.join(" ")),
        }
    };
    let lines: BTreeSet<String> = found.iter().map(line).collect();
    assert_eq!(lines.len(), found.len(), "{found:#?}");
    lines
}

fn full(path: &[u8], rest: &[u8]) -> Vec<u8> {
    match rest.is_empty() {
        true => path.to_vec(),
        false => below(path, rest),
    }
}

/// Whether something that is no directory has the place of a directory above the path.
fn is_in_the_way(tree: &Tree, path: &[u8]) -> bool {
    (0..path.len())
        .filter(|at| path[*at] == b'/')
        .any(|at| tree.get(&path[..at]).is_some_and(|s| !s.row.is_dir()))
}

/// Entries of present directories that name something else afterwards.
fn entry_changes(before: &Tree, after: &Tree) -> Vec<(Ino, Vec<u8>)> {
    let keys = |tree: &Tree| -> BTreeMap<(Ino, Vec<u8>), Ino> {
        let named = tree.values().filter(|s| !s.name.is_empty());
        named
            .map(|s| ((s.parent, s.name.clone()), s.row.ino))
            .collect()
    };
    let (was, is) = (keys(before), keys(after));
    let changed = |key: &&(Ino, Vec<u8>)| was.get(*key) != is.get(*key);
    let all: BTreeSet<_> = was.keys().chain(is.keys()).collect();
    all.into_iter().filter(changed).cloned().collect()
}
