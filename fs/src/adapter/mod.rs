//! The FUSE adapter: translates requests to engine calls and results to replies. The only module that names fuser.
//!
//! It decides nothing about files. It must not let fuser's types inward, nor hold a thread of the session while it
//! waits for a disk flush or the store: such calls go to a small pool.

mod announce;
mod aside;
mod asker;
mod convert;
mod dirs;
mod mount;
mod ops;
mod pool;

use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, FileAttr, Generation};
use weldrfs_meta::Ino;

use crate::awake::Awake;
use crate::engine::{Attr, Engine, Kind};
use crate::error::FsError;

pub use mount::{FuseMount, FuseSettings, MountError, Readdirplus, Unmounter};

use aside::Kernel;
use pool::Pools;

/// What the kernel may keep without asking, and what it is told not to ask.
#[derive(Clone, Copy, Debug)]
struct Manners {
    attr_timeout: Duration,
    entry_timeout: Duration,
    negative_timeout: Duration,
    no_open: bool,
    no_opendir: bool,
    readdirplus: Readdirplus,
    kernel_writeback: bool,
    /// Whether mounts of this one may show other owners.
    idmapped: bool,
    max_write: u32,
    max_readahead: u32,
}

/// The file system fuser drives.
struct Adapter {
    engine: Arc<Engine>,
    pools: Pools,
    manners: Manners,
    awake: Arc<Awake>,
    kernel: Arc<Kernel>,
}

/// Inode numbers are never reused, so no inode needs a generation.
const GENERATION: Generation = Generation(0);

/// The errno of an error; what is trouble of ours is logged first.
fn errno(operation: &str, error: &FsError) -> Errno {
    if error.is_trouble() {
        tracing::error!(%error, operation, "a request failed");
    }
    Errno::from_i32(error.errno())
}

impl Manners {
    /// How long the kernel may keep the attributes of an inode.
    ///
    /// A write takes set-id bits away here, and the kernel does not look for that: it must not execute a file by what
    /// it remembers of them.
    fn attr_timeout(&self, attr: &Attr) -> Duration {
        const SET_ID: u32 = 0o6000;
        match attr.kind == Kind::File && attr.mode & SET_ID != 0 {
            true => Duration::ZERO,
            false => self.attr_timeout,
        }
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.kernel.end();
        self.engine.serve(false);
    }
}

impl Adapter {
    /// The engine, for a request that has just come.
    fn asked(&self) -> &Arc<Engine> {
        self.awake.request();
        &self.engine
    }

    /// Answers whoever announces that a name is gone.
    fn gone(&self, parent: Ino, name: &[u8], reply: fuser::ReplyEmpty) {
        match self.engine.find(parent, name) {
            Ok(None) => reply.ok(),
            // Somebody has made it anew.
            _ => reply.error(Errno::EBUSY),
        }
    }

    /// Answers whoever announces that a name is new.
    fn made(&self, parent: Ino, name: &[u8], kind: Kind, reply: fuser::ReplyEntry) {
        match self.engine.find(parent, name) {
            Ok(Some(attr)) if attr.kind == kind => self.entry("announcement", Ok(attr), reply),
            // It is gone already, or something else.
            _ => reply.error(Errno::EBUSY),
        }
    }

    /// Shows something to whoever announces that it is gone, and to nobody else.
    fn show(&self, attr: &Attr, reply: fuser::ReplyEntry) {
        self.engine.retain(attr.ino, 1);
        let never = Duration::ZERO;
        reply.entry_with_ttls(&never, &never, &convert::attr(attr), GENERATION);
    }

    /// Answers a request that made or found an entry: the kernel holds the inode from now on.
    fn entry(&self, operation: &str, result: Result<Attr, FsError>, reply: fuser::ReplyEntry) {
        match result {
            Ok(attr) => {
                self.engine.retain(attr.ino, 1);
                let manners = &self.manners;
                let shown: FileAttr = convert::attr(&attr);
                reply.entry_with_ttls(
                    &manners.attr_timeout(&attr),
                    &manners.entry_timeout,
                    &shown,
                    GENERATION,
                );
            }
            Err(error) => reply.error(errno(operation, &error)),
        }
    }

    fn attr(&self, operation: &str, result: Result<Attr, FsError>, reply: fuser::ReplyAttr) {
        match result {
            Ok(attr) => reply.attr(&self.manners.attr_timeout(&attr), &convert::attr(&attr)),
            Err(error) => reply.error(errno(operation, &error)),
        }
    }
}

fn empty(operation: &str, result: Result<(), FsError>, reply: fuser::ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(operation, &error)),
    }
}
