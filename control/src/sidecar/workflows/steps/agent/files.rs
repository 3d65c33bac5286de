//! Files of the project that an agent asks the sidecar for. Nothing outside of the project, whatever leads there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_client_protocol::v1::schema::{ReadTextFileRequest, WriteTextFileRequest};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, ftruncate, openat2};

use crate::sandbox::open_folder;

/// The folder that an agent works in.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// Where the mount is.
    pub(super) mountpoint: PathBuf,
    /// The folder below it; empty: all of it.
    pub(super) folder: PathBuf,
}

impl Project {
    /// As the agent knows it.
    pub(super) fn path(&self) -> PathBuf {
        self.mountpoint.join(&self.folder)
    }
}

/// Largest file.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// Most bytes of one answer: in JSON it may have six times as many.
const ANSWER_MAX: usize = 1024 * 1024;
/// How long the volume may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The text of a file, or of some of its lines.
///
/// # Errors
/// A sentence for the agent.
pub(super) async fn read(
    project: Project,
    request: ReadTextFileRequest,
    may: bool,
) -> Result<String, String> {
    if !may {
        return Err("this workflow does not let it read files here".into());
    }
    let text = apart(project, request.path, |root, path| {
        let file = open(root, path, OFlags::RDONLY, Mode::empty())?;
        let mut text = String::new();
        file.take(FILE_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    })
    .await?;
    let first = request.line.map_or(0, |line| line.saturating_sub(1)) as usize;
    let most = request.limit.map_or(usize::MAX, |limit| limit as usize);
    let lines = text.split_inclusive('\n').skip(first).take(most);
    let wanted: usize = lines.clone().map(str::len).sum();
    match wanted <= ANSWER_MAX {
        true => Ok(lines.collect()),
        false => Err(format!(
            "that is {wanted} bytes, and {ANSWER_MAX} are read at once: ask for fewer lines, with line and limit"
        )),
    }
}

/// Makes `request.content` the file's.
///
/// # Errors
/// A sentence for the agent.
pub(super) async fn write(
    project: Project,
    request: WriteTextFileRequest,
    may: bool,
) -> Result<(), String> {
    if !may {
        return Err("this workflow does not let it write files here".into());
    }
    if request.content.len() as u64 > FILE_MAX {
        return Err(format!("a file may have {FILE_MAX} bytes"));
    }
    let content = request.content;
    apart(project, request.path, move |root, path| {
        let mut file = match open(root, path, OFlags::WRONLY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mode = Mode::from_raw_mode(0o644);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = open(root, path, flags, mode)?;
                // It is the owner's of the project, as what the agent writes by itself.
                let owner = fstat(root)?;
                let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
                fchown(&file, Some(user), Some(group))?;
                file
            }
            opened => opened?,
        };
        ftruncate(&file, 0)?;
        file.write_all(content.as_bytes())
    })
    .await
}

fn open(root: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    // A pipe would be waited for; a link out of the project leads nowhere.
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = File::from(openat2(root, path, flags, mode, within)?);
    let stat = file.metadata()?;
    match stat.is_file() && stat.len() <= FILE_MAX {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

async fn apart<T: Send + 'static>(
    project: Project,
    path: PathBuf,
    work: impl FnOnce(&OwnedFd, &Path) -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let shown = path.display().to_string();
    let Ok(below) = path.strip_prefix(project.path()).map(Path::to_owned) else {
        return Err(format!(
            "{shown} is not in the project, {}",
            project.path().display()
        ));
    };
    let working = tokio::task::spawn_blocking(move || {
        work(&open_folder(&project.mountpoint, &project.folder)?, &below)
    });
    match tokio::time::timeout(DEADLINE, working).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(error))) => Err(match error.kind() {
            io::ErrorKind::NotFound => format!("there is no {shown}"),
            io::ErrorKind::InvalidInput => {
                format!("{shown} is no file of {FILE_MAX} bytes at most")
            }
            _ => format!("{shown} cannot be used: {}", error.kind()),
        }),
        Ok(Err(_)) | Err(_) => Err(format!("the volume did not hand out {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_but_files_of_the_project_is_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("project");
        std::fs::create_dir_all(project.join("deep")).unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "canary").unwrap();
        std::fs::write(project.join("a"), "one\ntwo\nthree\n").unwrap();
        std::os::unix::fs::symlink(&outside, project.join("link")).unwrap();
        std::os::unix::fs::symlink("a", project.join("alias")).unwrap();
        let inside = Project {
            mountpoint: dir.path().to_owned(),
            folder: "project".into(),
        };
        let get = |path: PathBuf| read(inside.clone(), ReadTextFileRequest::new("s", path), true);
        let put = |path: PathBuf| {
            write(
                inside.clone(),
                WriteTextFileRequest::new("s", path, "new"),
                true,
            )
        };
        assert_eq!(get(project.join("a")).await.unwrap(), "one\ntwo\nthree\n");
        assert_eq!(
            get(project.join("alias")).await.unwrap(),
            "one\ntwo\nthree\n"
        );
        let some = ReadTextFileRequest::new("s", project.join("a"))
            .line(2)
            .limit(1);
        assert_eq!(read(inside.clone(), some, true).await.unwrap(), "two\n");
        for path in [
            outside.clone(),
            project.join("link"),
            project.join("../outside"),
            PathBuf::from("/proc/self/environ"),
            project.join("deep"),
            project.join("missing/x"),
            PathBuf::from("a"),
        ] {
            assert!(get(path.clone()).await.is_err(), "{}", path.display());
            assert!(put(path.clone()).await.is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "canary");
        put(project.join("a")).await.unwrap();
        put(project.join("deep/b")).await.unwrap();
        assert_eq!(std::fs::read_to_string(project.join("a")).unwrap(), "new");
        assert_eq!(
            std::fs::read_to_string(project.join("deep/b")).unwrap(),
            "new"
        );
        std::fs::write(project.join("large"), "a line\n".repeat(200_000)).unwrap();
        let large = ReadTextFileRequest::new("s", project.join("large"));
        let refused = read(inside.clone(), large.clone(), true).await.unwrap_err();
        assert!(refused.contains("ask for fewer lines"), "{refused}");
        let some = large.line(150_000).limit(2);
        let two = read(inside.clone(), some, true).await.unwrap();
        assert_eq!(two, "a line\na line\n");
        let request = ReadTextFileRequest::new("s", project.join("a"));
        assert!(read(inside.clone(), request, false).await.is_err());
        let request = WriteTextFileRequest::new("s", project.join("a"), "x");
        assert!(write(inside.clone(), request, false).await.is_err());
    }

    #[tokio::test]
    async fn a_project_that_was_replaced_by_a_link_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("mount");
        std::fs::create_dir_all(mountpoint.join("app")).unwrap();
        std::fs::write(mountpoint.join("app/a"), "inside").unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("a"), "canary").unwrap();
        let project = Project {
            mountpoint: mountpoint.clone(),
            folder: "app".into(),
        };
        let path = mountpoint.join("app/a");
        let get = || read(project.clone(), ReadTextFileRequest::new("s", &path), true);
        assert_eq!(get().await.unwrap(), "inside");
        std::fs::rename(mountpoint.join("app"), mountpoint.join("was")).unwrap();
        std::os::unix::fs::symlink(&outside, mountpoint.join("app")).unwrap();
        get().await.unwrap_err();
        let request = WriteTextFileRequest::new("s", &path, "x");
        write(project.clone(), request, true).await.unwrap_err();
        let kept = std::fs::read_to_string(outside.join("a")).unwrap();
        assert_eq!(kept, "canary");
    }
}
