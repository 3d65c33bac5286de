//! Layers on their way: one compressed stream each, cut into objects, so that neither memory nor a request grows with
//! the database.

use std::io::{self, Read, Write};
use std::path::Path;

use bytes::{Buf, Bytes};
use weldrfs_blockstore::{ObjectStore, StoreError};
use weldrfs_meta::{Packed, RestedDatabase};

use super::head::{Head, Layer, Part, part_key};
use super::keeper::Desk;
use super::layer;
use super::open_error::OpenError;
use super::pages::PageTable;
use crate::error::FsError;

/// Compression of a layer.
const ZSTD_LEVEL: i32 = 3;
/// Compressed bytes of one object. One request takes that in one go on any line that can be worked with.
pub(super) const PART_BYTES: usize = 16 << 20;

/// How often a part is read whose bytes are wrong.
const READS: u32 = 3;

/// Takes a part, key and bytes.
pub(super) type Put<'a> = &'a mut dyn FnMut(String, Bytes) -> Result<(), FsError>;

/// A layer that was brought to the store.
pub(super) struct Shipped {
    pub(super) parts: Vec<Part>,
    /// Bytes before compression.
    pub(super) bytes: u64,
}

/// Compresses what `write` writes and hands the parts to `put`, in order.
///
/// # Errors
/// Those of `put`; [`FsError::Meta`] for those of `write`.
pub(super) fn ship(
    key: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    put: Put<'_>,
) -> Result<Shipped, FsError> {
    let io = |error: io::Error| FsError::Meta(error.into());
    let parts = Parts {
        key,
        put,
        buffer: Vec::new(),
        parts: Vec::new(),
        failed: None,
    };
    let mut encoder = zstd::stream::write::Encoder::new(parts, ZSTD_LEVEL).map_err(io)?;
    let mut counted = Counted {
        to: &mut encoder,
        bytes: 0,
    };
    let written = write(&mut counted);
    let bytes = counted.bytes;
    if let Some(error) = encoder.get_mut().failed.take() {
        return Err(error);
    }
    written.map_err(io)?;
    let mut parts = encoder.finish().map_err(io)?;
    if parts.failed.is_none() {
        parts.send_all();
    }
    match parts.failed {
        Some(error) => Err(error),
        None => Ok(Shipped {
            parts: parts.parts,
            bytes,
        }),
    }
}

/// Collects what is written and sends it in pieces.
struct Parts<'a> {
    key: &'a str,
    put: Put<'a>,
    buffer: Vec<u8>,
    parts: Vec<Part>,
    /// Why a part could not be put; nothing more is put after that.
    failed: Option<FsError>,
}

impl Parts<'_> {
    fn send(&mut self, bytes: Vec<u8>) {
        let key = part_key(self.key, self.parts.len() as u64);
        self.parts.push(Part {
            bytes: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
        });
        self.failed = (self.put)(key, Bytes::from(bytes)).err();
    }

    fn send_all(&mut self) {
        let rest = std::mem::take(&mut self.buffer);
        self.send(rest);
    }
}

impl Write for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PART_BYTES - self.buffer.len();
        let n = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == PART_BYTES {
            self.send_all();
        }
        match &self.failed {
            Some(_) => Err(io::Error::other("a part was not taken")),
            None => Ok(n),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Counted<'a, W> {
    to: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Builds the database that a head names in `file`, which is not there yet. Returns what its newest layer says of packs,
/// and the table of its pages.
///
/// # Errors
/// [`OpenError::Store`]; [`OpenError::State`] when a layer is damaged or missing; [`OpenError::StateDir`] when the disk
/// does not take it.
pub(super) fn fetch(
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
    head: &Head,
    file: &Path,
) -> Result<(Vec<Packed>, PageTable), OpenError> {
    let mut newest = None;
    for layer in &head.layers {
        newest = Some(fetch_layer(store, runtime, layer, file)?);
    }
    let damaged = |layer: &Layer, why: &str| {
        OpenError::State(format!("{} in the store is damaged: {why}", layer.key))
    };
    let (Some((header, packed)), Some(last)) = (newest, head.layers.last()) else {
        return Err(OpenError::State(
            "the head in the store names no layer".into(),
        ));
    };
    let table = PageTable::of_file(file, header.page_bytes as usize).map_err(|error| {
        OpenError::StateDir {
            dir: file.to_owned(),
            error,
        }
    })?;
    if header.lsn != head.lsn || table.image() != last.image {
        return Err(damaged(
            last,
            "the database it makes is not the one that was published",
        ));
    }
    Ok((packed, table))
}

/// The same, ready to be read.
///
/// # Errors
/// Those of [`fetch`]; [`OpenError::Meta`] when the database cannot be opened.
pub(super) fn fetch_rested(
    desk: &Desk,
    head: &Head,
    file: &Path,
) -> Result<RestedDatabase, OpenError> {
    let (packed, _) = fetch(&*desk.store, &desk.runtime, head, file)?;
    weldrfs_meta::settle_restored(file, &packed)?;
    Ok(RestedDatabase::open(file)?)
}

fn fetch_layer(
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
    layer: &Layer,
    file: &Path,
) -> Result<(layer::Header, Vec<Packed>), OpenError> {
    let mut parts = Fetched {
        store,
        runtime,
        layer,
        next: 0,
        part: Bytes::new(),
        failed: None,
    };
    let applied = zstd::stream::read::Decoder::new(&mut parts).and_then(|decoder| {
        // A damaged stream does not fill the disk.
        layer::apply(&mut decoder.take(layer.bytes + 1), file)
    });
    applied.map_err(|error| match (parts.failed.take(), error.kind()) {
        (Some(failed), _) => failed,
        (None, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => OpenError::StateDir {
            dir: file.to_owned(),
            error,
        },
        (None, _) => OpenError::State(format!("{} in the store is damaged: {error}", layer.key)),
    })
}

/// Reads the parts of a layer one after the other.
struct Fetched<'a> {
    store: &'a dyn ObjectStore,
    runtime: &'a tokio::runtime::Handle,
    layer: &'a Layer,
    next: usize,
    part: Bytes,
    failed: Option<OpenError>,
}

impl Fetched<'_> {
    /// A body can be damaged on its way, so one that is wrong is read again.
    fn fetch(&self, part: &Part) -> Result<Bytes, OpenError> {
        let mut read = self.fetch_once(part);
        for _ in 1..READS {
            match &read {
                Err(OpenError::State(why)) => tracing::warn!(why, "a part is read again"),
                _ => break,
            }
            read = self.fetch_once(part);
        }
        read
    }

    fn fetch_once(&self, part: &Part) -> Result<Bytes, OpenError> {
        let key = part_key(&self.layer.key, self.next as u64);
        let got = self.runtime.block_on(self.store.get(&key, None));
        let object = got.map_err(|error| match error {
            StoreError::NotFound { key } => OpenError::State(format!(
                "{key}, which the newest metadata is made of, is missing in the store"
            )),
            other => other.into(),
        })?;
        let is_whole = object.bytes.len() as u64 == part.bytes;
        if !is_whole || crc32c::crc32c(&object.bytes) != part.crc32c {
            return Err(OpenError::State(format!(
                "{key} in the store is damaged: it has the wrong checksum"
            )));
        }
        Ok(object.bytes)
    }
}

impl Read for Fetched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            let Some(part) = self.layer.parts.get(self.next) else {
                return Ok(0);
            };
            match self.fetch(part) {
                Ok(bytes) => self.part = bytes,
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::Error::other("a part could not be had"));
                }
            }
            self.next += 1;
        }
        let n = buffer.len().min(self.part.len());
        self.part.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
