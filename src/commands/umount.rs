//! `weldrfs umount`: takes a mount away and waits until its process has saved everything, so that the volume can be
//! mounted again at once.

use std::path::Path;
use std::time::Duration;

use super::{api_failure, target};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::registry::{MountRecord, Registry};
use crate::unmounting::{self, Liveness};

/// How long the process of an unmounted volume may take to save its state and end.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// Unmount only once everything is in the store; how long to wait for that.
    pub(crate) sync: Option<Duration>,
    /// Take the name away at once and let open files finish.
    pub(crate) lazy: bool,
}

/// Unmounts what is mounted on `path`.
pub(crate) fn run(
    path: &Path,
    request: Request,
    registry: &Registry,
    environment: &Environment,
) -> Result<(), Failure> {
    let mountpoint =
        target::mountpoint_of(path).map_err(|failure| Failure::Mount(failure.to_string()))?;
    let given = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if mountpoint != given && !is_link_to(&given, &mountpoint) {
        return Err(Failure::Invocation(format!(
            "{} lies on the mount {}; give that to unmount it",
            path.display(),
            mountpoint.display()
        )));
    }
    let shown = mountpoint.display();
    let record = registry.at(&mountpoint).filter(MountRecord::is_running);
    let liveness = unmounting::liveness(&mountpoint);
    if liveness == Liveness::Silent && !request.lazy {
        return Err(Failure::Mount(format!(
            "{shown} does not answer: its process is stopped or waits for something; use --lazy, then end its process"
        )));
    }
    if let Some(timeout) = request.sync {
        sync_first(&mountpoint, record.as_ref(), timeout)?;
    }
    let lazy = request.lazy || liveness == Liveness::Dead;
    unmounting::unmount(&mountpoint, lazy, environment).map_err(|error| {
        Failure::Mount(match error.raw_os_error() {
            Some(libc::EBUSY) => format!(
                "{shown} is in use; \"fuser -vm {shown}\" shows by whom. End that, or use --lazy to let it finish"
            ),
            Some(libc::EPERM) => format!("{shown} cannot be unmounted: {error}; run as the user who mounted it, or root"),
            _ => format!("{shown} cannot be unmounted: {error}"),
        })
    })?;
    match record {
        Some(record) if !request.lazy => wait_until_saved(&mountpoint, &record),
        _ => Ok(()),
    }
}

fn is_link_to(given: &Path, mountpoint: &Path) -> bool {
    // The mount answers or the links before it can be followed; a dead one is given by its own name.
    std::fs::canonicalize(given).is_ok_and(|resolved| resolved == mountpoint)
}

fn sync_first(
    mountpoint: &Path,
    record: Option<&MountRecord>,
    timeout: Duration,
) -> Result<(), Failure> {
    let shown = mountpoint.display();
    let record = record.ok_or_else(|| {
        Failure::Mount(format!("{shown} was not unmounted: no running process is known for it, so nothing can be synced"))
    })?;
    let synced = target::client_of(record)?.sync(Some(timeout));
    synced.map(drop).map_err(|error| {
        Failure::Mount(format!(
            "{shown} was not unmounted: {}. Everything is safe on this machine; try again, or unmount without --sync",
            api_failure("not everything is in the store", &error)
        ))
    })
}

fn wait_until_saved(mountpoint: &Path, record: &MountRecord) -> Result<(), Failure> {
    match unmounting::wait_for_end(record, END_DEADLINE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::System(format!(
            "{} is unmounted, but its process {} is still saving its state after {} s; the volume can be mounted again \
             once it has ended",
            mountpoint.display(),
            record.pid,
            END_DEADLINE.as_secs()
        ))),
        Err(error) => Err(Failure::system(
            "unmounted, but its process cannot be watched",
            &error,
        )),
    }
}
