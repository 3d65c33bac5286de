//! Objects of a volume that nothing names: of uploads that were cut off before a head could name them, and what asked the
//! store for its time. Which they are is told from what is named, never the other way round.

use std::time::Instant;

use rustc_hash::FxHashSet;
use weldrfs_blockstore::PackId;

use super::Volume;
use super::gc::{Amount, GRACE_MS, STEP_DEADLINE, delete};
use super::head::{Head, Layer, part_keys};
use super::inventory::{DELETE_KEYS, is_named_by_head, list};
use super::keeper::{Desk, Keeper};
use super::points;
use crate::error::FsError;

/// Where a volume's objects are, besides marker and head.
const PREFIXES: [&str; 3] = ["packs/", "meta/", "time/"];

/// Deletes what nothing names and is older than the grace.
pub(super) fn sweep(
    volume: &Volume,
    keeper: &Keeper,
    now_ms: u64,
    dry_run: bool,
) -> Result<Amount, FsError> {
    let desk = &keeper.desk;
    // While a publication is under way, or a head may still arrive, there are objects that it is about to name; however
    // old they are, if the machine slept.
    let deadline = Instant::now() + STEP_DEADLINE;
    let one = volume.publishing.try_lock_until(deadline);
    let _one = one.ok_or(FsError::Late("another sync is still under way"))?;
    if !dry_run {
        keeper.renew(deadline)?;
    }
    let mut old = Vec::new();
    for prefix in PREFIXES {
        let listed = desk.within(Instant::now() + STEP_DEADLINE, list(&*desk.store, prefix))?;
        old.extend(listed.into_iter().filter(|object| {
            object.modified_ms + GRACE_MS <= now_ms && is_named_by_head(&object.key)
        }));
    }
    if old.is_empty() {
        return Ok(Amount::default());
    }
    // After the listing: what was put and named meanwhile is named here. And whoever has taken the volume over without
    // this machine knowing, asleep or a copy of itself, names objects that it never heard of.
    let head = keeper.confirm(Instant::now() + STEP_DEADLINE)?;
    let named = named(volume, keeper, &head)?;
    old.retain(|object| !named.contains(&object.key));
    let mut amount = Amount::default();
    old.iter().for_each(|object| amount.add(object.len));
    if !dry_run {
        let keys: Vec<String> = old.into_iter().map(|object| object.key).collect();
        for batch in keys.chunks(DELETE_KEYS) {
            delete(keeper, batch)?;
        }
    }
    Ok(amount)
}

/// Keys that the newest state, the head and its chains name.
fn named(volume: &Volume, keeper: &Keeper, head: &Head) -> Result<FxHashSet<String>, FsError> {
    let mut named = of_head(&keeper.desk, head)?;
    let engine = &volume.engine;
    let rows = engine.ns.packs()?;
    named.extend(rows.iter().map(|row| PackId(row.id).object_key()));
    named.extend(engine.pack_ids.read().values().map(PackId::object_key));
    named.extend(engine.packs.kept().iter().map(PackId::object_key));
    Ok(named)
}

fn of_head(desk: &Desk, head: &Head) -> Result<FxHashSet<String>, FsError> {
    let mut named = FxHashSet::default();
    let mut add = |layers: &[Layer]| {
        for layer in layers {
            named.extend(part_keys(&layer.key, layer.parts.len() as u64));
        }
    };
    add(&head.layers);
    for chain in &head.chains {
        add(&points::layers_of(desk, chain).map_err(FsError::Store)?);
    }
    named.extend(head.chains.iter().map(|chain| chain.key.clone()));
    Ok(named)
}
