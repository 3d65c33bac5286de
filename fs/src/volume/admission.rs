//! Who may write the volume, and from which state: settled while it is opened, before anything is changed locally.
//!
//! The lease is taken first, then the local state is brought to what the store holds, where that went on without it. What
//! only the local state has is never dropped: it stops the mount, or is set aside as a divergent copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use weldrfs_blockstore::{ObjectStore, PutCondition, StoreError};

use super::head::{HEAD_KEY, Head, Lease, Seen, read_head};
use super::keeper::{Desk, Holder, Keeper, nonce};
use super::layout::{COPY_PREFIX, FORMAT_VERSION, Folders, divergent_copies};
use super::lineage::{LINEAGE_FILE, Lineage};
use super::open_error::OpenError;
use super::transfer;
use crate::clock::Clock;
use crate::error::FsError;

/// How often the lease is taken at least when others put heads meanwhile: who is overruled may be publishing all the time.
const LEAST_TRIES: u32 = 5;
/// For how long more often than that, and how long putting the head may take.
const TAKE_DEADLINE: Duration = Duration::from_secs(30);
/// A store tells times in seconds, and its machines' clocks differ.
const CLOCK_MARGIN_MS: u64 = 5_000;
/// What asks the store for its time is put below this and deleted again.
const TIME_PREFIX: &str = "time/";

/// What is asked for when a volume is opened for writing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claim {
    /// Take the lease, whoever has it.
    pub take_over: bool,
    /// Set a diverged local state aside instead of refusing to go on.
    pub set_aside: bool,
}

/// How the local state stands to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// There is none.
    Missing,
    /// It wrote what the store holds.
    Newest,
    /// It has what the store holds, which another state wrote, and nothing else.
    Same,
    /// The store has gone on, and has everything that this state acknowledged.
    Behind,
    /// The store has gone on without something that this state acknowledged.
    Diverged,
}

impl Standing {
    /// Nothing has to be fetched.
    fn is_current(self) -> bool {
        matches!(self, Self::Newest | Self::Same)
    }
}

/// What an admitted volume starts with.
#[derive(Default)]
pub(super) struct Admitted {
    /// The last operation that the store alone can restore.
    pub(super) in_store: u64,
    /// Keeps the head; none for a volume that is only read.
    pub(super) keeper: Option<Arc<Keeper>>,
}

/// Takes the lease and brings the local state to where it can go on.
///
/// `acknowledged` looks at the local state and tells its last operation.
///
/// # Errors
/// [`OpenError::Held`], [`OpenError::Diverged`], and what the store and the disk fail with.
pub(super) fn for_writing(
    desk: Desk,
    holder: Holder,
    clock: &Arc<dyn Clock>,
    folders: &Folders,
    claim: Claim,
    acknowledged: impl Fn() -> Result<u64, OpenError>,
) -> Result<Admitted, OpenError> {
    let until = Instant::now() + TAKE_DEADLINE;
    let mut tries = 0;
    while tries < LEAST_TRIES || Instant::now() < until {
        tries += 1;
        let deadline = Instant::now() + TAKE_DEADLINE;
        let seen = desk.runtime.block_on(read_head(&*desk.store))?;
        let standing = standing(folders, seen.as_ref(), &acknowledged)?;
        if let (Some(seen), false) = (&seen, standing == Standing::Newest || claim.take_over) {
            check_free(&desk, seen)?;
        }
        if let (Some(seen), Standing::Diverged, false) = (&seen, standing, claim.set_aside) {
            return Err(OpenError::Diverged {
                dir: folders.state.clone(),
                lsn: seen.head.lsn,
            });
        }
        if standing == Standing::Diverged {
            set_aside(folders)?;
        }
        // Before the head is put: from then on it counts as this state's own.
        if let (Some(seen), false) = (&seen, standing.is_current()) {
            bring_home(&desk, folders, &seen.head)?;
        }
        let now_ms = clock.now_ms();
        let lease = holder.lease(now_ms, false);
        let head = next_epoch(seen.as_ref().map(|seen| &seen.head), lease, now_ms);
        let sent_ns = clock.boot_ns();
        let taken = match desk.put(head, seen.as_ref(), deadline) {
            Ok(taken) => taken,
            Err(FsError::Store(StoreError::PreconditionFailed { .. })) => continue,
            Err(FsError::Store(error)) => return Err(error.into()),
            Err(other) => return Err(OpenError::State(other.to_string())),
        };
        let in_store = taken.head.lsn;
        let keeper = Keeper::new(desk, holder, Arc::clone(clock), taken, sent_ns);
        return Ok(Admitted {
            in_store,
            keeper: Some(Arc::new(keeper)),
        });
    }
    Err(OpenError::State(
        "other machines publish or mount the volume all the time: try again".into(),
    ))
}

