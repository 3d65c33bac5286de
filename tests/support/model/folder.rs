//! Any folder as a subject of the comparison, through system calls: a mount, or the local disk.
//!
//! Every inode met is held by an `O_PATH` descriptor, as the kernel holds what it looked up.

use super::compare::Subject;
use super::ops::{Answer, Id, Kind, Observed, Op, Seen, Stamp};
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const SMALL_XATTR: usize = 1_000;
pub(super) const NS: i64 = 1_000_000_000;

struct Held {
    path_fd: OwnedFd,
    retained: u64,
}

/// Unmounts and mounts again, or does nothing on a local disk.
pub(crate) type Remount = Box<dyn FnMut(bool)>;

/// A folder, empty at the start.
pub(crate) struct FolderSubject {
    root: PathBuf,
    held: HashMap<u64, Held>,
    root_number: u64,
    remount: Remount,
    /// A local disk: it reuses inode numbers and has small limits on xattrs.
    local_disk: bool,
}

impl FolderSubject {
    pub(crate) fn new(root: &Path, local_disk: bool, remount: Remount) -> Self {
        // Modes are compared as asked for.
        rustix::process::umask(Mode::empty());
        let mut subject = Self {
            root: root.to_owned(),
            held: HashMap::new(),
            root_number: 0,
            remount,
            local_disk,
        };
        fs::chmod(root, Mode::from(0o755)).expect("the root's mode can be set");
        subject.hold_root();
        subject
    }

    fn hold_root(&mut self) {
        let fd = open_path(&self.root).expect("the root can be opened");
        self.root_number = fs::fstat(&fd).expect("fstat works").st_ino;
        self.held.insert(
            1,
            Held {
                path_fd: fd,
                retained: 1,
            },
        );
    }

