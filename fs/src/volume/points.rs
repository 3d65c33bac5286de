//! Restore points: every state that was published in the last hours, and how to get at one.
//!
//! A publication that begins with a new full layer leaves the layers before it as a chain: its list goes into an object of
//! its own, which the head names until the chain is old. Each layer of a chain is a point. Chains share no layer, with
//! each other or with the head, so each can be deleted by itself.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use weldrfs_blockstore::{ObjectStore, PutCondition, StoreError};

use super::admission::store_now_ms;
use super::head::{Head, Layer, is_zero, part_keys};
use super::keeper::{Desk, nonce};
use super::layout::FORMAT_VERSION;
use super::open_error::OpenError;
use super::sealed::{self, Sealed};
use crate::error::FsError;

/// How long states can be restored that are not the newest any more.
pub(crate) const RETENTION_MS: u64 = 4 * 3_600_000;
/// How often a list is read that is not what it should be.
const READS: u32 = 3;
/// How much longer their layers stay: somebody may be restoring from them.
const GRACE_MS: u64 = 3_600_000;

/// Layers that the head does not name any more, as it lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    /// The object that lists the layers.
    pub(super) key: String,
    /// How many there are.
    pub(super) layers: u64,
    /// The publication of the first of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) from_seq: u64,
    /// When the first and the last of them were made, milliseconds since 1970.
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// When the first head without them was put.
    pub(super) since_ms: u64,
}

/// The object that lists a chain's layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ChainList {
    version: u32,
    layers: Vec<Layer>,
    /// See [`Sealed`].
    crc32c: u32,
}

impl Sealed for ChainList {
    fn seal(&mut self) -> &mut u32 {
        &mut self.crc32c
    }
}

/// One state that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// When it was published, milliseconds since 1970 by the clock of the machine that did.
    pub at_ms: u64,
    /// The last operation that it holds.
    pub lsn: u64,
    /// It is what the volume holds now.
    pub newest: bool,
}

impl Chain {
    pub(super) fn is_retained(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) < RETENTION_MS
    }

    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) >= RETENTION_MS + GRACE_MS
    }
}

/// Whether a key is that of a chain's list.
pub(super) fn is_chain_key(key: &str) -> bool {
    let name = key
        .strip_prefix("meta/")
        .and_then(|name| name.strip_suffix(".chain"));
    name.is_some_and(|name| {
        let fields: Vec<&str> = name.split('-').collect();
        let hex = |text: &&str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        fields.len() == 2 && fields.iter().all(hex)
    })
}

/// Puts the list of the layers that `head` names, for the head that will not name them any more.
pub(super) fn archive(
    desk: &Desk,
    head: &Head,
    now_ms: u64,
    deadline: Instant,
) -> Result<Option<Chain>, FsError> {
    let (Some(first), Some(last)) = (head.layers.first(), head.layers.last()) else {
        return Ok(None);
    };
    let chain = Chain {
        key: format!("meta/{:016x}-{}.chain", last.lsn, nonce()),
        layers: head.layers.len() as u64,
        from_seq: first.seq,
        from_ms: first.created_ms,
        to_ms: last.created_ms,
        since_ms: now_ms,
    };
    let list = ChainList {
        version: FORMAT_VERSION,
        layers: head.layers.clone(),
        crc32c: 0,
    };
    let body = sealed::write(&list).map_err(|e| FsError::Meta(std::io::Error::other(e).into()))?;
    let put = desk.store.put(&chain.key, body, PutCondition::IfAbsent);
    desk.within(deadline, put)?;
    Ok(Some(chain))
}

/// Deletes the layers of the chains that are over. Returns the keys of those of which nothing is left: the next head does
/// not name them any more.
pub(super) fn delete_old(desk: &Desk, head: &Head, now_ms: u64, deadline: Instant) -> Vec<String> {
    let over = head.chains.iter().filter(|chain| chain.is_over(now_ms));
    let mut gone = Vec::new();
    for chain in over {
        match desk.within(deadline, delete(desk, chain)) {
            Ok(true) => gone.push(chain.key.clone()),
            Ok(false) => {
                tracing::debug!(
                    chain = chain.key,
                    "restore points are younger than the machine's clock says"
                );
            }
            // The next publication tries again.
            Err(error) => {
                tracing::warn!(%error, chain = chain.key, "old layers of the metadata cannot be deleted yet");
            }
        }
    }
    gone
}

