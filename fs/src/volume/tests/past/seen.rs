//! Comparing a tree that a volume shows with the one that should be there.

use std::collections::BTreeMap;

use weldrfs_meta::{Ino, ROOT_INO};

use super::world::{Body, Node, World, join};
use super::{Engine, Volume};
use crate::Attr;

/// Below the bits that mark what is in a snapshot: the number in the volume.
const INO_BITS: u32 = 40;
/// Entries that are listed at a time.
const PAGE: usize = 5;

fn own(ino: Ino) -> Ino {
    Ino(ino.0 & ((1 << INO_BITS) - 1))
}

/// How much is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Names and attributes.
    Names,
    /// Contents too.
    All,
}

/// The tree at `top` is this one, inode numbers included.
pub(super) fn compare(volume: &Volume, top: Ino, world: &World, depth: Depth, what: &str) {
    let engine = volume.engine();
    let links = world.links();
    let mut dirs = vec![(String::new(), top, ROOT_INO)];
    let root = engine
        .getattr(top)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    is_like(engine, &root, world.node(ROOT_INO), what);
    while let Some((above, dir, ino)) = dirs.pop() {
        let wanted = world.node(ino).entries().unwrap();
        let found = list(engine, dir);
        let inos: BTreeMap<&String, Ino> = found.iter().map(|(n, a)| (n, own(a.ino))).collect();
        let should: BTreeMap<&String, Ino> = wanted.iter().map(|(n, i)| (n, *i)).collect();
        assert!(
            inos == should,
            "{what}: in {above:?} are {inos:?} and not {should:?}"
        );
        for (name, attr) in &found {
            let path = join(&above, name);
            let what = format!("{what}: {path}");
            let ino = own(attr.ino);
            let node = world.node(ino);
            is_like(engine, attr, node, &what);
            assert_eq!(attr.nlink, links[&ino], "{what}: links");
            match &node.body {
                Body::Dir(_) => dirs.push((path, attr.ino, ino)),
                Body::File(content) if depth == Depth::All => {
                    content.is_in(volume, attr.ino, &what)
                }
                _ => {}
            }
        }
    }
}

/// All entries of a directory, with the attributes that looking them up and asking for them gives.
fn list(engine: &Engine, dir: Ino) -> Vec<(String, Attr)> {
    let mut found = Vec::new();
    let mut cookie = 0;
    loop {
        let listed = engine.readdir(dir, cookie, PAGE).unwrap();
        let Some(last) = listed.last() else {
            return found;
        };
        cookie = last.cookie;
        for entry in listed {
            let attr = engine.lookup(dir, &entry.name).unwrap();
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            assert_eq!((attr.ino, attr.kind), (entry.ino, entry.kind), "{name}");
            assert_eq!(engine.getattr(attr.ino).unwrap(), attr, "{name}");
            found.push((name, attr));
        }
    }
}

fn is_like(engine: &Engine, attr: &Attr, node: &Node, what: &str) {
    let is = (attr.kind, attr.mode, (attr.uid, attr.gid), attr.mtime_ns);
    let should = (node.kind(), node.mode, node.owner, node.mtime_ns);
    assert_eq!(is, should, "{what}: kind, mode, owner, time");
    let names = engine.listxattr(attr.ino, true).unwrap();
    let value = |name: &[u8]| engine.getxattr(attr.ino, name).unwrap().to_vec();
    let xattrs = names
        .iter()
        .map(|n| (String::from_utf8_lossy(n).into_owned(), value(n)));
    let xattrs: BTreeMap<String, Vec<u8>> = xattrs.collect();
    assert_eq!(xattrs, node.xattrs, "{what}: extended attributes");
    match &node.body {
        Body::File(content) => {
            let blocks = content.allocated().next_multiple_of(4096) / 512;
            assert_eq!(
                (attr.size, attr.blocks),
                (content.size, blocks),
                "{what}: size, blocks"
            );
        }
        Body::Symlink(target) => {
            let read = engine.readlink(attr.ino).unwrap();
            assert_eq!(&read[..], target.as_bytes(), "{what}: target");
        }
        Body::Dir(_) | Body::Fifo => {}
    }
}
