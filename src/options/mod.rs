//! Mount options: what `-o` may say and what it comes to. Parsing only; whether a folder exists or a device is there is
//! checked elsewhere, and nothing here touches the machine.

mod bucket;
mod known;
mod split;
mod values;
mod variables;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use bucket::is_endpoint;
pub(crate) use split::split;
pub(crate) use values::span;
use values::{FOREVER, KIB, MIB};
pub(crate) use words::help;

use crate::environment::Variables;
use crate::failure::Failure;

/// Type of the mounts in the mount table is `fuse.` and this.
pub(crate) const SUBTYPE: &str = "weldrfs";

/// Who may use a mount, apart from the one who mounted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody else, not even root.
    Owner,
    /// Root too.
    Root,
    /// Everybody, as far as the permissions of the files let them.
    Everybody,
}

/// Whether directories are read together with their entries' attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readdirplus {
    /// When the kernel expects to need them.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }
}

/// Where a bucket's name goes in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Addressing {
    /// Where the endpoint wants it.
    #[default]
    Auto,
    Path,
    VirtualHost,
}

/// What `-o` says about the way to a bucket.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct S3Options {
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) access_key_id: Option<String>,
    pub(crate) secret_access_key: Option<String>,
    pub(crate) session_token: Option<String>,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) profile: Option<String>,
    pub(crate) addressing: Addressing,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the keys.
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Everything `-o` decides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MountOptions {
    pub(crate) read_only: bool,
    /// Options of the kernel's mount table that differ from its defaults, such as `nosuid`.
    pub(crate) kernel: BTreeSet<&'static str>,
    pub(crate) access: Access,
    /// What the mount table shows as the source, if not SOURCE.
    pub(crate) fsname: Option<String>,
    pub(crate) foreground: bool,
    pub(crate) log_level: LogLevel,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) cache_bytes: u64,
    pub(crate) frame_cache_bytes: u64,
    /// Part of the local disk that the cache leaves free.
    pub(crate) free_space_ratio: f64,
    /// `None`: half of the free disk.
    pub(crate) staging_limit_bytes: Option<u64>,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) read_deadline: Duration,
    pub(crate) attr_timeout: Duration,
    pub(crate) entry_timeout: Duration,
    pub(crate) negative_timeout: Duration,
    pub(crate) max_write: u32,
    pub(crate) max_readahead: u32,
    /// `None`: chosen from the number of processors.
    pub(crate) threads: Option<usize>,
    pub(crate) no_open: bool,
    pub(crate) no_opendir: bool,
    pub(crate) readdirplus: Readdirplus,
    pub(crate) kernel_writeback: bool,
    /// Keep processors awake while requests flow, where that is possible.
    pub(crate) low_latency: bool,
    /// Whether the root lists `.snapshots`.
    pub(crate) show_snapshots: bool,
    /// How long what is removed stays in the trash; zero: it does not go there.
    pub(crate) trash: Duration,
    /// How often an automatic snapshot is made; `None`: never.
    pub(crate) snapshot_interval: Option<Duration>,
    /// Most automatic snapshots that are kept.
    pub(crate) snapshot_most: usize,
    pub(crate) s3: S3Options,
    /// Whether a store that ignores conditional writes is refused.
    pub(crate) conditional_writes: bool,
    pub(crate) max_uploads: usize,
    pub(crate) upload_delay: Duration,
    /// Whether `fsync` waits for the store.
    pub(crate) fsync_remote: bool,
    /// Whether closing a file and `fsync` are done once the local disk has everything.
    pub(crate) writeback: bool,
    /// Whether the right to write ends when the store cannot be reached for long.
    pub(crate) lease_ends: bool,
    /// Take the right to write from whoever has it.
    pub(crate) take_over: bool,
    /// Set a local state aside without which the store has gone on.
    pub(crate) keep_diverged: bool,
    /// The divergent copy to show.
    pub(crate) divergent: Option<String>,
    /// The time whose state is shown, milliseconds since 1970.
    pub(crate) at_ms: Option<u64>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            kernel: BTreeSet::new(),
            access: Access::Owner,
            fsname: None,
            foreground: false,
            log_level: LogLevel::Info,
            state_dir: None,
            cache_dir: None,
            cache_bytes: 2048 * MIB,
            frame_cache_bytes: 64 * MIB,
            free_space_ratio: 0.01,
            staging_limit_bytes: None,
            checkpoint_interval: Duration::from_secs(1),
            read_deadline: Duration::from_secs(30),
            attr_timeout: FOREVER,
            entry_timeout: FOREVER,
            negative_timeout: FOREVER,
            max_write: (1024 * KIB) as u32,
            max_readahead: (1024 * KIB) as u32,
            threads: None,
            no_open: true,
            no_opendir: true,
            readdirplus: Readdirplus::Auto,
            kernel_writeback: false,
            low_latency: true,
            show_snapshots: false,
            trash: TRASH_KEPT,
            snapshot_interval: None,
            snapshot_most: 1000,
            s3: S3Options::default(),
            conditional_writes: true,
            max_uploads: 5,
            upload_delay: Duration::ZERO,
            fsync_remote: false,
            writeback: true,
            lease_ends: true,
            take_over: false,
            keep_diverged: false,
            divergent: None,
            at_ms: None,
        }
    }
}

/// How long what is removed stays in the trash unless told otherwise: seven days.
const TRASH_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// What to do with an option that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Refuse the mount.
    Refuse,
    /// Leave it out, as mount(8)'s `-s` asks.
    Ignore,
}

impl MountOptions {
    /// The options that the variables, and then the texts after `-o`, ask for; what comes later wins.
    ///
    /// # Errors
    /// [`Failure::Invocation`] that names the option or variable and what it takes.
    pub(crate) fn parse(
        texts: &[String],
        unknown: Unknown,
        variables: &Variables,
    ) -> Result<Self, Failure> {
        let mut options = variables::options(variables)?;
        let mut names = BTreeSet::new();
        for text in texts {
            for option in split::split(text)? {
                known::apply(&mut options, &option, unknown)?;
                names.insert(option.name);
            }
        }
        if names.contains("allow_other") && names.contains("allow_root") {
            return Err(Failure::Invocation(
                "options allow_other and allow_root exclude each other; allow_other covers root too".into(),
            ));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests;
