//! Whole trees: a checksum that is the same on every file system, reading everything, and four processes at once.

use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use super::Said;
use crate::error::{At, Result, ensure};

const BUFFER: usize = 1 << 20;
const AT_ONCE: usize = 4;

/// What a tree holds.
#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
    sum: Xxh3,
}

/// Reads a tree in the order of names: paths, kinds, contents and targets of links go into the sum, and no modes or
/// times, which not every file system keeps. `skip` is a path below the root.
fn read(root: &Path, skip: Option<&Path>) -> Result<Found> {
    let mut found = Found::default();
    let mut buffer = vec![0; BUFFER];
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let entries = std::fs::read_dir(&folder).at(&folder)?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .at(&folder)?;
        paths.sort();
        for path in paths {
            let below = path.strip_prefix(root).unwrap_or(&path);
            if skip.is_some_and(|skip| skip == below) {
                continue;
            }
            found.sum.update(below.as_os_str().as_bytes());
            let kind = path.symlink_metadata().at(&path)?.file_type();
            if kind.is_dir() {
                found.sum.update(b"\0d");
                waiting.push(path);
            } else if kind.is_symlink() {
                found.sum.update(b"\0l");
                let target = std::fs::read_link(&path).at(&path)?;
                found.sum.update(target.as_os_str().as_bytes());
                found.files += 1;
            } else {
                found.sum.update(b"\0f");
                found.add_content(&path, &mut buffer)?;
                found.files += 1;
            }
        }
    }
    Ok(found)
}

impl Found {
    fn add_content(&mut self, path: &Path, buffer: &mut [u8]) -> Result<()> {
        let mut file = std::fs::File::open(path).at(path)?;
        loop {
            let read = file.read(buffer).at(path)?;
            if read == 0 {
                return Ok(());
            }
            self.bytes += read as u64;
            self.sum.update(&buffer[..read]);
        }
    }

    fn shown(&self) -> String {
        format!(
            "{:032x} {} files {} bytes",
            self.sum.digest128(),
            self.files,
            self.bytes
        )
    }
}

/// Checksum of a tree.
pub(crate) fn tree_sum(root: &Path, skip: Option<&Path>) -> Result<String> {
    Ok(read(root, skip)?.shown())
}

/// Reads every file; the checksum is for whoever compares.
pub(super) fn read_all(root: &Path) -> Result<Said> {
    let began = Instant::now();
    let found = read(root, None)?;
    Ok(Said {
        seconds: began.elapsed().as_secs_f64(),
        done: found.files,
        sum: found.shown(),
        ..Said::default()
    })
}

/// Unpacks one archive in several processes at once.
pub(super) fn four(archive: &Path, folder: &Path) -> Result<Said> {
    let places: Vec<PathBuf> = (0..AT_ONCE).map(|n| folder.join(n.to_string())).collect();
    for place in &places {
        std::fs::create_dir_all(place).at(place)?;
    }
    let began = Instant::now();
    let mut children = Vec::new();
    for place in &places {
        let mut command = Command::new("tar");
        command.arg("xf").arg(archive).arg("-C").arg(place);
        children.push(command.stdin(Stdio::null()).spawn().at("tar")?);
    }
    let mut failed = 0;
    for mut child in children {
        failed += u64::from(!child.wait().at("tar")?.success());
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure(failed == 0, || format!("{failed} of {AT_ONCE} failed"))?;
    let sums: Vec<String> = places
        .iter()
        .map(|place| tree_sum(place, None))
        .collect::<Result<_>>()?;
    ensure(sums.iter().all(|sum| *sum == sums[0]), || {
        "the four trees differ".into()
    })?;
    Ok(Said {
        seconds,
        done: AT_ONCE as u64,
        sum: sums[0].clone(),
        ..Said::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(change: impl FnOnce(&Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/a"), "content").unwrap();
        std::os::unix::fs::symlink("a", root.join("d/l")).unwrap();
        change(root);
        tree_sum(root, Some(Path::new("skipped"))).unwrap()
    }

    #[test]
    fn equal_trees_have_equal_sums_and_every_difference_shows() {
        let same = tree(|_| ());
        assert_eq!(same, tree(|_| ()));
        assert_eq!(
            same,
            tree(|root| std::fs::create_dir(root.join("skipped")).unwrap())
        );
        let changes: [&dyn Fn(&Path); 5] = [
            &|root| std::fs::write(root.join("d/a"), "c0ntent").unwrap(),
            &|root| std::fs::rename(root.join("d/a"), root.join("d/b")).unwrap(),
            &|root| std::fs::write(root.join("e"), "").unwrap(),
            &|root| std::fs::create_dir(root.join("e")).unwrap(),
            &|root| {
                std::fs::remove_file(root.join("d/l")).unwrap();
                std::os::unix::fs::symlink("b", root.join("d/l")).unwrap();
            },
        ];
        let mut sums: Vec<String> = changes.iter().map(tree).collect();
        sums.push(same);
        sums.sort();
        sums.dedup();
        assert_eq!(sums.len(), 6);
    }
}
