//! Volumes as objects in a store: which there are, and taking one away. Opens none, and touches no local state.

use tokio::runtime::Handle;
use weldrfs_blockstore::{
    ListedObject, MAX_LIST_OBJECTS, ObjectStore, PackId, RetrySettings, RetryStore, StoreError,
};

use super::admission::is_time_key;
use super::head::{HEAD_KEY, is_part_key};
use super::layout::{MARKER_KEY, Marker};
use super::open_error::OpenError;
use super::place::{Place, Source};
use super::points::is_chain_key;

/// Keys deleted by one call.
pub(super) const DELETE_KEYS: usize = 1000;

/// A volume found in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFound {
    /// Where it is below the place that was asked, with a slash at its end; empty for that place itself.
    pub below: String,
    /// Its id, 32 hex digits.
    pub id: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Objects below it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a destroyed volume left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// Objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are no part of the volume, and were left.
    pub left: u64,
}

/// The volumes at a place and below it, in the order of their keys. Lists everything there.
///
/// # Errors
/// [`OpenError::Store`]; [`OpenError::NotAVolume`] for a marker that is none.
pub fn find_volumes(source: &Source, runtime: &Handle) -> Result<Vec<VolumeFound>, OpenError> {
    let store = patient(source, runtime)?;
    let all = everything(&store, runtime)?;
    let mut found = Vec::new();
    for object in &all {
        let Some(below) = object.key.strip_suffix(MARKER_KEY) else {
            continue;
        };
        if !below.is_empty() && !below.ends_with('/') {
            continue;
        }
        let body = runtime.block_on(store.get(&object.key, None))?.bytes;
        let marker = Marker::parse(&body, &object.key)?;
        let of: Vec<_> = all
            .iter()
            .filter(|other| other.key.starts_with(below))
            .collect();
        found.push(VolumeFound {
            below: below.to_owned(),
            id: marker.volume,
            created_ms: marker.created_ms,
            objects: of.len() as u64,
            bytes: of.iter().map(|object| object.len).sum(),
        });
    }
    Ok(found)
}

/// Deletes every object of the volume at a place, the marker last, so that one that was interrupted can be repeated.
/// Objects that are no part of it are left.
///
/// # Errors
/// [`OpenError::NoVolume`]; [`OpenError::State`] when its id is not `id`; [`OpenError::Store`].
pub fn destroy_volume(source: &Source, id: &str, runtime: &Handle) -> Result<Destroyed, OpenError> {
    let store = patient(source, runtime)?;
    let place = store.describe();
    let marker = match runtime.block_on(store.get(MARKER_KEY, None)) {
        Ok(object) => Marker::parse(&object.bytes, &place)?,
        Err(error) if error.is_not_found() => return Err(OpenError::NoVolume(place)),
        Err(error) => return Err(error.into()),
    };
    if marker.volume != id {
        return Err(OpenError::State(format!(
            "the volume in {place} is {}, not {id}: nothing was deleted",
            marker.volume
        )));
    }
    let all = everything(&store, runtime)?;
    let (mut ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|o| is_ours(&o.key));
    // Without its head nobody takes it for a volume with content; the marker tells a second attempt what this was.
    ours.sort_by_key(|object| object.key != HEAD_KEY);
    let keys = ours.iter().map(|object| object.key.clone());
    let keys: Vec<String> = keys.filter(|key| key != MARKER_KEY).collect();
    for batch in keys.chunks(DELETE_KEYS) {
        runtime.block_on(store.delete(batch))?;
    }
    runtime.block_on(store.delete(&[MARKER_KEY.to_owned()]))?;
    if let Some(dir) = source.directory() {
        remove_empty(dir);
    }
    Ok(Destroyed {
        objects: ours.len() as u64,
        bytes: ours.iter().map(|object| object.len).sum(),
        left: others.len() as u64,
    })
}

/// Whether a key is one that a volume writes.
fn is_ours(key: &str) -> bool {
    key == MARKER_KEY || key == HEAD_KEY || is_named_by_head(key)
}

/// Whether a key is of an object that counts because something names it, or that asked for the time.
pub(super) fn is_named_by_head(key: &str) -> bool {
    is_part_key(key)
        || is_chain_key(key)
        || is_time_key(key)
        || PackId::from_object_key(key).is_some()
}

pub(super) fn patient(source: &Source, runtime: &Handle) -> Result<RetryStore, OpenError> {
    let store = Place::open(source, runtime)?.store;
    Ok(RetryStore::new(store, RetrySettings::default()))
}

pub(super) fn everything(
    store: &dyn ObjectStore,
    runtime: &Handle,
) -> Result<Vec<ListedObject>, OpenError> {
    Ok(runtime.block_on(list(store, ""))?)
}

/// Every object whose key begins with `prefix`, in the order of their keys.
pub(super) async fn list(
    store: &dyn ObjectStore,
    prefix: &str,
) -> Result<Vec<ListedObject>, StoreError> {
    let mut all: Vec<ListedObject> = Vec::new();
    loop {
        let after = all.last().map(|object| object.key.clone());
        let page = store
            .list(prefix, after.as_deref(), MAX_LIST_OBJECTS)
            .await?;
        let more = page.more && !page.objects.is_empty();
        all.extend(page.objects);
        if !more {
            return Ok(all);
        }
    }
}

/// Removes the folders that packs and copies were in, as far as they are empty: with them the directory would not be
/// taken for a new volume.
fn remove_empty(dir: &std::path::Path) {
    for name in ["packs", "meta", "time"] {
        let folder = dir.join(name);
        let inner = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in inner {
            // One that is not empty stays, and so does a file.
            drop(std::fs::remove_dir(entry.path()));
        }
        drop(std::fs::remove_dir(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_a_volume_writes_are_its_own() {
        let pack = weldrfs_blockstore::PackId([7; 16]).object_key();
        for ours in [
            MARKER_KEY,
            HEAD_KEY,
            &pack,
            "meta/00000000000000ff-0123456789abcdef-0001.layer",
            "time/0123456789abcdef",
            "meta/00000000000000ff-0123456789abcdef.chain",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "photo.jpg",
            "packs/notes",
            "meta/notes",
            "meta/x.layer",
            "meta/12-34.layer",
            "time/table",
            "vol2/weldrfs.json",
            "packs2/00112233445566778899aabbccddeeff",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
