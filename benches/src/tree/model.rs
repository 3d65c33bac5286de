//! What a made tree holds at a moment, and how it changes: by turns of somebody who works on it. Pure but for reading and
//! writing the model itself.

use std::collections::BTreeSet;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::shape;
use crate::error::{At, Error, Result};

/// Files that are edited next to each other: work is on one corner of the tree at a time.
const NEIGHBOURS: usize = 5;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct File {
    /// Below the tree's root.
    pub(crate) path: String,
    /// No other file has it.
    pub(crate) number: u64,
    /// How often its content was replaced.
    pub(crate) generation: u64,
}

impl File {
    /// The length of its content.
    pub(crate) fn bytes(&self) -> u64 {
        shape::bytes(self.number, self.generation) as u64
    }
}

/// How much one turn changes, in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) edited: u64,
    /// In a folder of their own.
    pub(crate) added: u64,
    pub(crate) deleted: u64,
    pub(crate) renamed: u64,
}

impl Change {
    /// What an agent does between two snapshots.
    pub(crate) const TYPICAL: Self = Self {
        edited: 20,
        added: 4,
        deleted: 4,
        renamed: 0,
    };

    /// A turn that changes `files` files in every way.
    pub(crate) fn of(files: u64) -> Self {
        let (added, deleted, renamed) = (files / 10, files / 10, files / 20);
        Self {
            edited: files - added - deleted - renamed,
            added,
            deleted,
            renamed,
        }
    }
}

/// One thing that is done to the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    MakeFolder(String),
    Add(File),
    Edit(File),
    Delete(String),
    Rename(String, String),
}

/// A tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree {
    seed: u64,
    turns: u64,
    next_number: u64,
    files: Vec<File>,
    folders: BTreeSet<String>,
}

impl Tree {
    /// A tree of `files` files.
    pub(crate) fn new(seed: u64, files: u64) -> Self {
        let named = shape::paths(seed, files).into_iter().zip(0..);
        let files_: Vec<File> = named
            .map(|(path, number)| File {
                path,
                number,
                generation: 0,
            })
            .collect();
        let mut folders = BTreeSet::new();
        for file in &files_ {
            let mut above = file.path.as_str();
            while let Some((folder, _)) = above.rsplit_once('/') {
                if !folders.insert(folder.to_owned()) {
                    break;
                }
                above = folder;
            }
        }
        Self {
            seed,
            turns: 0,
            next_number: files,
            files: files_,
            folders,
        }
    }

    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// Every folder; one that holds another one comes before it.
    pub(crate) fn folders(&self) -> &BTreeSet<String> {
        &self.folders
    }

    /// Makes a turn in the model, and says what has to be done for it. No file is touched twice.
    pub(crate) fn turn(&mut self, change: Change) -> Vec<Act> {
        self.turns += 1;
        let mut rng = SmallRng::seed_from_u64(self.seed ^ self.turns.rotate_left(40));
        let mut acts = Vec::new();
        let old = change.edited + change.renamed + change.deleted;
        let (edited, renamed) = (change.edited as usize, change.renamed as usize);
        let mut chosen = self.choose(&mut rng, old.min(self.files.len() as u64) as usize);
        for at in chosen.drain(..edited.min(chosen.len())) {
            self.files[at].generation += 1;
            acts.push(Act::Edit(self.files[at].clone()));
        }
        for at in chosen.drain(..renamed.min(chosen.len())) {
            let from = self.files[at].path.clone();
            let to = format!("{from}.renamed-{}", self.turns);
            self.files[at].path.clone_from(&to);
            acts.push(Act::Rename(from, to));
        }
        // From the end, so that what is still to be removed stays where it is.
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        for at in chosen {
            acts.push(Act::Delete(self.files.swap_remove(at).path));
        }
        self.add(change.added, &mut acts);
        acts
    }

    /// Different files, some next to each other.
    fn choose(&self, rng: &mut SmallRng, count: usize) -> Vec<usize> {
        let mut chosen = Vec::new();
        let mut is_chosen = BTreeSet::new();
        while chosen.len() < count {
            let first = rng.random_range(0..self.files.len());
            for at in first..(first + NEIGHBOURS).min(self.files.len()) {
                if chosen.len() < count && is_chosen.insert(at) {
                    chosen.push(at);
                }
            }
        }
        chosen
    }

    fn add(&mut self, count: u64, acts: &mut Vec<Act>) {
        if count == 0 {
            return;
        }
        let folder = format!("added-{}", self.turns);
        self.folders.insert(folder.clone());
        acts.push(Act::MakeFolder(folder.clone()));
        for _ in 0..count {
            let number = self.next_number;
            self.next_number += 1;
            let file = File {
                path: format!("{folder}/file-{number}.js"),
                number,
                generation: 0,
            };
            self.files.push(file.clone());
            acts.push(Act::Add(file));
        }
    }

