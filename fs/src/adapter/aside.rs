//! Telling the kernel of changes that no request asked for: a restore, a clone, snapshots that come and go.
//!
//! The kernel keeps names and attributes for ever, so it has to be told. And nobody who watches a directory (inotify) hears of
//! such a change, because the kernel did not make it. So a thread of this process makes it once more, through the mount:
//! it removes names that are gone and sets the times of what has changed, and the adapter answers this thread without doing
//! anything. Directories are opened by handle, which works only for what the kernel holds: what it does not hold nobody
//! watches. That takes root; without, the kernel is told and watchers are not.
//!
//! Nothing here runs inside a request, and no lock of the engine is held: the kernel may have to wait for requests.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossbeam::channel::bounded;
use fuser::{INodeNo, Notifier, Request};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use weldrfs_meta::Ino;

use crate::engine::{Aside, Attr, Engine, Kind, Onlooker};

/// How long a change waits until the kernel has forgotten what was before. It goes on behind that.
const FORGET_WAIT: Duration = Duration::from_secs(60);
/// Most changes of one restore that watchers hear of: each takes about a tenth of a millisecond.
const MAX_ANNOUNCED: usize = 100_000;
/// The type of file handles that FUSE has: an inode number and a generation (`FILEID_INO64_GEN`).
const HANDLE_TYPE: libc::c_int = 0x81;
/// `UTIME_OMIT` of utimensat(2).
const OMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: libc::UTIME_OMIT as _,
};

/// The kernel's side of a mount.
pub(super) struct Kernel {
    engine: Weak<Engine>,
    /// None before the session is there and after its end.
    notifier: Mutex<Option<Notifier>>,
    mountpoint: PathBuf,
    /// Of the mount, so that nothing else is touched that is at the mountpoint by then.
    device: OnceLock<u64>,
    /// The thread whose requests are answered without doing anything; 0: none.
    announcer: AtomicU32,
    /// One change at a time: there is one announcer.
    turn: Mutex<()>,
}

impl Kernel {
    pub(super) fn new(engine: &Arc<Engine>, mountpoint: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::downgrade(engine),
            notifier: Mutex::new(None),
            mountpoint,
            device: OnceLock::new(),
            announcer: AtomicU32::new(0),
            turn: Mutex::new(()),
        })
    }

    /// The session can be spoken to from now on.
    pub(super) fn begin(&self, notifier: Notifier) {
        *self.notifier.lock() = Some(notifier);
    }

    /// The session has ended; nothing may keep its device open.
    pub(super) fn end(&self) {
        *self.notifier.lock() = None;
    }

    /// Remembers which device the mount is. The session must be served.
    pub(super) fn find(&self) {
        outside(|| {
            let found = self.open_root().and_then(rustix::fs::fstat);
            if let Ok(stat) = found {
                let _ = self.device.set(stat.st_dev);
            }
        });
    }

    /// Whether a request comes from the thread that announces changes.
    pub(super) fn is_announcement(&self, request: &Request) -> bool {
        let announcer = self.announcer.load(Ordering::Acquire);
        announcer != 0 && announcer == request.pid()
    }

    fn open_root(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.mountpoint, flags, Mode::empty())
    }

    /// The root of the mount, if it is still there.
    fn root(&self) -> Option<OwnedFd> {
        let root = self.open_root().ok()?;
        let stat = rustix::fs::fstat(&root).ok()?;
        (self.device.get() == Some(&stat.st_dev)).then_some(root)
    }

    fn change(&self, aside: &Aside) {
        let Some(notifier) = self.notifier.lock().clone() else {
            return;
        };
        let Some(engine) = self.engine.upgrade() else {
            return;
        };
        let _turn = self.turn.lock();
        // While the kernel still knows the names. A directory comes before what was in it: opening it by its handle makes
        // the kernel ask for its name again. Of what was in it nobody hears then.
        let entries = aside.entries.iter();
        let is_gone = |(dir, name): &&(Ino, Box<[u8]>)| matches!(engine.find(*dir, name), Ok(None));
        let removed: Vec<_> = entries.filter(is_gone).take(MAX_ANNOUNCED).collect();
        self.announce(|announcer| {
            for (dir, name) in &removed {
                announcer.removed(*dir, name);
            }
        });
        forget(&notifier, aside);
        let named = aside.entries.iter().filter_map(|(dir, name)| {
            let found = engine.find(*dir, name).ok().flatten();
            found.map(|attr| (*dir, &name[..], attr))
        });
        let dirs = aside.inodes.iter().filter_map(|ino| {
            let attr = engine.getattr(*ino).ok();
            let attr = attr.filter(|attr| attr.kind == Kind::Dir && attr.nlink > 0);
            attr.map(|attr| (*ino, &b""[..], attr))
        });
        let changed: Vec<_> = named.chain(dirs).take(MAX_ANNOUNCED).collect();
        self.announce(|announcer| {
            for (dir, name, attr) in &changed {
                announcer.changed(*dir, name, attr);
            }
        });
    }

    fn announce(&self, work: impl FnOnce(&mut Announcer<'_>) + Send) {
        outside(|| {
            if let Some(root) = self.root() {
                work(&mut Announcer::new(self, root));
            }
        });
    }
}

