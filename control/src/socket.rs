//! Where a volume's socket is and how it is bound and reached. A socket address holds 107 bytes of path; longer ones
//! go through `/proc/self/fd`, so that a deep state folder is no reason for a mount to fail.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Name of the socket in the volume's state folder.
pub const SOCKET_NAME: &str = "volume.sock";

/// Longest path that fits a socket address, its closing zero left out.
const ADDRESS_MAX: usize = 107;

/// A path short enough for a socket address, and the folder it may lead through (which must stay open while it is used).
fn short_path(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= ADDRESS_MAX {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the path of a socket",
        ));
    };
    let folder = File::open(folder)?;
    Ok((
        PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name),
        Some(folder),
    ))
}

/// Binds the socket of a volume, for its owner only. A socket left by a process that died is replaced; the caller holds
/// the volume's lock, so nobody else can be listening.
///
/// # Errors
/// What the operating system says; also when `path` exists and is no socket.
pub fn bind_volume_socket(path: &Path) -> io::Result<UnixListener> {
    bind(path, 0o600)
}

/// The same with the permissions `mode`.
pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{} exists and is not a socket; move it away",
                    path.display()
                ),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (address, _folder) = short_path(path)?;
    let listener = UnixListener::bind(address)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Connects to a socket.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, _folder) = short_path(path)?;
    UnixStream::connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_longer_than_an_address_works_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join(SOCKET_NAME);
        let listener = bind_volume_socket(&path).unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), connect(&path));
        accepted.unwrap();
        connected.unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_anything_else_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_NAME);
        drop(bind_volume_socket(&path).unwrap());
        assert!(connect(&path).await.is_err());
        drop(bind_volume_socket(&path).unwrap());

        let file = dir.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(bind_volume_socket(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
