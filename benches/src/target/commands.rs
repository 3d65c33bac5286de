//! How each file system is set up and mounted in the foreground. JuiceFS is set up as existing deployments do it: SQLite
//! metadata, writeback, long cache times, uploads after five minutes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Base;
use crate::error::{At, Error, Result};
use crate::peers;
use crate::places::Places;
use crate::process::run;
use crate::store::{BUCKET, Store};

const FORMAT_DEADLINE: Duration = Duration::from_secs(60);
const JUICEFS_OPTIONS: &[&str] = &[
    "--writeback",
    "--cache-size=512",
    "--free-space-ratio=0.01",
    "--buffer-size=256",
    "--attr-cache=300",
    "--entry-cache=300",
    "--dir-entry-cache=300",
    "--open-cache=0",
    "--max-uploads=5",
    "--no-usage-report",
    "-o",
    "writeback_cache",
];
const JUICEFS_UPLOAD_DELAY: &str = "--upload-delay=5m";
const JUICEFS_DATABASE: &str = "?_journal=WAL&_sync=NORMAL&_cache_size=-65536";
const RCLONE_OPTIONS: &[&str] = &["--vfs-cache-mode=full", "--vfs-links", "--file-perms=0777"];
const S3FS_OPTIONS: &str = "use_path_request_style";

/// Beside the state.
pub(super) const STORE_FOLDER: &str = "store";

/// Where a file system keeps what it keeps.
pub(crate) struct Setting<'a> {
    pub(crate) places: &'a Places,
    /// Local state and caches.
    pub(crate) state: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) store: Option<&'a Store>,
    /// Bytes go to the store as soon as possible, instead of as deployments do it.
    pub(crate) eager: bool,
}

impl Setting<'_> {
    fn store(&self) -> Result<&Store> {
        let none = || Error::Missing("this target needs a store".into());
        self.store.ok_or_else(none)
    }

    /// The store of a target that keeps its objects in a directory.
    pub(crate) fn store_folder(&self) -> PathBuf {
        self.state.with_file_name(STORE_FOLDER)
    }

    fn database(&self) -> String {
        let file = self.state.join("juicefs.db");
        format!("sqlite3://{}{JUICEFS_DATABASE}", file.display())
    }

    fn password_file(&self) -> PathBuf {
        self.state.join("keys")
    }
}

/// What the record says of a target's options.
pub(super) fn described(base: &Base) -> String {
    match base {
        Base::Disk => "a folder of the local disk".into(),
        Base::Weldrfs(options) if options.is_empty() => "s3://, default options".into(),
        Base::Weldrfs(options) => format!("s3://, {options}"),
        Base::WeldrfsFile => "file:// on the local disk, default options".into(),
        Base::Floor => "in memory, one thread for each processor".into(),
        Base::Juicefs => format!(
            "SQLite ({JUICEFS_DATABASE}), S3, {} {JUICEFS_UPLOAD_DELAY}",
            JUICEFS_OPTIONS.join(" ")
        ),
        Base::Rclone => format!(
            "{}; its store is rclone serve s3, without latency",
            RCLONE_OPTIONS.join(" ")
        ),
        Base::S3fs => {
            format!("{S3FS_OPTIONS}, use_cache; its store is rclone serve s3, without latency")
        }
    }
}

/// Makes what has to be there before the first mount.
pub(crate) fn prepare(base: &Base, setting: &Setting<'_>) -> Result<()> {
    std::fs::create_dir_all(&setting.state).at(&setting.state)?;
    std::fs::create_dir_all(&setting.mountpoint).at(&setting.mountpoint)?;
    match base {
        Base::Juicefs => {
            let store = setting.store()?;
            let mut format = Command::new(peers::juicefs(setting.places)?);
            format.args(["format", "--storage", "s3", "--trash-days", "7"]);
            format.args(["--bucket", &format!("{}/{BUCKET}", store.endpoint)]);
            format.args(["--access-key", &store.key, "--secret-key", &store.secret]);
            format.args([&setting.database(), "bench"]);
            run(&mut format, FORMAT_DEADLINE).map(drop)
        }
        Base::S3fs => {
            use std::os::unix::fs::PermissionsExt as _;
            let (store, path) = (setting.store()?, setting.password_file());
            std::fs::write(&path, format!("{}:{}", store.key, store.secret)).at(&path)?;
            // s3fs refuses keys that others may read.
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, private).at(&path)
        }
        _ => Ok(()),
    }
}

