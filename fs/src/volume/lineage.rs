//! Which heads in the store this local state has written: whether the store has gone on without it.
//!
//! The name of a head's copy is random and never used twice, so knowing it is proof of having written it, or of having
//! been restored from it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Heads that are remembered: the last one written, and the one that was about to be.
const REMEMBERED: usize = 2;

/// The file `published.json` in the state folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lineage {
    heads: Vec<String>,
}

impl Lineage {
    /// Reads it; a state that has published nothing has none.
    pub(super) fn read(state: &Path) -> io::Result<Self> {
        match fs::read(state.join("published.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn knows(&self, snapshot: &str) -> bool {
        self.heads.iter().any(|head| head == snapshot)
    }

    /// Notes a head, durably. Called before it is written: whether that succeeded may never be known.
    pub(super) fn note(state: &Path, snapshot: &str) -> io::Result<()> {
        let mut lineage = Self::read(state)?;
        if lineage.knows(snapshot) {
            return Ok(());
        }
        lineage.heads.push(snapshot.to_owned());
        let surplus = lineage.heads.len().saturating_sub(REMEMBERED);
        lineage.heads.drain(..surplus);
        let temporary = state.join("published.json.new");
        fs::write(&temporary, serde_json::to_vec(&lineage)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, state.join("published.json"))?;
        fs::File::open(state)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_heads_are_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lineage::read(dir.path()).unwrap(), Lineage::default());
        for head in ["a", "b", "b", "c"] {
            Lineage::note(dir.path(), head).unwrap();
        }
        let lineage = Lineage::read(dir.path()).unwrap();
        assert_eq!(
            ["a", "b", "c"].map(|h| lineage.knows(h)),
            [false, true, true]
        );
    }
}
