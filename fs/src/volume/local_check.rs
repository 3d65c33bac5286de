//! fsck of the local state of a volume that is not mounted: what the next mount here goes on from. Replays the journal, as
//! a mount does, and changes nothing else.
//!
//! Names of the invariants, besides those of the tables (see `weldrfs_meta`):
//!
//! - `state-opens`: journal and database can be opened, and the journal replayed.
//! - `segment-there`: a segment that a file has bytes in is there.
//! - `segment-sums`: these bytes have the checksums that they were written with (deep).

use tokio::runtime::Handle;
use weldrfs_blockstore::{ObjectStore, SegmentId, SegmentStore, verify_sums};
use weldrfs_meta::{Location, Namespace, Place};

use std::sync::Arc;

use super::VolumeConfig;
use super::fsck::FsckReport;
use super::inventory::patient;
use super::layout::{Folders, Locks, MARKER_KEY, Marker};
use super::open::open_parts;
use super::open_error::OpenError;
use crate::clock::SystemClock;

/// Checks the local state of the volume that `config` names. `deep` reads everything that is not in packs yet.
///
/// # Errors
/// [`OpenError::InUse`] while it is mounted; [`OpenError::NoState`] when there is none; what keeps it from being looked at.
pub fn fsck_local(
    config: &VolumeConfig,
    deep: bool,
    runtime: &Handle,
) -> Result<FsckReport, OpenError> {
    let store = patient(&config.source, runtime)?;
    let marker = runtime.block_on(store.get(MARKER_KEY, None))?;
    let marker = Marker::parse(&marker.bytes, &store.describe())?;
    let folders = match &config.divergent {
        Some(copy) => Folders::of_copy(&config.state_base, &marker.volume, copy)?,
        None => Folders::new(
            &config.state_base,
            &marker.volume,
            config.cache_dir.as_deref(),
        ),
    };
    if !folders.has_metadata() {
        return Err(OpenError::NoState {
            dir: folders.state.clone(),
        });
    }
    let _locks = Locks::take(&folders, None, true)?;
    let looking = VolumeConfig {
        read_only: true,
        ..config.clone()
    };
    let counting = weldrfs_blockstore::CountingStore::new(Arc::new(store));
    let mut report = FsckReport::default();
    let opened = open_parts(
        &looking,
        &folders,
        &Arc::new(counting),
        runtime,
        Arc::new(SystemClock),
        u64::MAX,
    );
    let parts = match opened {
        Ok(parts) => parts,
        Err(OpenError::DamagedState { error, .. }) => {
            report.found("state-opens", error.to_string());
            return Ok(report);
        }
        Err(OpenError::LostSegment(id)) => {
            report.found("segment-there", format!("segment {id} is missing"));
            return Ok(report);
        }
        Err(other) => return Err(other),
    };
    let tables = parts.ns.check()?;
    report.inodes = tables.inodes;
    report.extents = tables.extents;
    report.packs = parts.ns.packs()?.len() as u64;
    for finding in tables.findings {
        report.found(finding.invariant, finding.detail);
    }
    if deep {
        segments(&parts.ns, &parts.segments, &mut report)?;
    }
    parts.ns.close()?;
    Ok(report)
}

fn segments(
    ns: &Namespace,
    segments: &SegmentStore,
    report: &mut FsckReport,
) -> Result<(), OpenError> {
    for id in ns.segments()? {
        for (extent, location, live) in ns.segment_extents(id)? {
            if live && let Err(why) = read(segments, id, &location) {
                report.found(
                    "segment-sums",
                    format!("{extent} in segment {}: {why}", SegmentId(id)),
                );
            }
            report.read_bytes += if live { location.len } else { 0 };
        }
    }
    Ok(())
}

/// Why the bytes of an extent are not what they were.
fn read(segments: &SegmentStore, id: u64, location: &Location) -> Result<(), String> {
    let Place::Segment { offset, .. } = location.place else {
        return Ok(());
    };
    let len = usize::try_from(location.len).map_err(|error| error.to_string())?;
    let bytes = segments
        .read(SegmentId(id), offset, len)
        .map_err(|error| error.to_string())?;
    verify_sums(&bytes, 0, &location.sums)
        .map_err(|block| format!("block {block} has the wrong checksum"))
}
