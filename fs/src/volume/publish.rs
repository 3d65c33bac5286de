//! Publishing: a cut of the database, with every byte its files use in packs, and then the head that names it.
//!
//! Data goes first: a head never names what is not there. A cut that could not be brought to the store is dropped; the
//! next one has all that it had.

use std::fs;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weldrfs_blockstore::{ObjectStore, PutCondition, StoreError};
use weldrfs_meta::{MetaError, Packed};

use super::figures::SyncReport;
use super::head::{Garbage, HEAD_KEY, Head, Layer, Seen, part_keys, read_head};
use super::layer::{self, Header};
use super::layout::Folders;
use super::lineage::Lineage;
use super::open_error::OpenError;
use super::pages::{self, PageTable, Taken};
use super::transfer;
use super::{Volume, note_trouble};
use crate::error::FsError;

/// How long the regular publication may take before it leaves the rest to the next one.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(60);
/// Deltas after one full layer; a machine that restores fetches all of them.
const MOST_DELTAS: usize = 64;
/// A new full layer is made when the deltas have more than this share of the full one.
const DELTA_SHARE: u64 = 2;
/// And when the full one is older than this.
const FULL_LIFE_MS: u64 = 3_600_000;
/// How long layers stay that no head names any more: somebody may be restoring from them.
const LAYER_GRACE_MS: u64 = 3_600_000;

/// What the store holds, for a machine that has metadata of its own: the last operation the store alone can restore,
/// 0 when nothing was published.
///
/// # Errors
/// `Diverged` when the head was written by somebody else: the local state is not the newest any more. A read-only mount
/// shows it all the same.
pub(super) fn published_lsn(
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
    folders: &Folders,
    read_only: bool,
) -> Result<u64, OpenError> {
    let Some(Seen { head, .. }) = runtime.block_on(read_head(store))? else {
        return Ok(0);
    };
    let lineage = Lineage::read(&folders.state).map_err(|error| OpenError::StateDir {
        dir: folders.state.clone(),
        error,
    })?;
    if lineage.knows(&head.nonce) {
        return Ok(head.lsn);
    }
    if !read_only {
        return Err(OpenError::Diverged {
            dir: folders.state.clone(),
            lsn: head.lsn,
        });
    }
    tracing::warn!(
        lsn = head.lsn,
        "the store has gone on without this local state; showing the local one"
    );
    Ok(0)
}

/// Brings the newest published metadata to this machine, which has none. Returns its LSN; 0 for a new volume.
pub(super) fn restore(
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
    folders: &Folders,
) -> Result<u64, OpenError> {
    let Some(Seen { head, .. }) = runtime.block_on(read_head(store))? else {
        return Ok(0);
    };
    let state = |error| OpenError::StateDir {
        dir: folders.meta.clone(),
        error,
    };
    let temporary = folders.meta.join("meta.db.restoring");
    // One that a former attempt left is of some other head.
    let _ = fs::remove_file(&temporary);
    let (packed, table) = transfer::fetch(store, runtime, &head, &temporary)?;
    weldrfs_meta::settle_restored(&temporary, &packed)?;
    table.save(&folders.state, &head.nonce).map_err(state)?;
    fs::File::open(&temporary)
        .and_then(|f| f.sync_all())
        .map_err(state)?;
    Lineage::confirm(&folders.state, &head.nonce).map_err(state)?;
    fs::rename(&temporary, folders.meta.join("meta.db")).map_err(state)?;
    fs::File::open(&folders.meta)
        .and_then(|f| f.sync_all())
        .map_err(state)?;
    tracing::info!(
        lsn = head.lsn,
        "this machine had no metadata: took the newest from the store"
    );
    Ok(head.lsn)
}

impl Volume {
    /// Waits until everything acknowledged before the call can be restored from the store alone.
    ///
    /// # Errors
    /// What kept it from getting there before the deadline; what is missing goes up later.
    pub fn sync(&self, deadline: Duration) -> Result<SyncReport, FsError> {
        let started = Instant::now();
        let upto = self.engine.ns.acknowledged().0;
        if self.read_only {
            return Err(FsError::Meta(MetaError::ReadOnly(
                "nothing is published from a read-only mount".into(),
            )));
        }
        if self.in_store.load(Ordering::Acquire) < upto {
            let one = self.publishing.try_lock_until(started + deadline);
            let _one = one.ok_or(FsError::Late("another sync is still under way"))?;
            if self.in_store.load(Ordering::Acquire) < upto {
                self.publish(started + deadline)?;
            }
        }
        let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(SyncReport {
            in_store_lsn: self.in_store.load(Ordering::Acquire),
            waited_ms,
        })
    }

