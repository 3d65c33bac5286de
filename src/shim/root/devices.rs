//! `/dev` of a sandbox: a folder in memory with its own nodes of the few devices that programs expect. The machine's are
//! not shown: whoever owned one there could change its mode for everybody.

use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::MountFlags;

use super::mounts::{attempt, tmpfs};

/// Name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] = [
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// What the runtime mounts on.
const FOLDERS: [&str; 3] = ["mqueue", "pts", "shm"];

/// Fills a new folder in memory on `target`. It becomes read-only with the rest, which keeps nobody from using the devices.
pub(super) fn make(target: &Path) -> Result<(), String> {
    tmpfs(target, "size=64k,mode=755", MountFlags::NOEXEC)?;
    for folder in FOLDERS {
        attempt(
            "no folder in /dev",
            std::fs::create_dir(target.join(folder)),
        )?;
    }
    let open_to_all = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        let device = target.join(name);
        let made = mknodat(
            CWD,
            &device,
            FileType::CharacterDevice,
            open_to_all,
            makedev(major, minor),
        );
        attempt("no device", made)?;
        attempt("no device", super::mode(&device, 0o666))?;
    }
    for (name, to) in LINKS {
        attempt("no link in /dev", symlink(to, target.join(name)))?;
    }
    Ok(())
}
