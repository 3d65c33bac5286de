//! A project's folder, as the sidecar looks at it: root reads here what somebody else wrote, so no link is followed, nothing is
//! opened that is no plain file, and no more is read than makes sense.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use weldrfs_control::{ApiError, ProjectFolder};

/// Most bytes of a file.
const FILE_MAX: u64 = 256 * 1024;
/// Its owner may execute it.
const EXECUTE: u32 = 0o100;

/// The folder.
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// The folder below a mount, to which no link may lead.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`]; [`ApiError::Internal`] when the mount does not answer.
    pub(super) fn open(mountpoint: &Path, folder: &Path) -> Result<Self, ApiError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || {
            let mountpoint = rustix::fs::open(mountpoint, flags, Mode::empty())?;
            match folder.as_os_str().is_empty() {
                true => Ok(mountpoint),
                false => openat2(&mountpoint, folder, flags, Mode::empty(), inside()),
            }
        };
        open().map(Self).map_err(|error| match error {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
                ApiError::InvalidRequest("path is no folder of the mount".into())
            }
            rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => ApiError::InvalidRequest(
                "path leads through a symbolic link or out of the mount; give the folder itself"
                    .into(),
            ),
            error => {
                tracing::error!(%error, "a project's folder cannot be opened");
                ApiError::Internal("the folder cannot be opened; the sidecar's log says why".into())
            }
        })
    }

    fn file(&self, name: &str) -> Option<(File, u32)> {
        // A pipe would not be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat2(&self.0, name, flags, Mode::empty(), inside()).ok()?;
        let found = fstat(&file).ok()?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        is_file.then(|| (File::from(file), found.st_mode))
    }
}

fn inside() -> ResolveFlags {
    ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV
}

impl ProjectFolder for Folder {
    fn read(&self, name: &str) -> Option<String> {
        let (file, _) = self.file(name)?;
        let mut text = Vec::new();
        let read: io::Result<usize> = file.take(FILE_MAX + 1).read_to_end(&mut text);
        let is_whole = read.is_ok() && text.len() as u64 <= FILE_MAX;
        is_whole.then(|| String::from_utf8_lossy(&text).into_owned())
    }

    fn has(&self, name: &str) -> bool {
        // A virtual environment's Python is a link, out of the project at that.
        let link = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat2(
            &self.0,
            name,
            link,
            Mode::empty(),
            inside() - ResolveFlags::NO_SYMLINKS,
        );
        let kind = found
            .and_then(|found| fstat(&found))
            .map(|found| FileType::from_raw_mode(found.st_mode));
        matches!(kind, Ok(FileType::RegularFile | FileType::Symlink))
    }

    fn is_executable(&self, name: &str) -> bool {
        self.file(name).is_some_and(|(_, mode)| mode & EXECUTE != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_plain_files_of_the_project_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        std::fs::create_dir_all(app.join("bin")).unwrap();
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        std::fs::write(app.join("package.json"), "{}").unwrap();
        std::fs::write(app.join("huge"), vec![b'x'; 300 * 1024]).unwrap();
        std::fs::write(app.join("run.sh"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(app.join("run.sh"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
        symlink("../outside", app.join("link")).unwrap();
        symlink("/bin", app.join("to-bin")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            app.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let folder = Folder::open(dir.path(), Path::new("app")).unwrap();
        assert_eq!(folder.read("package.json").as_deref(), Some("{}"));
        for name in [
            "link",
            "pipe",
            "bin",
            "huge",
            "missing",
            "../outside",
            "to-bin/sh",
        ] {
            assert_eq!(folder.read(name), None, "{name}");
        }
        assert!(folder.has("link") && folder.has("run.sh"));
        assert!(!folder.has("bin") && !folder.has("../outside") && !folder.has("missing"));
        assert!(folder.is_executable("run.sh") && !folder.is_executable("package.json"));
        for (bad, part) in [("missing", "no folder"), ("app/to-bin", "symbolic link")] {
            let error = Folder::open(dir.path(), Path::new(bad)).err().unwrap();
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
    }
}
