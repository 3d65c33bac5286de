//! How often the kernel holds each inode. An inode without a name lives until nobody holds it.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use weldrfs_meta::Ino;

use super::{Engine, Result};

const SHARDS: usize = 16;

#[derive(Default, Debug, Clone, Copy)]
struct Held {
    count: u64,
    orphan: bool,
}

/// The counts.
#[derive(Debug)]
pub(super) struct Lookups {
    shards: [Mutex<FxHashMap<Ino, Held>>; SHARDS],
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Lookups {
    fn shard(&self, ino: Ino) -> &Mutex<FxHashMap<Ino, Held>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    fn retain(&self, ino: Ino, n: u64) {
        self.shard(ino).lock().entry(ino).or_default().count += n;
    }

    /// Returns whether the inode is to be reclaimed now.
    fn forget(&self, ino: Ino, n: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(held) = shard.get_mut(&ino) else {
            return false;
        };
        held.count = held.count.saturating_sub(n);
        if held.count > 0 {
            return false;
        }
        let orphan = held.orphan;
        shard.remove(&ino);
        orphan
    }

    /// The inode has lost its last name. Returns whether it is to be reclaimed now.
    fn orphaned(&self, ino: Ino) -> bool {
        match self.shard(ino).lock().get_mut(&ino) {
            Some(held) => {
                held.orphan = true;
                false
            }
            None => true,
        }
    }
}

impl Engine {
    /// Counts `n` more references that somebody outside holds to an inode.
    pub fn retain(&self, ino: Ino, n: u64) {
        self.lookups.retain(ino, n);
    }

    /// Counts `n` fewer. The last one ends an inode that has no name.
    pub fn forget(&self, ino: Ino, n: u64) {
        self.forget_all([(ino, n)]);
    }

    /// The same for many inodes at once, in as few records as possible.
    pub fn forget_all(&self, each: impl IntoIterator<Item = (Ino, u64)>) {
        let ended: Vec<Ino> = each
            .into_iter()
            .filter(|(ino, n)| self.lookups.forget(*ino, *n))
            .map(|(i, _)| i)
            .collect();
        self.reclaim(&ended);
    }

    /// An operation took an inode's last name.
    pub(super) fn orphaned(&self, ino: Option<Ino>) -> Result<()> {
        if let Some(ino) = ino.filter(|ino| self.lookups.orphaned(*ino)) {
            self.reclaim(&[ino]);
        }
        Ok(())
    }

    /// Inodes have neither a name nor a place in the trash any more.
    pub(super) fn end(&self, orphans: &[Ino]) {
        let ended = orphans.iter().filter(|ino| self.lookups.orphaned(**ino));
        self.reclaim(&ended.copied().collect::<Vec<_>>());
    }

    /// The names are gone already, so a failure here is nobody's answer: the orphan is found again at the next mount.
    fn reclaim(&self, inos: &[Ino]) {
        if inos.is_empty() {
            return;
        }
        if let Err(error) = self.ns.reclaim(inos, self.now_ns()) {
            tracing::warn!(%error, count = inos.len(), "deleted files stay on the disk until the next mount");
        }
    }
}
