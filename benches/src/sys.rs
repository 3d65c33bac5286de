//! What is asked of the kernel: dropping its caches, read-ahead, what the disks do.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::error::{At, Result};
use crate::process::run;

const SYNC_DEADLINE: Duration = Duration::from_secs(600);

/// Writes everything back and empties the kernel's caches of files, names and attributes, of all file systems.
pub(crate) fn drop_caches() -> Result<()> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    run(&mut Command::new("sync"), SYNC_DEADLINE)?;
    std::fs::write(FILE, "3").at(FILE)
}

/// Sectors that all disks have read, written and discarded; `None` where the kernel does not say.
pub(crate) fn disk_work() -> Option<u64> {
    let stats = std::fs::read_to_string("/proc/diskstats").ok()?;
    Some(stats.lines().map(sectors).sum())
}

/// Fields as in the kernel's Documentation/admin-guide/iostats.rst.
fn sectors(line: &str) -> u64 {
    const READ: usize = 5;
    const WRITTEN: usize = 9;
    const DISCARDED: usize = 16;
    let fields: Vec<&str> = line.split_whitespace().collect();
    [READ, WRITTEN, DISCARDED]
        .iter()
        .filter_map(|at| fields.get(*at)?.parse::<u64>().ok())
        .sum()
}

/// Length of all files below a folder. What is removed meanwhile does not count.
pub(crate) fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.at(&folder)?.path();
            match path.symlink_metadata() {
                Ok(found) if found.is_dir() => waiting.push(path),
                Ok(found) => bytes += found.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).at(&path),
            }
        }
    }
    Ok(bytes)
}

/// Raises the kernel's read-ahead of a FUSE mount. A hint: failing to give it is no error.
pub(crate) fn raise_read_ahead(mount: &Path, kib: &str) {
    if let Ok(found) = std::fs::metadata(mount) {
        let (major, minor) = (
            rustix::fs::major(found.dev()),
            rustix::fs::minor(found.dev()),
        );
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = std::fs::write(path, kib);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_files_below_a_folder_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("c"), "12345").unwrap();
        std::fs::write(folder.path().join("d"), "678").unwrap();
        assert_eq!(bytes_below(folder.path()).unwrap(), 8);
    }

    #[test]
    fn sectors_are_read_from_old_and_new_kernels() {
        let new = " 254 0 vda 4 5 600 3 4 2 70 1 0 7 4 1 6 8000 1 2 3";
        assert_eq!(sectors(new), 600 + 70 + 8000);
        let old = " 254 0 vda 4 5 600 3 4 2 70 1 0 7 4";
        assert_eq!(sectors(old), 600 + 70);
    }
}
