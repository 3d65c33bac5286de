//! What happens to several names at once: directories that change places, and files that are replaced.

use super::world::{is_within, join, split};
use super::*;
use weldrfs_meta::RenameFlags;

/// Names that come back in a directory that takes another one's place, at most.
const MOST_AGAIN: usize = 5;

impl Run {
    /// A name at the root that nothing has.
    fn free_name(&mut self) -> String {
        let mut names = (self.step..).map(|n| format!("x{n}"));
        let live = &self.now.live;
        names
            .find(|name| live.named(ROOT_INO, name).is_none())
            .unwrap()
    }

    /// Two directories, one in the other: now the other way round.
    pub(super) fn turn_over(&mut self) {
        let paths = self.now.live.paths();
        let live = &self.now.live;
        let inner = paths
            .iter()
            .filter(|(path, ino)| live.node(**ino).is_dir() && path.contains('/'));
        let Some((inner, _)) = inner.choose(&mut self.rng) else {
            return;
        };
        let outer = inner.split_once('/').unwrap().0;
        let free = self.free_name();
        self.doing = format!("move {inner} out of {outer} to {free}, and {outer} into it");
        self.rename_to(inner, &free, RenameFlags::default());
        let into = join(&free, self.name());
        self.rename_to(outer, &into, RenameFlags::default());
    }

    /// A directory moves away and another one, new or moved, with some of the same names, takes its place.
    pub(super) fn put_in_the_place_of(&mut self) {
        let Some((path, _)) = self.some_entry(Node::is_dir) else {
            return;
        };
        let away = self.free_name();
        self.doing = format!("put something in the place of {path}");
        if self.rng.random() {
            self.rename_to(&path, &away, RenameFlags::default());
        } else {
            self.remove_all(&path);
        }
        let other = self
            .some_entry(Node::is_dir)
            .filter(|(other, _)| !is_within(&path, other) && *other != away);
        if let Some((other, _)) = other.filter(|_| self.rng.random()) {
            self.rename_to(&other, &path, RenameFlags::default());
            return;
        }
        let dir = self.now.live.walk(split(&path).0).unwrap();
        let Some(made) = self.make_dir_in(dir, split(&path).1) else {
            return;
        };
        let names = self.now.live.walk(&away).map_or(Vec::new(), |old| {
            let entries = self.now.live.node(old).entries();
            entries
                .into_iter()
                .flat_map(BTreeMap::keys)
                .cloned()
                .collect()
        });
        for name in names.iter().take(MOST_AGAIN) {
            match self.rng.random_range(0..3) {
                0 => drop(self.make_dir_in(made, name)),
                1 => {
                    let ino = self.create_in(made, name).unwrap();
                    self.write_some(ino, 0);
                }
                _ => {}
            }
        }
    }

    /// What editors do: a new file takes the name of an old one.
    pub(super) fn replace_by_renaming(&mut self) {
        let Some((path, _)) = self.some_file() else {
            return;
        };
        let free = self.free_name();
        self.doing = format!("replace {path} by another file");
        let ino = self.create_in(ROOT_INO, &free).unwrap();
        self.write_some(ino, 0);
        self.rename_to(&free, &path, RenameFlags::default());
    }
}
