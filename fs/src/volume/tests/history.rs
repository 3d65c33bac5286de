//! What campaigns compare with: every state a volume went through, by the last operation in it.

use super::*;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use weldrfs_meta::ROOT_INO;

/// The files of a volume without folders, with what is in them.
pub(super) type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// Every state there was.
#[derive(Clone, Default)]
pub(super) struct History {
    pub(super) states: BTreeMap<u64, Files>,
    pub(super) now: Files,
}

impl History {
    pub(super) fn note(&mut self, volume: &Volume) {
        let lsn = volume.engine.ns.acknowledged().0;
        self.states.insert(lsn, self.now.clone());
    }

    /// The state after the last operation up to `lsn`.
    pub(super) fn at(&self, lsn: u64) -> Files {
        let last = self.states.range(..=lsn).next_back();
        last.map(|(_, files)| files.clone()).unwrap_or_default()
    }

    /// The same, where history goes on: what comes after it did not happen, and nobody asks for what came before.
    pub(super) fn cut_at(&mut self, lsn: u64) -> Files {
        self.now = self.at(lsn);
        self.states = BTreeMap::from([(lsn, self.now.clone())]);
        self.now.clone()
    }

    /// One change of one file, visible with one operation. What was refused did not happen.
    pub(super) fn step(&mut self, volume: &Volume, rng: &mut SmallRng) -> Result<(), FsError> {
        let name = format!("f{}", rng.random_range(0..12));
        let engine = volume.engine();
        let before = engine.ns.acknowledged().0;
        let there = self.now.get(&name).cloned();
        match (there, rng.random_range(0..10)) {
            (None, _) => {
                engine.mknod(ROOT_INO, name.as_bytes(), crate::Kind::File, 0o644, 0, &ME)?;
                self.now.insert(name, Arc::default());
            }
            (Some(_), 0..2) => {
                engine.unlink(ROOT_INO, name.as_bytes())?;
                self.now.remove(&name);
            }
            (Some(data), 2) => {
                let to = format!("f{}", rng.random_range(12..16));
                let (from, into) = (name.as_bytes(), to.as_bytes());
                let flags = crate::RenameFlags {
                    noreplace: false,
                    exchange: false,
                };
                engine.rename(ROOT_INO, from, ROOT_INO, into, flags)?;
                self.now.remove(&name);
                self.now.insert(to, data);
            }
            (Some(data), _) => {
                let ino = engine.lookup(ROOT_INO, name.as_bytes())?.ino;
                let at = rng.random_range(0..=data.len().min(40_000));
                let bytes = content(rng.random(), rng.random_range(1..30_000));
                engine.write(ino, at as u64, &bytes, false)?;
                let mut whole = data.to_vec();
                whole.resize(whole.len().max(at + bytes.len()), 0);
                whole[at..at + bytes.len()].copy_from_slice(&bytes);
                self.now.insert(name, Arc::new(whole));
            }
        }
        // A file that loses its last name is gone with the first operation; the second one gives its inode back. A cut
        // between the two finds it gone.
        self.states.insert(before + 1, self.now.clone());
        self.note(volume);
        Ok(())
    }
}

pub(super) fn files_of(volume: &Volume) -> Files {
    let mut found = Files::new();
    let mut cookie = 0;
    loop {
        let listed = volume.engine().readdir(ROOT_INO, cookie, 100).unwrap();
        let Some(last) = listed.last() else {
            return found;
        };
        cookie = last.cookie;
        for entry in listed {
            let data = volume.engine().read(entry.ino, 0, 1 << 20).unwrap();
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            found.insert(name, Arc::new(data.to_vec()));
        }
    }
}

/// Names of the files that are not the same in both.
pub(super) fn differing(wanted: &Files, found: &Files) -> Vec<String> {
    let is_same = |name: &&String| wanted.get(*name) == found.get(*name);
    let all = wanted.keys().chain(found.keys());
    let mut names: Vec<_> = all.filter(|name| !is_same(name)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A number from a variable.
pub(super) fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}