    /// The regular publication.
    pub(super) fn publish_if_changed(&self) {
        if self.in_store.load(Ordering::Acquire) < self.engine.ns.acknowledged().0
            && let Err(error) = self.sync(PUBLISH_DEADLINE)
        {
            note_trouble(
                &self.last_error,
                "publishing the metadata failed and will be tried again",
                &error,
            );
        }
    }

    /// The caller holds `publishing`.
    fn publish(&self, deadline: Instant) -> Result<(), FsError> {
        let io = |error: std::io::Error| FsError::Meta(error.into());
        // Before anything is put: whoever has lost the volume leaves nothing behind in it.
        let newest = self.newest_head.lock().clone();
        let seen = match newest {
            Some(seen) => Some(seen),
            None => self.judged_head(deadline)?,
        };
        let now_ms = u64::try_from(self.engine.clock.now_ns() / 1_000_000).unwrap_or(0);
        let before = seen.as_ref().and_then(|seen| {
            takes_a_delta(&seen.head, now_ms)
                .then(|| PageTable::load(&self.state_dir, &seen.head.nonce))?
        });
        let is_delta = before.is_some();
        let late =
            || FsError::Late("the store is too slow to keep up; what is missing goes up later");
        // From the cut on nobody else packs, so the segments that it names stay.
        let mut turn = self.packer.turn(deadline).ok_or_else(late)?;
        self.engine.segments.seal_active();
        let spool = self.state_dir.join("cut.pages");
        let taken = self
            .engine
            .ns
            .cut(move |cut| pages::take(cut, before.as_ref(), &spool))?
            .map_err(io)?;
        let packed = self
            .packer
            .pack_listed(&mut turn, &taken.in_segments, deadline)?;
        drop(turn);
        let layer = self.ship_layer(&taken, &packed, now_ms, deadline)?;
        let nonce: u64 = SmallRng::from_os_rng().random();
        let head = succeed(
            seen.as_ref().map(|seen| &seen.head),
            layer,
            is_delta,
            now_ms,
            nonce,
        );
        taken.table.save(&self.state_dir, &head.nonce).map_err(io)?;
        self.replace_head(head, seen, deadline)?;
        self.in_store.store(taken.lsn.0, Ordering::Release);
        *self.behind_since.lock() = None;
        Ok(())
    }

    fn ship_layer(
        &self,
        taken: &Taken,
        packed: &[Packed],
        now_ms: u64,
        deadline: Instant,
    ) -> Result<Layer, FsError> {
        let header = Header {
            page_bytes: taken.page_bytes,
            pages_after: taken.table.pages(),
            lsn: taken.lsn.0,
        };
        let nonce: u64 = SmallRng::from_os_rng().random();
        let key = format!("meta/{:016x}-{nonce:016x}", taken.lsn.0);
        let mut put = |key: String, part| {
            let put = self.retrying.put(&key, part, PutCondition::IfAbsent);
            self.within(deadline, put).map(drop)
        };
        let write = |out: &mut dyn Write| layer::encode(header, &taken.spool, packed, out);
        let shipped = transfer::ship(&key, write, &mut put)?;
        Ok(Layer {
            key,
            lsn: taken.lsn.0,
            created_ms: now_ms,
            bytes: shipped.bytes,
            parts: shipped.parts,
            image: format!("{:032x}", taken.table.image()),
        })
    }

