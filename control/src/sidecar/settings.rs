//! What the sidecar is started with. Plain values; who decides them is elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::auth::AuthSettings;
use super::limits::Rates;
use super::previews::PreviewSettings;
use super::sandboxing::SandboxSettings;

/// Name of the sidecar's folder in the state base, and of the socket in the run folder.
pub const CONTROL_FOLDER: &str = "control";
/// Name of the socket in the run folder.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Name of the file of hashed tokens in the sidecar's folder.
pub const TOKENS_NAME: &str = "tokens";
/// How many mounts there may be unless told otherwise.
pub const MOUNTS_MAX: usize = 5;

/// What the sidecar is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The sidecar's own folder: database, tokens, keys that outlive a restart.
    pub folder: PathBuf,
    /// A folder that a restart of the machine empties, for keys in use.
    pub run_dir: PathBuf,
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its group; that of the process when absent.
    pub group: Option<u32>,
    /// Where to listen on TCP; nowhere when absent.
    pub listen: Option<SocketAddr>,
    /// How requests over TCP are checked.
    pub auth: AuthSettings,
    /// Origins whose pages may ask over TCP, as browsers write them.
    pub origins: Vec<String>,
    /// How many requests are taken.
    pub rates: Rates,
    /// How many mounts there may be.
    pub mounts_max: usize,
    /// Where mounts go that do not say where.
    pub workspace: PathBuf,
    /// Whether keys given with a mount outlive a restart of the machine, in the sidecar's folder.
    pub keep_credentials: bool,
    /// What sandboxes get.
    pub sandboxes: SandboxSettings,
    /// What previews get.
    pub previews: PreviewSettings,
}