/// Lets a volume be read: from the local state if there is one, else from what the store holds.
pub(super) fn for_reading(
    desk: &Desk,
    folders: &Folders,
    acknowledged: impl Fn() -> Result<u64, OpenError>,
) -> Result<Admitted, OpenError> {
    let seen = desk.runtime.block_on(read_head(&*desk.store))?;
    let in_store = match (standing(folders, seen.as_ref(), &acknowledged)?, seen) {
        (Standing::Missing, None) => 0,
        (Standing::Missing | Standing::Behind, Some(seen)) => {
            bring_home(desk, folders, &seen.head)?;
            seen.head.lsn
        }
        (Standing::Newest | Standing::Same, seen) => seen.map_or(0, |seen| seen.head.lsn),
        // `standing` says neither without a head, but for the first.
        (Standing::Diverged | Standing::Behind, seen) => {
            tracing::warn!(
                lsn = seen.map(|seen| seen.head.lsn),
                "the store has gone on without this local state; showing the local one"
            );
            0
        }
    };
    Ok(Admitted {
        in_store,
        keeper: None,
    })
}

fn in_folder(folders: &Folders) -> impl Fn(std::io::Error) -> OpenError {
    let dir = folders.state.clone();
    move |error| OpenError::StateDir {
        dir: dir.clone(),
        error,
    }
}

fn standing(
    folders: &Folders,
    seen: Option<&Seen>,
    acknowledged: impl Fn() -> Result<u64, OpenError>,
) -> Result<Standing, OpenError> {
    if !folders.has_metadata() {
        return Ok(Standing::Missing);
    }
    let lineage = Lineage::read(&folders.state).map_err(in_folder(folders))?;
    match seen {
        // A head that was there is not there any more: nothing says what became of it.
        None if lineage.published_lsn() > 0 => Ok(Standing::Diverged),
        None => Ok(Standing::Newest),
        Some(seen) if lineage.wrote(&seen.head.nonce) => Ok(Standing::Newest),
        Some(seen) if lineage.knows(&seen.head.nonce) => Ok(Standing::Same),
        Some(_) if acknowledged()? <= lineage.published_lsn() => Ok(Standing::Behind),
        Some(_) => Ok(Standing::Diverged),
    }
}

/// Whether somebody else's lease is in the way.
pub(super) fn check_free(desk: &Desk, seen: &Seen) -> Result<(), OpenError> {
    let Some(lease) = seen.head.lease.as_ref().filter(|lease| !lease.released) else {
        return Ok(());
    };
    let age_ms = desk.runtime.block_on(age_ms(desk, seen))?;
    let left_ms = lease
        .term_ms
        .map(|term| (term + CLOCK_MARGIN_MS).saturating_sub(age_ms));
    match left_ms {
        Some(0) => {
            tracing::warn!(
                host = lease.host,
                age_ms,
                "the lease of another machine has ended"
            );
            Ok(())
        }
        left_ms => Err(held(lease, age_ms, left_ms)),
    }
}

fn held(lease: &Lease, age_ms: u64, left_ms: Option<u64>) -> OpenError {
    OpenError::Held {
        host: lease.host.clone(),
        pid: lease.pid,
        age: Duration::from_millis(age_ms),
        left: left_ms.map(Duration::from_millis),
    }
}

/// How old the head is by the store's clock. Neither machine's clock counts.
async fn age_ms(desk: &Desk, seen: &Seen) -> Result<u64, StoreError> {
    let head = desk.store.head(HEAD_KEY).await?;
    if head.version != seen.version {
        return Ok(0);
    }
    Ok(store_now_ms(desk).await?.saturating_sub(head.modified_ms))
}

/// The time by the store's clock, milliseconds since 1970: that of a fresh object.
pub(super) async fn store_now_ms(desk: &Desk) -> Result<u64, StoreError> {
    let key = format!("{TIME_PREFIX}{}", nonce());
    let body = Bytes::from_static(b"what time is it");
    desk.store.put(&key, body, PutCondition::Always).await?;
    let now = desk.store.head(&key).await;
    if let Err(error) = desk.store.delete(std::slice::from_ref(&key)).await {
        tracing::debug!(%error, key, "an object of a few bytes stays in the store");
    }
    Ok(now?.modified_ms)
}

