//! One round of uploads: packs are filled one after the other and go up side by side. Once a pack is confirmed its
//! extents are moved to it, and not before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rustc_hash::FxHashSet;
use tokio::task::JoinHandle;
use weldrfs_blockstore::{PackBuilder, PackId, PackSettings};
use weldrfs_meta::{ExtentId, PackRow, Packed};

use crate::engine::Engine;
use crate::error::FsError;

/// How long one pack may take to go up, all attempts together.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(300);

/// What a pack in the making holds.
struct Making {
    builder: PackBuilder,
    id: PackId,
    extents: Vec<(ExtentId, u64, u64)>,
    /// Extents that stay where they are in the location table, for now.
    stay: FxHashSet<ExtentId>,
}

/// A pack on its way.
struct Flying {
    id: PackId,
    packed: Packed,
    stay: FxHashSet<ExtentId>,
    upload: JoinHandle<Result<(), FsError>>,
}

/// What a round is bound by.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// When it has to be over.
    pub(super) until: Option<Instant>,
    /// Packs on their way at a time.
    pub(super) max_uploads: usize,
}

/// What one round has begun: the pack that is being filled, and those on their way, oldest first.
pub(super) struct Round<'a> {
    engine: &'a Engine,
    runtime: &'a tokio::runtime::Handle,
    settings: &'a PackSettings,
    next_pack: &'a AtomicU64,
    limits: Limits,
    making: Option<Making>,
    flying: VecDeque<Flying>,
    landed: Vec<Packed>,
}

impl<'a> Round<'a> {
    pub(super) fn begin(
        engine: &'a Engine,
        runtime: &'a tokio::runtime::Handle,
        settings: &'a PackSettings,
        next_pack: &'a AtomicU64,
        limits: Limits,
    ) -> Self {
        Self {
            engine,
            runtime,
            settings,
            next_pack,
            limits,
            making: None,
            flying: VecDeque::new(),
            landed: Vec::new(),
        }
    }

    /// Puts an extent into the pack that is being filled. `moves`: its place becomes that pack once it is in the store.
    pub(super) fn push(
        &mut self,
        rng: &mut SmallRng,
        extent: ExtentId,
        data: &[u8],
        moves: bool,
    ) -> Result<(), FsError> {
        if self
            .limits
            .until
            .is_some_and(|until| Instant::now() >= until)
        {
            return Err(FsError::Late(
                "packing took too long; the rest goes up later",
            ));
        }
        let room = |making: &Making| making.builder.has_room(data.len() as u64);
        if self.making.as_ref().is_some_and(|making| !room(making)) {
            self.launch()?;
        }
        let settings = self.settings;
        let current = self.making.get_or_insert_with(|| {
            let id = PackId::random(rng);
            Making {
                builder: PackBuilder::new(id, settings),
                id,
                extents: Vec::new(),
                stay: FxHashSet::default(),
            }
        });
        let offset = current.builder.push(extent.0, data);
        current.extents.push((extent, offset, data.len() as u64));
        if !moves {
            current.stay.insert(extent);
        }
        Ok(())
    }

    /// Begins to upload the pack that was filled, with a deadline; first waits for the oldest when as many as allowed are
    /// on their way.
    fn launch(&mut self) -> Result<(), FsError> {
        let Some(making) = self.making.take() else {
            return Ok(());
        };
        while self.flying.len() >= self.limits.max_uploads {
            self.land()?;
        }
        let built = making.builder.finish();
        let made_ms = self.engine.clock.now_ms();
        let pack = PackRow {
            pack: self.next_pack.fetch_add(1, Ordering::Relaxed),
            id: making.id.0,
            bytes: built.bytes.len() as u64,
            raw_len: built.raw_len,
            extents: built.extents.len() as u64,
            made_ms,
            dead: None,
        };
        let left = self.limits.until.map_or(UPLOAD_DEADLINE, |until| {
            until.saturating_duration_since(Instant::now())
        });
        let packs = Arc::clone(&self.engine.packs);
        self.flying.push_back(Flying {
            id: making.id,
            packed: Packed {
                pack,
                extents: making.extents,
            },
            stay: making.stay,
            // The segments still have every byte of it: no local copy has to be made durable before.
            upload: self.runtime.spawn(async move {
                let uploaded = tokio::time::timeout(left, packs.upload_built(&built)).await;
                let late =
                    |_| FsError::Late("the store did not take a pack in time; it goes up later");
                Ok(uploaded.map_err(late)??)
            }),
        });
        Ok(())
    }

    /// Waits for the oldest upload and, once it is confirmed, moves the pack's extents. It has its deadline, so this
    /// ends.
    fn land(&mut self) -> Result<(), FsError> {
        let Some(flying) = self.flying.pop_front() else {
            return Ok(());
        };
        let uploaded = self.runtime.block_on(flying.upload);
        uploaded.map_err(|_| FsError::Late("an upload was abandoned"))??;
        let Packed { pack, extents } = &flying.packed;
        // A reader may meet the new place the moment it is committed.
        self.engine.pack_ids.write().insert(pack.pack, flying.id);
        let mut moved = extents.clone();
        moved.retain(|(extent, _, _)| !flying.stay.contains(extent));
        self.engine
            .ns
            .move_extents(Some(pack.clone()), moved, Vec::new())?;
        self.landed.push(flying.packed);
        Ok(())
    }

    /// Ends a round that went as `filled` says: what is on its way lands in any case. Returns what was packed, or the
    /// first error.
    pub(super) fn finish(mut self, filled: Result<(), FsError>) -> Result<Vec<Packed>, FsError> {
        let mut outcome = filled.and_then(|()| self.launch());
        while !self.flying.is_empty() {
            let landed = self.land();
            outcome = outcome.and(landed);
        }
        outcome.map(|()| self.landed)
    }
}
