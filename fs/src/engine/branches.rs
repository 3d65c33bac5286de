//! Branches: copies of a directory that share its content, below one directory of the volume, [`BRANCHES`].
//!
//! They are directories like any other to everybody else; what is made here is only where they lie.

use weldrfs_meta::{EntryChange, Ino, MetaError, Order, ROOT_INO, kind_of_mode};

use super::snapshots::Aside;
use super::{Attr, Caller, Engine, Kind, Result};
use crate::error::FsError;

/// Where branches lie, below the root.
pub const BRANCHES: &str = ".weldr/branches";
/// So that git, in a project that is the root of its volume, does not take branches for a part of it.
const IGNORE: (&[u8], &[u8]) = (b".gitignore", b"*\n");
/// Permission bits of the directories above branches.
const DIR_MODE: u32 = 0o755;
const IGNORE_MODE: u32 = 0o644;
/// Where snapshots are shown.
const SNAPSHOTS: &str = ".snapshots";
/// Entries that are looked at, at a time.
const BATCH: usize = 1000;

/// A branch, made or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branched {
    /// Its directory.
    pub attr: Attr,
    /// Whether it was made.
    pub is_new: bool,
}

impl Engine {
    /// Copies the directory `project` of the present or of a snapshot (a path below the root; empty: all but the branches)
    /// to the branch `name`, or finds the branch of that name.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EINVAL` for what cannot be a branch, `ENAMETOOLONG`, `EROFS`.
    pub fn branch(&self, project: &str, name: &str) -> Result<Branched> {
        self.branch_on(&Order::default(), project, name)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `ECANCELED`.
    pub fn branch_on(&self, order: &Order, project: &str, name: &str) -> Result<Branched> {
        let inside = in_its_state(project);
        let is_above = BRANCHES.starts_with(&format!("{inside}/")) || inside == BRANCHES;
        if is_above || !is_name(name) {
            return Err(FsError::Meta(MetaError::Invalid(
                "the directory of branches is no project, and no branch begins with a dot",
            )));
        }
        if let Some(attr) = self.find_branch(name)? {
            return Ok(Branched {
                attr,
                is_new: false,
            });
        }
        let source = self.walk(project.as_bytes())?;
        if source.kind != Kind::Dir {
            return Err(MetaError::NotDir.into());
        }
        let parent = self.branches_dir()?;
        let left_out = match inside.is_empty() {
            true => self.find_path(&format!("{project}/{BRANCHES}"))?,
            false => None,
        };
        let left_out = left_out.map(|dir| dir.ino);
        let made = self.clone_without(order, source.ino, left_out, parent, name.as_bytes());
        match made {
            Ok(attr) => Ok(Branched { attr, is_new: true }),
            // Somebody else made it meanwhile.
            Err(FsError::Meta(MetaError::Exists)) => Ok(Branched {
                attr: self.find_branch(name)?.ok_or(MetaError::Exists)?,
                is_new: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// The names of the branches, in no order; those that are not UTF-8 are none.
    ///
    /// # Errors
    /// `EIO`.
    pub fn branches(&self) -> Result<Vec<String>> {
        let Some(dir) = self.find_path(BRANCHES)? else {
            return Ok(Vec::new());
        };
        let (mut found, mut cookie) = (Vec::new(), 0);
        loop {
            let entries = self.readdir(dir.ino, cookie, BATCH)?;
            let Some(last) = entries.last() else {
                return Ok(found);
            };
            cookie = last.cookie;
            let dirs = entries.iter().filter(|entry| entry.kind == Kind::Dir);
            found.extend(dirs.filter_map(|dir| String::from_utf8(dir.name.to_vec()).ok()));
        }
    }

    /// The directory of the branch `name`.
    ///
    /// # Errors
    /// `ENOTDIR` when something else has its name.
    pub fn find_branch(&self, name: &str) -> Result<Option<Attr>> {
        if !is_name(name) {
            return Ok(None);
        }
        self.find_path(&format!("{BRANCHES}/{name}"))
    }

    /// The directory that branches are made in, made if it is missing.
    fn branches_dir(&self) -> Result<Ino> {
        let root = self.getattr(ROOT_INO)?;
        let owner = Caller {
            uid: root.uid,
            gid: root.gid,
        };
        let mut at = root;
        for part in BRANCHES.split('/') {
            let name = part.as_bytes();
            at = match self.find(at.ino, name)? {
                Some(found) if found.kind == Kind::Dir => found,
                Some(_) => return Err(MetaError::NotDir.into()),
                None => {
                    let made = self.mkdir(at.ino, name, DIR_MODE, &owner);
                    self.made_aside(at.ino, name, made)?
                }
            };
        }
        if self.find(at.ino, IGNORE.0)?.is_none() {
            let made = self.mknod(at.ino, IGNORE.0, Kind::File, IGNORE_MODE, 0, &owner);
            let made = self.made_aside(at.ino, IGNORE.0, made)?;
            if made.size == 0 {
                self.write(made.ino, 0, IGNORE.1, false)?;
            }
        }
        Ok(at.ino)
    }

    /// Tells of what was made without a request for it; what somebody else made meanwhile is as good.
    fn made_aside(&self, parent: Ino, name: &[u8], made: Result<Attr>) -> Result<Attr> {
        let made = match made {
            Err(FsError::Meta(MetaError::Exists)) => return self.lookup(parent, name),
            made => made?,
        };
        self.tell(Aside {
            entries: vec![EntryChange {
                dir: parent,
                name: name.into(),
                was: None,
                is: Some((made.ino, kind_of_mode(made.kind.mode_bits()))),
            }],
            inodes: vec![parent],
        });
        Ok(made)
    }

    /// The directory at a path, if there is one.
    fn find_path(&self, path: &str) -> Result<Option<Attr>> {
        match self.walk(path.as_bytes()) {
            Ok(found) if found.kind == Kind::Dir => Ok(Some(found)),
            Ok(_) => Err(MetaError::NotDir.into()),
            Err(FsError::Meta(MetaError::NotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a branch may be called so.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// The part of a path that says where in the tree it is, without what says of which snapshot.
fn in_its_state(path: &str) -> &str {
    let path = path.trim_matches('/');
    match path.split_once('/') {
        Some((SNAPSHOTS, rest)) => rest.split_once('/').map_or("", |(_, inside)| inside),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_snapshot_is_the_same_as_in_the_present() {
        for (path, inside) in [
            ("", ""),
            (".snapshots/a", ""),
            (".snapshots/a/b/c", "b/c"),
            (".snapshots", ".snapshots"),
            ("a/b", "a/b"),
        ] {
            assert_eq!(in_its_state(path), inside, "{path}");
        }
    }
}