/// The command that serves the mount in the foreground; `None` for the local disk.
pub(crate) fn mount_command(base: &Base, setting: &Setting<'_>) -> Result<Option<Command>> {
    let command = match base {
        Base::Disk => return Ok(None),
        Base::Weldrfs(options) => {
            let store = setting.store()?;
            let mut command = weldrfs(&format!("s3://{BUCKET}"), options, setting)?;
            command
                .env("S3_ENDPOINT", &store.endpoint)
                .env("S3_ACCESS_KEY_ID", &store.key)
                .env("S3_SECRET_ACCESS_KEY", &store.secret);
            command
        }
        Base::WeldrfsFile => {
            let folder = setting.store_folder();
            std::fs::create_dir_all(&folder).at(&folder)?;
            weldrfs(&format!("file://{}", folder.display()), "", setting)?
        }
        Base::Floor => {
            let mut command = Command::new(setting.places.program("floor")?);
            let threads = std::thread::available_parallelism().map_or(2, usize::from);
            command
                .arg(&setting.mountpoint)
                .arg(threads.clamp(2, 8).to_string());
            command
        }
        Base::Juicefs => {
            let mut command = Command::new(peers::juicefs(setting.places)?);
            command
                .arg("mount")
                .args(JUICEFS_OPTIONS)
                .args((!setting.eager).then_some(JUICEFS_UPLOAD_DELAY))
                .arg("--cache-dir")
                .arg(setting.state.join("cache"))
                .arg(setting.database())
                .arg(&setting.mountpoint);
            command
        }
        Base::Rclone => rclone(setting)?,
        Base::S3fs => {
            let store = setting.store()?;
            let options = format!(
                "{S3FS_OPTIONS},url={},passwd_file={},use_cache={}",
                store.endpoint,
                setting.password_file().display(),
                setting.state.join("cache").display()
            );
            let mut command = Command::new(peers::s3fs()?);
            command
                .arg(BUCKET)
                .arg(&setting.mountpoint)
                .args(["-f", "-o", &options]);
            command
        }
    };
    Ok(Some(command))
}

fn weldrfs(source: &str, options: &str, setting: &Setting<'_>) -> Result<Command> {
    let mut all = format!("state_dir={}", setting.state.display());
    if !options.is_empty() {
        all.push(',');
        all.push_str(options);
    }
    let mut command = Command::new(setting.places.program("weldrfs")?);
    command
        .arg("mount")
        .arg(source)
        .arg(&setting.mountpoint)
        .args(["--foreground", "-o", &all]);
    for (name, _) in std::env::vars_os() {
        // What the machine says of some other bucket must not matter.
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("S3_") || name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.env("WELDRFS_RUN_DIR", run_dir(&setting.state));
    Ok(command)
}

/// Where a mount of ours is noted.
fn run_dir(state: &Path) -> PathBuf {
    state.join("run")
}

/// A command of WeldrFS about a mount of ours.
pub(crate) fn weldrfs_command(places: &Places, state: &Path, verb: &str) -> Result<Command> {
    let mut command = Command::new(places.program("weldrfs")?);
    command
        .arg(verb)
        .env("WELDRFS_RUN_DIR", run_dir(state))
        .env("WELDR_ENV_VOL", state)
        .stdin(Stdio::null());
    Ok(command)
}

fn rclone(setting: &Setting<'_>) -> Result<Command> {
    let store = setting.store()?;
    let mut command = Command::new(peers::rclone(setting.places)?);
    command
        .arg("mount")
        .arg(format!(":s3:{BUCKET}"))
        .arg(&setting.mountpoint)
        .args(["--config", "/dev/null", "--s3-provider", "Rclone"])
        .args(["--s3-endpoint", &store.endpoint])
        .args(["--s3-access-key-id", &store.key])
        .args(["--s3-secret-access-key", &store.secret])
        .arg("--cache-dir")
        .arg(setting.state.join("cache"))
        .args(RCLONE_OPTIONS);
    Ok(command)
}