/// Whether a key is that of an object that asked for the time, and was left.
pub(super) fn is_time_key(key: &str) -> bool {
    let nonce = key.strip_prefix(TIME_PREFIX);
    nonce.is_some_and(|nonce| nonce.len() == 16 && nonce.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The head of a new writer.
fn next_epoch(old: Option<&Head>, lease: Lease, now_ms: u64) -> Head {
    let first = Head {
        version: FORMAT_VERSION,
        nonce: String::new(),
        epoch: 0,
        lease: None,
        seq: 0,
        lsn: 0,
        created_ms: now_ms,
        layers: Vec::new(),
        chains: Vec::new(),
        crc32c: 0,
    };
    let old = old.cloned().unwrap_or(first);
    Head {
        nonce: nonce(),
        epoch: old.epoch + 1,
        lease: Some(lease),
        ..old
    }
}

/// Makes the metadata that a head names the local one, in the place of what was there, which the store has in full.
pub(super) fn bring_home(desk: &Desk, folders: &Folders, head: &Head) -> Result<(), OpenError> {
    let state = in_folder(folders);
    let temporary = folders.meta.join("meta.db.restoring");
    // One that a former attempt left is of some other head.
    let _ = fs::remove_file(&temporary);
    if head.layers.is_empty() {
        forget_local(folders)?;
        return Lineage::follow(&folders.state, head).map_err(state);
    }
    let (packed, table) = transfer::fetch(&*desk.store, &desk.runtime, head, &temporary)?;
    weldrfs_meta::settle_restored(&temporary, &packed)?;
    table.save(&folders.state).map_err(&state)?;
    fs::File::open(&temporary)
        .and_then(|f| f.sync_all())
        .map_err(&state)?;
    forget_local(folders)?;
    // While there is no database, nothing is taken for a state that this head belongs to.
    Lineage::follow(&folders.state, head).map_err(&state)?;
    fs::rename(&temporary, folders.meta.join("meta.db")).map_err(&state)?;
    fs::File::open(&folders.meta)
        .and_then(|f| f.sync_all())
        .map_err(&state)?;
    tracing::info!(lsn = head.lsn, "took the newest metadata from the store");
    Ok(())
}

/// Removes the journal, the database and the segments, in this order: whatever is left by a crash in between is behind
/// the store, or nothing.
fn forget_local(folders: &Folders) -> Result<(), OpenError> {
    let state = in_folder(folders);
    let of = |dir: &PathBuf, keep: &dyn Fn(&str) -> bool| -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !keep(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        fs::File::open(dir)?.sync_all()
    };
    of(&folders.meta, &|name| !name.starts_with("journal-")).map_err(&state)?;
    of(&folders.meta, &|name| name == "meta.db.restoring").map_err(&state)?;
    // Segment numbers are never used again, so their floor stays.
    of(&folders.segments, &|name| name == "floor").map_err(&state)
}

/// Moves the local state out of the way, under a name that says when, and makes empty folders in its place.
fn set_aside(folders: &Folders) -> Result<(), OpenError> {
    let aside = new_copy(folders).map_err(in_folder(folders))?;
    move_aside(folders, &aside)?;
    tracing::warn!(
        copy = %aside.display(),
        "the store has gone on without this local state, which is kept as a divergent copy"
    );
    folders.make()
}

/// Goes on where setting aside was cut off: the metadata moves last, so a copy without it is not whole.
pub(super) fn finish_setting_aside(folders: &Folders) -> Result<(), OpenError> {
    let state = in_folder(folders);
    for name in divergent_copies(&folders.state).map_err(state)? {
        let copy = folders.state.join(name);
        if !copy.join("meta").exists() {
            move_aside(folders, &copy)?;
            folders.make()?;
        }
    }
    Ok(())
}

/// A folder for a divergent copy that no other one has: two may be of the same second, or a clock was set back.
fn new_copy(folders: &Folders) -> std::io::Result<PathBuf> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let when = now.replace(':', "");
    let mut n = 1;
    loop {
        let more = if n == 1 {
            String::new()
        } else {
            format!("-{n}")
        };
        let aside = folders.state.join(format!("{COPY_PREFIX}{when}{more}"));
        match fs::create_dir(&aside) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
            made => return made.map(|()| aside),
        }
    }
}

fn move_aside(folders: &Folders, aside: &Path) -> Result<(), OpenError> {
    let state = in_folder(folders);
    let lineage = folders.state.join(LINEAGE_FILE);
    // What was uploaded and not published: nobody else keeps it.
    weldrfs_blockstore::move_kept(&folders.packs, &aside.join("packs"))?;
    for part in [&folders.segments, &lineage, &folders.meta] {
        let to = aside.join(part.file_name().unwrap_or_default());
        // Then what is here is an empty one that was made since.
        if to.exists() {
            continue;
        }
        match fs::rename(part, to) {
            // Never made.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            moved => moved.map_err(&state)?,
        }
        for dir in [aside, &folders.state] {
            fs::File::open(dir)
                .and_then(|f| f.sync_all())
                .map_err(&state)?;
        }
    }
    Ok(())
}
