//! Which programs use a mount. Looks at what /proc says and never at the mount itself.

use std::path::{Path, PathBuf};

/// Most programs that are named.
const SHOWN_MAX: usize = 5;

/// The programs that have something open below `mountpoint`, work in it, or run from it: like `node (process 7)`.
pub(super) fn of(mountpoint: &Path) -> Vec<String> {
    let processes =
        std::fs::read_dir("/proc").map_or_else(|_| Vec::new(), |found| found.flatten().collect());
    let pids = processes
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| uses(*pid, mountpoint))
        .take(SHOWN_MAX)
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} (process {pid})", name.trim())
        })
        .collect()
}

fn uses(pid: u32, mountpoint: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let links = ["cwd", "root", "exe"].map(|name| process.join(name));
    let files = std::fs::read_dir(process.join("fd"));
    let files = files.map_or_else(
        |_| Vec::new(),
        |found| found.flatten().map(|entry| entry.path()).collect(),
    );
    links
        .into_iter()
        .chain(files)
        .filter_map(|link| std::fs::read_link(link).ok())
        .any(|target| target.starts_with(mountpoint))
        || maps(pid, mountpoint)
}

/// Whether a file below `mountpoint` is mapped, as of a program or library.
fn maps(pid: u32, mountpoint: &Path) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .any(|path| Path::new(path).starts_with(mountpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_something_open_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::canonicalize(dir.path()).unwrap();
        assert_eq!(of(&dir), Vec::<String>::new());
        let _open = std::fs::File::create(dir.join("file")).unwrap();
        let own = format!("(process {})", std::process::id());
        assert!(of(&dir).iter().any(|user| user.ends_with(&own)));

        let below = dir.join("below");
        std::fs::create_dir(&below).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .current_dir(&below)
            .spawn()
            .unwrap();
        let users = of(&below);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(users, [format!("sleep (process {})", child.id())]);
    }
}
