//! Restores, their undoing, and clones: what comes back is what was there, what is beside it stays, and inode numbers
//! change only where they have to.

use super::differences::differences;
use super::world::{is_within, join, split};
use super::*;
use crate::FsError;
use crate::engine::Aside;

/// What is to be at a path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Origin {
    /// What is there, beside the place that is restored.
    Present(Ino),
    /// What was there.
    Old(Ino),
}

/// A place in the tree that becomes what it was, or a copy of something.
struct Remake<'w> {
    before: &'w World,
    old: &'w World,
    expected: BTreeMap<String, Origin>,
}

impl<'w> Remake<'w> {
    /// What is to be there once `path` is what it was.
    fn restored(before: &'w World, old: &'w World, path: &str) -> Self {
        let mut remake = Self::beside(before, old, path);
        let (was, is) = (old.walk(path).unwrap(), before.walk(path));
        let same = is.filter(|is| before.node(*is) == old.node(was));
        if let Some(same) = same.filter(|_| !old.node(was).is_dir()) {
            // One file that is what it was stays, wherever it is linked to.
            remake
                .expected
                .insert(path.to_owned(), Origin::Present(same));
            return remake;
        }
        let was = old.paths().into_iter().filter(|(p, _)| is_within(p, path));
        remake
            .expected
            .extend(was.map(|(p, ino)| (p, Origin::Old(ino))));
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            // Directories above it that are gone are made again.
            if let Some(ino) = old.walk(above) {
                let again = remake.expected.entry(above.to_owned());
                again.or_insert(Origin::Old(ino));
            }
        }
        remake
    }

    /// What is to be there once there is a copy of `source` at a free path.
    fn cloned(before: &'w World, old: &'w World, source: &str, path: &str) -> Self {
        let mut remake = Self::beside(before, old, path);
        let all = old
            .paths()
            .into_iter()
            .filter(|(p, _)| is_within(p, source));
        let copies = all.map(|(p, ino)| {
            let rest = p[source.len()..].trim_start_matches('/');
            let to = if rest.is_empty() {
                path.to_owned()
            } else {
                join(path, rest)
            };
            (to, Origin::Old(ino))
        });
        remake.expected.extend(copies);
        remake
    }

    fn beside(before: &'w World, old: &'w World, path: &str) -> Self {
        let all = before
            .paths()
            .into_iter()
            .filter(|(p, _)| !is_within(p, path));
        Self {
            before,
            old,
            expected: all.map(|(p, ino)| (p, Origin::Present(ino))).collect(),
        }
    }

    /// The tree with the inode numbers that the volume shows.
    fn found(&self, engine: &Engine, what: &str) -> World {
        let mut world = World(BTreeMap::new());
        let mut numbers: BTreeMap<Origin, Ino> = BTreeMap::new();
        let mut at: BTreeMap<&str, Ino> = BTreeMap::new();
        for (path, origin) in &self.expected {
            let (above, name) = split(path);
            let ino = match path.is_empty() {
                true => ROOT_INO,
                false => {
                    let found = engine.find(at[above], name.as_bytes()).unwrap();
                    found
                        .unwrap_or_else(|| panic!("{what}: {path} is missing"))
                        .ino
                }
            };
            let node = match origin {
                Origin::Present(own) => {
                    assert_eq!(ino, *own, "{what}: {path} is another inode");
                    self.before.node(*own)
                }
                Origin::Old(own) => self.old.node(*own),
            };
            // Links to one file are links to one file, and nothing else is.
            let number = *numbers.entry(*origin).or_insert(ino);
            assert_eq!(ino, number, "{what}: {path} is no link any more");
            at.insert(path, ino);
            world
                .0
                .entry(ino)
                .or_insert_with(|| Arc::new(node.emptied()));
            if !path.is_empty() {
                world.entries_mut(at[above]).insert(name.to_owned(), ino);
            }
        }
        let mut seen = BTreeMap::new();
        for (origin, ino) in numbers {
            let other = seen.insert(ino, origin);
            // What nobody touched may stay linked to from outside.
            let is_untouched = other == Some(Origin::Present(ino))
                && origin == Origin::Old(ino)
                && self.before.node(ino) == self.old.node(ino);
            assert!(
                other.is_none() || is_untouched,
                "{what}: {origin:?} became {ino} as well as {other:?}"
            );
        }
        world
    }
}

