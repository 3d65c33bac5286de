//! A target's turn: set up from nothing, worked on, taken away. Nothing of one turn overlaps with another's, so that what
//! a file system does in the background is its own cost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;

use super::commands::{STORE_FOLDER, Setting, mount_command, prepare};
use super::mounted::Mounted;
use super::{Base, Target};
use crate::error::{At, Result};
use crate::latency::{self, Held};
use crate::places::Places;
use crate::process::{self, run};
use crate::store::{Counts, Distance, Store};
use crate::{peers, sys};

/// Where a turn's file system is mounted, in the turn's folder.
pub(crate) const MOUNTPOINT: &str = "mnt";
const STATE_FOLDER: &str = "state";
const SETTLE_DEADLINE: Duration = Duration::from_secs(600);
const REMOVE_DEADLINE: Duration = Duration::from_secs(600);
/// The disk is quiet when it has read and written next to nothing for so long; it is not waited for longer than that.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_DEADLINE: Duration = Duration::from_secs(120);
const QUIET_LOOK: Duration = Duration::from_millis(250);
/// 512 KiB between two looks.
const QUIET_SECTORS: u64 = 1024;
/// Read-ahead that WeldrFS asks for; the floor gets the same.
const READ_AHEAD_KIB: &str = "1024";

/// What all turns of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) places: Places,
    /// The folder that turns are made in.
    pub(crate) work: PathBuf,
    pub(crate) distance: Distance,
}

impl Ground {
    /// The folder of the turn that is under way.
    pub(crate) fn turn(&self) -> PathBuf {
        self.work.join("turn")
    }
}

/// A target that is set up.
pub(crate) struct Turn {
    folder: PathBuf,
    root: PathBuf,
    mounted: Option<Mounted>,
    store: Option<Store>,
    _held: Option<Held>,
}

impl Turn {
    /// Sets a target up on an empty place, with everything written back that others left.
    pub(crate) fn begin(target: &Target, ground: &Ground) -> Result<Self> {
        let folder = ground.turn();
        remove(&folder)?;
        std::fs::create_dir_all(&folder).at(&folder)?;
        settle()?;
        let store = start_store(&target.base, ground, &folder)?;
        let setting = Setting {
            places: &ground.places,
            state: folder.join(STATE_FOLDER),
            mountpoint: folder.join(MOUNTPOINT),
            store: store.as_ref(),
            eager: false,
        };
        prepare(&target.base, &setting)?;
        let mounted = match mount_command(&target.base, &setting)? {
            None => None,
            Some(command) => Some(Mounted::start(
                command,
                &setting.mountpoint,
                &folder.join("mount.log"),
            )?),
        };
        let root = match &mounted {
            Some(_) => setting.mountpoint,
            None => folder.join("disk"),
        };
        std::fs::create_dir_all(&root).at(&root)?;
        if target.base == Base::Floor {
            sys::raise_read_ahead(&root, READ_AHEAD_KIB);
        }
        let held = target.latency_held.then(latency::hold).transpose()?;
        Ok(Self {
            folder,
            root,
            mounted,
            store,
            _held: held,
        })
    }

    /// The folder to work in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Memory of the file system's processes, bytes: resident now, and at most.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let pid = self.mounted.as_ref()?.pid()?;
        Some(process::memory(pid))
    }

    /// Requests to the store so far, where somebody counts them.
    pub(crate) fn counts(&mut self) -> Result<Option<Counts>> {
        match &mut self.store {
            Some(store) => store.counts(),
            None => Ok(None),
        }
    }

    /// The local state and caches.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join(STATE_FOLDER)
    }

    /// The folder that holds the turn, on the local disk.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Length of all objects in the store whose keys begin so, where it can be told.
    pub(crate) fn store_bytes(&mut self, prefix: &str) -> Result<Option<u64>> {
        if let Some(store) = &mut self.store {
            return store.bytes(prefix);
        }
        let folder = self.folder.join(STORE_FOLDER).join(prefix);
        match folder.exists() {
            true => sys::bytes_below(&folder).map(Some),
            false => Ok(None),
        }
    }

    /// Takes everything away.
    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.mounted.take());
        drop(self.store.take());
        remove(&self.folder)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Before the store it writes to.
        drop(self.mounted.take());
    }
}

/// Waits until what others have left is written and the disk has nothing to do: deleting what a turn wrote goes on behind
/// a sync.
fn settle() -> Result<()> {
    run(&mut Command::new("sync"), SETTLE_DEADLINE)?;
    let began = Instant::now();
    let mut quiet_since = began;
    let mut before = sys::disk_work();
    while quiet_since.elapsed() < QUIET && began.elapsed() < QUIET_DEADLINE {
        std::thread::sleep(QUIET_LOOK);
        let now = sys::disk_work();
        if now.is_none_or(|now| before.is_none_or(|before| now > before + QUIET_SECTORS)) {
            quiet_since = Instant::now();
        }
        before = now;
    }
    Ok(())
}

fn start_store(base: &Base, ground: &Ground, folder: &Path) -> Result<Option<Store>> {
    let log = folder.join("store.log");
    match base {
        Base::Disk | Base::Floor | Base::WeldrfsFile => Ok(None),
        Base::Weldrfs(_) | Base::Juicefs => {
            Store::start(&ground.places, ground.distance, &log).map(Some)
        }
        Base::Rclone | Base::S3fs => {
            let rclone = peers::rclone(&ground.places)?;
            Store::start_rclone(&rclone, &folder.join(STORE_FOLDER), &log).map(Some)
        }
    }
}

/// Removes a turn's folder, also one with a mount that a run left which was killed. Never follows into a mount.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    // There is none, as a rule.
    let _ = rustix::mount::unmount(folder.join(MOUNTPOINT), UnmountFlags::DETACH);
    if !folder.exists() {
        return Ok(());
    }
    let mut command = Command::new("rm");
    command.args(["-rf", "--one-file-system", "--"]).arg(folder);
    run(&mut command, REMOVE_DEADLINE).map(drop)
}
