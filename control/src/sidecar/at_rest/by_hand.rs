//! Databases that the sidecar was not asked to run, such as one that was started by hand: whoever runs one has its lock open,
//! which the machine shows. Of programs of other users only root sees it.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, makedev};

use super::LOCK;

/// A lock that a program has open.
pub(super) struct Open {
    /// The lock's file, opened once more.
    pub(super) file: File,
    /// The project below the mount.
    pub(super) project: PathBuf,
    /// Like `postgres (process 7)`.
    pub(super) who: String,
}

/// The locks on `mountpoint` that programs have open, those of this process left out.
pub(super) fn open_locks(mountpoint: &Path) -> Vec<Open> {
    let Ok(mount) = std::fs::metadata(mountpoint) else {
        return Vec::new();
    };
    let mut found: Vec<Open> = Vec::new();
    for (pid, link, path) in locks_by_name() {
        // Another mount may hang: nothing of it is touched.
        let seen = SeenMount::of(pid, &link).filter(|seen| seen.device == mount.dev());
        let Some(seen) = seen else { continue };
        // Opened by the link, it is the very file, whatever its path says here.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&link, flags, Mode::empty()).map(File::from) else {
            continue;
        };
        let Ok(meta) = file.metadata() else { continue };
        if !meta.is_file() || found.iter().any(|one| is_same(&one.file, &meta)) {
            continue;
        }
        let Some(project) = project(mountpoint, &seen.in_file_system(&path), &meta) else {
            continue;
        };
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let who = format!("{} (process {pid})", name.trim());
        found.push(Open { file, project, who });
    }
    found
}

/// Whether `file` is the one of `meta`.
pub(super) fn is_same(file: &File, meta: &std::fs::Metadata) -> bool {
    let own = file.metadata();
    own.is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
}

/// The mount that something is on which a process has open, as that process sees it.
struct SeenMount {
    device: u64,
    /// What of the file system is mounted.
    root: PathBuf,
    /// Where.
    path: PathBuf,
}

impl SeenMount {
    /// By what the kernel notes, so that nobody has to be waited for.
    fn of(pid: u32, link: &Path) -> Option<Self> {
        let number = link.file_name()?.to_str()?;
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
        let mounts = std::fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
        let mut lines = mounts.split(|byte| *byte == b'\n');
        lines.find_map(|line| Self::read(line, id.trim()))
    }

    /// A line of `mountinfo`, if it is of the mount `id`: number, that of the parent, device, root, path, and more.
    fn read(line: &[u8], id: &str) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        words.next().filter(|word| *word == id.as_bytes())?;
        let device = std::str::from_utf8(words.nth(1)?).ok()?;
        let (major, minor) = device.split_once(':')?;
        Some(Self {
            device: makedev(major.parse().ok()?, minor.parse().ok()?),
            root: unescaped(words.next()?),
            path: unescaped(words.next()?),
        })
    }

    /// Where `path` of the process is in the file system.
    fn in_file_system(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.path) {
            Ok(rest) => self.root.join(rest),
            Err(_) => path.to_owned(),
        }
    }
}

/// The kernel writes a blank and the like as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = rest
            .get(if byte.is_some() { 4 } else { 1 }..)
            .unwrap_or_default();
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// What other processes have open and is called like a lock: the process, the link to it, and its path there.
fn locks_by_name() -> impl Iterator<Item = (u32, PathBuf, PathBuf)> {
    let own = std::process::id();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| *pid != own).flat_map(|pid| {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let links = links.into_iter().flatten().flatten();
        links.filter_map(move |link| {
            let link = link.path();
            let path = std::fs::read_link(&link).ok()?;
            path.ends_with(LOCK).then_some((pid, link, path))
        })
    })
}

/// The project of the lock at `path` of the file system: where the mount has the same file under an end of that path. All of
/// it is none where only a folder of the file system is mounted.
fn project(mountpoint: &Path, path: &Path, meta: &std::fs::Metadata) -> Option<PathBuf> {
    let mut project = path;
    for _ in Path::new(LOCK).components() {
        project = project.parent()?;
    }
    let parts: Vec<Component<'_>> = project
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    let mut ends = (0..=parts.len()).map(|from| parts.iter().skip(from).collect::<PathBuf>());
    ends.find(|project| {
        let there = std::fs::symlink_metadata(mountpoint.join(project).join(LOCK));
        there.is_ok_and(|there| (there.dev(), there.ino()) == (meta.dev(), meta.ino()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_its_place_in_the_file_system() {
        let mount = tempfile::tempdir().unwrap();
        let path = mount.path().join("web/app").join(LOCK);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let meta = File::create(&path).unwrap().metadata().unwrap();
        let at = |root: &str, path: &str, seen: &str| {
            let seen_mount = SeenMount {
                device: meta.dev(),
                root: root.into(),
                path: path.into(),
            };
            let seen = seen_mount.in_file_system(&Path::new(seen).join(LOCK));
            project(mount.path(), &seen, &meta)
        };
        let app = Some(PathBuf::from("web/app"));
        // The whole mount, a folder of it, and the project, in sandboxes; and by hand.
        assert_eq!(at("/", "/workspace", "/workspace/web/app"), app);
        assert_eq!(at("/web", "/workspace", "/workspace/app"), app);
        assert_eq!(at("/web/app", "/workspace", "/workspace"), app);
        assert_eq!(at("/", "/mnt/m", "/mnt/m/web/app"), app);
        // Another one of the same name.
        assert_eq!(at("/other", "/workspace", "/workspace"), None);
        // This process is not in its own way.
        assert!(open_locks(mount.path()).is_empty());
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = b"36 35 0:52 /a\\040b /mnt/x\\134y rw,noatime shared:1 - fuse.weldrfs s rw";
        let seen = SeenMount::read(line, "36").unwrap();
        assert_eq!(seen.device, makedev(0, 52));
        assert_eq!((seen.root, seen.path), ("/a b".into(), "/mnt/x\\y".into()));
        assert!(SeenMount::read(line, "3").is_none());
        assert!(SeenMount::read(b"36 35", "36").is_none());
        assert!(SeenMount::read(b"", "36").is_none());
    }
}