    /// Waits for the store until the deadline.
    fn within<T>(
        &self,
        deadline: Instant,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, FsError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(left, request).await });
        let late = |_| match self.retrying.failing() {
            Some(error) => FsError::Store(error),
            None => FsError::Late("the store did not answer before the deadline"),
        };
        answer.map_err(late)?.map_err(FsError::Store)
    }

    /// The head in the store, if this state wrote it.
    ///
    /// # Errors
    /// [`FsError::Foreign`] when somebody else did, or when it is gone; one that cannot be read is nobody's to replace.
    fn judged_head(&self, deadline: Instant) -> Result<Option<Seen>, FsError> {
        let io = |error: std::io::Error| FsError::Meta(error.into());
        let seen = self.within(deadline, async {
            read_head(&*self.retrying)
                .await
                .map_err(|error| match error {
                    OpenError::Store(error) => error,
                    other => StoreError::Damaged {
                        what: other.to_string(),
                    },
                })
        })?;
        let lineage = Lineage::read(&self.state_dir).map_err(io)?;
        match &seen {
            Some(seen) if lineage.knows(&seen.head.nonce) => {
                Lineage::confirm(&self.state_dir, &seen.head.nonce).map_err(io)?;
            }
            None if !lineage.has_published() => {}
            _ => return Err(FsError::Foreign),
        }
        Ok(seen)
    }

    /// Puts `head` in the place of the one that was seen, and deletes the layers that this one had given up long ago.
    fn replace_head(
        &self,
        head: Head,
        mut seen: Option<Seen>,
        deadline: Instant,
    ) -> Result<(), FsError> {
        let io = |error: std::io::Error| FsError::Meta(error.into());
        let body = serde_json::to_vec_pretty(&head).map_err(|e| io(std::io::Error::other(e)))?;
        let body = Bytes::from(body);
        Lineage::attempt(&self.state_dir, &head.nonce).map_err(io)?;
        let version = loop {
            let condition = match &seen {
                _ if self.unconditional => PutCondition::Always,
                Some(seen) => PutCondition::IfMatch(seen.version.clone()),
                None => PutCondition::IfAbsent,
            };
            let put = self.retrying.put(HEAD_KEY, body.clone(), condition);
            match self.within(deadline, put) {
                Ok(version) => break version,
                // An earlier put of ours may have arrived after it was given up; only somebody else's ends this.
                Err(FsError::Store(StoreError::PreconditionFailed { .. })) => {
                    *self.newest_head.lock() = None;
                    let now = self.judged_head(deadline)?;
                    Lineage::attempt(&self.state_dir, &head.nonce).map_err(io)?;
                    seen = now;
                }
                Err(error) => {
                    *self.newest_head.lock() = None;
                    return Err(error);
                }
            }
        };
        Lineage::confirm(&self.state_dir, &head.nonce).map_err(io)?;
        PageTable::keep_only(&self.state_dir, &head.nonce);
        // What the former head listed and this one does not is old enough, and nobody's.
        let gone = |old: &&Garbage| !head.garbage.contains(old);
        let former = seen.map(|seen| seen.head.garbage).unwrap_or_default();
        let keys: Vec<String> = former
            .iter()
            .filter(gone)
            .flat_map(|old| part_keys(&old.key, old.parts))
            .collect();
        *self.newest_head.lock() = Some(Seen { head, version });
        if !keys.is_empty()
            && let Err(error) = self.within(deadline, self.retrying.delete(&keys))
        {
            // They are a few megabytes, and no reason to fail.
            tracing::warn!(%error, "former layers of the metadata stay in the store");
        }
        Ok(())
    }
}

/// Whether the next layer may be a delta to what this head names.
fn takes_a_delta(head: &Head, now_ms: u64) -> bool {
    let Some((full, deltas)) = head.layers.split_first() else {
        return false;
    };
    let size: u64 = deltas.iter().map(|delta| delta.bytes).sum();
    deltas.len() < MOST_DELTAS
        && size * DELTA_SHARE <= full.bytes
        && now_ms.saturating_sub(full.created_ms) < FULL_LIFE_MS
}

/// The head after `old` with one more layer, or with a new full one.
fn succeed(old: Option<&Head>, layer: Layer, is_delta: bool, now_ms: u64, nonce: u64) -> Head {
    let mut garbage = old.map(|old| old.garbage.clone()).unwrap_or_default();
    garbage.retain(|g| now_ms.saturating_sub(g.since_ms) < LAYER_GRACE_MS);
    let mut layers = old.map(|old| old.layers.clone()).unwrap_or_default();
    if !is_delta {
        garbage.extend(layers.drain(..).map(|layer| Garbage {
            key: layer.key,
            parts: layer.parts.len() as u64,
            since_ms: now_ms,
        }));
    }
    let lsn = layer.lsn;
    layers.push(layer);
    Head {
        version: super::layout::FORMAT_VERSION,
        nonce: format!("{nonce:016x}"),
        lsn,
        created_ms: now_ms,
        layers,
        garbage,
    }
}
