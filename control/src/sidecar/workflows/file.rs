//! Reading a workflow's file from a project. The project is somebody else's: its names may be symbolic links that lead
//! away, its files anything, and its volume may not answer.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::definition::DEFINITION_MAX;
use crate::error::ApiError;

/// Where the files are in a project.
const FOLDER: &str = ".weldr/workflows";
/// Endings, in the order in which they are tried.
const ENDINGS: [&str; 2] = ["yaml", "yml"];
/// Longest name.
const NAME_MAX: usize = 64;
/// How long the volume may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Whether `name` can be that of a workflow: nothing that leads elsewhere.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// The definition `name` of the project `folder` of the mount at `mountpoint`.
///
/// # Errors
/// [`ApiError::InvalidRequest`], [`ApiError::NotFound`], [`ApiError::DeadlineExceeded`].
pub(super) async fn read(mountpoint: &Path, folder: &Path, name: &str) -> Result<String, ApiError> {
    if !is_name(name) {
        return Err(ApiError::InvalidRequest(format!(
            "workflow takes a name of letters, digits, \".\", \"-\" and \"_\", {NAME_MAX} at most, or a definition: a \
             text of several lines, or an object"
        )));
    }
    let (mountpoint, below, named) = (mountpoint.to_owned(), folder.join(FOLDER), name.to_owned());
    let reading = tokio::task::spawn_blocking(move || {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for ending in ENDINGS {
            match read_below(&mountpoint, &below.join(format!("{named}.{ending}"))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                done => return done,
            }
        }
        Err(last)
    });
    let read = tokio::time::timeout(DEADLINE, reading).await.map_err(|_| {
        ApiError::DeadlineExceeded(format!(
            "the volume did not hand out the workflow within {} s",
            DEADLINE.as_secs()
        ))
    })?;
    let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ApiError::NotFound(format!(
            "there is no {FOLDER}/{name}.yaml in the project; the name is that of a file there, without its ending"
        )),
        _ => {
            tracing::warn!(%error, name, "a workflow's file cannot be read");
            ApiError::InvalidRequest(format!(
                "{FOLDER}/{name}.yaml is no file that can be read: it must be a regular one of {DEFINITION_MAX} bytes \
                 at most, in UTF-8, and no symbolic link may lead to it"
            ))
        }
    })
}

fn read_below(mountpoint: &Path, path: &PathBuf) -> io::Result<String> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, mountpoint, directory, Mode::empty())?;
    // A pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(root, path, flags, Mode::empty(), within)?);
    let most = DEFINITION_MAX as u64;
    let stat = file.metadata()?;
    if !stat.is_file() || stat.len() > most {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text)?;
    match text.len() as u64 <= most {
        true => Ok(text),
        false => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn only_a_plain_file_of_the_project_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("app/.weldr/workflows");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("good.yaml"), "steps: []").unwrap();
        std::fs::write(folder.join("short.yml"), "x").unwrap();
        std::fs::write(folder.join("big.yaml"), "x".repeat(DEFINITION_MAX + 1)).unwrap();
        std::fs::write(folder.join("bytes.yaml"), [0xff, 0xfe]).unwrap();
        std::fs::create_dir(folder.join("folder.yaml")).unwrap();
        symlink("/etc/passwd", folder.join("link.yaml")).unwrap();
        rustix::fs::mknodat(
            CWD,
            folder.join("pipe.yaml"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let get = |name: &'static str| read(dir.path(), Path::new("app"), name);
        assert_eq!(get("good").await.unwrap(), "steps: []");
        assert_eq!(get("short").await.unwrap(), "x");
        for name in ["big", "bytes", "folder", "link", "pipe"] {
            let error = get(name).await.unwrap_err();
            assert_eq!(error.code(), "invalid_request", "{name}: {error}");
        }
        assert_eq!(get("missing").await.unwrap_err().code(), "not_found");
        for name in ["../x", "a/b", "", ".hidden", "a\0", "/etc/passwd"] {
            let error = get(name).await.unwrap_err();
            assert_eq!(error.code(), "invalid_request", "{name}");
        }
        // A folder that is a symbolic link leads nowhere.
        symlink("app", dir.path().join("alias")).unwrap();
        let error = read(dir.path(), Path::new("alias"), "good").await;
        assert_eq!(error.unwrap_err().code(), "invalid_request");
    }
}
