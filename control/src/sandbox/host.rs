//! What sandboxes need from the machine. A trait, so that tests decide what it does.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::attachment::Sandbox;
use super::order::SandboxOrder;
use super::protocol::{Ended, Note};
use crate::error::ApiError;

/// What a sandbox uses at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SandboxUse {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Processor time so far, in milliseconds.
    pub cpu_ms: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// A sandbox that an earlier sidecar started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundSandbox {
    /// It runs; attach to it.
    Running(Sandbox, Note),
    /// It has ended meanwhile; its folder is there until it is removed.
    Ended(Sandbox, Option<Note>, Ended),
    /// Its shim died or the machine was restarted. What was left of it has been cleared away but its folder.
    Lost(Sandbox, Option<Note>),
}

/// A project's folder, to look at before something is run in it. What is in it is somebody else's: nothing leads out of it, and
/// what is no plain file of a sensible size is not there. May block for as long as its mount does.
pub trait ProjectFolder: Send {
    /// The text of a file.
    fn read(&self, name: &str) -> Option<String>;

    /// Whether there is such a file.
    fn has(&self, name: &str) -> bool;

    /// Whether there is one that its owner may execute.
    fn is_executable(&self, name: &str) -> bool;
}

/// The network of a sandbox that runs.
pub trait SandboxNetwork: Send + Sync + 'static {
    /// A TCP socket in it, not connected, that does not block.
    ///
    /// # Errors
    /// What the operating system says.
    fn socket(&self, is_v6: bool) -> io::Result<OwnedFd>;

    /// A TCP socket that listens on a port of its loopback, and does not block.
    ///
    /// # Errors
    /// What the operating system says, such as that something in it listens there.
    fn listen(&self, port: u16) -> io::Result<OwnedFd>;

    /// The TCP ports that something listens on in it.
    ///
    /// # Errors
    /// When the machine does not say.
    fn listening(&self) -> io::Result<Vec<u16>>;
}

/// The machine, as far as sandboxes are concerned.
#[async_trait]
pub trait SandboxHost: Send + Sync + 'static {
    /// Starts a shim that starts the command, and returns once it can be attached to. It lives on without this process
    /// if the order says so.
    ///
    /// # Errors
    /// [`ApiError::Internal`]; why the command does not start is told to who attaches.
    async fn start(&self, order: SandboxOrder) -> Result<Sandbox, ApiError>;

    /// The sandboxes of earlier sidecars.
    ///
    /// # Errors
    /// When the machine does not say.
    async fn found(&self) -> io::Result<Vec<FoundSandbox>>;

    /// What it uses; `None` when it has ended.
    fn usage(&self, id: &str) -> Option<SandboxUse>;

    /// Ends what is left of it by force, and removes its folder.
    async fn remove(&self, sandbox: &Sandbox);

    /// The network of a sandbox, for as long as the answer lives.
    ///
    /// # Errors
    /// When it does not run any more.
    fn network(&self, note: &Note) -> io::Result<Arc<dyn SandboxNetwork>>;

    /// A project's folder on a mount. May block for as long as the mount does.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when there is none, or a link leads to it.
    fn project(&self, mountpoint: &Path, folder: &Path)
    -> Result<Box<dyn ProjectFolder>, ApiError>;

    /// Folders that no sandbox may see beside the usual ones: the machine's own state.
    fn private(&self) -> Vec<PathBuf>;
}
