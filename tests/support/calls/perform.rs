//! Makes the calls on names and attributes, in a process of its own. Judges nothing: what the kernel says is the answer.

use super::call::{Answer, At, Base, Call, Outcome, SLOTS, Stamp, Stat};
use super::process::Person;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    Access, AtFlags, CWD, Dir, Gid, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::CString;
use std::path::Path;

/// Longest target and working directory that is asked for.
const PATH_ROOM: usize = 8 << 10;

/// The process's root folder and open files.
pub(super) struct Performer {
    root: OwnedFd,
    pub(super) slots: [Option<OwnedFd>; SLOTS],
}

/// The errno of a failed call.
pub(super) fn errno(error: Errno) -> i32 {
    error.raw_os_error()
}

/// The answer of a call that returns -1 for an error.
pub(super) fn returned(value: i64) -> Outcome {
    match value {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        number => Ok(Answer::Number(number)),
    }
}

fn done(result: rustix::io::Result<()>) -> Outcome {
    result.map(|()| Answer::Done).map_err(errno)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

extern "C" fn on_signal(_: i32) {}

impl Performer {
    /// Shuts itself into the root folder, so that no `..` leads out of it, and becomes the person.
    pub(super) fn new(root: &Path, person: &Person) -> Self {
        // A signal that only interrupts.
        // SAFETY: the handler does nothing, and the structure is a plain one that zeros are valid for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        }
        rustix::process::umask(Mode::from_raw_mode(person.umask));
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            rustix::fs::open(root, folder, Mode::empty()).expect("the root folder can be opened");
        rustix::process::fchdir(&opened).expect("the root folder can be entered");
        rustix::process::chroot(".").expect("the root can be changed");
        let groups: Vec<Gid> = person.groups.iter().map(|&g| Gid::from_raw(g)).collect();
        let (uid, gid) = (Uid::from_raw(person.uid), Gid::from_raw(person.gid));
        rustix::thread::set_thread_groups(&groups).expect("groups can be set");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("the group can be set");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("the user can be set");
        Self {
            root: opened,
            slots: Default::default(),
        }
    }

    pub(super) fn slot(&self, slot: usize) -> Result<BorrowedFd<'_>, i32> {
        self.slots[slot]
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or(libc::EBADF)
    }

    fn base(&self, base: Base) -> Result<BorrowedFd<'_>, i32> {
        match base {
            Base::Root => Ok(self.root.as_fd()),
            Base::Cwd => Ok(CWD),
            Base::Slot(slot) => self.slot(slot),
        }
    }

    /// One string for a call that knows no directory descriptors.
    fn path(&self, at: &At) -> Result<String, i32> {
        match at.base {
            Base::Root => Ok(format!("/{}", at.path)),
            Base::Cwd => Ok(at.path.clone()),
            Base::Slot(_) => Err(libc::ENOTSUP),
        }
    }

    /// The open file, when that is what the path means.
    fn itself(&self, at: &At) -> Option<Result<BorrowedFd<'_>, i32>> {
        match at.base {
            Base::Slot(slot) if at.path.is_empty() => Some(self.slot(slot)),
            _ => None,
        }
    }

    pub(super) fn perform(&mut self, call: &Call) -> Outcome {
        match call {
            Call::Open {
                at,
                flags,
                mode,
                slot,
            } => {
                let flags = OFlags::from_bits_retain(*flags) | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(*mode);
                let opened = rustix::fs::openat(self.base(at.base)?, &*at.path, flags, mode);
                // Only now: a failed open leaves the slot as it is.
                self.slots[*slot] = Some(opened.map_err(errno)?);
                Ok(Answer::Done)
            }
            Call::Close { slot } => match self.slots[*slot].take() {
                Some(_) => Ok(Answer::Done),
                None => Err(libc::EBADF),
            },
            Call::Stat { at, flags } => self.stat(at, *flags),
            Call::Getcwd => {
                let cwd = rustix::process::getcwd(Vec::with_capacity(PATH_ROOM)).map_err(errno)?;
                Ok(Answer::Text(text(cwd.as_bytes())))
            }
            Call::List { at } => self.list(at),
            Call::Umask { mode } => {
                let old = rustix::process::umask(Mode::from_raw_mode(*mode));
                Ok(Answer::Number(old.as_raw_mode().into()))
            }
            Call::Link { .. }
            | Call::Symlink { .. }
            | Call::Readlink { .. }
            | Call::Rename { .. }
            | Call::Mkdir { .. }
            | Call::Unlink { .. }
            | Call::Mknod { .. } => self.name(call),
            Call::Chmod { .. }
            | Call::Chown { .. }
            | Call::Times { .. }
            | Call::Access { .. }
            | Call::Chdir { .. } => self.attribute(call),
            Call::SetXattr { .. }
            | Call::GetXattr { .. }
            | Call::ListXattr { .. }
            | Call::RemoveXattr { .. } => self.xattr(call),
            Call::Truncate { at, len } => {
                let path = CString::new(self.path(at)?).map_err(|_| libc::EINVAL)?;
                // SAFETY: the path is a string that ends with zero and lives until the call is done.
                returned(unsafe { libc::truncate(path.as_ptr(), *len) }.into())
            }
            Call::Flock { .. } | Call::Lock { .. } | Call::TestLock { .. } => self.lock(call),
            _ => self.file(call),
        }
    }

    fn stat(&self, at: &At, flags: u32) -> Outcome {
        let seen = rustix::fs::statx(
            self.base(at.base)?,
            &*at.path,
            AtFlags::from_bits_retain(flags),
            StatxFlags::BASIC_STATS,
        )
        .map_err(errno)?;
        let ns = |at: rustix::fs::StatxTimestamp| {
            i128::from(at.tv_sec) * 1_000_000_000 + i128::from(at.tv_nsec)
        };
        Ok(Answer::Stat(Stat {
            mode: seen.stx_mode.into(),
            nlink: seen.stx_nlink,
            uid: seen.stx_uid,
            gid: seen.stx_gid,
            size: seen.stx_size,
            rdev: (seen.stx_rdev_major, seen.stx_rdev_minor),
            ino: seen.stx_ino,
            atime_ns: ns(seen.stx_atime),
            mtime_ns: ns(seen.stx_mtime),
            ctime_ns: ns(seen.stx_ctime),
        }))
    }

    fn list(&self, at: &At) -> Outcome {
        let mut dir = match self.itself(at) {
            Some(open) => Dir::read_from(open?),
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened =
                    rustix::fs::openat(self.base(at.base)?, &*at.path, flags, Mode::empty());
                Dir::read_from(opened.map_err(errno)?)
            }
        }
        .map_err(errno)?;
        let mut names = Vec::new();
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(errno)?;
            let kind = entry.file_type().as_raw_mode() >> 12;
            names.push((text(entry.file_name().to_bytes()), kind as u8));
        }
        names.sort();
        Ok(Answer::Names(names))
    }

    fn name(&self, call: &Call) -> Outcome {
        match call {
            Call::Link { from, to, flags } => done(rustix::fs::linkat(
                self.base(from.base)?,
                &*from.path,
                self.base(to.base)?,
                &*to.path,
                AtFlags::from_bits_retain(*flags),
            )),
            Call::Symlink { target, at } => done(rustix::fs::symlinkat(
                &**target,
                self.base(at.base)?,
                &*at.path,
            )),
            Call::Readlink { at } => {
                let room = Vec::with_capacity(PATH_ROOM);
                let target = rustix::fs::readlinkat(self.base(at.base)?, &*at.path, room);
                Ok(Answer::Text(text(target.map_err(errno)?.as_bytes())))
            }
            Call::Rename { from, to, flags } => done(rustix::fs::renameat_with(
                self.base(from.base)?,
                &*from.path,
                self.base(to.base)?,
                &*to.path,
                RenameFlags::from_bits_retain(*flags),
            )),
            Call::Mkdir { at, mode } => done(rustix::fs::mkdirat(
                self.base(at.base)?,
                &*at.path,
                Mode::from_raw_mode(*mode),
            )),
            Call::Unlink { at, flags } => done(rustix::fs::unlinkat(
                self.base(at.base)?,
                &*at.path,
                AtFlags::from_bits_retain(*flags),
            )),
            Call::Mknod { at, mode, dev } => {
                let path = CString::new(&*at.path).map_err(|_| libc::EINVAL)?;
                let base = self.base(at.base)?.as_raw_fd();
                // SAFETY: the path is a string that ends with zero and lives until the call is done.
                returned(unsafe { libc::mknodat(base, path.as_ptr(), *mode, *dev) }.into())
            }
            _ => unreachable!("{call:?} is not about a name"),
        }
    }

    fn attribute(&self, call: &Call) -> Outcome {
        match call {
            Call::Chmod { at, mode } => {
                let mode = Mode::from_raw_mode(*mode);
                match self.itself(at) {
                    Some(open) => done(rustix::fs::fchmod(open?, mode)),
                    None => done(rustix::fs::chmodat(
                        self.base(at.base)?,
                        &*at.path,
                        mode,
                        AtFlags::empty(),
                    )),
                }
            }
            Call::Chown {
                at,
                uid,
                gid,
                flags,
            } => done(rustix::fs::chownat(
                self.base(at.base)?,
                &*at.path,
                uid.map(Uid::from_raw),
                gid.map(Gid::from_raw),
                AtFlags::from_bits_retain(*flags),
            )),
            Call::Times {
                at,
                accessed,
                modified,
                flags,
            } => {
                let times = Timestamps {
                    last_access: timespec(*accessed),
                    last_modification: timespec(*modified),
                };
                match self.itself(at) {
                    Some(open) => done(rustix::fs::futimens(open?, &times)),
                    None => done(rustix::fs::utimensat(
                        self.base(at.base)?,
                        &*at.path,
                        &times,
                        AtFlags::from_bits_retain(*flags),
                    )),
                }
            }
            Call::Access { at, mode, flags } => done(rustix::fs::accessat(
                self.base(at.base)?,
                &*at.path,
                Access::from_bits_retain(*mode),
                AtFlags::from_bits_retain(*flags),
            )),
            Call::Chdir { at } => match self.itself(at) {
                Some(open) => done(rustix::process::fchdir(open?)),
                None => done(rustix::process::chdir(&*self.path(at)?)),
            },
            _ => unreachable!("{call:?} is not about an attribute"),
        }
    }

    fn xattr(&self, call: &Call) -> Outcome {
        match call {
            Call::SetXattr {
                at,
                follow,
                name,
                len,
                fill,
                flags,
            } => {
                let (value, flags) = (vec![*fill; *len], XattrFlags::from_bits_retain(*flags));
                done(match (self.itself(at), follow) {
                    (Some(open), _) => rustix::fs::fsetxattr(open?, &**name, &value, flags),
                    (None, true) => rustix::fs::setxattr(&*self.path(at)?, &**name, &value, flags),
                    (None, false) => {
                        rustix::fs::lsetxattr(&*self.path(at)?, &**name, &value, flags)
                    }
                })
            }
            Call::GetXattr {
                at,
                follow,
                name,
                room,
            } => {
                let mut value = vec![0u8; *room];
                let n = match (self.itself(at), follow) {
                    (Some(open), _) => rustix::fs::fgetxattr(open?, &**name, &mut value[..]),
                    (None, true) => rustix::fs::getxattr(&*self.path(at)?, &**name, &mut value[..]),
                    (None, false) => {
                        rustix::fs::lgetxattr(&*self.path(at)?, &**name, &mut value[..])
                    }
                }
                .map_err(errno)?;
                // Without room the length is the answer, and there is nothing to show.
                match *room {
                    0 => Ok(Answer::Number(n as i64)),
                    _ => Ok(Answer::Bytes(super::call::runs(&value[..n]))),
                }
            }
            Call::ListXattr { at, follow, room } => {
                let mut list = vec![0u8; *room];
                let n = match (self.itself(at), follow) {
                    (Some(open), _) => rustix::fs::flistxattr(open?, &mut list[..]),
                    (None, true) => rustix::fs::listxattr(&*self.path(at)?, &mut list[..]),
                    (None, false) => rustix::fs::llistxattr(&*self.path(at)?, &mut list[..]),
                }
                .map_err(errno)?;
                if *room == 0 {
                    return Ok(Answer::Number(n as i64));
                }
                let names = list[..n].split(|b| *b == 0).filter(|name| !name.is_empty());
                let mut names: Vec<(String, u8)> = names.map(|name| (text(name), 0)).collect();
                names.sort();
                Ok(Answer::Names(names))
            }
            Call::RemoveXattr { at, follow, name } => done(match (self.itself(at), follow) {
                (Some(open), _) => rustix::fs::fremovexattr(open?, &**name),
                (None, true) => rustix::fs::removexattr(&*self.path(at)?, &**name),
                (None, false) => rustix::fs::lremovexattr(&*self.path(at)?, &**name),
            }),
            _ => unreachable!("{call:?} is not about an extended attribute"),
        }
    }
}

fn timespec(stamp: Stamp) -> Timespec {
    let (tv_sec, tv_nsec) = match stamp {
        Stamp::Now => (0, rustix::fs::UTIME_NOW),
        Stamp::Omit => (0, rustix::fs::UTIME_OMIT),
        Stamp::At(seconds, nanos) => (seconds, nanos),
    };
    Timespec { tv_sec, tv_nsec }
}
