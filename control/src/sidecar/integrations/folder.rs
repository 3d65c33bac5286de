//! Files of a project, for manifests and what they write. The project is somebody else's: no link is followed, and what is no
//! plain file of a sensible size is not read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, openat,
    openat2, renameat, statat, unlinkat,
};

use crate::error::ApiError;
use crate::sandbox::{INSIDE, open_folder};

/// How long the volume may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// What a file is called until it is whole.
const NEW: &str = ".weldr-new";
/// Most names that are read of a folder.
const NAMES_MAX: usize = 1000;

/// Where a project is.
#[derive(Debug, Clone)]
pub(in crate::sidecar) struct Place {
    /// The mount.
    pub(in crate::sidecar) mountpoint: PathBuf,
    /// The folder below it; empty for all of it.
    pub(in crate::sidecar) folder: PathBuf,
}

impl Place {
    /// Does `work` in the project, apart from everything that must not wait for its volume.
    ///
    /// # Errors
    /// Those of `work`; [`ApiError::InvalidRequest`] when there is no such folder, [`ApiError::DeadlineExceeded`].
    pub(super) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&Folder) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let working = tokio::task::spawn_blocking(move || {
            let opened = open_folder(&self.mountpoint, &self.folder);
            let folder = opened.map_err(|error| {
                tracing::warn!(%error, folder = %self.folder.display(), "a project cannot be opened");
                ApiError::InvalidRequest(
                    "path takes a folder of the mount, and no symbolic link may lead to it".into(),
                )
            })?;
            work(&Folder(folder))
        });
        match tokio::time::timeout(DEADLINE, working).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                tracing::error!(%error, "work in a project broke down");
                Err(ApiError::Internal(
                    "work in the project broke down; the sidecar's log says why".into(),
                ))
            }
            Err(_) => Err(ApiError::DeadlineExceeded(format!(
                "the volume did not answer within {} s",
                DEADLINE.as_secs()
            ))),
        }
    }
}

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A plain file with this content.
    Text(Vec<u8>),
    /// Something else: a folder, a link on the way or at the end, a file that is larger than was asked for.
    Other,
}

/// A project's folder, opened.
pub(super) struct Folder(OwnedFd);

#[cfg(test)]
impl Folder {
    pub(super) fn of(folder: OwnedFd) -> Self {
        Self(folder)
    }
}

impl Folder {
    /// What is at `path`, of `most` bytes at most.
    ///
    /// # Errors
    /// What the operating system says of a file that is there.
    pub(super) fn read(&self, path: &str, most: usize) -> io::Result<Found> {
        // A pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = match openat2(&self.0, path, flags, Mode::empty(), INSIDE) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) if is_elsewhere(error) => return Ok(Found::Other),
            Err(error) => return Err(error.into()),
        };
        let stat = file.metadata()?;
        if !stat.is_file() || stat.len() > most as u64 {
            return Ok(Found::Other);
        }
        let mut content = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut content)?;
        Ok(match content.len() <= most {
            true => Found::Text(content),
            false => Found::Other,
        })
    }

    /// Whether the file there may be run.
    pub(super) fn is_executable(&self, path: &str) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(&self.0, path, flags, Mode::empty(), INSIDE).map(File::from);
        file.is_ok_and(|file| file.metadata().is_ok_and(|stat| stat.mode() & 0o100 != 0))
    }

    /// The names in a folder, in order; none when there is no such folder.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match openat2(&self.0, path, flags, Mode::empty(), INSIDE) {
            Ok(folder) => folder,
            Err(error) if error == rustix::io::Errno::NOENT || is_elsewhere(error) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)?.take(NAMES_MAX) {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Makes `content` that of the file at `path`, all at once. Folders that are missing are made; what is new is the
    /// project's owner's. A file that is there stays as open to others as it was, and its owner's.
    ///
    /// # Errors
    /// What the operating system says; a link on the way is ELOOP.
    pub(super) fn write(&self, path: &str, content: &[u8], executable: bool) -> io::Result<()> {
        let owner = fstat(&self.0)?;
        let user = Some(Uid::from_raw(owner.st_uid));
        let group = Some(Gid::from_raw(owner.st_gid));
        let path = Path::new(path);
        let mut folder = self.0.try_clone()?;
        for part in path.parent().into_iter().flat_map(Path::iter) {
            let is_new = match mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            folder = openat2(&folder, part, flags, Mode::empty(), INSIDE)?;
            if is_new {
                // Whatever this process' own mask is.
                fchmod(&folder, Mode::from_raw_mode(0o755))?;
                fchown(&folder, user, group)?;
            }
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // Of a sidecar that was killed.
        let _ = unlinkat(&folder, NEW, AtFlags::empty());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&folder, NEW, flags, Mode::from_raw_mode(0o600))?);
        let (mode, user, group) = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(old) if FileType::from_raw_mode(old.st_mode) == FileType::RegularFile => {
                // Who may read it may run it.
                let open = old.st_mode & 0o666;
                let may_run = if executable { (open & 0o444) >> 2 } else { 0 };
                let (user, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
                (open | may_run, Some(user), Some(group))
            }
            _ => (if executable { 0o755 } else { 0o644 }, user, group),
        };
        fchown(file.as_fd(), user, group)?;
        fchmod(file.as_fd(), Mode::from_raw_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(renameat(&folder, NEW, &folder, name)?)
    }
}

/// Whether a path leads over, or to, something that is not a plain file of the project.
fn is_elsewhere(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        error,
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO | Errno::NAMETOOLONG
    )
}

/// An error of the volume, as a client is told.
pub(super) fn failed(what: &str, error: &io::Error) -> ApiError {
    tracing::error!(%error, what, "a file of a project");
    ApiError::Conflict(format!("{what}: {}", error.kind()))
}
