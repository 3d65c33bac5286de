//! What happens to names.

use super::world::{join, split};
use super::*;
use crate::{Attr, FsError};
use weldrfs_meta::RenameFlags;

const NAMES: [&str; 7] = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "a longer name with blanks and ü",
];
/// Directories are not nested more deeply.
const DEEPEST: usize = 4;
/// Files of a tree that is made at once, at most.
const MOST_AT_ONCE: u32 = 12;

impl Run {
    pub(super) fn name(&mut self) -> &'static str {
        NAMES.choose(&mut self.rng).unwrap()
    }

    /// A path of the present of which this holds.
    pub(super) fn some(&mut self, is: impl Fn(&Node) -> bool) -> Option<(String, Ino)> {
        let paths = self.now.live.paths().into_iter();
        let live = &self.now.live;
        paths
            .filter(|(_, ino)| is(live.node(*ino)))
            .choose(&mut self.rng)
    }

    pub(super) fn some_dir(&mut self) -> (String, Ino) {
        self.some(Node::is_dir).unwrap()
    }

    pub(super) fn some_file(&mut self) -> Option<(String, Ino)> {
        self.some(|node| node.kind() == Kind::File)
    }

    /// A path that is not the root's.
    pub(super) fn some_entry(&mut self, is: impl Fn(&Node) -> bool) -> Option<(String, Ino)> {
        let found = self.some(is);
        found.filter(|(path, _)| !path.is_empty())
    }

    pub(super) fn is_full(&self) -> bool {
        self.now.live.0.len() >= MOST_INODES
    }

    /// The time of the last change is the engine's; that nothing else gets a new one is compared.
    pub(super) fn adopt_time(&mut self, ino: Ino) {
        let mtime_ns = self.engine().getattr(ino).unwrap().mtime_ns;
        self.now.live.node_mut(ino).mtime_ns = mtime_ns;
    }

    /// The same with mode and owner, for the root.
    pub(super) fn adopt_attributes(&mut self, ino: Ino) {
        let attr = self.engine().getattr(ino).unwrap();
        let node = self.now.live.node_mut(ino);
        (node.mode, node.owner, node.mtime_ns) = (attr.mode, (attr.uid, attr.gid), attr.mtime_ns);
    }

    /// Something new is there; or the name is taken, and then nothing has happened.
    fn made(
        &mut self,
        dir: Ino,
        name: &str,
        body: Body,
        made: Result<Attr, FsError>,
    ) -> Option<Ino> {
        if self.now.live.named(dir, name).is_some() {
            let errno = made.map_err(|error| error.errno());
            assert_eq!(errno, Err(libc::EEXIST), "{}", self.what());
            return None;
        }
        let attr = made.unwrap_or_else(|error| panic!("{}: {error}", self.what()));
        let node = Node {
            mode: attr.mode,
            owner: (attr.uid, attr.gid),
            mtime_ns: attr.mtime_ns,
            xattrs: BTreeMap::new(),
            body,
        };
        assert!(!self.now.live.0.contains_key(&attr.ino), "{}", self.what());
        self.now.live.0.insert(attr.ino, Arc::new(node));
        self.now
            .live
            .entries_mut(dir)
            .insert(name.to_owned(), attr.ino);
        self.adopt_time(dir);
        Some(attr.ino)
    }

    pub(super) fn create_in(&mut self, dir: Ino, name: &str) -> Option<Ino> {
        let mode = *[0o644, 0o600, 0o755].choose(&mut self.rng).unwrap();
        let made = self
            .engine()
            .mknod(dir, name.as_bytes(), Kind::File, mode, 0, &ME);
        self.made(dir, name, Body::File(content::Content::default()), made)
    }

    pub(super) fn make_dir_in(&mut self, dir: Ino, name: &str) -> Option<Ino> {
        let made = self.engine().mkdir(dir, name.as_bytes(), 0o755, &ME);
        self.made(dir, name, Body::Dir(BTreeMap::new()), made)
    }

    pub(super) fn create(&mut self) {
        let ((above, dir), name) = (self.some_dir(), self.name());
        self.doing = format!("create {}", join(&above, name));
        if !self.is_full()
            && let Some(ino) = self.create_in(dir, name)
            && self.rng.random_ratio(3, 4)
        {
            self.write_some(ino, 0);
        }
    }

    pub(super) fn make_dir(&mut self) {
        let ((above, dir), name) = (self.some_dir(), self.name());
        self.doing = format!("mkdir {}", join(&above, name));
        if !self.is_full() && above.split('/').count() < DEEPEST {
            self.make_dir_in(dir, name);
        }
    }

    pub(super) fn make_other(&mut self) {
        let ((above, dir), name) = (self.some_dir(), self.name());
        if self.rng.random() {
            self.doing = format!("mkfifo {}", join(&above, name));
            let made = self
                .engine()
                .mknod(dir, name.as_bytes(), Kind::Fifo, 0o600, 0, &ME);
            self.made(dir, name, Body::Fifo, made);
        } else {
            let target = format!("../{}", self.name());
            self.doing = format!("symlink {} to {target}", join(&above, name));
            let made = self
                .engine()
                .symlink(dir, name.as_bytes(), target.as_bytes(), &ME);
            self.made(dir, name, Body::Symlink(target), made);
        }
    }

    /// A small project: directories with files, some of them links to one file.
    pub(super) fn make_tree(&mut self) {
        let ((above, dir), name) = (self.some_dir(), self.name());
        self.doing = format!("make a tree at {}", join(&above, name));
        if self.is_full() || above.split('/').count() >= DEEPEST {
            return;
        }
        let Some(top) = self.make_dir_in(dir, name) else {
            return;
        };
        let mut dirs = vec![top];
        for n in 0..self.rng.random_range(2..MOST_AT_ONCE) {
            let dir = *dirs.choose(&mut self.rng).unwrap();
            let name = format!("n{n}");
            if self.rng.random_ratio(1, 4) {
                dirs.extend(self.make_dir_in(dir, &name));
            } else if let Some(ino) = self.create_in(dir, &name) {
                self.write_some(ino, 0);
                if self.rng.random_ratio(1, 5) {
                    let other = *dirs.choose(&mut self.rng).unwrap();
                    self.link_in(ino, other, &format!("linked{n}"));
                }
            }
        }
    }

    fn link_in(&mut self, ino: Ino, dir: Ino, name: &str) {
        let linked = self.engine().link(ino, dir, name.as_bytes());
        if self.now.live.named(dir, name).is_some() || self.now.live.node(ino).is_dir() {
            assert!(linked.is_err(), "{}", self.what());
            return;
        }
        linked.unwrap();
        self.now.live.entries_mut(dir).insert(name.to_owned(), ino);
        self.adopt_time(dir);
    }

    pub(super) fn link(&mut self) {
        let Some((path, ino)) = self.some_entry(|node| !node.is_dir()) else {
            return;
        };
        let ((above, dir), name) = (self.some_dir(), self.name());
        self.doing = format!("link {path} as {}", join(&above, name));
        self.link_in(ino, dir, name);
    }

    fn remove_entry(&mut self, path: &str) {
        let (above, name) = split(path);
        let dir = self.now.live.walk(above).unwrap();
        let ino = self.now.live.named(dir, name).unwrap();
        let entries = self.now.live.node(ino).entries();
        let is_dir = entries.is_some();
        let is_empty = entries.is_none_or(BTreeMap::is_empty);
        let removed = match is_dir {
            true => self.engine().rmdir(dir, name.as_bytes()),
            false => self.engine().unlink(dir, name.as_bytes()),
        };
        assert_eq!(
            removed.is_ok(),
            is_empty,
            "{}: {path}: {removed:?}",
            self.what()
        );
        if is_empty {
            self.now.live.entries_mut(dir).remove(name);
            self.now.live.prune();
            self.adopt_time(dir);
        }
    }

    pub(super) fn unlink(&mut self) {
        let Some((path, _)) = self.some_entry(|_| true) else {
            return;
        };
        self.doing = format!("remove {path}");
        self.remove_entry(&path);
    }

    /// `rm -r`.
    pub(super) fn remove_tree(&mut self) {
        let Some((path, _)) = self.some_entry(Node::is_dir) else {
            return;
        };
        self.doing = format!("rm -r {path}");
        self.remove_all(&path);
    }

    pub(super) fn remove_all(&mut self, top: &str) {
        let paths = self.now.live.paths().into_keys();
        let below: Vec<String> = paths.filter(|path| world::is_within(path, top)).collect();
        // What is in a directory comes after it.
        for path in below.iter().rev() {
            self.remove_entry(path);
        }
    }

    /// Renames as the model does, which knows what is refused.
    pub(super) fn rename_to(&mut self, from: &str, to: &str, flags: RenameFlags) -> bool {
        let ((above, name), (to_above, to_name)) = (split(from), split(to));
        let live = &self.now.live;
        let (dir, to_dir) = (live.walk(above).unwrap(), live.walk(to_above).unwrap());
        let moved = live.named(dir, name).unwrap();
        let target = live.named(to_dir, to_name);
        let is_allowed = self.may_rename((dir, moved), to_dir, target, flags);
        let renamed = self
            .engine()
            .rename(dir, name.as_bytes(), to_dir, to_name.as_bytes(), flags);
        let what = self.what();
        assert_eq!(renamed.is_ok(), is_allowed, "{what}: {renamed:?}");
        // Two names of one file: nothing happens.
        if !is_allowed || target == Some(moved) {
            return is_allowed;
        }
        let live = &mut self.now.live;
        live.entries_mut(dir).remove(name);
        live.entries_mut(to_dir).insert(to_name.to_owned(), moved);
        if let Some(target) = target.filter(|_| flags.exchange) {
            live.entries_mut(dir).insert(name.to_owned(), target);
        }
        live.prune();
        self.adopt_time(dir);
        self.adopt_time(to_dir);
        true
    }

    fn may_rename(
        &self,
        from: (Ino, Ino),
        to_dir: Ino,
        target: Option<Ino>,
        flags: RenameFlags,
    ) -> bool {
        let (dir, moved) = from;
        let live = &self.now.live;
        let is_inside =
            |ino: Ino, dir: Ino| live.node(dir).is_dir() && live.below(dir).contains(&ino);
        if is_inside(to_dir, moved) {
            return false;
        }
        let Some(target) = target else {
            return !flags.exchange;
        };
        if flags.noreplace {
            return false;
        }
        if flags.exchange {
            return !is_inside(dir, target);
        }
        match (live.node(moved).is_dir(), live.node(target).entries()) {
            _ if moved == target => true,
            (true, Some(entries)) => entries.is_empty(),
            (false, None) => true,
            _ => false,
        }
    }

    pub(super) fn rename(&mut self) {
        let Some((from, moved)) = self.some_entry(|_| true) else {
            return;
        };
        let to = match self.rng.random_ratio(1, 3) {
            true => self.some_entry(|_| true).unwrap_or((from.clone(), moved)),
            false => {
                let ((above, _), name) = (self.some_dir(), self.name());
                let path = join(&above, name);
                let ino = self.now.live.walk(&path);
                (path, ino.unwrap_or(ROOT_INO))
            }
        };
        let flags = RenameFlags {
            exchange: self.rng.random_ratio(1, 3) && to.1 != moved,
            noreplace: false,
        };
        let flags = RenameFlags {
            noreplace: !flags.exchange && self.rng.random_ratio(1, 6),
            ..flags
        };
        self.doing = format!("rename {from} to {}, {flags:?}", to.0);
        self.rename_to(&from, &to.0, flags);
    }
}