impl Run {
    pub(super) fn restore(&mut self) {
        let Some(past) = self.some_snapshot() else {
            return;
        };
        let path = match self.rng.random_ratio(2, 5) {
            true => String::new(),
            false => past
                .world
                .paths()
                .into_keys()
                .choose(&mut self.rng)
                .unwrap(),
        };
        self.restore_at(&past, &path);
    }

    /// Something that was deleted, or replaced, or changed.
    pub(super) fn restore_what_is_gone(&mut self) {
        let Some(past) = self.some_snapshot() else {
            return;
        };
        let lines = differences(&past.world, &self.now.live);
        let changed = lines
            .into_iter()
            .map(|(path, from, was, _)| from.or(was).unwrap_or(path));
        let old = changed.filter(|path| past.world.walk(path).is_some());
        if let Some(path) = old.choose(&mut self.rng) {
            self.restore_at(&past, &path);
        }
    }

    /// Takes the last restore back, if the snapshot that it made is still there.
    pub(super) fn undo(&mut self) {
        let Some(safety) = self.safeties.pop() else {
            return;
        };
        if let Some(past) = self.now.snapshots.get(&safety).cloned() {
            self.restore_at(&past, "");
            self.safeties.pop();
        }
    }

    fn restore_at(&mut self, past: &Past, path: &str) {
        let name = &past.snapshot.name;
        self.doing = format!("restore {path:?} as it was at {name}");
        let what = self.what();
        let mut before = self.now.live.clone();
        let engine = Arc::clone(self.volume.engine());
        self.kernel.heard.lock().clear();
        *self.kernel.late.lock() = match self.rng.random_ratio(1, 3) {
            true => Some(self.bytes()),
            false => None,
        };
        let restored = match engine.restore(name, path.as_bytes()) {
            Ok(restored) => restored,
            Err(error) => return self.was_refused(path, &error),
        };
        self.counts.restores += 1;
        let remake = Remake::restored(&before, &past.world, path);
        let mut after = remake.found(&engine, &what);
        self.kept_their_numbers(&before, past, path, &after);
        // Entries change in the directories above it.
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            let ino = after.walk(above).unwrap();
            after.node_mut(ino).mtime_ns = engine.getattr(ino).unwrap().mtime_ns;
        }
        self.now.live = after;
        let heard = std::mem::take(&mut *self.kernel.heard.lock());
        // The list of snapshots comes last.
        let heard = heard.into_iter().next().unwrap_or_default();
        self.was_announced(&before, &heard);
        self.write_late(&mut before);
        match &restored.safety {
            Some(safety) => {
                self.safeties.push(safety.epoch);
                self.keep(safety.clone(), before);
            }
            None => assert!(
                before == self.now.live,
                "{what}: it changed, and cannot be undone"
            ),
        }
        compare(&self.volume, ROOT_INO, &self.now.live, Depth::All, &what);
        self.compare_diff(past, None);
    }

    /// What was written into a file that had just lost its names was there before the restore.
    fn write_late(&mut self, before: &mut World) {
        self.kernel.late.lock().take();
        let Some((ino, data, mtime_ns)) = self.kernel.written.lock().take() else {
            return;
        };
        before.content_mut(ino).write(0, &data);
        before.node_mut(ino).mtime_ns = mtime_ns;
        self.late.insert(ino, Arc::clone(&before.0[&ino]));
        self.counts.late_writes += 1;
    }

    fn was_refused(&self, path: &str, error: &FsError) {
        let what = self.what();
        assert_eq!(error.errno(), libc::ENOTDIR, "{what}: {error}");
        let mut above = path;
        let mut is_in_the_way = false;
        while !above.is_empty() {
            above = split(above).0;
            let there = self.now.live.walk(above);
            is_in_the_way |= there.is_some_and(|ino| !self.now.live.node(ino).is_dir());
        }
        assert!(is_in_the_way, "{what}: {error}");
    }

    /// Directories that are still inside keep their numbers, and files that have not changed and are nowhere else. Others
    /// take the place of what had their name, or are new.
    fn kept_their_numbers(&self, before: &World, past: &Past, path: &str, after: &World) {
        let old = &past.world;
        let is_one_file = !old.node(old.walk(path).unwrap()).is_dir();
        let top = before.walk(path).filter(|ino| before.node(*ino).is_dir());
        let inside = top.map(|top| before.below(top)).unwrap_or_default();
        let names_inside = |ino: Ino| {
            let mut names = before.entries().filter(|(_, _, named)| *named == ino);
            names.all(|(dir, _, _)| inside.contains(&dir))
        };
        for (p, was) in old.paths().into_iter().filter(|(p, _)| is_within(p, path)) {
            let what = format!("{}: {p}, which was {was}", self.what());
            let is = after.walk(&p).unwrap();
            let same = |ino: Ino| {
                before
                    .0
                    .get(&ino)
                    .is_some_and(|node| **node == *old.node(was))
            };
            let stays = match old.node(was).is_dir() {
                _ if p.is_empty() => true,
                _ if is_one_file => false,
                true => p != path && inside.contains(&was) && top != Some(was),
                false => same(was) && names_inside(was),
            };
            let dir = after.walk(split(&p).0).unwrap();
            let there = before
                .0
                .get(&dir)
                .and_then(|_| before.named(dir, split(&p).1));
            let stands_in = there == Some(is)
                && (same(is) || old.node(was).is_dir() && before.node(is).is_dir());
            match stays {
                true => assert_eq!(is, was, "{what}"),
                false => assert!(stands_in || self.is_new(is, before), "{what} is {is}"),
            }
        }
    }

    /// Nothing that is known has this number.
    fn is_new(&self, ino: Ino, before: &World) -> bool {
        let mut past = self.now.snapshots.values();
        let is_old = before.0.contains_key(&ino)
            || self.unnamed.contains_key(&ino)
            || past.any(|past| past.world.0.contains_key(&ino));
        !is_old
    }

    /// Whoever knows parts of the tree is told of every entry and every inode that changed.
    fn was_announced(&self, before: &World, heard: &Aside) {
        let after = &self.now.live;
        let what = self.what();
        let entries = heard.entries.iter();
        let told: BTreeSet<(Ino, &[u8])> = entries.map(|one| (one.dir, &one.name[..])).collect();
        let entries = |world: &World| -> BTreeMap<(Ino, String), Ino> {
            world
                .entries()
                .map(|(dir, name, ino)| ((dir, name.to_owned()), ino))
                .collect()
        };
        let (was, is) = (entries(before), entries(after));
        for key in was.keys().chain(is.keys()) {
            let is_same = was.get(key) == is.get(key);
            let is_known = before.0.contains_key(&key.0) && after.0.contains_key(&key.0);
            let is_told = told.contains(&(key.0, key.1.as_bytes()));
            assert!(
                is_same || !is_known || is_told,
                "{what}: nobody hears of {key:?}"
            );
        }
        let (links_before, links) = (before.links(), after.links());
        for (ino, node) in &before.0 {
            let Some(now) = after.0.get(ino) else {
                continue;
            };
            let is_same = node == now && links_before[ino] == links[ino];
            assert!(
                is_same || heard.inodes.contains(ino),
                "{what}: nobody hears that {ino} changed"
            );
        }
    }

    /// A copy of a directory, of the present or of a snapshot.
    pub(super) fn clone_dir(&mut self) {
        let past = self.some_snapshot().filter(|_| self.rng.random());
        let ((above, parent), name) = (self.some_dir(), self.name());
        let before = self.now.live.clone();
        let old = past.as_ref().map_or(&before, |past| &past.world);
        let dirs = old
            .paths()
            .into_iter()
            .filter(|(_, ino)| old.node(*ino).is_dir());
        let (source, ino) = dirs.choose(&mut self.rng).unwrap();
        let engine = Arc::clone(self.volume.engine());
        let from = match &past {
            Some(past) => {
                engine.walk(join(&format!(".snapshots/{}", past.snapshot.name), &source).as_bytes())
            }
            None => engine.walk(source.as_bytes()),
        };
        let to = join(&above, name);
        let place = past
            .as_ref()
            .map_or("the present", |past| past.snapshot.name.as_str());
        self.doing = format!("clone {source:?} of {place} to {to}");
        let what = self.what();
        if before.0.len() + old.below(ino).len() > MOST_INODES {
            return;
        }
        let made = engine.clone_tree(from.unwrap().ino, parent, name.as_bytes());
        if before.named(parent, name).is_some() {
            assert_eq!(
                made.map_err(|error| error.errno()),
                Err(libc::EEXIST),
                "{what}"
            );
            return;
        }
        made.unwrap_or_else(|error| panic!("{what}: {error}"));
        self.counts.clones += 1;
        let after = Remake::cloned(&before, old, &source, &to).found(&engine, &what);
        for copy in after.below(after.walk(&to).unwrap()) {
            assert!(self.is_new(copy, &before), "{what}: {copy} is no copy");
        }
        self.now.live = after;
        self.adopt_time(parent);
        compare(&self.volume, ROOT_INO, &self.now.live, Depth::All, &what);
    }
}
