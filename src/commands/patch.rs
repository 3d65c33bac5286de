//! Differences as a patch that `git apply` and `patch -p1` take. Reads both sides through the mount, one file at a time.
//!
//! As git has it, directories are not in it, nor are owners, extended attributes, devices and sockets; the other forms of
//! `snapshot diff` tell of those.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use similar::TextDiff;
use weldrfs_control::{DifferenceInfo, DifferenceKind};

/// Larger files are named, and their content is not shown.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Where a zero byte makes a file binary, as git looks.
const TEXT_PROBE_BYTES: usize = 8000;
/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// What is at a path on one side.
#[derive(Debug, PartialEq, Eq)]
struct Side {
    /// As git has it: 100644, 100755 or 120000, octal.
    mode: u32,
    /// `None`: too large.
    data: Option<Vec<u8>>,
}

impl Side {
    /// `None` when there is nothing, or nothing that a patch can hold.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let stat = match fs::symlink_metadata(path) {
            Ok(stat) => stat,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if stat.is_symlink() {
            let target = fs::read_link(path)?;
            return Ok(Some(Self {
                mode: 0o120_000,
                data: Some(target.as_os_str().as_bytes().to_vec()),
            }));
        }
        if !stat.is_file() {
            return Ok(None);
        }
        let data = match stat.len() {
            0..=MAX_FILE_BYTES => Some(fs::read(path)?),
            _ => None,
        };
        let executable = stat.mode() & 0o100 != 0;
        Ok(Some(Self {
            mode: if executable { 0o100_755 } else { 0o100_644 },
            data,
        }))
    }

    fn is_text(&self) -> bool {
        let probe = |data: &Vec<u8>| !data[..data.len().min(TEXT_PROBE_BYTES)].contains(&0);
        self.data.as_ref().is_some_and(probe)
    }

    fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Writes the patch of `differences` between the trees at `older` and `newer`.
///
/// # Errors
/// Why a file cannot be read, or `to` not be written.
pub(super) fn write(
    differences: &[DifferenceInfo],
    older: &Path,
    newer: &Path,
    to: &mut dyn Write,
) -> io::Result<()> {
    let told: BTreeSet<Vec<u8>> = differences.iter().map(DifferenceInfo::exact_path).collect();
    for one in differences {
        let path = one.exact_path();
        if !one.directory {
            let was = (one.kind != DifferenceKind::Created).then(|| one.exact_old_path());
            let is = (one.kind != DifferenceKind::Deleted).then_some(&path[..]);
            file(was.as_deref(), is, (older, newer), to)?;
        } else if let (DifferenceKind::Renamed, Some(from)) = (one.kind, one.exact_from()) {
            // Git has no directories: each file in it has another name.
            for below in files_below(&newer.join(of_bytes(&path)))? {
                let below = below.as_os_str().as_bytes();
                let (is, was) = (joined(&path, below), joined(&from, below));
                if !told.contains(&is) {
                    file(Some(&was), Some(&is), (older, newer), to)?;
                }
            }
        }
    }
    Ok(())
}

