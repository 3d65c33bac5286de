//! Going back: the restore points of a volume, and making one of them its newest state. Works on the store alone; local
//! states find out at their next mount.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use weldrfs_blockstore::{ObjectStore, StoreError};
use weldrfs_meta::Dead;

use super::admission::{check_free, store_now_ms};
use super::head::{Head, Layer, Seen, read_head};
use super::inventory::patient;
use super::keeper::{Desk, Holder, LeaseTerm, nonce};
use super::layer::{Header, Spool};
use super::layers;
use super::layout::{MARKER_KEY, Marker};
use super::open_error::OpenError;
use super::pages::PageTable;
use super::place::Source;
use super::points::{self, RestorePoint};
use super::transfer;
use crate::clock::{Clock, SystemClock};
use crate::error::FsError;

/// How long the requests of one restore may take beside fetching and putting metadata.
const DEADLINE: Duration = Duration::from_secs(60);
/// The same for putting the metadata.
const SHIP_DEADLINE: Duration = Duration::from_secs(600);

/// The restore points of the volume at a place, oldest first.
///
/// # Errors
/// [`OpenError::NoVolume`], [`OpenError::Store`].
pub fn restore_points(source: &Source, runtime: &Handle) -> Result<Vec<RestorePoint>, OpenError> {
    let desk = look(source, &std::env::temp_dir(), runtime)?;
    let Some(seen) = volume(&desk)? else {
        return Ok(Vec::new());
    };
    points::list(&desk, &seen.head, SystemClock.now_ms())
}

/// Makes the newest restore point that is not younger than `at_ms` (milliseconds since 1970) the volume's newest state.
/// What it was before stays a restore point itself. Needs some room in `scratch`, a folder, for the metadata.
///
/// # Errors
/// [`OpenError::Held`] by whoever writes the volume, unless `take_over`; [`OpenError::NoPoint`], [`OpenError::NoVolume`],
/// [`OpenError::Store`]; [`OpenError::StateDir`] when `scratch` does not take it.
pub fn restore_to(
    source: &Source,
    at_ms: u64,
    take_over: bool,
    scratch: &Path,
    runtime: &Handle,
) -> Result<RestorePoint, OpenError> {
    restore_with(source, at_ms, take_over, scratch, runtime, &SystemClock)
}

/// The same with a clock of one's own.
pub(super) fn restore_with(
    source: &Source,
    at_ms: u64,
    take_over: bool,
    scratch: &Path,
    runtime: &Handle,
    clock: &dyn Clock,
) -> Result<RestorePoint, OpenError> {
    let now_ms = clock.now_ms();
    let in_scratch = |error| OpenError::StateDir {
        dir: scratch.to_owned(),
        error,
    };
    let folder = tempfile::Builder::new()
        .prefix("weldrfs-restore-")
        .tempdir_in(scratch)
        .map_err(in_scratch)?;
    let desk = look(source, folder.path(), runtime)?;
    let seen = volume(&desk)?.ok_or(OpenError::NoPoint { oldest_ms: None })?;
    if !take_over {
        check_free(&desk, &seen)?;
    }
    let (point, wanted) = points::find(&desk, &seen.head, at_ms, now_ms)?;
    if point.newest {
        return Ok(point);
    }
    let layer = full_layer(&desk, &wanted, &seen.head, now_ms, folder.path())?;
    let head = replacement(&desk, &seen.head, now_ms, layer)?;
    match desk.put(head, Some(&seen), Instant::now() + DEADLINE) {
        Ok(_) => Ok(point),
        Err(FsError::Store(StoreError::PreconditionFailed { .. })) => Err(OpenError::State(
            "the volume was written meanwhile; nothing was changed: try again".into(),
        )),
        Err(error) => Err(failed(error)),
    }
}

/// The head that has only this layer, and what the volume held so far as a chain. Nobody holds the lease.
fn replacement(desk: &Desk, old: &Head, now_ms: u64, layer: Layer) -> Result<Head, OpenError> {
    let chain = points::archive(desk, old, now_ms, Instant::now() + DEADLINE).map_err(failed)?;
    let mut chains = old.chains.clone();
    chains.extend(chain);
    let seq = old.seq + 1;
    Ok(Head {
        nonce: nonce(),
        seq,
        epoch: old.epoch + 1,
        lease: Some(Holder::here(LeaseTerm::Auto).lease(now_ms, true)),
        lsn: layer.lsn,
        created_ms: now_ms,
        layers: vec![Layer { seq, ..layer }],
        chains,
        ..old.clone()
    })
}

/// Makes the database that `wanted` names and puts it as one layer: chains share none with the head. It takes the packs of
/// the state that is left, `newest`, along, or gc would not know that they can still be wanted.
fn full_layer(
    desk: &Desk,
    wanted: &Head,
    newest: &Head,
    now_ms: u64,
    folder: &Path,
) -> Result<Layer, OpenError> {
    let local = |error| OpenError::StateDir {
        dir: folder.to_owned(),
        error,
    };
    let database = folder.join("meta.db");
    drop(transfer::fetch_rested(desk, wanted, &database)?);
    let left = transfer::fetch_rested(desk, newest, &folder.join("newest.db"))?.packs()?;
    let dead = Dead {
        at_ms: desk.runtime.block_on(store_now_ms(desk))?,
        seq: newest.seq + 1,
    };
    weldrfs_meta::add_dead_packs(&database, &left, dead)?;
    let page_bytes = PageTable::page_bytes(&database).map_err(local)?;
    let table = PageTable::of_file(&database, page_bytes as usize).map_err(local)?;
    let spool =
        Spool::of_file(&database, page_bytes as usize, &folder.join("pages")).map_err(local)?;
    let header = Header {
        page_bytes,
        pages_after: table.pages(),
        lsn: wanted.lsn,
    };
    let deadline = Instant::now() + SHIP_DEADLINE;
    layers::put(desk, header, &table, &spool, &[], now_ms, deadline).map_err(failed)
}

/// The head of the volume, if it has one.
///
/// # Errors
/// [`OpenError::NoVolume`], and what the marker and the head can be refused with.
pub(super) fn volume(desk: &Desk) -> Result<Option<Seen>, OpenError> {
    let name = desk.store.describe();
    match desk.runtime.block_on(desk.store.get(MARKER_KEY, None)) {
        Ok(object) => Marker::parse(&object.bytes, &name).map(drop)?,
        Err(error) if error.is_not_found() => return Err(OpenError::NoVolume(name)),
        Err(error) => return Err(error.into()),
    }
    desk.runtime.block_on(read_head(&*desk.store))
}

/// A way to a store for commands that have no local state but a folder for what they need on the way.
pub(super) fn look(source: &Source, folder: &Path, runtime: &Handle) -> Result<Desk, OpenError> {
    Ok(Desk {
        store: Arc::new(patient(source, runtime)?),
        runtime: runtime.clone(),
        state_dir: folder.to_owned(),
        unconditional: false,
    })
}

fn failed(error: FsError) -> OpenError {
    match error {
        FsError::Store(error) => error.into(),
        other => OpenError::State(other.to_string()),
    }
}