    /// Meets every inode again, as a kernel does that starts with nothing looked up.
    fn hold_below(&mut self, dir: &OwnedFd) {
        let listed = fs::open(
            magic(dir),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .and_then(fs::Dir::new)
        .expect("a directory can be listed");
        for entry in listed {
            let entry = entry.expect("a directory can be listed");
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = OFlags::PATH | OFlags::NOFOLLOW;
            let found =
                fs::openat(dir, name, path, Mode::empty()).expect("what is listed can be opened");
            let stat = fs::fstat(&found).expect("fstat works");
            if kind_of(&stat) == Kind::Dir {
                self.hold_below(&found);
            }
            self.held.insert(
                stat.st_ino,
                Held {
                    path_fd: found,
                    retained: 0,
                },
            );
        }
    }

    /// What is held under a number, unless it has no name left and nobody retains it.
    pub(super) fn get(&mut self, number: u64) -> Result<&OwnedFd, Errno> {
        let held = self.held.get(&number).ok_or(Errno::NOENT)?;
        if held.retained == 0 && fs::fstat(&held.path_fd)?.st_nlink == 0 {
            self.held.remove(&number);
            return Err(Errno::NOENT);
        }
        self.held
            .get(&number)
            .map(|held| &held.path_fd)
            .ok_or(Errno::NOENT)
    }

    fn dir(&mut self, number: u64) -> Result<&OwnedFd, Errno> {
        let fd = self.get(number)?;
        if kind_of(&fs::fstat(fd)?) == Kind::Dir {
            Ok(fd)
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// A descriptor to read and write with.
    pub(super) fn file(&mut self, number: u64, write: bool) -> Result<OwnedFd, Errno> {
        let fd = self.get(number)?;
        match kind_of(&fs::fstat(fd)?) {
            Kind::File => fs::open(
                magic(fd),
                if write { OFlags::RDWR } else { OFlags::RDONLY },
                Mode::empty(),
            ),
            Kind::Dir => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    fn seen_at(&mut self, dir: u64, name: &[u8]) -> Result<Answer, Errno> {
        let found = fs::openat(
            self.dir(dir)?,
            OsStr::from_bytes(name),
            OFlags::PATH | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        let stat = fs::fstat(&found)?;
        let number = stat.st_ino;
        let retained = self.held.get(&number).map_or(0, |held| held.retained);
        self.held.insert(
            number,
            Held {
                path_fd: found,
                retained,
            },
        );
        Ok(seen(&stat, number))
    }

    fn make(
        &mut self,
        dir: u64,
        name: &[u8],
        owner: (u32, u32),
        call: impl Fn(&OwnedFd, &OsStr) -> Result<(), Errno>,
    ) -> Result<Answer, Errno> {
        let parent = self.dir(dir)?;
        // The calls run as root; a set-gid directory gives its own group.
        let stat = fs::fstat(parent)?;
        let gid = if stat.st_mode & 0o2000 != 0 {
            stat.st_gid
        } else {
            owner.1
        };
        let name_text = OsStr::from_bytes(name);
        call(parent, name_text)?;
        let parent = self.dir(dir)?;
        let (uid, gid) = (fs::Uid::from_raw(owner.0), fs::Gid::from_raw(gid));
        fs::chownat(
            parent,
            name_text,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        self.seen_at(dir, name)
    }

    fn perform(&mut self, op: &Op, number: &dyn Fn(Id) -> u64) -> Result<Answer, Errno> {
        match op {
            Op::Lookup { dir, name } => self.seen_at(number(*dir), name),
            Op::Getattr { node } => {
                let number = number(*node);
                let stat = fs::fstat(self.get(number)?)?;
                Ok(seen(&stat, number))
            }
            Op::Setattr { node, change } => self.setattr(number(*node), change),
            Op::Readlink { node } => {
                let fd = self.get(number(*node))?;
                if kind_of(&fs::fstat(fd)?) != Kind::Symlink {
                    return Err(Errno::INVAL);
                }
                Ok(Answer::Bytes(
                    fs::readlinkat(fd, "", Vec::new())?.into_bytes(),
                ))
            }
            Op::Make {
                dir,
                name,
                kind,
                mode,
                rdev,
                uid,
                gid,
            } => self.make(number(*dir), name, (*uid, *gid), |parent, name| {
                let dev = if matches!(kind, Kind::Char | Kind::Block) {
                    u64::from(*rdev)
                } else {
                    0
                };
                fs::mknodat(parent, name, file_type(*kind), Mode::from(*mode), dev)
            }),
            Op::Mkdir {
                dir,
                name,
                mode,
                uid,
                gid,
            } => self.make(number(*dir), name, (*uid, *gid), |parent, name| {
                fs::mkdirat(parent, name, Mode::from(*mode))
            }),
            Op::Symlink {
                dir,
                name,
                target,
                uid,
                gid,
            } => self.make(number(*dir), name, (*uid, *gid), |parent, name| {
                fs::symlinkat(OsStr::from_bytes(target), parent, name)
            }),
            Op::Link { node, dir, name } => {
                let (node, dir) = (number(*node), number(*dir));
                self.dir(dir)?;
                self.get(node)?;
                let (old, parent) = (&self.held[&node].path_fd, &self.held[&dir].path_fd);
                fs::linkat(
                    old,
                    "",
                    parent,
                    OsStr::from_bytes(name),
                    AtFlags::EMPTY_PATH,
                )?;
                self.seen_at(dir, name)
            }
            Op::Unlink { dir, name } => done(fs::unlinkat(
                self.dir(number(*dir))?,
                OsStr::from_bytes(name),
                AtFlags::empty(),
            )),
            Op::Rmdir { dir, name } => done(fs::unlinkat(
                self.dir(number(*dir))?,
                OsStr::from_bytes(name),
                AtFlags::REMOVEDIR,
            )),
            Op::Rename {
                from,
                to,
                noreplace,
                exchange,
            } => {
                let dirs = (number(from.0), number(to.0));
                self.dir(dirs.0)?;
                self.dir(dirs.1)?;
                let mut flags = fs::RenameFlags::empty();
                flags.set(fs::RenameFlags::NOREPLACE, *noreplace);
                flags.set(fs::RenameFlags::EXCHANGE, *exchange);
                let (old, new) = (&self.held[&dirs.0].path_fd, &self.held[&dirs.1].path_fd);
                done(fs::renameat_with(
                    old,
                    OsStr::from_bytes(&from.1),
                    new,
                    OsStr::from_bytes(&to.1),
                    flags,
                ))
            }
            Op::Retain { node, times } => {
                self.get(number(*node))?;
                if let Some(held) = self.held.get_mut(&number(*node)) {
                    held.retained += times;
                }
                Ok(Answer::Done)
            }
            Op::Forget { node, times } => {
                self.get(number(*node))?;
                if let Some(held) = self.held.get_mut(&number(*node)) {
                    held.retained = held.retained.saturating_sub(*times);
                }
                let _ = self.get(number(*node));
                Ok(Answer::Done)
            }
            Op::Readdir { dir, .. } => self.readdir(number(*dir)),
            Op::Fsync { node, datasync } => self.fsync(number(*node), *datasync),
            Op::Setxattr { .. }
            | Op::Getxattr { .. }
            | Op::Listxattr { .. }
            | Op::Removexattr { .. } => self.xattr(op, number),
            _ => self.content(op, number),
        }
    }

    fn readdir(&mut self, number: u64) -> Result<Answer, Errno> {
        let opened = fs::open(
            magic(self.dir(number)?),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        let mut found = BTreeMap::new();
        for entry in fs::Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = fs::statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            let listed = found.insert(name, (stat.st_ino, kind_of(&stat)));
            assert!(
                listed.is_none(),
                "readdir lists {:?} twice",
                entry.file_name()
            );
            assert_eq!(
                entry.ino(),
                stat.st_ino,
                "readdir and stat of {:?} differ",
                entry.file_name()
            );
        }
        Ok(Answer::Entries(found))
    }
}

impl Subject for FolderSubject {
    fn run(&mut self, op: &Op, number: &dyn Fn(Id) -> u64) -> Observed {
        let root = self.root_number;
        self.perform(op, number)
            .map(|answer| as_root(answer, root))
            .map_err(Errno::raw_os_error)
    }

    fn reopen(&mut self, orderly: bool) {
        self.held.clear();
        (self.remount)(orderly);
        self.hold_root();
        let root = open_path(&self.root).expect("the root can be opened");
        self.hold_below(&root);
    }

    fn behind_kernel(&self) -> bool {
        true
    }

    fn never_reuses_numbers(&self) -> bool {
        !self.local_disk
    }

    fn may_refuse(&self, op: &Op, errno: i32) -> bool {
        let large = matches!(op, Op::Setxattr { value, .. } if value.len() > SMALL_XATTR);
        self.local_disk && large && matches!(errno, libc::ENOSPC | libc::E2BIG | libc::ERANGE)
    }
}

/// The model calls the root 1, whatever number it has here.
fn as_root(answer: Answer, root: u64) -> Answer {
    match answer {
        Answer::Attr(seen) if seen.id == root => Answer::Attr(Seen { id: 1, ..seen }),
        other => other,
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
}

pub(super) fn magic(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) fn done(result: Result<(), Errno>) -> Result<Answer, Errno> {
    result.map(|()| Answer::Done)
}

fn file_type(kind: Kind) -> fs::FileType {
    match kind {
        Kind::File => fs::FileType::RegularFile,
        Kind::Dir => fs::FileType::Directory,
        Kind::Symlink => fs::FileType::Symlink,
        Kind::Fifo => fs::FileType::Fifo,
        Kind::Socket => fs::FileType::Socket,
        Kind::Char => fs::FileType::CharacterDevice,
        Kind::Block => fs::FileType::BlockDevice,
    }
}

pub(super) fn kind_of(stat: &fs::Stat) -> Kind {
    match fs::FileType::from_raw_mode(stat.st_mode) {
        fs::FileType::RegularFile => Kind::File,
        fs::FileType::Directory => Kind::Dir,
        fs::FileType::Symlink => Kind::Symlink,
        fs::FileType::Fifo => Kind::Fifo,
        fs::FileType::Socket => Kind::Socket,
        fs::FileType::CharacterDevice => Kind::Char,
        _ => Kind::Block,
    }
}

pub(super) fn seen(stat: &fs::Stat, number: u64) -> Answer {
    let ns = |seconds: i64, nanos: u64| Stamp::Exact(seconds * NS + nanos as i64);
    Answer::Attr(Seen {
        id: number,
        kind: kind_of(stat),
        mode: stat.st_mode & 0o7777,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        size: stat.st_size as u64,
        atime: ns(stat.st_atime, stat.st_atime_nsec),
        mtime: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime: ns(stat.st_ctime, stat.st_ctime_nsec),
    })
}