fn of_bytes(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

fn joined(directory: &[u8], below: &[u8]) -> Vec<u8> {
    [directory, b"/", below].concat()
}

/// The files below a directory, relative to it, sorted.
fn files_below(top: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(top.join(&dir))? {
            let entry = entry?;
            let below = dir.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true => open.push(below),
                false => found.push(below),
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One file, by its path before and after, and the trees these are in.
fn file(
    was: Option<&[u8]>,
    is: Option<&[u8]>,
    (older, newer): (&Path, &Path),
    to: &mut dyn Write,
) -> io::Result<()> {
    let read = |tree: &Path, path: Option<&[u8]>| match path {
        Some(path) => Side::read(&tree.join(of_bytes(path))),
        None => Ok(None),
    };
    let (before, after) = (read(older, was)?, read(newer, is)?);
    match (&before, &after) {
        // Git takes a file that became a link for one that went and one that came.
        (Some(old), Some(new)) if old.kind() != new.kind() => {
            change(was, None, before.as_ref(), None, to)?;
            change(None, is, None, after.as_ref(), to)
        }
        _ => change(was, is, before.as_ref(), after.as_ref(), to),
    }
}

fn change(
    was: Option<&[u8]>,
    is: Option<&[u8]>,
    before: Option<&Side>,
    after: Option<&Side>,
    to: &mut dyn Write,
) -> io::Result<()> {
    let (old_name, new_name) = match (was, is) {
        (Some(was), Some(is)) => (was, is),
        (Some(one), None) | (None, Some(one)) => (one, one),
        (None, None) => return Ok(()),
    };
    let (a, b) = (quoted("a/", old_name), quoted("b/", new_name));
    let mut head = format!("diff --git {a} {b}\n");
    match (before, after) {
        (None, None) => return Ok(()),
        (None, Some(new)) => head.push_str(&format!("new file mode {:o}\n", new.mode)),
        (Some(old), None) => head.push_str(&format!("deleted file mode {:o}\n", old.mode)),
        (Some(old), Some(new)) => {
            if old.mode != new.mode {
                let modes = format!("old mode {:o}\nnew mode {:o}\n", old.mode, new.mode);
                head.push_str(&modes);
            }
            if old_name != new_name {
                let names = (quoted("", old_name), quoted("", new_name));
                head.push_str(&format!("rename from {}\nrename to {}\n", names.0, names.1));
            }
            if old.data == new.data && old.data.is_some() {
                // Nothing but an owner or an attribute differs: no patch tells.
                if old.mode != new.mode || old_name != new_name {
                    to.write_all(head.as_bytes())?;
                }
                return Ok(());
            }
        }
    }
    to.write_all(head.as_bytes())?;
    let a = before.map_or_else(|| "/dev/null".to_owned(), |_| a);
    let b = after.map_or_else(|| "/dev/null".to_owned(), |_| b);
    if !before.is_none_or(Side::is_text) || !after.is_none_or(Side::is_text) {
        return writeln!(to, "Binary files {a} and {b} differ");
    }
    let (old, new) = (text_of(before), text_of(after));
    if old.is_empty() && new.is_empty() {
        return Ok(());
    }
    TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(&a, &b)
        .to_writer(to)
}

fn text_of(side: Option<&Side>) -> &[u8] {
    side.and_then(|side| side.data.as_deref())
        .unwrap_or_default()
}

/// A path as git writes it: in quotes when it holds a quote, a backslash, a control character, or bytes that are no UTF-8.
fn quoted(prefix: &str, path: &[u8]) -> String {
    let is_plain = |c: char| c != '"' && c != '\\' && !c.is_control();
    if let Ok(path) = std::str::from_utf8(path)
        && path.chars().all(is_plain)
    {
        return format!("{prefix}{path}");
    }
    let mut text = format!("\"{prefix}");
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    octal(&mut text, c.encode_utf8(&mut bytes).as_bytes());
                }
                c => text.push(c),
            }
        }
        octal(&mut text, chunk.invalid());
    }
    text.push('"');
    text
}

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\{byte:03o}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(mode: u32, data: &[u8]) -> Side {
        Side {
            mode,
            data: Some(data.to_vec()),
        }
    }

    fn patch(was: Option<&str>, is: Option<&str>, old: Option<Side>, new: Option<Side>) -> String {
        let mut text = Vec::new();
        let (was, is) = (was.map(str::as_bytes), is.map(str::as_bytes));
        change(was, is, old.as_ref(), new.as_ref(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_change_reads_as_git_writes_it() {
        let old = side(0o100_644, b"one\ntwo\n");
        let new = side(0o100_755, b"one\nthree");
        assert_eq!(
            patch(Some("a"), Some("a"), Some(old), Some(new)),
            "diff --git a/a b/a\nold mode 100644\nnew mode 100755\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n\
             +three\n\\ No newline at end of file\n"
        );
    }

    #[test]
    fn what_comes_what_goes_and_what_is_no_text() {
        let text = || Some(side(0o100_644, b"x\n"));
        assert_eq!(
            patch(None, Some("a b"), None, text()),
            "diff --git a/a b b/a b\nnew file mode 100644\n--- /dev/null\n+++ b/a b\n@@ -0,0 +1 @@\n+x\n"
        );
        assert_eq!(
            patch(Some("a"), None, text(), None),
            "diff --git a/a b/a\ndeleted file mode 100644\n--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        );
        let binary = Some(side(0o100_644, b"\0"));
        assert_eq!(
            patch(Some("a"), Some("a"), text(), binary),
            "diff --git a/a b/a\nBinary files a/a and b/a differ\n"
        );
        assert_eq!(
            patch(Some("a"), Some("b"), text(), text()),
            "diff --git a/a b/b\nrename from a\nrename to b\n"
        );
        assert_eq!(patch(Some("a"), Some("a"), text(), text()), "");
        assert_eq!(quoted("a/", b"q\"\t\x01"), "\"a/q\\\"\\t\\001\"");
        assert_eq!(quoted("a/", b"q\xff\xc3"), "\"a/q\\377\\303\"");
        assert_eq!(quoted("a/", "ä".as_bytes()), "a/ä");
    }
}
