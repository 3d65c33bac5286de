//! The kernel's table of mounts, read without touching any mounted filesystem: a dead or stopped one would make every
//! other question hang or fail.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::options::SUBTYPE;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    pub(crate) mountpoint: PathBuf,
    /// Like `ext4` or `fuse.weldrfs`.
    pub(crate) kind: String,
    pub(crate) source: OsString,
}

impl MountEntry {
    /// Whether this is a mount of ours.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind.strip_prefix("fuse.") == Some(SUBTYPE)
    }
}

/// The mounts that this process sees, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct MountTable {
    entries: Vec<MountEntry>,
}

impl MountTable {
    /// The table as it is now.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    fn parse(text: &[u8]) -> Self {
        Self {
            entries: text
                .split(|byte| *byte == b'\n')
                .filter_map(parse_line)
                .collect(),
        }
    }

    /// The mount whose mountpoint is exactly `path`; the topmost of several.
    pub(crate) fn at(&self, path: &Path) -> Option<&MountEntry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.mountpoint == path)
    }

    /// The mount that `path` lies on.
    pub(crate) fn over(&self, path: &Path) -> Option<&MountEntry> {
        // Of equally deep ones the last is on top, and `max_by_key` answers the last.
        self.entries
            .iter()
            .filter(|entry| path.starts_with(&entry.mountpoint))
            .max_by_key(|entry| entry.mountpoint.as_os_str().len())
    }

    /// All mounts.
    pub(crate) fn entries(&self) -> &[MountEntry] {
        &self.entries
    }

    /// The mounts of ours.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &MountEntry> {
        self.entries.iter().filter(|entry| entry.is_ours())
    }
}

/// See proc_pid_mountinfo(5): fixed fields, optional ones up to a lone dash, then type, source and options.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mountpoint = fields.nth(4)?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = fields.next()?;
    let source = fields.next()?;
    Some(MountEntry {
        mountpoint: PathBuf::from(unescape(mountpoint)),
        kind: String::from_utf8_lossy(unescape(kind).as_bytes()).into_owned(),
        source: unescape(source),
    })
}

/// Blanks, tabs, newlines and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(digits, 8).ok()
            });
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

/// `path` made absolute and free of symbolic links, except that the last part is only resolved when that does not mean
/// touching what is mounted there.
///
/// # Errors
/// When a folder on the way cannot be read or is missing.
pub(crate) fn resolve(path: &Path, table: &MountTable) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return std::fs::canonicalize(&absolute);
    };
    if table.at(&absolute).is_some() {
        return Ok(absolute);
    }
    let resolved = std::fs::canonicalize(parent)?.join(name);
    if table.at(&resolved).is_some() {
        return Ok(resolved);
    }
    // A symbolic link is read by itself, because following it may lead to what is mounted at its end.
    match std::fs::read_link(&resolved) {
        Ok(target) => resolve_link(&resolved, &target, table),
        Err(_) => std::fs::canonicalize(&resolved),
    }
}

fn resolve_link(link: &Path, target: &Path, table: &MountTable) -> io::Result<PathBuf> {
    let target = link.parent().unwrap_or(Path::new("/")).join(target);
    if table.at(&target).is_some() {
        return Ok(target);
    }
    std::fs::canonicalize(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 22 0:40 / /mnt/a\\040b rw,nosuid - fuse.weldrfs file:///srv/x\\040y rw,user_id=0\n\
        31 22 0:41 / /mnt/v rw shared:5 master:2 - fuse.weldrfs file:///one rw\n\
        32 31 0:42 / /mnt/v rw - tmpfs none rw\n\
        broken line\n\
        33 22 0:43 / /mnt/vv rw - fuse.other x rw\n";

    #[test]
    fn escapes_and_optional_fields_are_understood() {
        let table = MountTable::parse(TABLE);
        let entry = table.at(Path::new("/mnt/a b")).unwrap();
        assert_eq!(
            (entry.kind.as_str(), entry.source.to_str()),
            ("fuse.weldrfs", Some("file:///srv/x y"))
        );
        assert_eq!(table.ours().count(), 2);
        assert!(!table.at(Path::new("/mnt/vv")).unwrap().is_ours());
        assert_eq!(unescape(b"a\\13"), "a\\13");
        assert_eq!(unescape(b"\\777x"), "\\777x");
    }

    #[test]
    fn the_topmost_mount_answers() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.at(Path::new("/mnt/v")).unwrap().kind, "tmpfs");
        assert_eq!(
            table.over(Path::new("/mnt/v/deep/er")).unwrap().kind,
            "tmpfs"
        );
        assert_eq!(table.over(Path::new("/mnt/vvv")).unwrap().kind, "ext4");
        assert_eq!(table.at(Path::new("/mnt/none")), None);
    }

    #[test]
    fn the_real_table_has_a_root() {
        assert!(MountTable::read().unwrap().at(Path::new("/")).is_some());
    }

    #[test]
    fn links_and_relative_parts_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        let table = MountTable::default();
        assert_eq!(
            resolve(&base.join("link"), &table).unwrap(),
            base.join("real")
        );
        assert_eq!(
            resolve(&base.join("link/../real"), &table).unwrap(),
            base.join("real")
        );
        assert!(resolve(&base.join("missing"), &table).is_err());

        // What is mounted at the end of a link is not touched: here it does not even exist.
        std::os::unix::fs::symlink(base.join("gone"), base.join("to-mount")).unwrap();
        let entry = MountEntry {
            mountpoint: base.join("gone"),
            kind: "fuse.weldrfs".into(),
            source: "x".into(),
        };
        let table = MountTable {
            entries: vec![entry],
        };
        assert_eq!(
            resolve(&base.join("to-mount"), &table).unwrap(),
            base.join("gone")
        );
    }
}
