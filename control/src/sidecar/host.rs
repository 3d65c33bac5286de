//! What the sidecar needs from the machine: mounts started, found, watched and taken away. A trait, so that tests decide
//! what the machine does; the binary implements it with processes.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::budget::{Budget, Fixed, Machine};
use super::types::LogLines;
use crate::error::ApiError;

/// A mount that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOrder {
    /// As it was asked for.
    pub source: String,
    /// Absolute.
    pub path: PathBuf,
    /// Each as one would write it after `-o`, commas as they are.
    pub options: Vec<String>,
}

/// What an order comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedOrder {
    /// Where the mount table will show it: the path without symbolic links.
    pub path: PathBuf,
    /// Which store this is: two equal ones are the same volume.
    pub place: String,
    /// Whether it only looks at a former state, beside which the volume may be mounted too.
    pub is_view: bool,
    /// The shares of the caches that were asked for.
    pub fixed: Fixed,
}

/// A mount process that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMount {
    /// As it was given to the process.
    pub source: String,
    /// Which store this is, as in [`CheckedOrder::place`].
    pub place: String,
    /// See [`CheckedOrder::is_view`].
    pub is_view: bool,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Folder of its local state.
    pub state_dir: PathBuf,
    /// Where its volume answers.
    pub socket: PathBuf,
    /// Process id.
    pub pid: u32,
    /// Tells this process from a later one with its id.
    pub pid_mark: u64,
    /// Milliseconds since 1970.
    pub started_ms: u64,
}

/// How a mount process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was unmounted or asked to end, and saved everything.
    Orderly,
    /// It was killed or broke down.
    Died,
}

/// The machine, as far as mounts are concerned. Unless it says so, nothing here may wait for a mounted file system without a
/// deadline.
#[async_trait]
pub trait MountHost: Send + Sync + 'static {
    /// Understands an order without doing anything.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] that names what is wrong.
    fn check(&self, order: &MountOrder, has_credentials: bool) -> Result<CheckedOrder, ApiError>;

    /// The mounts that run and are in the kernel's table, by whomever they were made.
    ///
    /// # Errors
    /// When the machine does not say.
    async fn discover(&self) -> io::Result<Vec<FoundMount>>;

    /// Whether the process still runs.
    fn is_running(&self, found: &FoundMount) -> bool;

    /// Returns when the process has ended.
    async fn ended(&self, found: &FoundMount);

    /// How a process that has ended did so.
    fn ending(&self, found: &FoundMount) -> Ending;

    /// Starts a mount and returns once it answers. It lives on without this process.
    ///
    /// # Errors
    /// [`ApiError::MountFailed`] and [`ApiError::InvalidRequest`], with messages fit for a client.
    async fn mount(
        &self,
        order: &MountOrder,
        credentials: Option<&Path>,
        budget: Budget,
    ) -> Result<FoundMount, ApiError>;

    /// Takes the mount on `path` away and returns once its process, if there is one, has saved everything and ended. A
    /// dead mount is cleared away; where nothing is mounted there is nothing to do.
    ///
    /// # Errors
    /// [`ApiError::InUse`] with the programs that use it, [`ApiError::DeadlineExceeded`], [`ApiError::MountFailed`].
    async fn unmount(&self, path: &Path, found: Option<&FoundMount>) -> Result<(), ApiError>;

    /// The programs that use what is at and below `folder`, like `node (process 7)`; those in sandboxes need not be seen.
    async fn users(&self, folder: &Path) -> Vec<String>;

    /// Removes the directory `folder` below `mountpoint` with everything in it, following no symbolic link; one that is not
    /// there is removed. It may take long, and for ever if the mount's process is stopped.
    ///
    /// # Errors
    /// What stopped it; what was removed stays so.
    async fn remove_folder(&self, mountpoint: &Path, folder: &Path) -> io::Result<()>;

    /// What the machine has.
    fn machine(&self) -> Machine;

    /// Names the time since the machine was started.
    fn boot_id(&self) -> String;

    /// The newest `most` lines of a mount's log.
    ///
    /// # Errors
    /// When there is a log that cannot be read.
    async fn log(&self, found: &FoundMount, most: usize) -> io::Result<LogLines>;
}

/// The time of day.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}
