//! Telling the kernel of changes that no request asked for: a restore, a clone, snapshots that come and go.
//!
//! The kernel keeps names and attributes for ever, so it has to be told, and first of all: until it has forgotten a name,
//! programs that open it get what was there before. Then those who watch the tree hear of it (`announce`), and nobody
//! waits long for that.
//!
//! Nothing here runs inside a request, and no lock of the engine is held: the kernel may have to wait for requests.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use weldrfs_meta::Ino;

use super::announce::{Announcement, Script, tell};
use crate::engine::{Aside, Engine, Onlooker};

/// How long a change waits until the kernel has forgotten what was before. It goes on behind that.
const FORGET_WAIT: Duration = Duration::from_secs(60);
/// How long it waits, after that, for those who watch to have heard of it.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(1);
/// The same for the list of snapshots: to announce one of them takes as long as bringing what is new into the tables.
const LIST_WAIT: Duration = Duration::from_millis(2);
/// How long one announcement waits for another one to end before nobody hears of it.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// The kernel's side of a mount.
pub(super) struct Kernel {
    engine: Weak<Engine>,
    /// None before the session is there and after its end.
    notifier: Mutex<Option<Notifier>>,
    mountpoint: PathBuf,
    /// Of the mount, so that nothing else is touched that is at the mountpoint by then.
    device: OnceLock<u64>,
    /// What the thread that announces changes is answered.
    pub(super) script: Script,
    /// Changes that somebody is being told of.
    telling: AtomicUsize,
    /// One announcement at a time: there is one script.
    turn: Mutex<()>,
}

impl Kernel {
    pub(super) fn new(engine: &Arc<Engine>, mountpoint: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::downgrade(engine),
            notifier: Mutex::new(None),
            mountpoint,
            device: OnceLock::new(),
            script: Script::default(),
            telling: AtomicUsize::new(0),
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

    /// Whether changes are being told of: what is missing now may be announced next, and must be asked for again.
    pub(super) fn is_telling(&self) -> bool {
        self.telling.load(Ordering::Acquire) > 0
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

    /// Makes the kernel forget, says so, and tells those who watch.
    fn change(&self, aside: &Aside, waiting: Sender<()>) {
        let Some(notifier) = self.notifier.lock().clone() else {
            return;
        };
        self.telling.fetch_add(1, Ordering::AcqRel);
        forget(&notifier, aside);
        drop(notifier);
        let _ = waiting.send(());
        let mut turn = self.turn.try_lock();
        if turn.is_none() {
            // Nobody waits until an earlier one is over.
            drop(waiting);
            turn = self.turn.try_lock_for(TURN_WAIT);
        }
        match turn {
            Some(_) => self.announce(aside),
            None => tracing::warn!(
                "an earlier change is still being announced; whoever watches does not hear of this one"
            ),
        }
        self.telling.fetch_sub(1, Ordering::AcqRel);
    }

    fn announce(&self, aside: &Aside) {
        let Some(engine) = self.engine.upgrade() else {
            return;
        };
        let pieces = Announcement::all(&engine, aside);
        for announcements in pieces.filter(|piece| !piece.is_empty()) {
            outside(|| {
                if let Some(root) = self.root() {
                    tell(&self.script, root, &announcements);
                }
            });
        }
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
    for entry in &aside.entries {
        note(notifier.inval_entry(INodeNo(entry.dir.0), OsStr::from_bytes(&entry.name)));
    }
    // With the listings that it keeps.
    let dirs: BTreeSet<Ino> = aside.entries.iter().map(|entry| entry.dir).collect();
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

/// What the engine is given.
pub(super) struct Teller(pub(super) Arc<Kernel>);

impl Teller {
    /// Runs `work` in a thread of its own, which is over when it drops its sender. None: there is no thread.
    fn apart(
        &self,
        what: &'static str,
        work: impl FnOnce(&Kernel, Sender<()>) + Send + 'static,
    ) -> Option<Receiver<()>> {
        let (done, wait) = bounded(1);
        let kernel = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("weldr-tell".into());
        match thread.spawn(move || work(&kernel, done)) {
            Ok(_) => Some(wait),
            Err(error) => {
                tracing::warn!(%error, what, "the kernel cannot be told: no thread");
                None
            }
        }
    }
}

fn wait_for(wait: &Receiver<()>, what: &'static str) {
    use crossbeam::channel::RecvTimeoutError::Timeout;
    if wait.recv_timeout(FORGET_WAIT) == Err(Timeout) {
        tracing::warn!(what, "the kernel takes long; nobody waits for it any more");
    }
}

impl Onlooker for Teller {
    fn bring_in(&self) {
        let wait = self.apart("writing out", |kernel, _done| {
            // Nothing is promised about it.
            outside(|| {
                if let Some(root) = kernel.root() {
                    let _ = rustix::fs::syncfs(root);
                }
            });
        });
        if let Some(wait) = wait {
            wait_for(&wait, "writing out");
        }
    }

    fn changed(&self, aside: Arc<Aside>) {
        let announcing = match Engine::is_of_list(&aside) {
            true => LIST_WAIT,
            false => ANNOUNCE_WAIT,
        };
        let wait = self.apart("forgetting", move |kernel, done| {
            kernel.change(&aside, done)
        });
        if let Some(wait) = wait {
            wait_for(&wait, "forgetting");
            // Whoever unmounts at once would find the announcer in the way.
            let _ = wait.recv_timeout(announcing);
        }
    }
}
