//! Databases whose data is in a project: while one runs, its files must not be put back under it. Who runs one holds a lock in
//! the project, and whoever restores holds it meanwhile. Nothing here ends or starts anything.

mod by_hand;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
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
    _locks: Vec<File>,
}

/// Keeps the databases at rest whose data is in `folder` of a mount: that of the project that it is, or that it is in, and of
/// every project below it that something runs in, or whose database somebody runs.
///
/// # Errors
/// [`ApiError::InUse`] when one runs, [`ApiError::DeadlineExceeded`].
pub(super) async fn at_rest(occupied: &Occupied, folder: &Path) -> Result<AtRest, ApiError> {
    let mut projects = occupied.beside(folder);
    projects.push((project_of(folder).to_owned(), "something".to_owned()));
    let looked = Looked {
        mountpoint: occupied.path.clone(),
        folder: folder.to_owned(),
        projects,
    };
    let locking = tokio::task::spawn_blocking(move || looked.lock());
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

/// What is to be kept at rest.
struct Looked {
    mountpoint: PathBuf,
    folder: PathBuf,
    /// Projects in it, and who runs there.
    projects: Vec<(PathBuf, String)>,
}

impl Looked {
    fn lock(self) -> Result<AtRest, ApiError> {
        let until = Instant::now() + PATIENCE;
        let mut locks: Vec<File> = Vec::new();
        let mut seen: Vec<&Path> = Vec::new();
        for (project, who) in &self.projects {
            if seen.contains(&project.as_path()) {
                continue;
            }
            seen.push(project);
            if let Some(file) = open(&self.mountpoint, project) {
                locks.extend(hold(file, project, who, until)?);
            }
        }
        for open in by_hand::open_locks(&self.mountpoint) {
            let Ok(meta) = open.file.metadata() else {
                continue;
            };
            let is_held = locks.iter().any(|held| by_hand::is_same(held, &meta));
            let is_in =
                open.project.starts_with(&self.folder) || open.project == project_of(&self.folder);
            if is_in && !is_held {
                locks.extend(hold(open.file, &open.project, &open.who, until)?);
            }
        }
        Ok(AtRest { _locks: locks })
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
fn open(mountpoint: &Path, project: &Path) -> Option<File> {
    let folder = open_folder(mountpoint, project).ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(folder, LOCK, flags, Mode::empty(), INSIDE).ok()?;
    Some(File::from(file))
}

/// Takes the lock of a project's database, which `who` seems to run.
///
/// # Errors
/// [`ApiError::InUse`] when it still runs at `until`.
fn hold(file: File, project: &Path, who: &str, until: Instant) -> Result<Option<File>, ApiError> {
    let locked = loop {
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
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
    use std::process::{Command, Stdio};

    use super::*;

    fn lock(mountpoint: &Path, project: &Path, who: &str) -> Result<Option<File>, ApiError> {
        match open(mountpoint, project) {
            Some(file) => hold(file, project, who, Instant::now()),
            None => Ok(None),
        }
    }

    fn looked(mountpoint: &Path, folder: &str) -> Looked {
        Looked {
            mountpoint: mountpoint.to_owned(),
            folder: folder.into(),
            projects: vec![(project_of(Path::new(folder)).to_owned(), "something".into())],
        }
    }

    #[test]
    fn a_database_that_runs_is_found_and_none_begins_meanwhile() {
        let mount = tempfile::tempdir().unwrap();
        let project = Path::new("app");
        assert!(lock(mount.path(), project, "x").unwrap().is_none());
        let path = mount.path().join(project).join(LOCK);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(lock(mount.path(), project, "x").unwrap().is_none());
        let database = File::create(&path).unwrap();
        database.lock().unwrap();
        let refused = lock(mount.path(), project, "preview 7").unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("preview 7 runs the database of the project app"),
            "{refused}"
        );
        database.unlock().unwrap();
        let held = lock(mount.path(), project, "x").unwrap();
        assert!(held.is_some() && database.try_lock().is_err());
        drop(held);
        database.try_lock().unwrap();
    }

    /// In a project that the sidecar was not asked to run anything in.
    #[test]
    fn a_database_that_was_started_by_hand_is_found_from_the_folders_around_it() {
        let mount = tempfile::tempdir().unwrap();
        let path = mount.path().join("web/app").join(LOCK);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(&path).unwrap();
        file.lock().unwrap();
        // The lock is the child's alone from here on.
        let mut database = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::from(file))
            .spawn()
            .unwrap();
        for folder in [
            "",
            "web",
            "web/app",
            "web/app/.weldr",
            "web/app/.weldr/postgres/data",
        ] {
            let refused = looked(mount.path(), folder).lock().map(drop).unwrap_err();
            let text = refused.to_string();
            let who = match folder.starts_with("web/app") {
                true => "something".to_owned(),
                false => format!("sleep (process {})", database.id()),
            };
            let runs = format!("{who} runs the database of the project web/app,");
            assert!(text.contains(&runs), "{folder}: {text}");
        }
        for folder in ["we", "web/app/src", "web/app2"] {
            looked(mount.path(), folder).lock().map(drop).unwrap();
        }
        // One that only waits, or has ended, is not in the way, and cannot begin meanwhile.
        database.kill().unwrap();
        database.wait().unwrap();
        let at_rest = looked(mount.path(), "web").lock().unwrap();
        let again = File::open(&path).unwrap();
        let is_free = again.try_lock().is_ok();
        assert!(is_free, "nobody has it open, so nobody knows of it here");
        drop(at_rest);
        let mut waits = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::from(again.try_clone().unwrap()))
            .spawn()
            .unwrap();
        again.unlock().unwrap();
        let at_rest = looked(mount.path(), "web").lock().unwrap();
        assert!(again.try_lock().is_err(), "it is held meanwhile");
        drop(at_rest);
        again.try_lock().unwrap();
        waits.kill().unwrap();
        waits.wait().unwrap();
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
        assert!(lock(mount.path(), Path::new(""), "x").unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        drop(lock(mount.path(), Path::new(""), "x").unwrap());
    }
}
