//! Random operations on what inodes hold: bytes, attributes, extended attributes.

use super::generate::Generator;
use super::ops::{Change, Falloc, Id, Kind, Op, Time, XattrWhen};
use super::tree::Tree;
use rand::Rng;

const GIANT: u64 = 10 << 30;
const SUID_BITS: u32 = 0o6000;

impl Generator {
    pub(super) fn offset(&mut self) -> u64 {
        match self.random.random_range(0..20) {
            0 => GIANT + self.random.random_range(0..10_000),
            1..=6 => self.random.random_range(0..64) * 4096,
            7..=12 => self.random.random_range(0..300_000),
            _ => self.random.random_range(0..5_000),
        }
    }

    fn data(&mut self) -> Vec<u8> {
        let len = match self.random.random_range(0..10) {
            0 => self.random.random_range(0..300_000),
            1..=3 => 4096 * self.random.random_range(1..8),
            _ => self.random.random_range(0..3_000),
        };
        let first: u8 = self.random.random();
        match self.random.random_range(0..3) {
            0 => (0..len).map(|_| self.random.random()).collect(),
            1 => vec![first; len],
            _ => (0..len)
                .map(|i| first.wrapping_add((i % 251) as u8))
                .collect(),
        }
    }

    pub(super) fn write(&mut self, tree: &Tree) -> Op {
        let node = self.file(tree);
        let end = tree.seen(node).map_or(0, |seen| seen.size);
        let offset = if self.chance(3) { end } else { self.offset() };
        Op::Write {
            node,
            offset,
            data: self.data(),
            kill_suid: self.random.random(),
        }
    }

    pub(super) fn setattr(&mut self, tree: &Tree) -> Op {
        if self.chance(3) {
            let size = Some(if self.chance(4) { 0 } else { self.offset() });
            let node = if self.chance(30) {
                self.dir(tree)
            } else {
                self.file(tree)
            };
            return Op::Setattr {
                node,
                change: Change {
                    size,
                    kill_suid: self.random.random(),
                    ..Change::default()
                },
            };
        }
        let node = self.node(tree);
        let mut change = Change::default();
        let has_suid = tree
            .seen(node)
            .is_some_and(|seen| seen.mode & SUID_BITS != 0);
        // Linux refuses chmod of a symlink before any file system is asked.
        let is_link = tree
            .seen(node)
            .is_some_and(|seen| seen.kind == Kind::Symlink);
        if self.chance(2) && !is_link {
            change.mode = Some(self.random.random_range(0..0o10000));
        }
        // chown of a set-uid file: the kernel says separately whether the bits go.
        if self.chance(3) && !has_suid && change.mode.is_none() {
            let (uid, gid) = self.owner();
            (change.uid, change.gid) = (Some(uid), Some(gid));
        }
        if self.chance(2) {
            change.mtime = Some(self.time());
        }
        if self.chance(2)
            || (change.mode.is_none() && change.uid.is_none() && change.mtime.is_none())
        {
            change.atime = Some(self.time());
        }
        Op::Setattr { node, change }
    }

    fn time(&mut self) -> Time {
        if self.chance(4) {
            Time::Now
        } else {
            Time::At(
                self.random
                    .random_range(-2_000_000_000..4_000_000_000_000_000_000),
            )
        }
    }

    pub(super) fn fallocate(&mut self, tree: &Tree) -> Op {
        let node = self.file(tree);
        if !self.has_no_suid(tree, node) {
            return Op::Getattr { node };
        }
        let mode = match self.random.random_range(0..5) {
            0 => Falloc::Allocate { keep_size: true },
            1 => Falloc::Allocate { keep_size: false },
            2 => Falloc::ZeroRange {
                keep_size: self.random.random(),
            },
            _ => Falloc::PunchHole,
        };
        // Space is promised only in amounts that any machine has.
        let offset = self.offset() % 1_000_000;
        Op::Fallocate {
            node,
            mode,
            offset,
            len: self.random.random_range(1..200_000),
        }
    }

    /// Whether it is a regular file whose set-uid bits a write behind the kernel's back could clear.
    fn has_no_suid(&self, tree: &Tree, node: Id) -> bool {
        tree.seen(node)
            .is_some_and(|seen| seen.kind == Kind::File && seen.mode & SUID_BITS == 0)
    }

    pub(super) fn copy(&mut self, tree: &Tree) -> Op {
        let (from, to) = (self.file(tree), self.file(tree));
        if !self.has_no_suid(tree, from) || !self.has_no_suid(tree, to) {
            return Op::Getattr { node: from };
        }
        let (start, end) = (self.offset(), self.offset());
        Op::CopyRange {
            from: (from, start),
            to: (to, end),
            len: self.random.random_range(1..400_000),
        }
    }

    pub(super) fn xattr(&mut self, tree: &Tree) -> Op {
        let node = self.node(tree);
        let names = self.xattr_names.clone();
        let mut name = self.pick(&names).unwrap_or_default();
        // Linux allows user.* on files and directories only.
        if !tree
            .seen(node)
            .is_some_and(|seen| matches!(seen.kind, Kind::File | Kind::Dir))
        {
            name = [b"trusted.", &name["user.".len()..]].concat();
            name.truncate(255);
        }
        match self.random.random_range(0..8) {
            0..=3 => {
                let len = [0, 5, 300, 20_000, 65_536, 65_537];
                let value = vec![self.random.random(); self.pick(&len).unwrap_or(1)];
                let when = [
                    XattrWhen::Any,
                    XattrWhen::Any,
                    XattrWhen::Create,
                    XattrWhen::Replace,
                ];
                Op::Setxattr {
                    node,
                    name,
                    value,
                    when: self.pick(&when).unwrap_or(XattrWhen::Any),
                }
            }
            4..=5 => Op::Getxattr { node, name },
            6 => Op::Listxattr { node },
            _ => Op::Removexattr { node, name },
        }
    }
}
