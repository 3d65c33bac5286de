//! A whole tree as it is seen from outside, and how two of them differ.

use crate::support::calls::runs;
use rustix::fs::{Mode, OFlags, XattrFlags};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Differences that are shown.
const SHOWN: usize = 8;
const XATTR_ROOM: usize = 8 << 10;
/// A time that is further from now than this was set by a call.
const NEAR_NS: i128 = 86_400 * 1_000_000_000;

/// A time: what a call set, or when the call was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Set(i128),
    OfACall,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    nlink: u64,
    owner: (u32, u32),
    /// Not of directories: how large they are is everybody's own business.
    size: u64,
    rdev: u64,
    accessed: When,
    modified: When,
    /// The first path of the same inode.
    same_as: PathBuf,
    content: Vec<(u8, usize)>,
    target: Option<PathBuf>,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// Path to entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<PathBuf, Entry>);

/// Times of every inode by path: what a call touched shows in the difference of two.
pub(crate) struct Times(BTreeMap<PathBuf, (u64, [i128; 3])>);

/// Which of atime, mtime and ctime of an inode changed; or that it is new.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    New,
    Changed([bool; 3]),
}

fn ns(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn when(at: i128) -> When {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as i128);
    match (at - now).abs() < NEAR_NS {
        true => When::OfACall,
        false => When::Set(at),
    }
}

/// Every path below `root`, itself included, in order.
fn walk(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let seen = fs::symlink_metadata(&path)
            .unwrap_or_else(|error| panic!("{} is listed and not there: {error}", path.display()));
        if seen.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory can be listed");
            todo.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        }
        let below = path.strip_prefix(root).expect("it is below the root");
        found.push((below.to_owned(), seen));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0u8; XATTR_ROOM];
    let n = rustix::fs::llistxattr(path, &mut list[..]).expect("attributes can be listed");
    let names = list[..n].split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut all: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let mut value = vec![0u8; XATTR_ROOM];
            let n = rustix::fs::lgetxattr(path, name, &mut value[..])
                .expect("an attribute that is listed can be read");
            (
                String::from_utf8_lossy(name).into_owned(),
                value[..n].to_vec(),
            )
        })
        .collect();
    all.sort();
    all
}

fn content(path: &Path) -> Vec<(u8, usize)> {
    // Not through std: reading must not count as an access.
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).expect("a file can be opened");
    let mut bytes = Vec::new();
    fs::File::from(opened)
        .read_to_end(&mut bytes)
        .expect("a file can be read");
    runs(&bytes)
}

impl Tree {
    pub(crate) fn of(root: &Path) -> Self {
        let mut first: HashMap<u64, PathBuf> = HashMap::new();
        let entries = walk(root).into_iter().map(|(below, seen)| {
            let path = root.join(&below);
            let same_as = first.entry(seen.ino()).or_insert_with(|| below.clone());
            let kind = seen.file_type();
            let entry = Entry {
                mode: seen.mode(),
                nlink: seen.nlink(),
                owner: (seen.uid(), seen.gid()),
                size: if seen.is_dir() { 0 } else { seen.size() },
                rdev: match kind.is_char_device() || kind.is_block_device() {
                    true => seen.rdev(),
                    false => 0,
                },
                accessed: when(ns(seen.atime(), seen.atime_nsec())),
                modified: match kind.is_fifo() {
                    true => When::OfACall,
                    false => when(ns(seen.mtime(), seen.mtime_nsec())),
                },
                same_as: same_as.clone(),
                content: if kind.is_file() {
                    content(&path)
                } else {
                    Vec::new()
                },
                target: kind
                    .is_symlink()
                    .then(|| fs::read_link(&path).expect("readlink")),
                xattrs: xattrs(&path),
            };
            (below, entry)
        });
        Self(entries.collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first differences in words; empty when there are none.
    pub(crate) fn differences(disk: &Self, mount: &Self) -> Vec<String> {
        differences(&disk.0, &mount.0)
    }
}

/// Every path below `root`, itself included; those of folders end with a slash.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let line = |(path, seen): (PathBuf, fs::Metadata)| {
        let slash = if seen.is_dir() { "/" } else { "" };
        format!("{}{slash}", path.display())
    };
    walk(root).into_iter().map(line).collect()
}

impl Times {
    pub(crate) fn of(root: &Path) -> Self {
        // A named pipe's own times move on ext4 when bytes go through it, which is known to differ.
        let entries = walk(root)
            .into_iter()
            .filter(|(_, seen)| !seen.file_type().is_fifo());
        let entries = entries.map(|(below, seen)| {
            let times = [
                ns(seen.atime(), seen.atime_nsec()),
                ns(seen.mtime(), seen.mtime_nsec()),
                ns(seen.ctime(), seen.ctime_nsec()),
            ];
            (below, (seen.ino(), times))
        });
        Self(entries.collect())
    }

    /// What changed between two looks.
    pub(crate) fn since(self, before: &Self) -> BTreeMap<PathBuf, Touched> {
        let old: HashMap<u64, [i128; 3]> = before.0.values().copied().collect();
        let touched = |(path, (ino, now)): (PathBuf, (u64, [i128; 3]))| {
            let what = match old.get(&ino) {
                None => Touched::New,
                Some(old) => Touched::Changed([0, 1, 2].map(|i| old[i] != now[i])),
            };
            (path, what)
        };
        self.0
            .into_iter()
            .map(touched)
            .filter(|(_, what)| *what != Touched::Changed([false; 3]))
            .collect()
    }
}

/// The first differences of two maps in words.
pub(crate) fn differences<T: std::fmt::Debug + PartialEq>(
    disk: &BTreeMap<PathBuf, T>,
    mount: &BTreeMap<PathBuf, T>,
) -> Vec<String> {
    let mut paths: Vec<&PathBuf> = disk.keys().chain(mount.keys()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| disk.get(*path) != mount.get(*path))
        .map(|path| {
            format!(
                "/{}:\n      on the disk  {:?}\n      on the mount {:?}",
                path.display(),
                disk.get(path),
                mount.get(path)
            )
        })
        .take(SHOWN)
        .collect()
}

/// Gives the root of a tree an attribute that both sides have, so that comparing attributes is known to see some.
pub(crate) fn mark(root: &Path) {
    rustix::fs::setxattr(root, "user.mark", b"both", XattrFlags::empty())
        .expect("an attribute can be set");
}
