//! What a sandbox does not see of the machine.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use weldrfs_control::{HIDDEN_DIRECTORIES, HIDDEN_FILES};

use super::mounts::{attempt, bind_read_only, copy_read_only, put, tmpfs};
use super::{Composing, is_file, is_folder, real, write};

/// Bytes of a folder that is only there to hide another.
const COVER_BYTES: u64 = 1024 * 1024;
/// Where services of the machine keep what is theirs, sockets above all: whoever can reach a socket's name can talk to it,
/// read-only or not.
const VARIABLE: &str = "/var";
/// What of it belongs to the system's packages.
const VARIABLE_SHOWN: [&str; 8] = [
    "/var/lib/ca-certificates-java",
    "/var/lib/dpkg",
    "/var/lib/emacsen-common",
    "/var/lib/gems",
    "/var/lib/ghc",
    "/var/lib/python",
    "/var/lib/tex-common",
    "/var/lib/texmf",
];
/// What of it is there and empty.
const VARIABLE_EMPTY: [&str; 6] = [
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/mail",
    "/var/spool",
    "/var/tmp",
];
const VARIABLE_LINKS: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/lock", "/run/lock")];

impl Composing<'_> {
    /// Shows of `/var` only what belongs to the system.
    pub(super) fn hide_variable(&mut self) -> Result<(), String> {
        if !is_folder(&self.at(Path::new(VARIABLE))) {
            return Ok(());
        }
        let mut shown = Vec::new();
        for path in VARIABLE_SHOWN.map(Path::new) {
            let from = self.at(path);
            if is_folder(&from) {
                shown.push((path, copy_read_only(&from, None)?));
            }
        }
        self.cover(PathBuf::from(VARIABLE))?;
        // Links of the machine's are not followed: there are none in it now.
        let below = |path: &Path| {
            let rest = path.strip_prefix(VARIABLE).unwrap_or(path);
            self.at(Path::new(VARIABLE)).join(rest)
        };
        for path in VARIABLE_EMPTY.map(Path::new) {
            attempt("no folder in /var", std::fs::create_dir(below(path)))?;
        }
        for (path, to) in VARIABLE_LINKS {
            attempt("no link in /var", symlink(to, below(Path::new(path))))?;
        }
        for (path, tree) in shown {
            attempt("no folder in /var", std::fs::create_dir(below(path)))?;
            put(&tree, &below(path))?;
        }
        Ok(())
    }

    /// Covers what is nobody's business in a sandbox.
    pub(super) fn hide(&mut self) -> Result<(), String> {
        let usual = HIDDEN_DIRECTORIES.iter().map(PathBuf::from);
        let mut hidden: Vec<PathBuf> = usual
            .chain(self.plan.order.hidden.iter().cloned())
            .filter(|path| path.is_absolute())
            // A link hides what it leads to.
            .map(|path| real(&path))
            .filter(|path| path != Path::new("/"))
            .collect();
        hidden.sort();
        for path in hidden {
            let is_covered = self
                .covers
                .iter()
                .any(|cover| path.starts_with(real(cover)));
            if !is_covered && is_folder(&self.at(&path)) {
                self.cover(path)?;
            }
        }
        for path in HIDDEN_FILES {
            let target = self.at(Path::new(path));
            if is_file(&target) {
                bind_read_only(&self.empty()?, &target)?;
            }
        }
        Ok(())
    }

    /// Hides the sockets that the machine's services listen on elsewhere.
    pub(super) fn hide_sockets(&self) -> Result<(), String> {
        let table = std::fs::read("/proc/net/unix");
        let table = attempt("the machine's sockets cannot be listed", table)?;
        for path in sockets(&String::from_utf8_lossy(&table)) {
            let target = self.at(&path);
            let is_socket =
                std::fs::symlink_metadata(&target).is_ok_and(|found| found.file_type().is_socket());
            if is_socket {
                bind_read_only(&self.empty()?, &target)?;
            }
        }
        Ok(())
    }

    pub(super) fn cover(&mut self, path: PathBuf) -> Result<(), String> {
        let options = format!("size={COVER_BYTES},mode=755");
        tmpfs(&self.at(&path), &options, MountFlags::NODEV)?;
        self.covers.push(path);
        Ok(())
    }

    /// A file to hide others with.
    fn empty(&self) -> Result<PathBuf, String> {
        let empty = self.plan.folder.join("empty");
        attempt("no empty file", write(&empty, b"", 0o444))?;
        Ok(empty)
    }
}

/// The names of sockets in the kernel's table of them.
fn sockets(table: &str) -> BTreeSet<PathBuf> {
    const NAME: usize = 7;
    let name = |line: &str| {
        let mut rest = line;
        for _ in 0..NAME {
            rest = rest.trim_start().split_once(' ')?.1;
        }
        let name = rest.trim_start();
        name.starts_with('/').then(|| PathBuf::from(name))
    };
    table.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_in_the_table() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 18134 /run/docker.sock
0000000000000000: 00000003 00000000 00000000 0001 03 21500
0000000000000000: 00000002 00000000 00010000 0001 01 18135 @/tmp/dbus
0000000000000000: 00000002 00000000 00010000 0001 01    99 /opt/a b/s
";
        let found: Vec<_> = sockets(table).into_iter().collect();
        assert_eq!(
            found,
            [PathBuf::from("/opt/a b/s"), "/run/docker.sock".into()]
        );
    }
}