/// Runs `work`, which uses the mount that this process serves, in a thread with descriptors of its own and none of the
/// session's. If this process is killed while such a request is under way, the thread waits until the session's device is
/// closed: had it the device too, it would wait for itself, for ever.
///
/// `work` must use no descriptor that it did not open: not the engine, not the log.
fn outside(work: impl FnOnce() + Send) {
    const FIRST: libc::c_uint = 3;
    let apart = || {
        // SAFETY: concerns this thread alone, which from here on has descriptors of its own, and closes all that it was given;
        // what it runs uses none of them.
        let is_apart = unsafe {
            libc::unshare(libc::CLONE_FILES) == 0
                && libc::close_range(FIRST, libc::c_uint::MAX, 0) == 0
        };
        if is_apart {
            work();
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("weldr-outside".into());
        // Without it nothing is told; whoever watches has to look for himself.
        if let Ok(thread) = thread.spawn_scoped(scope, apart) {
            let _ = thread.join();
        }
    });
}

/// Makes the kernel ask again.
fn forget(notifier: &Notifier, aside: &Aside) {
    let mut refused = None;
    let mut note = |result: io::Result<()>| refused = result.err().or(refused.take());
    for (dir, name) in &aside.entries {
        note(notifier.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)));
    }
    // With the listings that it keeps.
    let dirs: BTreeSet<Ino> = aside.entries.iter().map(|(dir, _)| *dir).collect();
    for dir in &dirs {
        note(notifier.inval_inode(INodeNo(dir.0), 0, 0));
    }
    for ino in aside.inodes.iter().filter(|ino| !dirs.contains(ino)) {
        note(notifier.inval_inode(INodeNo(ino.0), -1, 0));
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "the kernel did not forget everything that changed; what it still has may be stale");
    }
}

/// Makes the changes of the engine once more, for those who watch.
struct Announcer<'a> {
    kernel: &'a Kernel,
    root: OwnedFd,
    /// The directory of the last change, which is mostly that of the next one.
    dir: Option<(Ino, Option<OwnedFd>)>,
}

impl<'a> Announcer<'a> {
    /// Requests of this thread do nothing until it is dropped.
    fn new(kernel: &'a Kernel, root: OwnedFd) -> Self {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let thread = u32::try_from(thread).unwrap_or(0);
        kernel.announcer.store(thread, Ordering::Release);
        Self {
            kernel,
            root,
            dir: None,
        }
    }

    fn held(&mut self, ino: Ino) -> Option<BorrowedFd<'_>> {
        if self.dir.as_ref().is_none_or(|(last, _)| *last != ino) {
            self.dir = Some((ino, open_held(self.root.as_fd(), ino).ok()));
        }
        self.dir.as_ref()?.1.as_ref().map(AsFd::as_fd)
    }

    // Whatever comes of it: it is for those who watch, and has happened already.
    fn removed(&mut self, dir: Ino, name: &[u8]) {
        let Some(dir) = self.held(dir) else { return };
        let removed = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        if removed == Err(rustix::io::Errno::ISDIR) {
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
    }

    /// An empty name is the directory itself.
    fn changed(&mut self, dir: Ino, name: &[u8], attr: &Attr) {
        let Some(dir) = self.held(dir) else { return };
        let times = Timestamps {
            last_access: OMIT,
            last_modification: Timespec {
                tv_sec: attr.mtime_ns.div_euclid(1_000_000_000),
                tv_nsec: attr.mtime_ns.rem_euclid(1_000_000_000) as _,
            },
        };
        let flags = match name {
            b"" => AtFlags::EMPTY_PATH,
            _ => AtFlags::SYMLINK_NOFOLLOW,
        };
        let _ = rustix::fs::utimensat(dir, name, &times, flags);
    }
}

impl Drop for Announcer<'_> {
    fn drop(&mut self) {
        self.kernel.announcer.store(0, Ordering::Release);
    }
}

/// Opens a directory that the kernel holds.
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
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle is a `file_handle` with the 12 bytes behind it that it names, and lives until the call is over;
    // the kernel only reads it.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), (&raw mut handle).cast(), flags) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// What the engine is given.
pub(super) struct Teller(pub(super) Arc<Kernel>);

impl Teller {
    /// Runs `work` in a thread of its own, and waits for it as long as that makes sense.
    fn apart(&self, what: &'static str, work: impl FnOnce(&Kernel) + Send + 'static) {
        let (done, wait) = bounded(1);
        let kernel = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("weldr-tell".into());
        let started = thread.spawn(move || {
            work(&kernel);
            let _ = done.send(());
        });
        if let Err(error) = started {
            tracing::warn!(%error, what, "the kernel cannot be told: no thread");
        } else if wait.recv_timeout(FORGET_WAIT).is_err() {
            tracing::warn!(what, "the kernel takes long; nobody waits for it any more");
        }
    }
}

impl Onlooker for Teller {
    fn bring_in(&self) {
        self.apart("writing out", |kernel| {
            // Nothing is promised about it.
            outside(|| {
                if let Some(root) = kernel.root() {
                    let _ = rustix::fs::syncfs(root);
                }
            });
        });
    }

    fn changed(&self, aside: &Aside) {
        let aside = aside.clone();
        self.apart("forgetting", move |kernel| kernel.change(&aside));
    }
}
