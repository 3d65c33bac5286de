//! A made tree on a file system: written, changed by turns, and compared with what its model says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Said;
use crate::error::{At, Result, ensure};
use crate::request::Connection;
use crate::tree::{Act, Change, File, Tree, fill};

/// How long a snapshot may take that is made between two turns.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

/// Writes the whole tree of a model into a new folder.
pub(super) fn make(model: &Path, root: &Path) -> Result<Said> {
    let tree = Tree::read(model)?;
    let began = Instant::now();
    std::fs::create_dir(root).at(root)?;
    for folder in tree.folders() {
        let path = root.join(folder);
        std::fs::create_dir(&path).at(&path)?;
    }
    let mut content = Vec::new();
    for file in tree.files() {
        write(root, file, true, &mut content)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Said::in_seconds(seconds, tree.files().len() as u64))
}

fn write(root: &Path, file: &File, is_new: bool, content: &mut Vec<u8>) -> Result<()> {
    fill(content, file.number, file.generation);
    let path = root.join(&file.path);
    let mut options = OpenOptions::new();
    options.write(true).truncate(!is_new).create_new(is_new);
    let mut open = options.open(&path).at(&path)?;
    open.write_all(content).at(&path)
}

fn perform(root: &Path, act: &Act, content: &mut Vec<u8>) -> Result<()> {
    match act {
        Act::MakeFolder(path) => {
            let path = root.join(path);
            std::fs::create_dir(&path).at(&path)
        }
        Act::Add(file) => write(root, file, true, content),
        Act::Edit(file) => write(root, file, false, content),
        Act::Delete(path) => {
            let path = root.join(path);
            std::fs::remove_file(&path).at(&path)
        }
        Act::Rename(from, to) => {
            let (from, to) = (root.join(from), root.join(to));
            std::fs::rename(&from, &to).at(&from)
        }
    }
}

/// Typical turns. With a volume's socket a snapshot follows each of them, named `kept-` and a number from `first` on.
pub(super) fn turns(
    model: &Path,
    root: &Path,
    count: u64,
    socket: Option<(&Path, u64)>,
) -> Result<Said> {
    let mut tree = Tree::read(model)?;
    let mut content = Vec::new();
    let connected = |(socket, first)| Ok((Connection::open(socket, REQUEST_DEADLINE)?, first));
    let mut volume = socket.map(connected).transpose()?;
    let began = Instant::now();
    for turn in 0..count {
        for act in tree.turn(Change::TYPICAL) {
            perform(root, &act, &mut content)?;
        }
        if let Some((connection, first)) = &mut volume {
            let name = format!("kept-{:06}", *first + turn);
            let body = serde_json::json!({ "name": name, "note": "a turn" });
            connection.post::<Value>("/v1/snapshots", &body)?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    tree.write(model)?;
    Ok(Said::in_seconds(seconds, count))
}

/// One turn that changes `files` files.
pub(super) fn change(model: &Path, root: &Path, files: u64) -> Result<Said> {
    let mut tree = Tree::read(model)?;
    let acts = tree.turn(Change::of(files));
    let mut content = Vec::new();
    let began = Instant::now();
    for act in &acts {
        perform(root, act, &mut content)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    tree.write(model)?;
    Ok(Said::in_seconds(seconds, files))
}

/// Compares: all names, kinds and lengths, and the content of every `every`th file and of those that the model `unlike` does
/// not have just so.
pub(super) fn check(model: &Path, root: &Path, every: u64, unlike: Option<&Path>) -> Result<Said> {
    let tree = Tree::read(model)?;
    let unlike = unlike.map(Tree::read).transpose()?;
    let mut found = Found::default();
    found.walk(root, "")?;
    let folders: BTreeSet<&str> = tree.folders().iter().map(String::as_str).collect();
    differ(
        &folders,
        &found.folders.iter().map(String::as_str).collect(),
        "folder",
    )?;
    let files: BTreeSet<&str> = tree.files().iter().map(|f| f.path.as_str()).collect();
    differ(
        &files,
        &found.files.keys().map(String::as_str).collect(),
        "file",
    )?;
    for file in tree.files() {
        let bytes = found.files.get(&file.path).copied();
        ensure(bytes == Some(file.bytes()), || {
            let wanted = file.bytes();
            format!("{} has {bytes:?} bytes, not {wanted}", file.path)
        })?;
    }
    let mut wanted: Vec<&File> = tree.files().iter().step_by(every.max(1) as usize).collect();
    if let Some(unlike) = &unlike {
        wanted.extend(tree.unlike(unlike));
    }
    let mut content = Vec::new();
    for file in &wanted {
        fill(&mut content, file.number, file.generation);
        let path = root.join(&file.path);
        let read = std::fs::read(&path).at(&path)?;
        ensure(read == content, || {
            format!("{} is not what was written", file.path)
        })?;
    }
    Ok(Said::in_seconds(0.0, wanted.len() as u64))
}

fn differ(wanted: &BTreeSet<&str>, found: &BTreeSet<&str>, what: &str) -> Result<()> {
    let missing: Vec<_> = wanted.difference(found).collect();
    let surplus: Vec<_> = found.difference(wanted).collect();
    ensure(missing.is_empty() && surplus.is_empty(), || {
        let first = missing.first().or(surplus.first());
        format!(
            "{} {what}s are missing and {} should not be there, such as {}",
            missing.len(),
            surplus.len(),
            first.map_or("", |path| path)
        )
    })
}

/// What is there.
#[derive(Default)]
struct Found {
    files: BTreeMap<String, u64>,
    folders: BTreeSet<String>,
}

impl Found {
    fn walk(&mut self, folder: &Path, below: &str) -> Result<()> {
        for entry in std::fs::read_dir(folder).at(folder)? {
            let entry = entry.at(folder)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = match below {
                "" => name.into_owned(),
                below => format!("{below}/{name}"),
            };
            let here = entry.path();
            let found = here.symlink_metadata().at(&here)?;
            if found.is_dir() {
                self.folders.insert(path.clone());
                self.walk(&here, &path)?;
            } else {
                ensure(found.is_file(), || format!("{path} is no file"))?;
                self.files.insert(path, found.len());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_made_changed_and_compared() {
        let folder = tempfile::tempdir().unwrap();
        let (root, model) = (folder.path().join("tree"), folder.path().join("model"));
        let first = folder.path().join("first");
        Tree::new(1, 300).write(&model).unwrap();
        assert_eq!(make(&model, &root).unwrap().done, 300);
        check(&model, &root, 1, None).unwrap();

        std::fs::copy(&model, &first).unwrap();
        turns(&model, &root, 5, None).unwrap();
        change(&model, &root, 100).unwrap();
        let said = check(&model, &root, u64::MAX, Some(&first)).unwrap();
        assert!(said.done > 80, "{}", said.done);
        assert!(check(&first, &root, 1, None).is_err());

        let tree = Tree::read(&model).unwrap();
        let one = root.join(&tree.files()[7].path);
        let was = std::fs::read(&one).unwrap();
        let mut other = was.clone();
        other[0] ^= 1;
        std::fs::write(&one, &other).unwrap();
        assert!(check(&model, &root, 1, None).is_err(), "a byte differs");
        std::fs::write(&one, &was[..was.len() - 1]).unwrap();
        assert!(
            check(&model, &root, u64::MAX, None).is_err(),
            "it is too short"
        );
        std::fs::write(&one, &was).unwrap();
        std::fs::create_dir(root.join("surplus")).unwrap();
        assert!(check(&model, &root, 1, None).is_err(), "a folder too many");
    }
}
