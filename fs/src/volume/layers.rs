//! Bringing a layer to the store, under a key that was never used, whoever made it.

use std::time::Instant;

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
    let key = format!("meta/{:016x}-{}", header.lsn, nonce());
    let mut put = |key: String, part| {
        let put = desk.store.put(&key, part, PutCondition::IfAbsent);
        desk.within(deadline, put).map(drop)
    };
    let write = |out: &mut dyn std::io::Write| layer::encode(header, spool, packed, out);
    let shipped = transfer::ship(&key, write, &mut put)?;
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
