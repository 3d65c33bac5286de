//! Telling those who watch the tree (inotify) of changes that the kernel did not make.
//!
//! A thread of this process makes each of them once more through the mount, so that the kernel raises the event: it removes
//! a name that is gone, makes one that is new, and sets the time of one that names something else. The adapter answers this
//! thread by a script and changes nothing. The kernel has forgotten the names before: to be removed, a name is shown to this
//! thread alone, for no time, as what it named, if that has no name any more, or else as an inode that there is not. So
//! what lives on under another name is never taken for dead.
//!
//! Directories are opened by handle, which works only for what the kernel holds: what it does not hold nobody watches.
//! That takes root; without, nobody hears.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use fuser::Request;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps};
use weldrfs_meta::{EntryChange, Ino};

use crate::engine::{Aside, Attr, Engine, Kind};

/// Most changes at a time that watchers hear of: each takes about a tenth of a millisecond.
const MAX_ANNOUNCED: usize = 100_000;
/// How many of them are worked out at a time.
const PIECE: usize = 1000;
/// The type of file handles that FUSE has: an inode number and a generation (`FILEID_INO64_GEN`).
const HANDLE_TYPE: libc::c_int = 0x81;
/// Numbers of inodes that there are not. Those of the volume count up from 1 and never get here, and bit 62 is that of
/// what is in snapshots.
const NOBODY: u64 = 1 << 61;
/// `UTIME_OMIT` of utimensat(2).
const OMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: libc::UTIME_OMIT as _,
};

/// What the announcing thread is about to do.
#[derive(Clone, Debug)]
struct Step {
    dir: Ino,
    name: Box<[u8]>,
    /// A name that is to be removed names this; none: it is to be made.
    shown: Option<Attr>,
}

/// How a lookup of the announcing thread is answered.
pub(super) enum Part {
    /// As everybody's.
    Real,
    /// Nothing is there.
    Nothing,
    /// This is there, and must not be remembered.
    Shown(Box<Attr>),
}

/// What the announcing thread is answered.
#[derive(Default)]
pub(super) struct Script {
    /// The thread; 0: none.
    thread: AtomicU32,
    step: Mutex<Option<Step>>,
}

impl Script {
    /// Whether a request comes from the thread that announces changes.
    pub(super) fn is_spoken_by(&self, request: &Request) -> bool {
        let thread = self.thread.load(Ordering::Acquire);
        thread != 0 && thread == request.pid()
    }

    /// How its lookup is answered.
    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> Part {
        let step = self.step.lock();
        match &*step {
            Some(step) if step.dir == dir && *step.name == *name => match step.shown {
                Some(shown) => Part::Shown(Box::new(shown)),
                None => Part::Nothing,
            },
            _ => Part::Real,
        }
    }

    fn set(&self, step: Option<Step>) {
        *self.step.lock() = step;
    }
}

/// A change, as it is announced.
pub(super) struct Announcement {
    dir: Ino,
    /// Empty: the directory itself.
    name: Box<[u8]>,
    what: What,
}

enum What {
    Removed(Attr),
    Made(Attr),
    /// With the inode that was replaced, if it has no name any more.
    Changed(Attr, Option<Attr>),
}

impl Announcement {
    /// What is to be announced of a change, some at a time, each as it is when its turn comes.
    pub(super) fn all<'a>(engine: &'a Engine, aside: &'a Aside) -> impl Iterator<Item = Vec<Self>> {
        // What goes first: nobody thinks then that a name is there twice.
        let gone = aside.entries.chunks(PIECE).map(|entries| {
            let all = Self::entries(engine, entries);
            all.filter(|one| one.is_removal()).collect()
        });
        let new = aside.entries.chunks(PIECE).map(|entries| {
            let all = Self::entries(engine, entries);
            all.filter(|one| !one.is_removal()).collect()
        });
        let dirs = aside.inodes.chunks(PIECE).map(|inodes| {
            let all = inodes.iter().filter_map(|ino| Self::dir(engine, *ino));
            all.collect()
        });
        let all = gone.chain(new).chain(dirs);
        let mut left = MAX_ANNOUNCED;
        all.map_while(move |mut piece: Vec<Self>| {
            piece.truncate(left);
            left -= piece.len();
            (left > 0 || !piece.is_empty()).then_some(piece)
        })
    }

    fn is_removal(&self) -> bool {
        matches!(self.what, What::Removed(_))
    }

    /// Directories come before what is in them.
    fn entries<'a>(
        engine: &'a Engine,
        entries: &'a [EntryChange],
    ) -> impl Iterator<Item = Self> + 'a {
        entries.iter().filter_map(|entry| {
            let is = engine.find(entry.dir, &entry.name).ok()?;
            let nameless = |ino: Ino| engine.getattr(ino).ok().filter(|attr| attr.nlink == 0);
            let what = match (entry.was, is) {
                (None, None) => return None,
                (None, Some(is)) => What::Made(is),
                (Some((was, kind)), None) => {
                    let was = nameless(was);
                    What::Removed(
                        was.unwrap_or_else(|| nobody(Kind::of_mode(u32::from(kind) << 12))),
                    )
                }
                (Some((was, kind)), Some(is)) => match is.kind.mode_bits() == u32::from(kind) << 12
                {
                    true => What::Changed(is, (was != is.ino).then(|| nameless(was)).flatten()),
                    false => What::Made(is),
                },
            };
            Some(Self {
                dir: entry.dir,
                name: Box::from(&entry.name[..]),
                what,
            })
        })
    }

    fn dir(engine: &Engine, ino: Ino) -> Option<Self> {
        let attr = engine.getattr(ino).ok();
        let attr = attr.filter(|attr| attr.kind == Kind::Dir && attr.nlink > 0)?;
        Some(Self {
            dir: ino,
            name: Box::default(),
            what: What::Changed(attr, None),
        })
    }
}

