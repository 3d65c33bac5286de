//! Metadata in the store: a full copy of the database, and the head that names the newest one.
//!
//! In this version every publication is a full copy, made on `sync`, on unmount and now and then. Data goes first: a
//! head never names what is not there.

use std::fs;
use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use weldrfs_blockstore::{ObjectStore, PutCondition};
use weldrfs_meta::{Lsn, MetaError};

use super::figures::SyncReport;
use super::layout::Folders;
use super::lineage::Lineage;
use super::open_error::OpenError;
use super::{Volume, note_trouble};
use crate::error::FsError;

/// Key of the head.
pub(super) const HEAD_KEY: &str = "head.json";
/// Compression of a copy of the database.
const ZSTD_LEVEL: i32 = 3;
/// Rounds of packing in one sync; each takes what came during the one before.
const SYNC_ROUNDS: usize = 3;
/// How long the occasional publication may take before it leaves the rest to the next one.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(60);
/// How long a sync waits for the mutations under way before it holds back new ones.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long it holds back new ones at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The head object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Version of this object's format.
    version: u32,
    /// The last operation the copy holds.
    lsn: u64,
    /// Key of the compressed copy.
    snapshot: String,
    /// Bytes of the copy before compression.
    snapshot_bytes: u64,
    /// CRC-32C of the compressed object.
    snapshot_crc32c: u32,
    /// When it was published, milliseconds since 1970.
    created_ms: u64,
}

