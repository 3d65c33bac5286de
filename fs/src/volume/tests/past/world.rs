//! A tree as the campaign knows it: plain values, no journal, no tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weldrfs_meta::{Ino, ROOT_INO};

use super::content::Content;
use crate::Kind;

/// What an inode is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Body {
    Dir(BTreeMap<String, Ino>),
    File(Content),
    Symlink(String),
    Fifo,
}

/// Everything that counts of an inode.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime_ns: i64,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) body: Body,
}

impl Node {
    pub(super) fn kind(&self) -> Kind {
        match self.body {
            Body::Dir(_) => Kind::Dir,
            Body::File(_) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
            Body::Fifo => Kind::Fifo,
        }
    }

    pub(super) fn entries(&self) -> Option<&BTreeMap<String, Ino>> {
        match &self.body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.entries().is_some()
    }

    /// The same without entries.
    pub(super) fn emptied(&self) -> Self {
        let body = match &self.body {
            Body::Dir(_) => Body::Dir(BTreeMap::new()),
            other => other.clone(),
        };
        Self {
            body,
            ..self.clone()
        }
    }
}

/// Inodes by number, the root among them. All of them have names.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct World(pub(super) BTreeMap<Ino, Arc<Node>>);

impl World {
    pub(super) fn node(&self, ino: Ino) -> &Node {
        &self.0[&ino]
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> &mut Node {
        Arc::make_mut(self.0.get_mut(&ino).unwrap())
    }

    pub(super) fn content_mut(&mut self, ino: Ino) -> &mut Content {
        match &mut self.node_mut(ino).body {
            Body::File(content) => content,
            _ => panic!("{ino} is no file"),
        }
    }

    pub(super) fn content(&self, ino: Ino) -> &Content {
        match &self.node(ino).body {
            Body::File(content) => content,
            _ => panic!("{ino} is no file"),
        }
    }

    pub(super) fn entries_mut(&mut self, dir: Ino) -> &mut BTreeMap<String, Ino> {
        match &mut self.node_mut(dir).body {
            Body::Dir(entries) => entries,
            _ => panic!("{dir} is no directory"),
        }
    }

    pub(super) fn named(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.node(dir).entries()?.get(name).copied()
    }

    pub(super) fn walk(&self, path: &str) -> Option<Ino> {
        let names = path.split('/').filter(|name| !name.is_empty());
        names
            .into_iter()
            .try_fold(ROOT_INO, |dir, name| self.named(dir, name))
    }

    /// Every path, the root's is the empty one. What is in a directory comes after it.
    pub(super) fn paths(&self) -> BTreeMap<String, Ino> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![(String::new(), ROOT_INO)];
        while let Some((path, ino)) = dirs.pop() {
            for (name, below) in self.node(ino).entries().into_iter().flatten() {
                dirs.push((join(&path, name), *below));
            }
            found.insert(path, ino);
        }
        found
    }

    /// How many links each inode has.
    pub(super) fn links(&self) -> BTreeMap<Ino, u32> {
        let mut links: BTreeMap<Ino, u32> = BTreeMap::from([(ROOT_INO, 2)]);
        for (dir, _, ino) in self.entries() {
            match self.node(ino).is_dir() {
                true => {
                    *links.entry(ino).or_default() += 2;
                    *links.entry(dir).or_default() += 1;
                }
                false => *links.entry(ino).or_default() += 1,
            }
        }
        links
    }

    /// Every entry: its directory, its name, and what it names.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Ino, &str, Ino)> {
        self.0.iter().flat_map(|(dir, node)| {
            let entries = node.entries().into_iter().flatten();
            entries.map(|(name, ino)| (*dir, name.as_str(), *ino))
        })
    }

    /// Drops what has no name any more.
    pub(super) fn prune(&mut self) {
        let named: BTreeSet<Ino> = self.paths().into_values().collect();
        self.0.retain(|ino, _| named.contains(ino));
    }

    /// The inodes at and below a directory, or the one at another path.
    pub(super) fn below(&self, top: Ino) -> BTreeSet<Ino> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![top];
        while let Some(ino) = waiting.pop() {
            if found.insert(ino) {
                waiting.extend(
                    self.node(ino)
                        .entries()
                        .into_iter()
                        .flat_map(BTreeMap::values),
                );
            }
        }
        found
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}/{name}"),
    }
}

/// A path's directory and name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether a path is `top` or below it.
pub(super) fn is_within(path: &str, top: &str) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| top.is_empty() || rest.is_empty() || rest.starts_with('/'))
}
