//! [`MountHost`] with the processes of this machine.

use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use weldrfs_control::{
    ApiError, Budget, CheckedOrder, Ending, Fixed, FoundMount, LogLines, Machine, MountHost,
    MountOrder, without_places,
};

use super::found::{found, place_of, running};
use super::{folders, start, tail, users};
use crate::bucket::BucketAccess;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::logging::LOG_NAME;
use crate::mount_table::{MountTable, resolve};
use crate::options::{MountOptions, Unknown};
use crate::registry::{MountRecord, Registry, boot_id, is_process};
use crate::source::{Place, Source};
use crate::unmounting::{self, Liveness};

/// How long the process of an unmounted volume may take to save its state and end.
const END_DEADLINE: Duration = Duration::from_secs(90);
/// Permissions of folders that are made to mount on.
const FOLDER_MODE: u32 = 0o755;
/// How often a process is looked at that cannot be watched.
const WATCH_POLL: Duration = Duration::from_secs(1);

/// The machine.
pub(crate) struct Machinery {
    environment: Environment,
    registry: Registry,
    state_base: PathBuf,
}

impl Machinery {
    /// The machine as `environment` describes it, with state below `state_base` by default.
    pub(crate) fn new(environment: Environment, registry: Registry, state_base: PathBuf) -> Self {
        Self {
            environment,
            registry,
            state_base,
        }
    }

    fn record_of(&self, found: &FoundMount) -> Option<MountRecord> {
        let records = self.registry.records();
        records
            .into_iter()
            .find(|record| record.pid == found.pid && record.pid_started_ticks == found.pid_mark)
    }
}

#[async_trait]
impl MountHost for Machinery {
    fn check(&self, order: &MountOrder, has_credentials: bool) -> Result<CheckedOrder, ApiError> {
        let refused = |failure: Failure| ApiError::InvalidRequest(failure.to_string());
        let source = Source::parse(order.source.as_ref()).map_err(refused)?;
        let texts: Vec<String> = order.options.iter().map(|o| start::escaped(o)).collect();
        let variables = &self.environment.variables;
        let options = MountOptions::parse(&texts, Unknown::Refuse, variables).map_err(refused)?;
        let mut s3 = options.s3.clone();
        if has_credentials {
            if s3.credentials_file.is_some() || s3.profile.is_some() {
                return Err(ApiError::InvalidRequest(
                    "credentials exclude the options credentials_file and profile; give one of them".into(),
                ));
            }
            s3.credentials_file = Some(PathBuf::from("/credentials"));
        }
        let endpoint = match &source.place {
            Place::Directory(_) if has_credentials => {
                return Err(ApiError::InvalidRequest(
                    "credentials are for buckets; leave them out for a directory".into(),
                ));
            }
            Place::Directory(_) => None,
            Place::Bucket { bucket, prefix } => {
                let access =
                    BucketAccess::resolve(bucket, prefix, &s3, variables).map_err(refused)?;
                Some(access.endpoint)
            }
        };
        let named = |name: &str| {
            texts
                .iter()
                .any(|text| text.split('=').next() == Some(name))
        };
        let usual = MountOptions::default();
        let cache_is_fixed = named("cache_size") || options.cache_bytes != usual.cache_bytes;
        let buffer_is_fixed =
            named("frame_cache") || options.frame_cache_bytes != usual.frame_cache_bytes;
        Ok(CheckedOrder {
            path: resolved(&order.path)?,
            place: place_of(&source, endpoint.as_deref()),
            is_view: options.at_ms.is_some() || options.divergent.is_some(),
            fixed: Fixed {
                cache_bytes: cache_is_fixed.then_some(options.cache_bytes),
                buffer_bytes: buffer_is_fixed.then_some(options.frame_cache_bytes),
            },
        })
    }

    async fn discover(&self) -> io::Result<Vec<FoundMount>> {
        let registry = self.registry.clone();
        blocking(move || running(&registry)).await?
    }

    fn is_running(&self, found: &FoundMount) -> bool {
        is_process(found.pid, found.pid_mark)
    }

    async fn ended(&self, found: &FoundMount) {
        if let Some(process) = open(found.pid) {
            // Looked at once more now that the id cannot change its owner unnoticed.
            if !self.is_running(found) {
                return;
            }
            // SAFETY: the descriptor is owned by what it is handed to, and stays the same and open until that goes.
            let watched = unsafe { AsyncFd::register(process) };
            if let Ok(watched) = watched
                && watched.readable().await.is_ok()
            {
                return;
            }
        }
        while self.is_running(found) {
            tokio::time::sleep(WATCH_POLL).await;
        }
    }

    fn ending(&self, found: &FoundMount) -> Ending {
        // A mount that ends in order takes its note away.
        match self.record_of(found) {
            Some(_) => Ending::Died,
            None => Ending::Orderly,
        }
    }

