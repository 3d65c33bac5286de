//! One inode in memory: attributes, and content, entries or target.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use rustc_hash::FxHashMap;

use super::tree::Result;

/// Cookies of real entries begin behind those of `.` and `..`.
const FIRST_COOKIE: u64 = 3;

/// An inode.
pub(super) struct Node {
    pub(super) attr: FileAttr,
    pub(super) body: Body,
    /// How often the kernel was given this inode and has not forgotten it.
    pub(super) lookups: AtomicU64,
}

/// What it holds.
pub(super) enum Body {
    File(Vec<u8>),
    Dir(Dir),
    Link(Vec<u8>),
    Special,
}

/// The entries of a directory: by name with cookie and inode, and in order.
pub(super) struct Dir {
    pub(super) by_name: FxHashMap<Vec<u8>, (u64, u64)>,
    pub(super) by_cookie: BTreeMap<u64, Vec<u8>>,
    pub(super) next_cookie: u64,
    pub(super) parent: u64,
}

/// What is to be made.
pub(crate) struct New<'a> {
    pub(crate) kind: FileType,
    pub(crate) perm: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) target: Option<&'a [u8]>,
}

/// Changes of attributes.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) perm: Option<u16>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<SystemTime>,
    pub(crate) mtime: Option<SystemTime>,
}

impl Node {
    pub(super) fn new(ino: u64, parent: u64, new: &New<'_>) -> Self {
        let now = SystemTime::now();
        let is_dir = new.kind == FileType::Directory;
        let body = match (new.kind, new.target) {
            (FileType::Directory, _) => Body::Dir(Dir {
                by_name: FxHashMap::default(),
                by_cookie: BTreeMap::new(),
                next_cookie: FIRST_COOKIE,
                parent,
            }),
            (FileType::Symlink, target) => Body::Link(target.unwrap_or_default().to_vec()),
            (FileType::RegularFile, _) => Body::File(Vec::new()),
            _ => Body::Special,
        };
        let attr = FileAttr {
            ino: INodeNo(ino),
            size: if is_dir {
                4096
            } else {
                new.target.map_or(0, |t| t.len() as u64)
            },
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind: new.kind,
            perm: new.perm,
            nlink: if is_dir { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            blksize: 4096,
            flags: 0,
        };
        Self {
            attr,
            body,
            lookups: AtomicU64::new(0),
        }
    }

    pub(super) fn dir(&self) -> Result<&Dir> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn dir_mut(&mut self) -> Result<&mut Dir> {
        match &mut self.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Notes how long the content is now.
    pub(super) fn resized(&mut self) {
        if let Body::File(content) = &self.body {
            self.attr.size = content.len() as u64;
            self.attr.blocks = self.attr.size.div_ceil(512);
        }
    }

    pub(super) fn changed(&mut self) {
        self.attr.mtime = SystemTime::now();
        self.attr.ctime = self.attr.mtime;
    }
}
