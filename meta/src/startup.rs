//! From files to a running namespace: open SQLite, replay the journal, go.

use std::fs::{self, File};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use crate::cache::Cache;
use crate::changes::Change;
use crate::checkpoint::Checkpointer;
use crate::codec::decode_changes;
use crate::error::{MetaError, Result};
use crate::flusher::Flusher;
use crate::ids::{ExtentId, Lsn, ROOT_INO};
use crate::journal::{Inherited, Journal, Record};
use crate::namespace::{CommitState, Namespace, Numbers};
use crate::overlay::Overlay;
use crate::reserve::Reserve;
use crate::rows::Location;
use crate::settings::{DataBarrier, MetaSettings};
use crate::snapshot::Snapshots;
use crate::sqlite::open::{self, Readers, named};
use crate::sqlite::{read, trash, write};
use crate::trash::Trash;

/// Replay writes to SQLite whenever this much waits in memory.
const REPLAY_BATCH_BYTES: usize = 32 << 20;

struct Replayed {
    last: Lsn,
    next_ino: u64,
    next_extent: u64,
    next_epoch: u64,
}

impl Namespace {
    /// Opens the namespace in `settings.dir`, making it when the folder is empty (its root then belongs to
    /// `owner`), and brings it up to the last acknowledged operation.
    ///
    /// # Errors
    /// `Damaged` and `NewerFormat` say what is wrong with the files; nothing has been changed then but what recovery
    /// could bring safely into SQLite.
    pub fn open(
        settings: MetaSettings,
        barrier: Arc<dyn DataBarrier>,
        owner: (u32, u32),
        now_ns: i64,
    ) -> Result<Arc<Self>> {
        fs::create_dir_all(&settings.dir)?;
        let mut connection = open::writer(&settings.dir)?;
        File::open(&settings.dir)?.sync_all()?;
        let inherited = Inherited::open(&settings.dir)?;
        let replayed = replay(&settings, &inherited, &*barrier, &mut connection)?;
        inherited.free(&settings.dir);
        let journal = Journal::start(
            settings.dir.clone(),
            settings.boot_id,
            replayed.last,
            &inherited,
            settings.seed,
        )?;
        let (inodes, bytes) = named(read::totals(&connection))?;
        let held = named(trash::held(&connection))?;
        let snapshots = Snapshots::new(named(read::snapshots(&connection))?);
        let namespace = Arc::new(Self {
            journal,
            overlay: Overlay::default(),
            readers: Readers::new(&settings.dir),
            cache: Cache::new(settings.cache_bytes),
            flusher: Flusher::start(Arc::clone(&barrier))?,
            barrier,
            commit: Mutex::new(CommitState {
                next_epoch: replayed.next_epoch,
                fragmented: Default::default(),
                young_dirs: Default::default(),
            }),
            numbers: Numbers {
                ino: AtomicU64::new(replayed.next_ino),
                extent: AtomicU64::new(replayed.next_extent),
            },
            snapshots: Mutex::new(snapshots),
            replaced: crate::snapshot::Replaced::default(),
            holding: Mutex::new(()),
            checkpointer: Checkpointer::new(replayed.last),
            group: Mutex::new(()),
            room: (Mutex::new(()), Condvar::new()),
            inodes: AtomicI64::new(inodes as i64),
            bytes: AtomicI64::new(bytes as i64),
            read_only: Mutex::new(None),
            permit: OnceLock::new(),
            reserve: Reserve::new(&settings.dir),
            trash: Trash::new(settings.trash, replayed.next_ino, held),
            settings,
        });
        if named(read::inode(&connection, ROOT_INO))?.is_none() {
            if inodes > 0 || replayed.last > Lsn(0) {
                return Err(MetaError::damaged(
                    "inode table",
                    "the root directory is missing",
                ));
            }
            if namespace.settings.read_only {
                return Err(MetaError::ReadOnly("there is nothing in it yet".into()));
            }
            namespace.create_root(owner.0, owner.1, now_ns)?;
            namespace.flush(namespace.acknowledged())?;
            namespace.checkpoint_inherited(&mut connection)?;
        }
        let interval = namespace.settings.checkpoint_interval;
        namespace
            .checkpointer
            .start(Arc::downgrade(&namespace), connection, interval)?;
        if namespace.settings.read_only {
            namespace.set_read_only(Some("it was mounted read-only".into()));
            return Ok(namespace);
        }
        let orphans = namespace.reclaim_inherited(now_ns)?;
        if orphans > 0 {
            tracing::info!(
                orphans,
                "removed files that were deleted while they were open"
            );
        }
        Ok(namespace)
    }
}

