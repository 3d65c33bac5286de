//! fsck: whether a volume in a store is whole, from the store alone. Each invariant has a name and a function; changes
//! nothing and touches no local state.
//!
//! Names of the invariants, besides those of the tables (see `weldrfs_meta`):
//!
//! - `layer-part`: every part of every layer of the head and of the chains is there, with its length.
//! - `chain-list`: the list of every chain can be read, and has as many layers as the head says.
//! - `database-image`: the layers of the head make the database that was published.
//! - `chain-image`: the same of the layers of every chain (deep).
//! - `pack-known`: every pack that the last state of a chain uses is there, and is known to the newest state (deep).
//! - `sqlite-integrity`: SQLite finds the database whole.
//! - `pack-object`: every pack that the database knows, and that is not dead, is there, with its length.
//! - `extent-in-pack`: every extent that a file or a snapshot uses lies within its pack.
//! - `pack-whole`: every pack has the checksums it should have (deep).
//! - `pack-extents`: every extent that a file or a snapshot uses is in its pack where the database says (deep).

use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::runtime::Handle;
use weldrfs_blockstore::{ListedObject, ObjectStore, PackId, verify_pack};
use weldrfs_meta::{ExtentId, PackRow, RestedDatabase};

use super::head::{Head, Layer, part_key, part_keys};
use super::inventory::everything;
use super::keeper::Desk;
use super::open_error::OpenError;
use super::place::Source;
use super::points::Chain;
use super::restore::{look, volume};
use super::{points, transfer};
use crate::clock::{Clock, SystemClock};

/// Violations that are reported; a wrecked volume would have millions.
const MOST_FINDINGS: usize = 1_000;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsckFinding {
    /// The invariant's name.
    pub invariant: &'static str,
    /// Where and how.
    pub detail: String,
}

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Inodes.
    pub inodes: u64,
    /// Runs of files.
    pub extents: u64,
    /// Packs.
    pub packs: u64,
    /// Restore points, the newest state included.
    pub points: u64,
    /// Bytes of packs that were read.
    pub read_bytes: u64,
    /// Objects that nothing names: of uploads that were cut off, or of somebody else. No harm.
    pub unnamed: u64,
    /// The first violations.
    pub findings: Vec<FsckFinding>,
}

impl FsckReport {
    pub(super) fn found(&mut self, invariant: &'static str, detail: String) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(FsckFinding { invariant, detail });
        }
    }
}

/// An extent that files use, in a pack.
struct Used {
    extent: ExtentId,
    offset: u64,
    len: u64,
}

struct Check<'a> {
    desk: &'a Desk,
    objects: FxHashMap<String, u64>,
    named: FxHashSet<String>,
    /// Packs that states before the newest one use.
    used_before: FxHashSet<[u8; 16]>,
    report: FsckReport,
}

/// Checks the volume at a place. `deep` reads everything there is. `scratch` is a folder with room for the metadata.
///
/// # Errors
/// When the store cannot be read, or holds no volume; what is wrong with the volume is in the report.
pub fn fsck(
    source: &Source,
    deep: bool,
    scratch: &Path,
    runtime: &Handle,
) -> Result<FsckReport, OpenError> {
    fsck_at(source, deep, scratch, runtime, SystemClock.now_ms())
}

/// The same at a time of one's own: chains whose time is over may be being deleted.
pub(super) fn fsck_at(
    source: &Source,
    deep: bool,
    scratch: &Path,
    runtime: &Handle,
    now_ms: u64,
) -> Result<FsckReport, OpenError> {
    let folder = tempfile::Builder::new()
        .prefix("weldrfs-fsck-")
        .tempdir_in(scratch)
        .map_err(|error| OpenError::StateDir {
            dir: scratch.to_owned(),
            error,
        })?;
    let desk = look(source, folder.path(), runtime)?;
    let head = volume(&desk)?.map(|seen| seen.head);
    let objects = everything(&*desk.store, runtime)?;
    let mut check = Check {
        desk: &desk,
        objects: objects.iter().map(|o| (o.key.clone(), o.len)).collect(),
        named: FxHashSet::default(),
        used_before: FxHashSet::default(),
        report: FsckReport::default(),
    };
    if let Some(head) = head {
        check.head(&head, deep, now_ms, folder.path())?;
    }
    check.count_unnamed(&objects);
    Ok(check.report)
}

