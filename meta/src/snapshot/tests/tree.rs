//! A whole tree, as anybody can see it through the namespace or through a snapshot, and what differs between two.

use std::collections::{BTreeMap, BTreeSet};

use crate::filemap::Piece;
use crate::ids::{Cookie, Ino, ROOT_INO};
use crate::namespace::{DirEntry, Namespace};
use crate::rows::InodeRow;
use crate::snapshot::SnapshotView;

/// Where a tree is read from.
#[derive(Clone, Copy)]
pub(crate) enum From<'a> {
    Now(&'a Namespace),
    At(SnapshotView<'a>),
}

impl From<'_> {
    pub(super) fn row(&self, ino: Ino) -> InodeRow {
        match self {
            Self::Now(ns) => ns.getattr(ino).unwrap(),
            Self::At(view) => view.getattr(ino).unwrap(),
        }
    }

    fn lookup(&self, parent: Ino, name: &[u8]) -> InodeRow {
        match self {
            Self::Now(ns) => ns.lookup(parent, name).unwrap(),
            Self::At(view) => view.lookup(parent, name).unwrap(),
        }
    }

    /// All entries, a few at a time.
    fn entries(&self, dir: Ino) -> Vec<DirEntry> {
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let after = all.last().map_or(Cookie(0), |e| e.cookie);
            let page = match self {
                Self::Now(ns) => ns.readdir(dir, after, 3).unwrap(),
                Self::At(view) => view.readdir(dir, after, 3).unwrap(),
            };
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    pub(super) fn xattrs(&self, ino: Ino) -> BTreeMap<Vec<u8>, Vec<u8>> {
        match self {
            Self::Now(ns) => {
                let names = ns.listxattr(ino).unwrap();
                let value = |n: &[u8]| ns.getxattr(ino, n).unwrap().to_vec();
                names.iter().map(|n| (n.to_vec(), value(n))).collect()
            }
            Self::At(view) => {
                let all = view.xattrs(ino).unwrap();
                all.into_iter().map(|(n, v)| (n.to_vec(), v)).collect()
            }
        }
    }

    pub(super) fn runs(&self, ino: Ino) -> Vec<Piece> {
        let runs = match self {
            Self::Now(ns) => ns.map(ino, 0, u64::MAX).unwrap().1,
            Self::At(view) => view.map(ino, 0, u64::MAX).unwrap().1,
        };
        let mut out: Vec<Piece> = Vec::new();
        for run in runs {
            match out.last_mut() {
                Some(last)
                    if (last.end(), last.extent, last.extent_offset + last.len)
                        == (run.offset, run.extent, run.extent_offset) =>
                {
                    last.len += run.len;
                }
                _ => out.push(run),
            }
        }
        out
    }

    fn target(&self, ino: Ino) -> Vec<u8> {
        match self {
            Self::Now(ns) => ns.readlink(ino).unwrap().to_vec(),
            Self::At(view) => view.readlink(ino).unwrap(),
        }
    }
}

/// Numbers, attributes, runs and target.
type Likeness<'s> = (
    Vec<u64>,
    &'s BTreeMap<Vec<u8>, Vec<u8>>,
    &'s [Piece],
    &'s [u8],
);

/// Everything there is to see of one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) row: InodeRow,
    pub(crate) parent: Ino,
    pub(crate) name: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) runs: Vec<Piece>,
    pub(crate) target: Vec<u8>,
}

impl Seen {
    /// What a restored or cloned one has in common with what it was made of.
    pub(crate) fn likeness(&self) -> Likeness<'_> {
        let r = &self.row;
        let times = [r.mtime_ns as u64, if r.is_dir() { 0 } else { r.size }];
        let ids = [r.mode, r.uid, r.gid, r.rdev].map(u64::from);
        (
            [ids.as_slice(), &times].concat(),
            &self.xattrs,
            &self.runs,
            &self.target,
        )
    }

    fn content(&self) -> (u64, &[Piece], &[u8], u32) {
        let size = if self.row.is_dir() { 0 } else { self.row.size };
        (size, &self.runs, &self.target, self.row.rdev)
    }
}

/// A tree by path; the top is the empty one.
pub(crate) type Tree = BTreeMap<Vec<u8>, Seen>;

pub(crate) fn read(from: From<'_>, top: Ino) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![(Vec::new(), top, (top, Vec::new()))];
    while let Some((path, ino, (parent, name))) = waiting.pop() {
        let row = from.row(ino);
        if row.is_dir() {
            let entries = from.entries(ino);
            assert_eq!(entries.len() as u64, row.size, "{ino}");
            for entry in entries {
                assert_eq!(from.lookup(ino, &entry.name).ino, entry.ino);
                let below = below(&path, &entry.name);
                waiting.push((below, entry.ino, (ino, entry.name.to_vec())));
            }
        }
        let seen = Seen {
            row,
            parent,
            name,
            xattrs: from.xattrs(ino),
            runs: if row.is_file() {
                from.runs(ino)
            } else {
                Vec::new()
            },
            target: if row.is_symlink() {
                from.target(ino)
            } else {
                Vec::new()
            },
        };
        assert!(tree.insert(path, seen).is_none());
    }
    tree
}

pub(crate) fn now(ns: &Namespace) -> Tree {
    read(From::Now(ns), ROOT_INO)
}

pub(crate) fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path.is_empty() {
        true => name.to_vec(),
        false => [path, b"/", name].concat(),
    }
}

