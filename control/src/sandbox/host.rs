//! What sandboxes need from the machine. A trait, so that tests decide what it does.

use std::io;
use std::path::PathBuf;

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

    /// Folders that no sandbox may see beside the usual ones: the machine's own state.
    fn private(&self) -> Vec<PathBuf>;
}