/// Brings the journal into SQLite and returns where the history stands.
fn replay(
    settings: &MetaSettings,
    inherited: &Inherited,
    barrier: &dyn DataBarrier,
    connection: &mut Connection,
) -> Result<Replayed> {
    let after = named(read::checkpointed(connection))?;
    let mut state = Replayed {
        last: after,
        next_ino: named(read::setting(connection, "next_ino"))?.unwrap_or(ROOT_INO.0),
        next_extent: named(read::setting(connection, "next_extent"))?.unwrap_or(1),
        next_epoch: named(read::setting(connection, "next_epoch"))?.unwrap_or(1),
    };
    // What the records name is in segment files that a former process may not have flushed.
    barrier.flush().map_err(MetaError::from_io)?;
    let mut overlay = Overlay::default();
    let last = inherited.replay(&settings.dir, &settings.boot_id, after, |record| {
        let changes = decode(&record)?;
        if !record.safe && !data_is_there(&changes, &overlay, connection, barrier)? {
            tracing::warn!(lsn = %record.header.lsn, "the power failed before its data was written: the history ends here");
            return Ok(false);
        }
        state.note(&changes);
        overlay.apply(record.header.lsn, &changes, None, |extent| base(connection, extent))?;
        if overlay.waiting().1 > REPLAY_BATCH_BYTES {
            settle(&overlay, connection, &state)?;
            overlay = Overlay::default();
        }
        Ok(true)
    })?;
    settle(&overlay, connection, &state)?;
    if last > after {
        tracing::info!(from = %after, to = %last, "replayed the journal");
    }
    state.last = last;
    Ok(state)
}

fn settle(overlay: &Overlay, connection: &mut Connection, state: &Replayed) -> Result<()> {
    while let Some(generation) = overlay.begin_checkpoint() {
        let counters = write::Counters {
            next_ino: state.next_ino,
            next_extent: state.next_extent,
        };
        named(write::generation(connection, &generation, counters))?;
        overlay.end_checkpoint();
    }
    Ok(())
}

fn decode(record: &Record<'_>) -> Result<Vec<Change>> {
    let bad = |why: String| {
        MetaError::damaged("journal", format!("operation {}: {why}", record.header.lsn))
    };
    if record.header.key_id != 0 || record.header.flags != 0 {
        return Err(bad("written by a newer version".into()));
    }
    decode_changes(record.payload).map_err(|e| bad(e.to_string()))
}

fn base(connection: &Connection, extent: ExtentId) -> Result<Option<Arc<Location>>> {
    Ok(named(read::location(connection, extent))?.map(Arc::new))
}

/// Whether the bytes that a record names survived the power loss.
fn data_is_there(
    changes: &[Change],
    overlay: &Overlay,
    connection: &Connection,
    barrier: &dyn DataBarrier,
) -> Result<bool> {
    for change in changes {
        let there = match change {
            Change::PutLocation { location, .. } => barrier.verify(location, 0),
            Change::GrowLocation {
                extent,
                len,
                from_block,
                sums,
            } => {
                let old = match overlay.location(*extent) {
                    Some(found) => Some(found),
                    None => base(connection, *extent)?,
                };
                old.is_some_and(|old| {
                    let mut grown = (*old).clone();
                    grown.len = *len;
                    grown.sums.truncate(*from_block as usize);
                    grown.sums.extend_from_slice(sums);
                    barrier.verify(&grown, *from_block)
                })
            }
            _ => true,
        };
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Replayed {
    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutInode(row) => self.next_ino = self.next_ino.max(row.ino.0 + 1),
                Change::PutLocation { extent, .. } => {
                    self.next_extent = self.next_extent.max(extent.0 + 1)
                }
                Change::PutSnapshot {
                    epoch, next_ino, ..
                } => {
                    self.next_epoch = self.next_epoch.max(epoch.0 + 1);
                    self.next_ino = self.next_ino.max(next_ino.0);
                }
                _ => {}
            }
        }
    }
}
