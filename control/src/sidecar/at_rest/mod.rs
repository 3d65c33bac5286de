//! Databases whose data is in a project: while one runs, its files must not be put back under it. Who runs one holds a lock in
//! the project, and whoever restores holds it meanwhile. Nothing here ends or starts anything.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat2};
use rustix::io::Errno;

use super::mounts::Occupied;
use crate::error::ApiError;
use crate::sandbox::{INSIDE, open_folder};

/// What the script `with-postgres` of the integration `postgresql` holds, in a project.
const LOCK: &str = ".weldr/postgres/lock";
/// Where the data is, in a project: the folder, and the one that it is in.
const DATA: [&str; 2] = [".weldr", "postgres"];
/// How long the volume may take, the patience included.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one that was just told to end may take, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// No database of these projects begins to run as long as this lives.
#[derive(Debug)]
pub(super) struct AtRest {
    _locks: Vec<OwnedFd>,
}

/// Keeps the databases at rest whose data is in `folder` of a mount: that of the project that it is, or that it is in, and of
/// every project below it that something runs in.
///
/// # Errors
/// [`ApiError::InUse`] when one runs, [`ApiError::DeadlineExceeded`].
pub(super) async fn at_rest(occupied: &Occupied, folder: &Path) -> Result<AtRest, ApiError> {
    let mountpoint = occupied.path.clone();
    let mut projects = occupied.beside(folder);
    projects.push((project_of(folder).to_owned(), "something".to_owned()));
    let locking = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + PATIENCE;
        let mut locks = Vec::new();
        let mut seen: Vec<&Path> = Vec::new();
        for (project, who) in &projects {
            if seen.contains(&project.as_path()) {
                continue;
            }
            seen.push(project);
            locks.extend(lock(&mountpoint, project, who, until)?);
        }
        Ok(AtRest { _locks: locks })
    });
    match tokio::time::timeout(DEADLINE, locking).await {
        Ok(Ok(locked)) => locked,
        Ok(Err(error)) => Err(ApiError::Internal(format!(
            "looking for databases: {error}"
        ))),
        Err(_) => Err(ApiError::DeadlineExceeded(format!(
            "the volume did not say within {} s whether a database of the project runs",
            DEADLINE.as_secs()
        ))),
    }
}

/// The project whose database `folder` belongs to; else `folder` itself.
fn project_of(folder: &Path) -> &Path {
    let [around, data] = DATA;
    if folder.ends_with(around) {
        return folder.parent().unwrap_or(folder);
    }
    let whole = Path::new(around).join(data);
    let mut data = folder.ancestors().filter(|at| at.ends_with(&whole));
    let project = data.find_map(|at| at.parent()?.parent());
    project.unwrap_or(folder)
}

/// The lock of a project's database; none where there is no database.
fn lock(
    mountpoint: &Path,
    project: &Path,
    who: &str,
    until: Instant,
) -> Result<Option<OwnedFd>, ApiError> {
    let Ok(folder) = open_folder(mountpoint, project) else {
        return Ok(None);
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat2(folder, LOCK, flags, Mode::empty(), INSIDE) else {
        return Ok(None);
    };
    let locked = loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(LOOK),
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN) => Err(ApiError::InUse(format!(
            "{who} runs the database of {}, and its files cannot be put back under it; end that, then try again",
            shown(project)
        ))),
        // No lock that anybody could hold.
        Err(error) => {
            tracing::warn!(%error, project = %project.display(), "the lock of a database cannot be taken");
            Ok(None)
        }
    }
}

fn shown(project: &Path) -> String {
    match project.as_os_str().is_empty() {
        true => "the mount".to_owned(),
        false => format!("the project {}", project.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_runs_is_found_and_none_begins_meanwhile() {
        let mount = tempfile::tempdir().unwrap();
        let project = Path::new("app");
        assert!(
            lock(mount.path(), project, "x", Instant::now())
                .unwrap()
                .is_none()
        );
        let path = mount.path().join(project).join(LOCK);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(
            lock(mount.path(), project, "x", Instant::now())
                .unwrap()
                .is_none()
        );
        let database = std::fs::File::create(&path).unwrap();
        database.lock().unwrap();
        let refused = lock(mount.path(), project, "preview 7", Instant::now()).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("preview 7 runs the database of the project app"),
            "{refused}"
        );
        database.unlock().unwrap();
        let held = lock(mount.path(), project, "x", Instant::now()).unwrap();
        assert!(held.is_some() && database.try_lock().is_err());
        drop(held);
        database.try_lock().unwrap();
    }

    #[test]
    fn a_folder_of_the_data_belongs_to_its_project() {
        for (folder, project) in [
            ("", ""),
            ("app", "app"),
            ("app/.weldr/postgres", "app"),
            ("app/.weldr", "app"),
            (".weldr", ""),
            (".weldr/postgres/data/base", ""),
            (".weldr/branches/b", ".weldr/branches/b"),
        ] {
            assert_eq!(project_of(Path::new(folder)), Path::new(project));
        }
    }

    #[test]
    fn what_is_no_lock_is_none() {
        let mount = tempfile::tempdir().unwrap();
        let path = mount.path().join(LOCK);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(
            lock(mount.path(), Path::new(""), "x", Instant::now())
                .unwrap()
                .is_none()
        );
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        drop(lock(mount.path(), Path::new(""), "x", Instant::now()).unwrap());
    }
}