    /// Files that the other tree does not have just so.
    pub(crate) fn unlike<'a>(&'a self, other: &Self) -> Vec<&'a File> {
        let others: BTreeSet<&File> = other.files.iter().collect();
        self.files.iter().filter(|f| !others.contains(f)).collect()
    }

    /// Reads a model.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).at(path)?;
        serde_json::from_slice(&text).map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })
    }

    /// Writes the model.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })?;
        std::fs::write(path, text).at(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Does the acts to a set of paths, which must be there, or not, as each act needs it.
    fn done(files: &mut BTreeMap<String, (u64, u64)>, acts: &[Act]) {
        for act in acts {
            match act {
                Act::MakeFolder(_) => {}
                Act::Add(file) => {
                    let old = files.insert(file.path.clone(), (file.number, file.generation));
                    assert_eq!(old, None);
                }
                Act::Edit(file) => {
                    let entry = files.get_mut(&file.path).unwrap();
                    assert_eq!(*entry, (file.number, file.generation - 1));
                    entry.1 = file.generation;
                }
                Act::Delete(path) => assert!(files.remove(path).is_some()),
                Act::Rename(from, to) => {
                    let file = files.remove(from).unwrap();
                    assert_eq!(files.insert(to.clone(), file), None);
                }
            }
        }
    }

    fn held(tree: &Tree) -> BTreeMap<String, (u64, u64)> {
        let files = tree.files().iter();
        files
            .map(|f| (f.path.clone(), (f.number, f.generation)))
            .collect()
    }

    #[test]
    fn the_acts_of_a_turn_make_the_tree_that_the_model_has() {
        let mut tree = Tree::new(1, 500);
        let mut files = held(&tree);
        for n in 0..40 {
            let change = if n % 4 == 3 {
                Change::of(100)
            } else {
                Change::TYPICAL
            };
            let acts = tree.turn(change);
            done(&mut files, &acts);
            assert_eq!(files, held(&tree));
        }
        assert_eq!(tree.files().len(), 500);
    }

    #[test]
    fn a_turn_changes_as_many_files_as_told_in_each_way() {
        let change = Change::of(1_000);
        let mut tree = Tree::new(1, 2_000);
        let acts = tree.turn(change);
        let of = |is: fn(&Act) -> bool| acts.iter().filter(|act| is(act)).count() as u64;
        assert_eq!(of(|a| matches!(a, Act::Edit(_))), change.edited);
        assert_eq!(of(|a| matches!(a, Act::Add(_))), change.added);
        assert_eq!(of(|a| matches!(a, Act::Delete(_))), change.deleted);
        assert_eq!(of(|a| matches!(a, Act::Rename(..))), change.renamed);
        let all = change.edited + change.added + change.deleted + change.renamed;
        assert_eq!(all, 1_000);
    }

    #[test]
    fn the_same_turns_make_the_same_tree_and_a_small_tree_is_used_up_without_harm() {
        let (mut one, mut other) = (Tree::new(3, 200), Tree::new(3, 200));
        for _ in 0..5 {
            assert_eq!(one.turn(Change::TYPICAL), other.turn(Change::TYPICAL));
        }
        assert_eq!(one, other);
        let mut tiny = Tree::new(3, 10);
        let mut files = held(&tiny);
        let acts = tiny.turn(Change::of(1_000));
        done(&mut files, &acts);
        assert_eq!(files, held(&tiny));
    }

    #[test]
    fn what_differs_is_found_and_a_model_comes_back_as_it_was_written() {
        let before = Tree::new(5, 300);
        let mut after = before.clone();
        after.turn(Change::of(100));
        let change = Change::of(100);
        let now = change.edited + change.added + change.renamed;
        assert_eq!(after.unlike(&before).len() as u64, now);
        let then = change.edited + change.deleted + change.renamed;
        assert_eq!(before.unlike(&after).len() as u64, then);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        after.write(&path).unwrap();
        assert_eq!(Tree::read(&path).unwrap(), after);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let tree = Tree::new(5, 300);
        let mut made = BTreeSet::new();
        for folder in tree.folders() {
            if let Some((above, _)) = folder.rsplit_once('/') {
                assert!(made.contains(above), "{above} is not there yet");
            }
            made.insert(folder.as_str());
        }
        for file in tree.files() {
            let folder = file.path.rsplit_once('/').unwrap().0;
            assert!(made.contains(folder));
        }
    }
}