impl Check<'_> {
    fn head(
        &mut self,
        head: &Head,
        deep: bool,
        now_ms: u64,
        folder: &Path,
    ) -> Result<(), OpenError> {
        self.layers(&head.layers);
        for chain in &head.chains {
            self.named.insert(chain.key.clone());
            if !chain.is_retained(now_ms) {
                self.passing(chain);
                continue;
            }
            match points::layers_of(self.desk, chain) {
                Ok(layers) if layers.len() as u64 != chain.layers => self.report.found(
                    "chain-list",
                    format!(
                        "{} has {} layers instead of {}",
                        chain.key,
                        layers.len(),
                        chain.layers
                    ),
                ),
                Ok(layers) => {
                    self.layers(&layers);
                    if deep {
                        self.chain_image(head, layers, folder)?;
                    }
                }
                Err(error) => self.report.found("chain-list", error.to_string()),
            }
        }
        if head.layers.is_empty() {
            return Ok(());
        }
        let file = folder.join("newest.db");
        match transfer::fetch_rested(self.desk, head, &file) {
            Ok(database) => self.database(&database, deep),
            Err(OpenError::State(why)) => {
                self.report.found("database-image", why);
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// A chain that is no restore point any more: what is left of it.
    fn passing(&mut self, chain: &Chain) {
        // Its list is the last to go.
        for layer in points::layers_of(self.desk, chain).unwrap_or_default() {
            self.named
                .extend(part_keys(&layer.key, layer.parts.len() as u64));
        }
    }

    /// `layer-part`.
    fn layers(&mut self, layers: &[Layer]) {
        self.report.points += layers.len() as u64;
        for layer in layers {
            for (n, part) in (0..).zip(&layer.parts) {
                let key = part_key(&layer.key, n);
                match self.objects.get(&key) {
                    Some(len) if *len == part.bytes => {}
                    Some(len) => self.report.found(
                        "layer-part",
                        format!("{key} has {len} bytes instead of {}", part.bytes),
                    ),
                    None => self.report.found("layer-part", format!("{key} is missing")),
                }
                self.named.insert(key);
            }
        }
    }

    /// `chain-image`; remembers for `pack-known` which packs the chain's last state uses.
    fn chain_image(
        &mut self,
        head: &Head,
        layers: Vec<Layer>,
        folder: &Path,
    ) -> Result<(), OpenError> {
        let file = folder.join("chain.db");
        let lsn = layers.last().map_or(0, |layer| layer.lsn);
        let old = Head {
            lsn,
            layers,
            ..head.clone()
        };
        match transfer::fetch_rested(self.desk, &old, &file) {
            Ok(database) => {
                let ids: FxHashMap<u64, [u8; 16]> = database
                    .packs()?
                    .iter()
                    .map(|row| (row.pack, row.id))
                    .collect();
                database.each_packed(|_, pack, _, _| {
                    // A row without its pack is found by the check of the tables.
                    self.used_before.extend(ids.get(&pack).copied());
                })?;
            }
            Err(error) => self.report.found("chain-image", error.to_string()),
        }
        // It is in a folder that goes anyway; only its room is wanted back.
        drop(std::fs::remove_file(&file));
        Ok(())
    }

    /// `pack-known`.
    fn known(&mut self, packs: &[PackRow]) {
        let known: FxHashSet<[u8; 16]> = packs.iter().map(|row| row.id).collect();
        for id in std::mem::take(&mut self.used_before) {
            let key = PackId(id).object_key();
            if !known.contains(&id) {
                let detail = format!("{key} is used by a restore point, and not known");
                self.report.found("pack-known", detail);
            }
            if !self.objects.contains_key(&key) {
                let detail = format!("{key} is used by a restore point, and missing");
                self.report.found("pack-known", detail);
            }
        }
    }

    fn database(&mut self, database: &RestedDatabase, deep: bool) -> Result<(), OpenError> {
        let tables = database.check()?;
        self.report.inodes = tables.inodes;
        self.report.extents = tables.extents;
        for finding in tables.findings {
            self.report.found(finding.invariant, finding.detail);
        }
        let mut used: FxHashMap<u64, Vec<Used>> = FxHashMap::default();
        database.each_packed(|extent, pack, offset, len| {
            let of_pack = used.entry(pack).or_default();
            of_pack.push(Used {
                extent,
                offset,
                len,
            });
        })?;
        let packs = database.packs()?;
        self.known(&packs);
        for pack in packs {
            self.report.packs += 1;
            let used = used.remove(&pack.pack).unwrap_or_default();
            self.pack(&pack, &used, deep)?;
        }
        Ok(())
    }

    /// `pack-object`, `extent-in-pack`.
    fn pack(&mut self, row: &PackRow, used: &[Used], deep: bool) -> Result<(), OpenError> {
        let key = PackId(row.id).object_key();
        self.named.insert(key.clone());
        if row.dead.is_some() {
            // It may be deleted already. That nothing uses it is an invariant of the tables.
            return Ok(());
        }
        for used in used {
            if used.offset.saturating_add(used.len) > row.raw_len {
                self.report.found(
                    "extent-in-pack",
                    format!("{} lies behind the end of {key}", used.extent),
                );
            }
        }
        match self.objects.get(&key) {
            Some(len) if *len == row.bytes => {}
            Some(len) => {
                let detail = format!("{key} has {len} bytes instead of {}", row.bytes);
                self.report.found("pack-object", detail);
                return Ok(());
            }
            None => {
                let detail = format!(
                    "{key} is missing; {} extents of files lie in it",
                    used.len()
                );
                self.report.found("pack-object", detail);
                return Ok(());
            }
        }
        match deep {
            true => self.pack_content(&key, used),
            false => Ok(()),
        }
    }

    /// `pack-whole`, `pack-extents`.
    fn pack_content(&mut self, key: &str, used: &[Used]) -> Result<(), OpenError> {
        let object = self.desk.runtime.block_on(self.desk.store.get(key, None))?;
        self.report.read_bytes += object.bytes.len() as u64;
        let index = match verify_pack(&object.bytes) {
            Ok(index) => index,
            Err(error) => {
                self.report.found("pack-whole", format!("{key}: {error}"));
                return Ok(());
            }
        };
        let there: FxHashMap<u64, (u64, u64)> = index
            .extents()
            .iter()
            .map(|extent| (extent.id, (extent.raw_offset, extent.len)))
            .collect();
        for used in used {
            if there.get(&used.extent.0) != Some(&(used.offset, used.len)) {
                self.report.found(
                    "pack-extents",
                    format!("{} is not where it should be in {key}", used.extent),
                );
            }
        }
        Ok(())
    }

    fn count_unnamed(&mut self, objects: &[ListedObject]) {
        let known = [super::layout::MARKER_KEY, super::head::HEAD_KEY];
        let unnamed = objects
            .iter()
            .filter(|o| !known.contains(&o.key.as_str()) && !self.named.contains(&o.key));
        self.report.unnamed = unnamed.count() as u64;
    }
}