    async fn mount(
        &self,
        order: &MountOrder,
        credentials: Option<&Path>,
        budget: Budget,
    ) -> Result<FoundMount, ApiError> {
        let (order, credentials) = (order.clone(), credentials.map(Path::to_owned));
        let (registry, state_base) = (self.registry.clone(), self.state_base.clone());
        let mounting = move || {
            let failed = |failure: Failure| refusal(&failure, &order);
            make_folder(&order.path).map_err(failed)?;
            start::mount(&order, credentials.as_deref(), budget, &state_base).map_err(failed)?;
            let record = registry.at(&order.path).filter(MountRecord::is_running);
            let mount = record.as_ref().and_then(found);
            mount.ok_or_else(|| {
                ApiError::MountFailed("it was mounted and has ended since; its log says why".into())
            })
        };
        blocking(mounting).await.map_err(|error| broke(&error))?
    }

    async fn unmount(&self, path: &Path, found: Option<&FoundMount>) -> Result<(), ApiError> {
        let environment = self.environment.clone();
        let record = found.and_then(|found| self.record_of(found));
        let path = path.to_owned();
        let unmounting = move || take_away(&path, record.as_ref(), &environment);
        blocking(unmounting).await.map_err(|error| broke(&error))?
    }

    async fn users(&self, folder: &Path) -> Vec<String> {
        let folder = folder.to_owned();
        let looked = blocking(move || users::of(&folder)).await;
        looked.unwrap_or_default()
    }

    async fn remove_folder(&self, mountpoint: &Path, folder: &Path) -> io::Result<()> {
        let (mountpoint, folder) = (mountpoint.to_owned(), folder.to_owned());
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: if the mount hangs it is left behind, and the sidecar can end all the same.
        std::thread::Builder::new()
            .name("weldrfs-remove".into())
            .spawn(move || tell.send(folders::remove(&mountpoint, &folder)))?;
        told.await.map_err(io::Error::other)?
    }

    fn machine(&self) -> Machine {
        let existing = self.state_base.ancestors().find(|path| path.exists());
        let disk = existing.and_then(|path| rustix::fs::statvfs(path).ok());
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Machine {
            disk_bytes: disk
                .as_ref()
                .map_or(0, |d| d.f_blocks.saturating_mul(d.f_frsize)),
            disk_free_bytes: disk
                .as_ref()
                .map_or(0, |d| d.f_bavail.saturating_mul(d.f_frsize)),
            memory_bytes: memory_bytes(&memory).unwrap_or(0),
        }
    }

    fn boot_id(&self) -> String {
        boot_id().unwrap_or_default()
    }

    async fn log(&self, found: &FoundMount, most: usize) -> io::Result<LogLines> {
        let path = found.state_dir.join(LOG_NAME);
        blocking(move || tail::newest_lines(&path, most)).await?
    }
}

/// The path that the mount table will show, as far as it exists already.
///
/// # Errors
/// [`ApiError::InvalidRequest`] for a path below another mount: looking there may take for ever.
fn resolved(path: &Path) -> Result<PathBuf, ApiError> {
    let table = MountTable::read().map_err(|error| broke(&error))?;
    let below = table
        .over(path)
        .filter(|over| over.kind.starts_with("fuse") && over.mountpoint != path);
    if let Some(over) = below {
        return Err(ApiError::InvalidRequest(format!(
            "path lies on the mount {}; choose a place outside of it",
            over.mountpoint.display()
        )));
    }
    if let Ok(resolved) = resolve(path, &table) {
        return Ok(resolved);
    }
    let (mut existing, mut missing) = (path, Vec::new());
    while let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) {
        missing.push(name);
        existing = parent;
        if let Ok(found) = std::fs::canonicalize(existing) {
            return Ok(missing
                .iter()
                .rev()
                .fold(found, |path, name| path.join(name)));
        }
    }
    Ok(path.to_owned())
}

/// Runs `work`, which may wait for disks and processes, where that holds up nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

fn broke(error: &io::Error) -> ApiError {
    tracing::error!(%error, "work on a mount broke down");
    ApiError::Internal("the work on the mount broke down; the sidecar's log says why".into())
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// What a client is told of a mount that failed; all of it goes to the log.
fn refusal(failure: &Failure, order: &MountOrder) -> ApiError {
    tracing::error!(source = order.source, path = %order.path.display(), %failure, "a mount failed");
    let path = order.path.to_string_lossy();
    let text = without_places(&failure.to_string(), &[&order.source, &path]);
    match failure {
        Failure::Invocation(_) => ApiError::InvalidRequest(text),
        Failure::System(_) | Failure::Damage(_) | Failure::Mount(_) => ApiError::MountFailed(text),
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    // Not looked at when something is mounted there: it may be dead.
    let table = MountTable::read()
        .map_err(|error| Failure::system("cannot read the mount table", &error))?;
    if table.at(path).is_some() {
        return Ok(());
    }
    let failed = |error: io::Error| Failure::Mount(format!("the path cannot be made: {error}"));
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    for folder in missing.into_iter().rev() {
        std::fs::create_dir(folder).map_err(failed)?;
        // Others may use the mount if its options let them; what this process makes is its own otherwise.
        std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)).map_err(failed)?;
    }
    Ok(())
}

