//! Bringing a layer to the store, under a key that was never used, whoever made it.

use std::time::Instant;

use bytes::Bytes;
use weldrfs_blockstore::{ObjectStore, PutCondition};
use weldrfs_meta::Packed;

use super::head::Layer;
use super::keeper::{Desk, nonce};
use super::layer::{self, Header, Spool};
use super::pages::PageTable;
use super::transfer;
use crate::error::FsError;

/// Puts the pages in `spool`, and where extents went, as a layer; `table` is of the database once it is applied. No head
/// names it yet.
///
/// # Errors
/// [`FsError::Store`] and [`FsError::Late`]; those of the spool.
pub(super) fn put(
    desk: &Desk,
    header: Header,
    table: &PageTable,
    spool: &Spool,
    packed: &[Packed],
    now_ms: u64,
    deadline: Instant,
) -> Result<Layer, FsError> {
    let mut put = |key: String, part| put_part(desk, &key, part, deadline);
    make(header, table, spool, packed, now_ms, &mut put)
}

/// Hands the parts of a layer to `put`, under its key.
fn make(
    header: Header,
    table: &PageTable,
    spool: &Spool,
    packed: &[Packed],
    now_ms: u64,
    put: transfer::Put<'_>,
) -> Result<Layer, FsError> {
    let nonce = match cfg!(feature = "planted-layer-key-reused") {
        // The planted bug: a key that another layer of the same operation has too.
        true => "0".repeat(16),
        false => nonce(),
    };
    let key = format!("meta/{:016x}-{nonce}", header.lsn);
    let write = |out: &mut dyn std::io::Write| layer::encode(header, spool, packed, out);
    let shipped = transfer::ship(&key, write, put)?;
    Ok(Layer {
        key,
        // Whoever names it in a head knows.
        seq: 0,
        lsn: header.lsn,
        created_ms: now_ms,
        bytes: shipped.bytes,
        parts: shipped.parts,
        image: table.image(),
    })
}

fn put_part(desk: &Desk, key: &str, part: Bytes, deadline: Instant) -> Result<(), FsError> {
    let condition = match cfg!(feature = "planted-layer-key-reused") {
        true => PutCondition::Always,
        false => PutCondition::IfAbsent,
    };
    let put = desk.store.put(key, part, condition);
    desk.within(deadline, put).map(drop)
}

/// The planted bug: a layer that is put only once a head names it.
#[cfg(feature = "planted-head-before-data")]
pub(super) mod held_back {
    use super::*;

    /// Keys and bytes of the parts.
    pub(in super::super) type Parts = Vec<(String, Bytes)>;

    /// As [`super::put`], but for the put.
    pub(in super::super) fn make(
        header: Header,
        table: &PageTable,
        spool: &Spool,
        packed: &[Packed],
        now_ms: u64,
    ) -> Result<(Layer, Parts), FsError> {
        let mut parts = Vec::new();
        let mut put = |key, part| {
            parts.push((key, part));
            Ok(())
        };
        let layer = super::make(header, table, spool, packed, now_ms, &mut put)?;
        Ok((layer, parts))
    }

    pub(in super::super) fn put(
        desk: &Desk,
        parts: Parts,
        deadline: Instant,
    ) -> Result<(), FsError> {
        let mut parts = parts.into_iter();
        parts.try_for_each(|(key, part)| put_part(desk, &key, part, deadline))
    }
}
