//! What differs between two trees, worked out from the whole of both.

use std::collections::{BTreeMap, BTreeSet};

use weldrfs_meta::Ino;

use super::world::{Body, Node, World, is_within, split};
use crate::Difference;

/// A path, where it was before if it was renamed, where it was if only a directory above it was, and what is said of it.
pub(super) type Line = (String, Option<String>, Option<String>, String);

/// The differences as the engine tells them.
pub(super) fn told(found: &[Difference]) -> BTreeSet<Line> {
    let text = |path: &Vec<u8>| String::from_utf8(path.clone()).unwrap();
    let line = |one: &Difference| {
        let what = match (&one.before, &one.after) {
            (Some(_), None) => "deleted".to_owned(),
            (None, Some(_)) => "created".to_owned(),
            _ => words([one.content, one.mode, one.owner, one.xattrs]),
        };
        (
            text(&one.path),
            one.from.as_ref().map(text),
            one.old_path.as_ref().map(text),
            what,
        )
    };
    let lines: BTreeSet<Line> = found.iter().map(line).collect();
    assert_eq!(lines.len(), found.len(), "{found:#?}");
    lines
}

/// Those that are at or below a path now, or were.
pub(super) fn within(lines: BTreeSet<Line>, top: &str) -> BTreeSet<Line> {
    let is_in = |line: &Line| {
        is_within(&line.0, top)
            || line
                .1
                .as_ref()
                .or(line.2.as_ref())
                .is_some_and(|was| is_within(was, top))
    };
    lines.into_iter().filter(is_in).collect()
}

/// The differences as they must be. A file is followed by its number: a name it lost and a name it gained are a renaming.
/// What was deleted and created under one path is one thing that changed.
pub(super) fn differences(old: &World, new: &World) -> BTreeSet<Line> {
    let (names_old, names_new) = (names(old), names(new));
    let mut lines = BTreeSet::new();
    let (mut deleted, mut created) = (BTreeMap::new(), BTreeMap::new());
    let inos: BTreeSet<Ino> = names_old.keys().chain(names_new.keys()).copied().collect();
    for ino in inos {
        let none = Names::new();
        let was = names_old.get(&ino).unwrap_or(&none);
        let is = names_new.get(&ino).unwrap_or(&none);
        let (lost, gained) = (missing(was, is), missing(is, was));
        let both = old.0.get(&ino).zip(new.0.get(&ino));
        let what = both.map_or_else(String::new, |(a, b)| compared(a, b));
        let mut from: Vec<&String> = lost.difference(&gained).collect();
        let mut to: Vec<&String> = gained.difference(&lost).collect();
        if both.is_some() {
            let stayed = is
                .iter()
                .filter_map(|(key, path)| Some((path, was.get(key)?)));
            let stayed = stayed.map(|(path, was)| (path, (was != path).then(|| was.clone())));
            let same = lost.intersection(&gained).map(|path| (path, None));
            if !what.is_empty() {
                let stayed = stayed.chain(same);
                lines.extend(stayed.map(|(path, was)| (path.clone(), None, was, what.clone())));
            }
            let moved = from.len().min(to.len());
            let pairs = from.drain(..moved).zip(to.drain(..moved));
            lines.extend(
                pairs.map(|(from, to)| (to.clone(), Some(from.clone()), None, what.clone())),
            );
        }
        deleted.extend(from.into_iter().map(|path| (path.clone(), ino)));
        created.extend(to.into_iter().map(|path| (path.clone(), ino)));
    }
    let one_that_changed = |path: &str, old_path: Option<String>, was: &Node, is: &Node| {
        let what = compared(was, is);
        (!what.is_empty()).then(|| (path.to_owned(), None, old_path, what))
    };
    // What is left, by directory and name.
    let mut left = BTreeMap::new();
    for (path, was) in deleted {
        let was = old.node(was);
        match created.get(&path).map(|ino| new.node(*ino)) {
            Some(is) if is.kind() == was.kind() => {
                created.remove(&path);
                lines.extend(one_that_changed(&path, None, was, is));
            }
            _ => drop(left.insert(key(old, &path), (path, was))),
        }
    }
    for (path, is) in created {
        let is = new.node(is);
        let key = key(new, &path);
        match left.get(&key) {
            Some((old_path, was)) if is.kind() == was.kind() => {
                lines.extend(one_that_changed(&path, Some(old_path.clone()), was, is));
                left.remove(&key);
            }
            _ => drop(lines.insert((path, None, None, "created".to_owned()))),
        }
    }
    let left = left.into_values().map(|(path, _)| path);
    lines.extend(left.map(|path| (path, None, None, "deleted".to_owned())));
    lines
}

/// The directory and the name of a path.
fn key(world: &World, path: &str) -> (Ino, String) {
    let (above, name) = split(path);
    (world.walk(above).unwrap(), name.to_owned())
}

/// The entries of an inode, and their paths.
type Names = BTreeMap<(Ino, String), String>;

fn names(world: &World) -> BTreeMap<Ino, Names> {
    let mut found: BTreeMap<Ino, Names> = BTreeMap::new();
    for (path, ino) in world.paths() {
        let (above, name) = super::world::split(&path);
        let dir = world.walk(above).unwrap();
        found
            .entry(ino)
            .or_default()
            .insert((dir, name.to_owned()), path);
    }
    found
}

fn missing(of: &Names, there: &Names) -> BTreeSet<String> {
    let lost = of.iter().filter(|(key, _)| !there.contains_key(*key));
    lost.map(|(_, path)| path.clone()).collect()
}

fn compared(a: &Node, b: &Node) -> String {
    let content = match (&a.body, &b.body) {
        (Body::Dir(_), Body::Dir(_)) => false,
        (a, b) => a != b,
    };
    words([
        content,
        a.mode != b.mode,
        a.owner != b.owner,
        a.xattrs != b.xattrs,
    ])
}

fn words(is: [bool; 4]) -> String {
    let words = ["content", "mode", "owner", "xattrs"];
    let found = words.into_iter().zip(is).filter(|(_, is)| *is);
    found.map(|(word, _)| word).collect::<Vec<_>>().join(" ")
}
