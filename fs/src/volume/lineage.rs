//! Which heads in the store this local state has written: whether the store has gone on without it.
//!
//! The name of a head's copy is random and never used twice, so knowing it is proof of having written it, or of having
//! been restored from it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Attempts that are remembered beside the confirmed head. Of those that were given up, any may arrive in the store later.
const ATTEMPTS: usize = 16;

/// The file `published.json` in the state folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lineage {
    /// The head that was last seen in the store. Never forgotten for anything but a newer one.
    confirmed: Option<String>,
    /// Heads that were put, or were about to be, since then.
    attempts: Vec<String>,
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
        let mut all = self.confirmed.iter().chain(&self.attempts);
        all.any(|head| head == snapshot)
    }

    /// Whether a head of this state was ever seen in the store.
    pub(super) fn has_published(&self) -> bool {
        self.confirmed.is_some()
    }

    /// Notes a head, durably, before it is put: whether that succeeds may never be known.
    pub(super) fn attempt(state: &Path, snapshot: &str) -> io::Result<()> {
        let mut lineage = Self::read(state)?;
        lineage.attempts.push(snapshot.to_owned());
        let surplus = lineage.attempts.len().saturating_sub(ATTEMPTS);
        lineage.attempts.drain(..surplus);
        lineage.write(state)
    }

    /// The head in the store is this one. A new one settles all attempts: those that were put in the place of the one
    /// before it can have no effect any more. As long as that one is there, each of them may still arrive.
    pub(super) fn confirm(state: &Path, snapshot: &str) -> io::Result<()> {
        let lineage = Self::read(state)?;
        if lineage.confirmed.as_deref() == Some(snapshot) {
            return Ok(());
        }
        let confirmed = Self {
            confirmed: Some(snapshot.to_owned()),
            attempts: Vec::new(),
        };
        confirmed.write(state)
    }

    fn write(&self, state: &Path) -> io::Result<()> {
        let temporary = state.join("published.json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, state.join("published.json"))?;
        fs::File::open(state)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confirmed_head_outlives_any_number_of_attempts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lineage::read(dir.path()).unwrap(), Lineage::default());
        Lineage::confirm(dir.path(), "a").unwrap();
        for i in 0..40 {
            Lineage::attempt(dir.path(), &format!("b{i}")).unwrap();
        }
        let lineage = Lineage::read(dir.path()).unwrap();
        assert_eq!(
            ["a", "b39", "b30", "c"].map(|h| lineage.knows(h)),
            [true, true, true, false]
        );
        // The head is the old one still: the attempt may yet arrive.
        Lineage::confirm(dir.path(), "a").unwrap();
        assert!(Lineage::read(dir.path()).unwrap().knows("b39"));
        Lineage::confirm(dir.path(), "b39").unwrap();
        let lineage = Lineage::read(dir.path()).unwrap();
        assert_eq!(
            ["a", "b39", "b30"].map(|h| lineage.knows(h)),
            [false, true, false]
        );
    }
}