/// Unmounts `path` and waits for the end of its process.
fn take_away(
    path: &Path,
    record: Option<&MountRecord>,
    environment: &Environment,
) -> Result<(), ApiError> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(path = %path.display(), %error, "an unmount failed");
        ApiError::MountFailed(format!("it cannot be unmounted: {error}"))
    };
    let table = MountTable::read().map_err(|error| failed(&error))?;
    if table.at(path).is_some_and(|entry| entry.is_ours()) {
        let liveness = unmounting::liveness(path);
        if liveness == Liveness::Silent {
            return Err(ApiError::DeadlineExceeded(
                "the mount does not answer: its process is stopped or waits for something; end it, then try again".into(),
            ));
        }
        let is_dead = liveness == Liveness::Dead;
        match unmounting::unmount(path, is_dead, environment) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(in_use(path)),
            Err(error) => return Err(failed(&error)),
        }
    }
    match record.map(|record| unmounting::wait_for_end(record, END_DEADLINE)) {
        None | Some(Ok(true)) => Ok(()),
        Some(Ok(false)) => Err(ApiError::DeadlineExceeded(format!(
            "it is unmounted, and its process is still saving its state after {} s; try again",
            END_DEADLINE.as_secs()
        ))),
        Some(Err(error)) => Err(failed(&error)),
    }
}

fn in_use(path: &Path) -> ApiError {
    let users = users::of(path);
    let who = match users.is_empty() {
        true => "a program".to_owned(),
        false => users.join(", "),
    };
    ApiError::InUse(format!("it is used by {who}; end that, then unmount again"))
}

/// `MemTotal` of /proc/meminfo.
fn memory_bytes(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machinery(dir: &Path) -> Machinery {
        let registry = Registry::new(vec![dir.join("state")], Some(dir.join("run")));
        let environment = Environment::from_variables(0, |_| None);
        Machinery::new(environment, registry, dir.join("state/not/there/yet"))
    }

    fn order(source: &str, options: &[&str]) -> MountOrder {
        MountOrder {
            source: source.into(),
            path: "/mnt/x".into(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        }
    }

    #[test]
    fn orders_are_understood_as_the_command_line_would() {
        let dir = tempfile::tempdir().unwrap();
        let host = machinery(dir.path());
        let real = std::fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let linked = MountOrder {
            path: dir.path().join("link/not/there"),
            ..order("file:///srv/a/", &[])
        };
        let checked = host.check(&linked, false).unwrap();
        assert_eq!(checked.path, real.join("not/there"));
        assert_eq!(checked.place, "file:/srv/a");
        assert_eq!((checked.is_view, checked.fixed), (false, Fixed::default()));
        let checked = host.check(
            &order(
                "s3://bucket",
                &["endpoint=http://h:1", "at=5m", "cache_size=2G"],
            ),
            true,
        );
        let checked = checked.unwrap();
        assert_eq!(checked.place, "s3:http://h:1/bucket/");
        assert!(checked.is_view);
        assert_eq!(
            checked.fixed.cache_bytes,
            Some(2 << 30),
            "asked for, although it is the default"
        );
        assert_eq!(checked.fixed.buffer_bytes, None);
        for (bad, has_credentials, part) in [
            (order("bucket", &[]), false, "no scheme"),
            (
                order("file:///srv", &["no_such_option"]),
                false,
                "no_such_option",
            ),
            (order("file:///srv", &["cache_size=1"]), false, "cache_size"),
            (order("file:///srv", &["ro,rw"]), false, "ro,rw"),
            (order("file:///srv", &[]), true, "for buckets"),
            (order("s3://bucket", &["profile=p"]), true, "exclude"),
        ] {
            let error = host.check(&bad, has_credentials).unwrap_err();
            assert_eq!(error.code(), "invalid_request");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn the_machine_has_disk_and_memory_before_its_folders_exist() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machinery(dir.path()).machine();
        assert!(machine.disk_bytes >= machine.disk_free_bytes && machine.disk_free_bytes > 0);
        assert!(machine.memory_bytes > 1 << 20);
        assert_eq!(
            memory_bytes("MemFree: 1 kB\nMemTotal:  2048 kB\n"),
            Some(2048 * 1024)
        );
        assert!(!machinery(dir.path()).boot_id().is_empty());
    }

    #[tokio::test]
    async fn a_process_that_is_gone_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let host = machinery(dir.path());
        let gone = FoundMount {
            source: "file:///s".into(),
            place: "file:/s".into(),
            is_view: false,
            path: "/m".into(),
            state_dir: dir.path().to_owned(),
            socket: "/s/volume.sock".into(),
            pid: u32::MAX,
            pid_mark: 1,
            started_ms: 0,
        };
        host.ended(&gone).await;
        assert!(!host.is_running(&gone));
        assert_eq!(host.ending(&gone), Ending::Orderly);
        // Nothing is mounted and no process known: there is nothing to do.
        host.unmount(dir.path(), None).await.unwrap();
    }
}