/// Deletes a chain, its list last: what was interrupted can be repeated. Returns whether it is gone: not if it is too young
/// by the store's clock, whatever a machine's says that somebody has set.
async fn delete(desk: &Desk, chain: &Chain) -> Result<bool, StoreError> {
    let since_ms = match desk.store.head(&chain.key).await {
        Ok(list) => list.modified_ms,
        // It was deleted, and the head that does not name it was not put.
        Err(error) if error.is_not_found() => return Ok(true),
        Err(error) => return Err(error),
    };
    if store_now_ms(desk).await?.saturating_sub(since_ms) < RETENTION_MS + GRACE_MS {
        return Ok(false);
    }
    let layers = match read_list(desk, &chain.key).await {
        Ok(layers) => layers,
        Err(error) if error.is_not_found() => return Ok(true),
        Err(error) => return Err(error),
    };
    for layer in layers {
        let keys: Vec<String> = part_keys(&layer.key, layer.parts.len() as u64).collect();
        desk.store.delete(&keys).await?;
    }
    desk.store.delete(std::slice::from_ref(&chain.key)).await?;
    Ok(true)
}

async fn read_list(desk: &Desk, key: &str) -> Result<Vec<Layer>, StoreError> {
    let damaged = |why: String| StoreError::Damaged {
        what: format!("{key}: {why}"),
    };
    let mut reads = 0;
    let list: ChainList = loop {
        let object = desk.store.get(key, None).await?;
        reads += 1;
        match sealed::read(&object.bytes) {
            Ok(list) => break list,
            // A body can be damaged on its way.
            Err(why) if reads < READS => tracing::warn!(why, key, "a list is read again"),
            Err(why) => return Err(damaged(why)),
        }
    };
    match list.version {
        FORMAT_VERSION => Ok(list.layers),
        other => Err(damaged(format!("it has version {other}"))),
    }
}

/// The layers of a chain.
///
/// # Errors
/// [`StoreError`]: also when the list is damaged.
pub(super) fn layers_of(desk: &Desk, chain: &Chain) -> Result<Vec<Layer>, StoreError> {
    desk.runtime.block_on(read_list(desk, &chain.key))
}

/// Every point, oldest first, each with the layers that make it.
async fn all(
    desk: &Desk,
    head: &Head,
    now_ms: u64,
) -> Result<Vec<(RestorePoint, Vec<Layer>)>, StoreError> {
    let mut points = Vec::new();
    let mut add = |layers: Vec<Layer>, is_newest: bool| {
        for n in 1..=layers.len() {
            let last = &layers[n - 1];
            let point = RestorePoint {
                at_ms: last.created_ms,
                lsn: last.lsn,
                newest: is_newest && n == layers.len(),
            };
            points.push((point, layers[..n].to_vec()));
        }
    };
    for chain in head.chains.iter().filter(|chain| chain.is_retained(now_ms)) {
        add(read_list(desk, &chain.key).await?, false);
    }
    add(head.layers.clone(), true);
    Ok(points)
}

/// The points that there are, oldest first.
///
/// # Errors
/// [`OpenError::Store`].
pub(super) fn list(desk: &Desk, head: &Head, now_ms: u64) -> Result<Vec<RestorePoint>, OpenError> {
    let all = desk.runtime.block_on(all(desk, head, now_ms))?;
    Ok(all.into_iter().map(|(point, _)| point).collect())
}

/// The newest point that is not younger than `at_ms`, as a head that names its layers.
///
/// # Errors
/// [`OpenError::NoPoint`]; [`OpenError::Store`].
pub(super) fn find(
    desk: &Desk,
    head: &Head,
    at_ms: u64,
    now_ms: u64,
) -> Result<(RestorePoint, Head), OpenError> {
    let all = desk.runtime.block_on(all(desk, head, now_ms))?;
    let oldest_ms = all.first().map(|(point, _)| point.at_ms);
    let found = all
        .into_iter()
        .rev()
        .find(|(point, _)| point.at_ms <= at_ms);
    let (point, layers) = found.ok_or(OpenError::NoPoint { oldest_ms })?;
    let head = Head {
        lsn: point.lsn,
        layers,
        ..head.clone()
    };
    Ok((point, head))
}