async fn read_head(store: &dyn ObjectStore) -> Result<Option<Head>, OpenError> {
    match store.get(HEAD_KEY, None).await {
        Ok(object) => {
            let head: Head = serde_json::from_slice(&object.bytes).map_err(|e| {
                OpenError::State(format!("{HEAD_KEY} in the store is damaged: {e}"))
            })?;
            if head.version > super::layout::FORMAT_VERSION {
                return Err(OpenError::NewerFormat {
                    found: head.version,
                    known: super::layout::FORMAT_VERSION,
                });
            }
            Ok(Some(head))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

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
    let Some(head) = runtime.block_on(read_head(store))? else {
        return Ok(0);
    };
    let lineage = Lineage::read(&folders.state).map_err(|error| OpenError::StateDir {
        dir: folders.state.clone(),
        error,
    })?;
    if lineage.knows(&head.snapshot) {
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
    let Some(head) = runtime.block_on(read_head(store))? else {
        return Ok(0);
    };
    let object = runtime.block_on(store.get(&head.snapshot, None))?;
    let damaged =
        |why: String| OpenError::State(format!("{} in the store is damaged: {why}", head.snapshot));
    if crc32c::crc32c(&object.bytes) != head.snapshot_crc32c {
        return Err(damaged("it has the wrong checksum".into()));
    }
    let state = |error| OpenError::StateDir {
        dir: folders.meta.clone(),
        error,
    };
    let temporary = folders.meta.join("meta.db.restoring");
    let mut file = fs::File::create(&temporary).map_err(state)?;
    let decoder =
        zstd::stream::Decoder::new(&object.bytes[..]).map_err(|e| damaged(e.to_string()))?;
    // One byte more than it should have tells a longer one apart without unpacking it whole.
    let written = io::copy(&mut decoder.take(head.snapshot_bytes + 1), &mut file)
        .map_err(|e| damaged(e.to_string()))?;
    if written != head.snapshot_bytes {
        return Err(damaged(format!(
            "it has {written} bytes, {} are expected",
            head.snapshot_bytes
        )));
    }
    drop(file);
    weldrfs_meta::forget_segments(&temporary)?;
    fs::File::open(&temporary)
        .and_then(|f| f.sync_all())
        .map_err(state)?;
    Lineage::confirm(&folders.state, &head.snapshot).map_err(state)?;
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

    /// The occasional publication.
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
        let copy = self.state_dir.join("publish.db");
        // A former process may have been killed in the middle.
        let _ = fs::remove_file(&copy);
        let result = self.publish_copy(&copy, deadline);
        let _ = fs::remove_file(&copy);
        result
    }

    fn publish_copy(&self, copy: &std::path::Path, deadline: Instant) -> Result<(), FsError> {
        let io = |error: std::io::Error| FsError::Meta(error.into());
        let lsn = self.consistent_copy(copy, deadline)?;
        let (compressed, snapshot_bytes) = compress(copy).map_err(io)?;
        let nonce: u64 = SmallRng::from_os_rng().random();
        let head = Head {
            version: super::layout::FORMAT_VERSION,
            lsn: lsn.0,
            snapshot: format!("meta/{:016x}-{nonce:016x}.db.zst", lsn.0),
            snapshot_bytes,
            snapshot_crc32c: crc32c::crc32c(&compressed),
            created_ms: u64::try_from(self.engine.clock.now_ns() / 1_000_000).unwrap_or(0),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let put = self.put_head(&head, compressed);
        let put = self
            .runtime
            .block_on(async { tokio::time::timeout(left, put).await });
        match put {
            Ok(Ok(())) => {
                self.in_store.store(lsn.0, Ordering::Release);
                *self.behind_since.lock() = None;
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FsError::Late(
                "the store did not answer before the deadline",
            )),
        }
    }

    /// A copy of the database in which every byte of every file lies in an uploaded pack.
    fn consistent_copy(&self, copy: &std::path::Path, deadline: Instant) -> Result<Lsn, FsError> {
        for _ in 0..SYNC_ROUNDS {
            self.packer.pack_all(deadline)?;
            if let Some(lsn) = self.copy_without_segments(copy)? {
                return Ok(lsn);
            }
        }
        // Programs write faster than this: they wait a moment for what came since the last round.
        let late =
            || FsError::Late("the store is too slow to keep up; what is missing goes up later");
        if Instant::now() >= deadline {
            return Err(late());
        }
        let mut turn = self.packer.turn(deadline).ok_or_else(late)?;
        let pause = self.engine.ns.pause(PAUSE_PATIENCE).ok_or_else(late)?;
        let until = deadline.min(Instant::now() + LONGEST_PAUSE);
        self.packer.pack_paused(&mut turn, &pause, until)?;
        self.copy_without_segments(copy)?.ok_or_else(late)
    }

    fn copy_without_segments(&self, copy: &std::path::Path) -> Result<Option<Lsn>, FsError> {
        let _ = fs::remove_file(copy);
        let lsn = self.engine.ns.copy_database(copy.to_owned())?;
        let damaged = self.packer.damaged();
        let here = weldrfs_meta::extents_in_segments(copy)?;
        Ok(here
            .iter()
            .all(|extent| damaged.contains(extent))
            .then_some(lsn))
    }

    async fn put_head(&self, head: &Head, compressed: Vec<u8>) -> Result<(), FsError> {
        let io = |error: io::Error| FsError::Meta(error.into());
        let lineage = Lineage::read(&self.state_dir).map_err(io)?;
        let (old, condition) = match self.retrying.get(HEAD_KEY, None).await {
            Ok(object) => {
                let old = serde_json::from_slice::<Head>(&object.bytes).ok();
                (old, PutCondition::IfMatch(object.version))
            }
            Err(error) if error.is_not_found() => (None, PutCondition::IfAbsent),
            Err(error) => return Err(FsError::Store(error)),
        };
        let condition = match self.unconditional {
            true => PutCondition::Always,
            false => condition,
        };
        match &old {
            Some(old) if lineage.knows(&old.snapshot) => {
                Lineage::confirm(&self.state_dir, &old.snapshot).map_err(io)?;
            }
            None if lineage.has_published() => return Err(FsError::Foreign),
            None => {}
            Some(_) => return Err(FsError::Foreign),
        }
        let copy = Bytes::from(compressed);
        let put = self
            .retrying
            .put(&head.snapshot, copy, PutCondition::IfAbsent)
            .await;
        put.map_err(FsError::Store)?;
        let body = serde_json::to_vec_pretty(head).map_err(|e| io(io::Error::other(e)))?;
        Lineage::attempt(&self.state_dir, &head.snapshot).map_err(io)?;
        let put = self
            .retrying
            .put(HEAD_KEY, Bytes::from(body), condition)
            .await;
        if let Err(error) = put {
            // The answer may have been lost, or be that to an earlier attempt of the same put.
            match read_head(&*self.retrying).await {
                Ok(Some(now)) if now.snapshot == head.snapshot => {}
                _ => return Err(FsError::Store(error)),
            }
        }
        Lineage::confirm(&self.state_dir, &head.snapshot).map_err(io)?;
        // Only now is the former copy nobody's; one that stays is a few megabytes, and no reason to fail.
        if let Some(old) = old.filter(|old| old.snapshot != head.snapshot)
            && let Err(error) = self.retrying.delete(&[old.snapshot]).await
        {
            tracing::warn!(%error, "a former copy of the metadata stays in the store");
        }
        Ok(())
    }
}

/// Compresses a copy of the database as it is read, so that memory holds it only compressed. Returns the bytes
/// and how many there were before.
fn compress(copy: &std::path::Path) -> io::Result<(Vec<u8>, u64)> {
    let plain = fs::File::open(copy)?;
    let bytes = plain.metadata()?.len();
    let mut compressed = Vec::new();
    zstd::stream::copy_encode(plain, &mut compressed, ZSTD_LEVEL)?;
    Ok((compressed, bytes))
}
