//! The sidecar's Unix socket: made with its group and permissions, and made again when somebody removes it while the
//! sidecar runs. What somebody else puts in its place is left alone.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};

use super::settings::Settings;
use super::start_error::StartError;
use crate::socket::{bind, connect};
use crate::wire::{Accept, Caller};

/// Permissions of the socket.
pub(super) const SOCKET_MODE: u32 = 0o660;
/// Permissions of its folder: the group may pass, and only the owner may look around.
const FOLDER_MODE: u32 = 0o710;
/// How often it is looked whether the socket is still there.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The socket; clones are the same.
#[derive(Clone)]
pub(super) struct KeptSocket(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// A folder of the sidecar's own, which its group has to pass.
    own_folder: Option<PathBuf>,
    group: Option<u32>,
    open: Mutex<Open>,
}

struct Open {
    listener: Arc<UnixListener>,
    /// Device and inode: what else is under the name is somebody else's.
    file: (u64, u64),
    is_lost: bool,
}

impl KeptSocket {
    /// Listens where `settings` say.
    ///
    /// # Errors
    /// [`StartError::Listen`], also when somebody answers there already.
    pub(super) async fn listen(settings: &Settings) -> Result<Self, StartError> {
        let path = settings.socket.clone();
        let place = path.display().to_string();
        let failed = |error: io::Error| StartError::Listen {
            place: place.clone(),
            error,
        };
        if connect(&path).await.is_ok() {
            let text = "somebody else answers there; stop that, or give --socket PATH";
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, text)));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let own_folder = (folder == settings.run_dir).then(|| folder.to_owned());
        let open = make(&path, own_folder.as_deref(), settings.group).map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            path,
            own_folder,
            group: settings.group,
            open: Mutex::new(open),
        })))
    }

    /// The group whose members may connect.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn group(&self) -> io::Result<u32> {
        std::fs::metadata(&self.0.path).map(|found| found.gid())
    }

    /// Removes the socket, unless something else is there by now.
    pub(super) fn remove(&self) {
        let ours = self.0.open.lock().file;
        let removed = match file_at(&self.0.path) {
            Ok(file) if file == ours => std::fs::remove_file(&self.0.path),
            Ok(_) => Err(io::Error::other("something else is there")),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::debug!(%error, "the socket is left alone");
        }
    }

    /// Makes the socket again if it is gone.
    fn look(&self) {
        let Inner {
            path,
            own_folder,
            group,
            open,
        } = &*self.0;
        let mut open = open.lock();
        match file_at(path) {
            Ok(file) if file == open.file => open.is_lost = false,
            Ok(_) if !open.is_lost => {
                open.is_lost = true;
                tracing::error!(
                    socket = %path.display(),
                    "something else is in the place of the sidecar's socket; it is made again once that is gone"
                );
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match make(path, own_folder.as_deref(), *group) {
                    Ok(made) => {
                        tracing::warn!(socket = %path.display(), "the sidecar's socket was removed and is made again");
                        *open = made;
                    }
                    Err(error) => {
                        tracing::error!(socket = %path.display(), %error, "the sidecar's socket cannot be made again");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(socket = %path.display(), %error, "the sidecar's socket cannot be looked at");
            }
        }
    }
}

impl Accept for KeptSocket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Caller)> {
        loop {
            let listener = Arc::clone(&self.0.open.lock().listener);
            tokio::select! {
                accepted = listener.next() => return accepted,
                () = tokio::time::sleep(LOOK_EVERY) => self.look(),
            }
        }
    }
}

fn make(path: &Path, own_folder: Option<&Path>, group: Option<u32>) -> io::Result<Open> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let listener = Arc::new(bind(path, 0o600)?);
    if let Some(group) = group {
        chown(path, None, Some(group))?;
        if let Some(folder) = own_folder {
            chown(folder, None, Some(group))?;
            std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
        }
    }
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(Open {
        listener,
        file: file_at(path)?,
        is_lost: false,
    })
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(dir: &Path) -> KeptSocket {
        let path = dir.join("run/control.sock");
        let open = make(&path, None, None).unwrap();
        KeptSocket(Arc::new(Inner {
            path,
            own_folder: None,
            group: None,
            open: Mutex::new(open),
        }))
    }

    #[tokio::test]
    async fn a_socket_that_was_removed_is_made_again_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let kept = socket(dir.path());
        std::fs::remove_dir_all(dir.path().join("run")).unwrap();
        assert!(connect(&kept.0.path).await.is_err());
        kept.look();
        let (accepted, connected) = tokio::join!(kept.next(), connect(&kept.0.path));
        accepted.unwrap();
        connected.unwrap();
        let mode = std::fs::metadata(&kept.0.path)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        kept.remove();
        assert!(!kept.0.path.exists());
    }

    #[tokio::test]
    async fn what_somebody_else_put_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let kept = socket(dir.path());
        std::fs::remove_file(&kept.0.path).unwrap();
        std::fs::write(&kept.0.path, "theirs").unwrap();
        kept.look();
        kept.remove();
        assert_eq!(std::fs::read_to_string(&kept.0.path).unwrap(), "theirs");
        std::fs::remove_file(&kept.0.path).unwrap();
        let theirs = UnixListener::bind(&kept.0.path).unwrap();
        kept.look();
        let (accepted, connected) = tokio::join!(theirs.accept(), connect(&kept.0.path));
        accepted.unwrap();
        connected.unwrap();
        kept.remove();
        assert!(kept.0.path.exists());
        // Once that is gone the name is free again.
        std::fs::remove_file(&kept.0.path).unwrap();
        kept.look();
        let (accepted, connected) = tokio::join!(kept.next(), connect(&kept.0.path));
        accepted.unwrap();
        connected.unwrap();
    }
}
