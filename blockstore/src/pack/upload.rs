//! Uploading a pack: at most one object ever under its key, and its bytes compared when an answer was lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::builder::BuiltPack;
use super::frame::check_frames;
use super::index::PackIndex;
use super::local::{Copy, LocalPacks, only_copy_damaged};
use super::reader::Packs;
use super::source::read_range;
use crate::error::{Error, Result, io_at};
use crate::ids::PackId;
use crate::store::{PutCondition, StoreError};

/// How often the object under the key is read when it seems to differ: a body can be damaged on its way.
const COMPARISONS: u32 = 2;

impl Packs {
    /// Uploads a local pack and makes its copy evictable. One that is uploaded already costs nothing.
    ///
    /// # Errors
    /// [`Error::PackNotFound`] when there is no local copy; [`Error::DamagedPack`] when it must not be uploaded;
    /// [`Error::PackConflict`] when the store holds other bytes under the key; [`Error::Store`], whose advice says
    /// whether to try again later; [`Error::Io`].
    pub async fn upload(&self, id: PackId) -> Result<()> {
        match self.local.copy(id) {
            None => return Err(Error::PackNotFound(id)),
            Some(Copy::Clean) => return Ok(()),
            Some(Copy::Only) => {}
        }
        let turn = self.upload_turns.acquire().await;
        let _turn = turn.map_err(|_| abandoned(id))?;
        if self.local.copy(id) == Some(Copy::Clean) {
            return Ok(());
        }
        let local = Arc::clone(&self.local);
        let bytes = tokio::task::spawn_blocking(move || read_checked(&local, id))
            .await
            .map_err(|_| abandoned(id))??;
        self.put(id, bytes).await?;
        self.local.mark_clean(id);
        self.uploads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Uploads a pack whose bytes its maker still has elsewhere, and so needs no durable local copy first. Afterwards there
    /// is one if there is room for it, and it is not evicted before [`Packs::release_kept`].
    ///
    /// # Errors
    /// [`Error::PackConflict`] when the store holds other bytes under the key; [`Error::Store`], whose advice says
    /// whether to try again later. Nothing is left behind locally.
    pub async fn upload_built(&self, pack: &BuiltPack) -> Result<()> {
        let turn = self.upload_turns.acquire().await;
        let _turn = turn.map_err(|_| abandoned(pack.id))?;
        // Before it is in the store: whoever deletes what nobody names has to know that it is wanted.
        self.local.expect(pack.id);
        if let Err(error) = self.put(pack.id, pack.bytes.clone()).await {
            self.local.release(&[pack.id]);
            return Err(error);
        }
        self.uploads.fetch_add(1, Ordering::Relaxed);
        let (local, id, bytes) = (Arc::clone(&self.local), pack.id, pack.bytes.clone());
        let kept = tokio::task::spawn_blocking(move || local.keep(id, &bytes)).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(pack = %id, %error, "the pack is in the store, and not in the local cache");
        }
        Ok(())
    }

    /// Puts the object, where nothing may be yet.
    async fn put(&self, id: PackId, bytes: Bytes) -> Result<()> {
        let key = id.object_key();
        let put = self
            .retry
            .put(&*self.store, &key, &bytes, &PutCondition::IfAbsent)
            .await;
        match put {
            Ok(_) => Ok(()),
            // An earlier round may have put it and have been cut off before it knew.
            Err(StoreError::PreconditionFailed { .. })
                if self.is_same(id, &key, &bytes).await? =>
            {
                Ok(())
            }
            Err(StoreError::PreconditionFailed { .. }) => Err(Error::PackConflict(id)),
            Err(source) => Err(store_error(id, source)),
        }
    }

    /// Whether the object in the store has exactly these bytes.
    async fn is_same(&self, id: PackId, key: &str, bytes: &Bytes) -> Result<bool> {
        for _ in 0..COMPARISONS {
            let read = self
                .retry
                .run(&format!("get {key}"), || self.store.get(key, None))
                .await;
            if read.map_err(|source| store_error(id, source))?.bytes == bytes {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The bytes of a local copy; a damaged one must not become the truth.
fn read_checked(local: &LocalPacks, id: PackId) -> Result<Bytes> {
    let (file, len) = local.file(id)?.ok_or(Error::PackNotFound(id))?;
    let bytes = read_range(&file, 0, len as usize).map_err(io_at("read", &local.path(id)))?;
    let index = match PackIndex::parse(&bytes) {
        Ok(index) if index.id() == id => index,
        Ok(_) => return Err(only_copy_damaged(id, None, "it is another pack")),
        Err(error) => return Err(only_copy_damaged(id, None, &error.to_string())),
    };
    match check_frames(&index, &bytes, false) {
        Ok(()) => Ok(bytes),
        Err((frame, fault)) => Err(only_copy_damaged(id, Some(frame), fault)),
    }
}

fn store_error(pack: PackId, source: StoreError) -> Error {
    Error::Store { pack, source }
}

fn abandoned(pack: PackId) -> Error {
    let what = "the upload was abandoned".to_owned();
    store_error(pack, StoreError::Unavailable { what })
}