/// An inode that there is not.
fn nobody(kind: Kind) -> Attr {
    static NEXT: AtomicU64 = AtomicU64::new(NOBODY);
    Attr {
        ino: Ino(NEXT.fetch_add(1, Ordering::Relaxed)),
        kind,
        mode: 0o600,
        nlink: if kind == Kind::Dir { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        btime_ns: 0,
        parent: Ino(0),
    }
}

/// Announces changes of the mount whose root is given. Uses no other descriptor.
pub(super) fn tell(script: &Script, root: OwnedFd, announcements: &[Announcement]) {
    let mut announcer = Announcer::new(script, root);
    for one in announcements {
        announcer.tell(one);
    }
}

struct Announcer<'a> {
    script: &'a Script,
    root: OwnedFd,
    /// The directory of the last change, which is mostly that of the next one.
    dir: Option<(Ino, Option<OwnedFd>)>,
}

impl<'a> Announcer<'a> {
    /// Requests of this thread do nothing until it is dropped.
    fn new(script: &'a Script, root: OwnedFd) -> Self {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let thread = u32::try_from(thread).unwrap_or(0);
        script.thread.store(thread, Ordering::Release);
        Self {
            script,
            root,
            dir: None,
        }
    }

    /// Whatever comes of it: it is for those who watch, and has happened already.
    fn tell(&mut self, one: &Announcement) {
        if self.dir.as_ref().is_none_or(|(last, _)| *last != one.dir) {
            self.dir = Some((one.dir, open_held(self.root.as_fd(), one.dir).ok()));
        }
        let Some((_, Some(dir))) = &self.dir else {
            return;
        };
        let dir = dir.as_fd();
        match &one.what {
            What::Removed(was) => {
                self.expect(one, Some(*was));
                let flags = match was.kind {
                    Kind::Dir => AtFlags::REMOVEDIR,
                    _ => AtFlags::empty(),
                };
                let _ = rustix::fs::unlinkat(dir, &*one.name, flags);
                self.script.set(None);
            }
            What::Made(is) => {
                self.expect(one, None);
                let made = make(dir, &one.name, is);
                self.script.set(None);
                if made.is_err() {
                    touch(dir, &one.name, is);
                }
            }
            What::Changed(is, was) => {
                touch(dir, &one.name, is);
                if let Some(was) = was
                    && let Ok(held) = open_held(self.root.as_fd(), was.ino)
                {
                    // Whoever watches the file itself has to look who has its name now.
                    note(held.as_fd(), was);
                }
            }
        }
    }

    fn expect(&self, one: &Announcement, shown: Option<Attr>) {
        self.script.set(Some(Step {
            dir: one.dir,
            name: one.name.clone(),
            shown,
        }));
    }
}

impl Drop for Announcer<'_> {
    fn drop(&mut self) {
        self.script.thread.store(0, Ordering::Release);
    }
}

/// Makes a name that is there already: the adapter answers with what it names.
fn make(dir: BorrowedFd<'_>, name: &[u8], is: &Attr) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(is.mode);
    match is.kind {
        Kind::Dir => rustix::fs::mkdirat(dir, name, mode),
        Kind::Symlink => rustix::fs::symlinkat(c"?", dir, name),
        kind => {
            let kind = FileType::from_raw_mode(kind.mode_bits());
            rustix::fs::mknodat(dir, name, kind, mode, u64::from(is.rdev))
        }
    }
}

/// Sets the time of a name to what it is; an empty name is the directory itself.
fn touch(dir: BorrowedFd<'_>, name: &[u8], attr: &Attr) {
    let times = Timestamps {
        last_access: OMIT,
        last_modification: timespec(attr.mtime_ns),
    };
    let flags = match name {
        b"" => AtFlags::EMPTY_PATH,
        _ => AtFlags::SYMLINK_NOFOLLOW,
    };
    let _ = rustix::fs::utimensat(dir, name, &times, flags);
}

/// Sets both times of a file to what they are, which is no change of its content to those who watch it.
fn note(file: BorrowedFd<'_>, attr: &Attr) {
    let times = Timestamps {
        last_access: timespec(attr.atime_ns),
        last_modification: timespec(attr.mtime_ns),
    };
    let _ = rustix::fs::utimensat(file, c"", &times, AtFlags::EMPTY_PATH);
}

fn timespec(ns: i64) -> Timespec {
    Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000) as _,
    }
}

/// Opens an inode that the kernel holds.
fn open_held(root: BorrowedFd<'_>, ino: Ino) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        inode: [u32; 2],
        generation: u32,
    }
    let mut handle = Handle {
        bytes: 12,
        kind: HANDLE_TYPE,
        inode: [(ino.0 >> 32) as u32, ino.0 as u32],
        generation: 0,
    };
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the handle is a `file_handle` with the 12 bytes behind it that it names, and lives until the call is over;
    // the kernel only reads it.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), (&raw mut handle).cast(), flags) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
