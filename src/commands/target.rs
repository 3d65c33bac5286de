//! From a MOUNTPOINT on the command line to the volume that serves it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weldrfs_control::BlockingVolumeClient;

use super::api_failure;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::mount_table::{MountTable, resolve};
use crate::registry::{MountRecord, Registry};
use crate::unmounting::{Liveness, liveness};

/// How long a mount that answers may take to note where its state is, and how often to look.
const NOTE_WAIT: Duration = Duration::from_secs(5);
const NOTE_POLL: Duration = Duration::from_millis(20);

/// The registry that commands look in: `state_dir` if it was given, the usual places as well.
pub(crate) fn registry(state_dir: Option<PathBuf>, environment: &Environment) -> Registry {
    let bases = state_dir
        .into_iter()
        .chain(environment.state_base.clone())
        .collect();
    Registry::new(bases, environment.run_dir.clone())
}

/// The mount of ours that `path` is the mountpoint of, or lies on.
pub(crate) fn mountpoint_of(path: &Path) -> Result<PathBuf, Failure> {
    let table = MountTable::read()
        .map_err(|error| Failure::system("cannot read the mount table", &error))?;
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::system("cannot tell where this is", &error))?;
    // Asked by the name first: what is mounted there may be dead, and resolving would touch it.
    let by_name = table.over(&absolute).filter(|entry| entry.is_ours());
    let resolved = || resolve(path, &table).ok();
    let found = by_name.cloned().or_else(|| {
        table
            .over(&resolved()?)
            .filter(|entry| entry.is_ours())
            .cloned()
    });
    found.map(|entry| entry.mountpoint).ok_or_else(|| {
        let mounted: Vec<_> = table
            .ours()
            .map(|entry| entry.mountpoint.display().to_string())
            .collect();
        let hint = match mounted.as_slice() {
            [] => "nothing of WeldrFS is mounted here".to_owned(),
            _ => format!("mounted are: {}", mounted.join(", ")),
        };
        Failure::Invocation(format!(
            "{} is not on a WeldrFS mount; {hint}",
            path.display()
        ))
    })
}

/// The record of the running mount that `path` lies on.
pub(crate) fn running_mount(path: &Path, registry: &Registry) -> Result<MountRecord, Failure> {
    let mountpoint = mountpoint_of(path)?;
    let shown = mountpoint.display();
    let record = fresh_record(&mountpoint, registry).ok_or_else(|| {
        Failure::Invocation(format!(
            "{shown} is mounted, but where its state is is not known here: run as the user who mounted it, or give \
             --state-dir DIR as in its -o state_dir=DIR"
        ))
    })?;
    if !record.is_running() {
        return Err(Failure::System(format!(
            "{shown}: its process {} is gone (killed or crashed); mount it again, which replays what it had acknowledged",
            record.pid
        )));
    }
    Ok(record)
}

/// The record of a mount. A mount shows in the table a moment before its process notes where it is, so one that answers
/// is given that moment.
fn fresh_record(mountpoint: &Path, registry: &Registry) -> Option<MountRecord> {
    let deadline = Instant::now() + NOTE_WAIT;
    loop {
        let record = registry.at(mountpoint);
        let is_settled = record.as_ref().is_some_and(MountRecord::is_running)
            || Instant::now() >= deadline
            || !matches!(liveness(mountpoint), Liveness::Answers);
        if is_settled {
            return record;
        }
        std::thread::sleep(NOTE_POLL);
    }
}

/// A client of the running mount that `path` lies on.
pub(crate) fn client(path: &Path, registry: &Registry) -> Result<BlockingVolumeClient, Failure> {
    client_of(&running_mount(path, registry)?)
}

/// A client of the mount that wrote `record`.
pub(crate) fn client_of(record: &MountRecord) -> Result<BlockingVolumeClient, Failure> {
    BlockingVolumeClient::new(&record.socket)
        .map_err(|error| api_failure("cannot ask the volume", &error))
}
