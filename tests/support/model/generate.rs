//! Seeded random operations, aimed at collisions: few names, few inodes, hostile bytes.

use super::ops::{Id, Kind, Op, ROOT};
use super::tree::{Body, Tree};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const MANY_NODES: usize = 250;

/// Makes the next operation for a tree.
pub(crate) struct Generator {
    pub(super) random: SmallRng,
    names: Vec<Vec<u8>>,
    pub(super) xattr_names: Vec<Vec<u8>>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        let mut names: Vec<Vec<u8>> = [
            &b"a"[..],
            b"b",
            b"c",
            b"main.rs",
            b".git",
            b"...",
            b"-rf",
            b" ",
            b"a\nb",
            b"%s%n",
            b"\\",
            b"'\"$(x)",
            b"\xff\xfe\x80",
            b"\xc3",
            "\u{fc}n\u{ef}".as_bytes(),
            "u\u{308}".as_bytes(),
            b"\x01\x7f",
        ]
        .iter()
        .map(|name| name.to_vec())
        .collect();
        names.push(vec![b'x'; 255]);
        names.push(vec![0xe9; 255]);
        let mut xattr_names: Vec<Vec<u8>> =
            (0..6).map(|i| format!("user.n{i}").into_bytes()).collect();
        xattr_names.push([b"user.".to_vec(), vec![b'y'; 250]].concat());
        xattr_names.push(b"user.\xff\xfe".to_vec());
        Self {
            random: SmallRng::seed_from_u64(seed),
            names,
            xattr_names,
        }
    }

    pub(crate) fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    pub(crate) fn next(&mut self, tree: &Tree) -> Op {
        let crowded = tree.nodes.len() > MANY_NODES;
        let dice = self.random.random_range(0..100);
        match dice {
            0..=17 if !crowded => self.make(tree),
            0..=27 => {
                let (dir, name) = self.place(tree);
                if self.chance(4) {
                    Op::Rmdir { dir, name }
                } else {
                    Op::Unlink { dir, name }
                }
            }
            28..=35 => {
                let (from, to) = (self.place(tree), self.place(tree));
                let (noreplace, exchange) = (self.chance(5), self.chance(5));
                Op::Rename {
                    from,
                    to,
                    noreplace,
                    exchange: exchange && !noreplace,
                }
            }
            36..=39 => {
                let node = self.node(tree);
                let (dir, name) = self.place(tree);
                Op::Link { node, dir, name }
            }
            40..=54 => self.write(tree),
            55..=59 => {
                let (node, offset, len) = (
                    self.file(tree),
                    self.offset(),
                    self.random.random_range(0..200_000),
                );
                Op::Read { node, offset, len }
            }
            60..=67 => self.setattr(tree),
            68..=71 => self.fallocate(tree),
            72..=74 => Op::Seek {
                node: self.file(tree),
                offset: self.offset(),
                hole: self.random.random(),
            },
            75..=78 => self.copy(tree),
            79..=84 => self.xattr(tree),
            85..=87 => Op::Readdir {
                dir: self.dir(tree),
                page: self.random.random_range(1..40),
            },
            88..=91 => {
                let (dir, name) = self.place(tree);
                Op::Lookup { dir, name }
            }
            92..=93 => self.readlink(tree),
            94 => Op::Fsync {
                node: self.node(tree),
                datasync: self.random.random(),
            },
            95..=97 => self.retain_or_forget(tree),
            _ => Op::Getattr {
                node: self.node(tree),
            },
        }
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            None
        } else {
            Some(from[self.random.random_range(0..from.len())].clone())
        }
    }

    fn name(&mut self) -> Vec<u8> {
        if self.chance(200) {
            return vec![b'z'; 256];
        }
        let names = self.names.clone();
        self.pick(&names).unwrap_or_default()
    }

    fn chosen(&mut self, tree: &Tree, wanted: impl Fn(&Body) -> bool) -> Option<Id> {
        let found: Vec<Id> = tree
            .nodes
            .iter()
            .filter(|(_, n)| wanted(&n.body))
            .map(|(&id, _)| id)
            .collect();
        self.pick(&found)
    }

    /// Mostly an inode that is there; sometimes one of the wrong kind, or one long gone.
    pub(super) fn node(&mut self, tree: &Tree) -> Id {
        let any = self.chosen(tree, |_| true).unwrap_or(ROOT);
        if self.chance(60) {
            self.gone(tree).unwrap_or(any)
        } else {
            any
        }
    }

    /// An id that the model has given out and buried.
    fn gone(&mut self, tree: &Tree) -> Option<Id> {
        let last = *tree.nodes.keys().next_back()?;
        let gone: Vec<Id> = (ROOT..last)
            .filter(|id| !tree.nodes.contains_key(id))
            .collect();
        self.pick(&gone)
    }

    pub(super) fn file(&mut self, tree: &Tree) -> Id {
        match self.chosen(tree, |body| matches!(body, Body::File(_))) {
            Some(id) => id,
            None => ROOT,
        }
    }

    pub(super) fn dir(&mut self, tree: &Tree) -> Id {
        if self.chance(50) {
            return self
                .chosen(tree, |body| !matches!(body, Body::Dir(_)))
                .unwrap_or(ROOT);
        }
        if self.chance(3) {
            ROOT
        } else {
            self.chosen(tree, |body| matches!(body, Body::Dir(_)))
                .unwrap_or(ROOT)
        }
    }

    /// A directory and a name; as often as not one that is there.
    fn place(&mut self, tree: &Tree) -> (Id, Vec<u8>) {
        let dir = self.dir(tree);
        if let (Ok(entries), true) = (tree.entries(dir), self.chance(2)) {
            let present: Vec<Vec<u8>> = entries.keys().cloned().collect();
            if let Some(name) = self.pick(&present) {
                return (dir, name);
            }
        }
        (dir, self.name())
    }

    pub(super) fn owner(&mut self) -> (u32, u32) {
        let ids = [0, 1, 1000, 65_534, u32::MAX - 1];
        (self.pick(&ids).unwrap_or(0), self.pick(&ids).unwrap_or(0))
    }

    fn make(&mut self, tree: &Tree) -> Op {
        let (dir, name) = self.place(tree);
        let (uid, gid) = self.owner();
        let mode = self.random.random_range(0..0o1000);
        match self.random.random_range(0..20) {
            0..=4 => Op::Mkdir {
                dir,
                name,
                mode,
                uid,
                gid,
            },
            5..=6 => {
                let len = *[1, 20, 300, 4095]
                    .get(self.random.random_range(0..4))
                    .unwrap_or(&1);
                let target = (0..len)
                    .map(|_| self.random.random_range(1..=255u8))
                    .collect();
                Op::Symlink {
                    dir,
                    name,
                    target,
                    uid,
                    gid,
                }
            }
            7 => Op::Make {
                dir,
                name,
                kind: Kind::Fifo,
                mode,
                rdev: 0,
                uid,
                gid,
            },
            8 => Op::Make {
                dir,
                name,
                kind: Kind::Socket,
                mode,
                rdev: 0,
                uid,
                gid,
            },
            9 => {
                let kind = if self.chance(2) {
                    Kind::Char
                } else {
                    Kind::Block
                };
                Op::Make {
                    dir,
                    name,
                    kind,
                    mode,
                    rdev: 0x0103,
                    uid,
                    gid,
                }
            }
            _ => Op::Make {
                dir,
                name,
                kind: Kind::File,
                mode,
                rdev: 0,
                uid,
                gid,
            },
        }
    }

    fn readlink(&mut self, tree: &Tree) -> Op {
        let link = self.chosen(tree, |body| matches!(body, Body::Symlink(_)));
        Op::Readlink {
            node: link.unwrap_or_else(|| self.node(tree)),
        }
    }

    fn retain_or_forget(&mut self, tree: &Tree) -> Op {
        let retained: Vec<(Id, u64)> = tree
            .nodes
            .iter()
            .filter(|(id, n)| **id != ROOT && n.retained > 0)
            .map(|(&id, n)| (id, n.retained))
            .collect();
        if let (Some((node, times)), true) = (self.pick(&retained), self.chance(2)) {
            return Op::Forget {
                node,
                times: if self.chance(3) { 1 } else { times },
            };
        }
        match self.chosen(tree, |_| true) {
            Some(node) if node != ROOT => Op::Retain {
                node,
                times: self.random.random_range(1..3),
            },
            _ => Op::Getattr { node: ROOT },
        }
    }
}