/// The part of a tree at and below a path, with paths from there.
pub(crate) fn part(tree: &Tree, path: &[u8]) -> Tree {
    let inside = |p: &[u8]| match p.strip_prefix(path) {
        Some([]) => Some(Vec::new()),
        Some(rest) if path.is_empty() => Some(rest.to_vec()),
        Some([b'/', rest @ ..]) => Some(rest.to_vec()),
        _ => None,
    };
    tree.iter()
        .filter_map(|(p, s)| Some((inside(p)?, s.clone())))
        .collect()
}

/// Whether two trees look the same: paths, attributes, content, and which paths are links to one file.
pub(crate) fn assert_alike(is: &Tree, should: &Tree, what: &str) {
    let paths = |t: &Tree| t.keys().map(|p| show(p)).collect::<Vec<_>>();
    assert_eq!(paths(is), paths(should), "{what}");
    for (path, seen) in is {
        let other = &should[path];
        assert_eq!(seen.likeness(), other.likeness(), "{what}: {}", show(path));
    }
    assert_eq!(groups(is), groups(should), "{what}: hard links");
}

/// Paths that are links to one file.
fn groups(tree: &Tree) -> BTreeSet<BTreeSet<String>> {
    let mut by_ino: BTreeMap<Ino, BTreeSet<String>> = BTreeMap::new();
    for (path, seen) in tree.iter().filter(|(_, s)| !s.row.is_dir()) {
        by_ino.entry(seen.row.ino).or_default().insert(show(path));
    }
    by_ino.into_values().filter(|g| g.len() > 1).collect()
}

pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// What differs, from two whole trees: a line for each path.
pub(crate) fn differences(old: &Tree, new: &Tree) -> BTreeSet<String> {
    let (names_old, names_new) = (names(old), names(new));
    let inos: BTreeSet<Ino> = names_old.keys().chain(names_new.keys()).copied().collect();
    let (mut lines, mut deleted, mut created) = (BTreeSet::new(), Tree::new(), Tree::new());
    for ino in inos {
        let none = BTreeMap::new();
        let was = names_old.get(&ino).unwrap_or(&none);
        let is = names_new.get(&ino).unwrap_or(&none);
        let paths = |keys: &Keys<'_>, others: &Keys<'_>| -> BTreeSet<Vec<u8>> {
            let changed = keys.iter().filter(|(k, _)| !others.contains_key(*k));
            changed.map(|(_, p)| (*p).clone()).collect()
        };
        let (lost, gained) = (paths(was, is), paths(is, was));
        let both = was.values().next().zip(is.values().next());
        let what = both.map_or_else(String::new, |(a, b)| compared(&old[*a], &new[*b]));
        let mut from = lost.difference(&gained);
        let mut to = gained.difference(&lost);
        if both.is_some() {
            let stayed = is.iter().filter(|(k, _)| was.contains_key(*k));
            let stayed = stayed.map(|(_, p)| *p).chain(lost.intersection(&gained));
            for path in stayed.filter(|_| !what.is_empty()) {
                lines.insert(format!("{} {what}", show(path)));
            }
            let count = lost
                .difference(&gained)
                .count()
                .min(gained.difference(&lost).count());
            for (from, to) in from.by_ref().take(count).zip(to.by_ref()) {
                lines.insert(format!("{} from {} {what}", show(to), show(from)));
            }
        }
        deleted.extend(from.map(|p| (p.clone(), old[p].clone())));
        created.extend(to.map(|p| (p.clone(), new[p].clone())));
    }
    let mut left = BTreeMap::new();
    for (path, was) in deleted {
        match created.get(&path) {
            Some(is) if is.row.kind() == was.row.kind() => {
                let what = compared(&was, is);
                if !what.is_empty() {
                    lines.insert(format!("{} {what}", show(&path)));
                }
                created.remove(&path);
            }
            _ => drop(left.insert((was.parent, was.name.clone()), (path, was))),
        }
    }
    // One name in a directory that has another path now.
    created.retain(|path, is| {
        let key = (is.parent, is.name.clone());
        match left.get(&key) {
            Some((_, was)) if is.row.kind() == was.row.kind() => {
                let what = compared(was, is);
                if !what.is_empty() {
                    lines.insert(format!("{} {what}", show(path)));
                }
                left.remove(&key);
                false
            }
            _ => true,
        }
    });
    let left = left.values().map(|(path, _)| path);
    lines.extend(left.map(|path| format!("{} deleted", show(path))));
    lines.extend(created.keys().map(|path| format!("{} created", show(path))));
    lines
}

type Keys<'t> = BTreeMap<(Ino, &'t [u8]), &'t Vec<u8>>;

fn names(tree: &Tree) -> BTreeMap<Ino, Keys<'_>> {
    let mut out: BTreeMap<Ino, Keys<'_>> = BTreeMap::new();
    for (path, seen) in tree {
        let key = (seen.parent, seen.name.as_slice());
        out.entry(seen.row.ino).or_default().insert(key, path);
    }
    out
}

fn compared(a: &Seen, b: &Seen) -> String {
    let mut what = Vec::new();
    if a.content() != b.content() {
        what.push("content");
    }
    if a.row.mode != b.row.mode {
        what.push("mode");
    }
    if (a.row.uid, a.row.gid) != (b.row.uid, b.row.gid) {
        what.push("owner");
    }
    if a.xattrs != b.xattrs {
        what.push("xattrs");
    }
    what.join(" ")
}
