//! Which heads in the store this local state has written: whether the store has gone on without it.
//!
//! The name of a head's copy is random and never used twice, so knowing it is proof of having written it, or of having
//! been restored from it. Which of the two is noted: only who wrote a head has the lease in it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::head::Head;

/// The file in the state folder.
pub(super) const LINEAGE_FILE: &str = "published.json";
/// Attempts that are remembered beside the confirmed head. Of those that were given up, any may arrive in the store later.
const ATTEMPTS: usize = 16;

/// The file `published.json` in the state folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lineage {
    /// The head that was last seen in the store. Never forgotten for anything but a newer one.
    confirmed: Option<String>,
    /// The last operation that it holds.
    #[serde(default)]
    confirmed_lsn: u64,
    /// Another state put it, and this one was made from what it names: its lease is not this state's.
    #[serde(default)]
    followed: bool,
    /// Heads that were put, or were about to be, since then.
    attempts: Vec<String>,
}

impl Lineage {
    /// Reads it; a state that has published nothing has none.
    pub(super) fn read(state: &Path) -> io::Result<Self> {
        match fs::read(state.join(LINEAGE_FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn knows(&self, snapshot: &str) -> bool {
        let mut all = self.confirmed.iter().chain(&self.attempts);
        all.any(|head| head == snapshot)
    }

    /// Whether this state put the head itself, so that the lease in it is its own.
    pub(super) fn wrote(&self, snapshot: &str) -> bool {
        let is_followed = self.followed && self.confirmed.as_deref() == Some(snapshot);
        self.knows(snapshot) && !is_followed
    }

    /// The last operation that the newest of this state's heads in the store holds.
    pub(super) fn published_lsn(&self) -> u64 {
        self.confirmed_lsn
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
    pub(super) fn confirm(state: &Path, head: &Head) -> io::Result<()> {
        let lineage = Self::read(state)?;
        if lineage.confirmed.as_ref() == Some(&head.nonce) {
            return Ok(());
        }
        Self::of(head, false).write(state)
    }

    /// The local state is about to be made from what this head names, which another state has put.
    pub(super) fn follow(state: &Path, head: &Head) -> io::Result<()> {
        Self::of(head, true).write(state)
    }

    fn of(head: &Head, followed: bool) -> Self {
        Self {
            confirmed: Some(head.nonce.clone()),
            confirmed_lsn: head.lsn,
            followed,
            attempts: Vec::new(),
        }
    }

    fn write(&self, state: &Path) -> io::Result<()> {
        let temporary = state.join("published.json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, state.join(LINEAGE_FILE))?;
        fs::File::open(state)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(nonce: &str) -> Head {
        Head {
            version: 1,
            nonce: nonce.into(),
            epoch: 1,
            lease: None,
            seq: 0,
            lsn: 7,
            created_ms: 0,
            layers: Vec::new(),
            chains: Vec::new(),
            crc32c: 0,
        }
    }

    #[test]
    fn the_confirmed_head_outlives_any_number_of_attempts() {
        let dir = tempfile::tempdir().unwrap();
        let knows = |heads: &[&str]| -> Vec<bool> {
            let lineage = Lineage::read(dir.path()).unwrap();
            heads.iter().map(|head| lineage.knows(head)).collect()
        };
        assert_eq!(Lineage::read(dir.path()).unwrap(), Lineage::default());
        Lineage::confirm(dir.path(), &head("a")).unwrap();
        assert_eq!(Lineage::read(dir.path()).unwrap().published_lsn(), 7);
        for i in 0..40 {
            Lineage::attempt(dir.path(), &format!("b{i}")).unwrap();
        }
        assert_eq!(knows(&["a", "b39", "b30", "c"]), [true, true, true, false]);
        // The head is the old one still: the attempt may yet arrive.
        Lineage::confirm(dir.path(), &head("a")).unwrap();
        assert_eq!(knows(&["b39"]), [true]);
        Lineage::confirm(dir.path(), &head("b39")).unwrap();
        assert_eq!(knows(&["a", "b39", "b30"]), [false, true, false]);
    }

    #[test]
    fn a_head_that_is_only_followed_is_nobodys_own_until_another_is_put() {
        let dir = tempfile::tempdir().unwrap();
        let wrote = |nonce: &str| Lineage::read(dir.path()).unwrap().wrote(nonce);
        Lineage::follow(dir.path(), &head("a")).unwrap();
        assert!(Lineage::read(dir.path()).unwrap().knows("a") && !wrote("a"));
        // Seeing it again changes nothing.
        Lineage::confirm(dir.path(), &head("a")).unwrap();
        assert!(!wrote("a"));
        Lineage::attempt(dir.path(), "b").unwrap();
        assert!(wrote("b") && !wrote("a"));
        Lineage::confirm(dir.path(), &head("b")).unwrap();
        assert!(wrote("b"));
    }
}
