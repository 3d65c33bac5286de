//! The bytes of a list of changes: the payload of a journal record. FORMAT.md documents every field.
//!
//! Decoding is total: hostile bytes give an error, never a panic or an allocation larger than the input justifies.

use crate::changes::Change;
use crate::ids::{Cookie, Epoch, ExtentId, Ino};
use crate::rows::{Dirent, ExtentRow, InodeRow, Location, MAX_NAME_BYTES, Place, TrashRow};
use crate::snapshot::NewSnapshot;

const PUT_INODE: u8 = 1;
const DROP_INODE: u8 = 2;
const PUT_DIRENT: u8 = 3;
const DEL_DIRENT: u8 = 4;
const PUT_EXTENT: u8 = 5;
const DEL_EXTENT: u8 = 6;
const CUT_EXTENTS: u8 = 7;
const PUT_LOCATION: u8 = 8;
const GROW_LOCATION: u8 = 9;
const PUT_XATTR: u8 = 10;
const DEL_XATTR: u8 = 11;
const PUT_SYMLINK: u8 = 12;
const PUT_ORPHAN: u8 = 13;
const DEL_ORPHAN: u8 = 14;
const PUT_SNAPSHOT: u8 = 15;
const BULK: u8 = 16;
const PUT_TRASH: u8 = 17;
const DEL_TRASH: u8 = 18;

const IN_SEGMENT: u8 = 0;
const IN_PACK: u8 = 1;

/// Why bytes are not a list of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside a field.
    #[error("truncated at byte {0}")]
    Truncated(usize),
    /// A tag that no version up to this one writes.
    #[error("unknown tag {tag} at byte {at}")]
    UnknownTag {
        /// The tag.
        tag: u8,
        /// Where.
        at: usize,
    },
    /// A length that the format does not allow.
    #[error("bad length at byte {0}")]
    BadLength(usize),
    /// A value that the format does not allow, or text that is not UTF-8.
    #[error("bad value at byte {0}")]
    BadValue(usize),
}

/// Appends the encoding of `changes` to `out`.
pub fn encode_changes(changes: &[Change], out: &mut Vec<u8>) {
    for change in changes {
        encode_one(change, out);
    }
}

fn encode_one(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::PutInode(row) => encode_inode(row, out),
        Change::DropInode(ino) => tagged(out, DROP_INODE, ino.0),
        Change::PutDirent {
            parent,
            name,
            dirent,
        } => {
            tagged(out, PUT_DIRENT, parent.0);
            u64le(out, dirent.ino.0);
            u64le(out, dirent.cookie.0);
            out.push(dirent.kind);
            bytes16(out, name);
        }
        Change::DelDirent { parent, name } => {
            tagged(out, DEL_DIRENT, parent.0);
            bytes16(out, name);
        }
        Change::PutExtent(row) => {
            tagged(out, PUT_EXTENT, row.ino.0);
            for v in [row.offset, row.len, row.extent.0, row.extent_offset] {
                u64le(out, v);
            }
        }
        Change::DelExtent { ino, offset } => {
            tagged(out, DEL_EXTENT, ino.0);
            u64le(out, *offset);
        }
        Change::CutExtents { ino, from } => {
            tagged(out, CUT_EXTENTS, ino.0);
            u64le(out, *from);
        }
        Change::PutLocation { extent, location } => {
            tagged(out, PUT_LOCATION, extent.0);
            let (kind, store, offset) = match location.place {
                Place::Segment { segment, offset } => (IN_SEGMENT, segment, offset),
                Place::Pack { pack, offset } => (IN_PACK, pack, offset),
            };
            out.push(kind);
            for v in [store, offset, location.len] {
                u64le(out, v);
            }
            sums(out, &location.sums);
        }
        Change::GrowLocation {
            extent,
            len,
            from_block,
            sums: new,
        } => {
            tagged(out, GROW_LOCATION, extent.0);
            u64le(out, *len);
            u64le(out, *from_block);
            sums(out, new);
        }
        Change::PutXattr { ino, name, value } => {
            tagged(out, PUT_XATTR, ino.0);
            bytes16(out, name);
            bytes32(out, value);
        }
        Change::DelXattr { ino, name } => {
            tagged(out, DEL_XATTR, ino.0);
            bytes16(out, name);
        }
        Change::PutSymlink { ino, target } => {
            tagged(out, PUT_SYMLINK, ino.0);
            bytes32(out, target);
        }
        Change::PutOrphan(ino) => tagged(out, PUT_ORPHAN, ino.0),
        Change::DelOrphan(ino) => tagged(out, DEL_ORPHAN, ino.0),
        Change::PutTrash(row) => {
            tagged(out, PUT_TRASH, row.ino.0);
            u64le(out, row.parent.0);
            u64le(out, row.deleted_ms);
            out.extend_from_slice(&row.dir_mtime_ns.to_le_bytes());
            bytes16(out, &row.name);
        }
        Change::DelTrash { ino, parent, name } => {
            tagged(out, DEL_TRASH, ino.0);
            u64le(out, parent.0);
            bytes16(out, name);
        }
        Change::PutSnapshot {
            epoch,
            next_ino,
            new,
        } => {
            tagged(out, PUT_SNAPSHOT, epoch.0);
            u64le(out, next_ino.0);
            u64le(out, new.made_ms);
            out.push(new.kept.into());
            for text in [&new.name, &new.owner, &new.note] {
                bytes32(out, text.as_bytes());
            }
        }
        Change::Bulk(ino) => tagged(out, BULK, ino.0),
    }
}

fn encode_inode(row: &InodeRow, out: &mut Vec<u8>) {
    tagged(out, PUT_INODE, row.ino.0);
    for v in [row.mode, row.uid, row.gid, row.nlink, row.rdev] {
        out.extend_from_slice(&v.to_le_bytes());
    }
    for v in [row.size, row.allocated] {
        u64le(out, v);
    }
    for v in [row.atime_ns, row.mtime_ns, row.ctime_ns, row.btime_ns] {
        out.extend_from_slice(&v.to_le_bytes());
    }
    for v in [row.parent.0, row.entries_hash, row.next_cookie] {
        u64le(out, v);
    }
}

fn tagged(out: &mut Vec<u8>, tag: u8, id: u64) {
    out.push(tag);
    u64le(out, id);
}

fn u64le(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_le_bytes());
}

fn bytes16(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() <= u16::MAX as usize);
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn sums(out: &mut Vec<u8>, sums: &[u32]) {
    out.extend_from_slice(&(sums.len() as u32).to_le_bytes());
    for s in sums {
        out.extend_from_slice(&s.to_le_bytes());
    }
}

/// Decodes a whole payload.
///
/// # Errors
/// Where and why the bytes are not a list of changes.
pub fn decode_changes(bytes: &[u8]) -> Result<Vec<Change>, CodecError> {
    let mut reader = Reader { bytes, at: 0 };
    let mut out = Vec::new();
    while reader.at < bytes.len() {
        out.push(decode_one(&mut reader)?);
    }
    Ok(out)
}

fn decode_one(r: &mut Reader<'_>) -> Result<Change, CodecError> {
    let at = r.at;
    let tag = r.u8()?;
    let id = r.u64()?;
    let change = match tag {
        PUT_INODE => Change::PutInode(decode_inode(r, Ino(id))?),
        DROP_INODE => Change::DropInode(Ino(id)),
        PUT_DIRENT => {
            let (ino, cookie, kind) = (Ino(r.u64()?), Cookie(r.u64()?), r.u8()?);
            Change::PutDirent {
                parent: Ino(id),
                name: r.name()?.into(),
                dirent: Dirent { ino, kind, cookie },
            }
        }
        DEL_DIRENT => Change::DelDirent {
            parent: Ino(id),
            name: r.name()?.into(),
        },
        PUT_EXTENT => Change::PutExtent(ExtentRow {
            ino: Ino(id),
            offset: r.u64()?,
            len: r.u64()?,
            extent: ExtentId(r.u64()?),
            extent_offset: r.u64()?,
        }),
        DEL_EXTENT => Change::DelExtent {
            ino: Ino(id),
            offset: r.u64()?,
        },
        CUT_EXTENTS => Change::CutExtents {
            ino: Ino(id),
            from: r.u64()?,
        },
        PUT_LOCATION => Change::PutLocation {
            extent: ExtentId(id),
            location: decode_location(r)?,
        },
        GROW_LOCATION => {
            let (len, from_block) = (r.u64()?, r.u64()?);
            Change::GrowLocation {
                extent: ExtentId(id),
                len,
                from_block,
                sums: r.sums()?,
            }
        }
        PUT_XATTR => Change::PutXattr {
            ino: Ino(id),
            name: r.name()?.into(),
            value: r.bytes32()?.to_vec(),
        },
        DEL_XATTR => Change::DelXattr {
            ino: Ino(id),
            name: r.name()?.into(),
        },
        PUT_SYMLINK => Change::PutSymlink {
            ino: Ino(id),
            target: r.bytes32()?.to_vec(),
        },
        PUT_ORPHAN => Change::PutOrphan(Ino(id)),
        DEL_ORPHAN => Change::DelOrphan(Ino(id)),
        PUT_TRASH => Change::PutTrash(TrashRow {
            ino: Ino(id),
            parent: Ino(r.u64()?),
            deleted_ms: r.u64()?,
            dir_mtime_ns: r.u64()? as i64,
            name: r.name()?.into(),
        }),
        DEL_TRASH => Change::DelTrash {
            ino: Ino(id),
            parent: Ino(r.u64()?),
            name: r.name()?.into(),
        },
        PUT_SNAPSHOT => {
            let (next_ino, made_ms, kept) = (Ino(r.u64()?), r.u64()?, r.bool()?);
            let (name, owner, note) = (r.text()?, r.text()?, r.text()?);
            Change::PutSnapshot {
                epoch: Epoch(id),
                next_ino,
                new: NewSnapshot {
                    name,
                    note,
                    owner,
                    kept,
                    made_ms,
                },
            }
        }
        BULK => Change::Bulk(Ino(id)),
        _ => return Err(CodecError::UnknownTag { tag, at }),
    };
    Ok(change)
}

fn decode_inode(r: &mut Reader<'_>, ino: Ino) -> Result<InodeRow, CodecError> {
    Ok(InodeRow {
        ino,
        mode: r.u32()?,
        uid: r.u32()?,
        gid: r.u32()?,
        nlink: r.u32()?,
        rdev: r.u32()?,
        size: r.u64()?,
        allocated: r.u64()?,
        atime_ns: r.u64()? as i64,
        mtime_ns: r.u64()? as i64,
        ctime_ns: r.u64()? as i64,
        btime_ns: r.u64()? as i64,
        parent: Ino(r.u64()?),
        entries_hash: r.u64()?,
        next_cookie: r.u64()?,
    })
}

fn decode_location(r: &mut Reader<'_>) -> Result<Location, CodecError> {
    let at = r.at;
    let kind = r.u8()?;
    let (store, offset, len) = (r.u64()?, r.u64()?, r.u64()?);
    let place = match kind {
        IN_SEGMENT => Place::Segment {
            segment: store,
            offset,
        },
        IN_PACK => Place::Pack {
            pack: store,
            offset,
        },
        tag => return Err(CodecError::UnknownTag { tag, at }),
    };
    Ok(Location {
        place,
        len,
        sums: r.sums()?,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let end = self
            .at
            .checked_add(n)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(CodecError::Truncated(self.at))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let at = self.at;
        self.take(N)?
            .try_into()
            .map_err(|_| CodecError::Truncated(at))
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn name(&mut self) -> Result<&'a [u8], CodecError> {
        let at = self.at;
        let len = self.u16()? as usize;
        if len == 0 || len > MAX_NAME_BYTES {
            return Err(CodecError::BadLength(at));
        }
        self.take(len)
    }

    fn bytes32(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    fn bool(&mut self) -> Result<bool, CodecError> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::BadValue(at)),
        }
    }

    fn text(&mut self) -> Result<String, CodecError> {
        let at = self.at;
        let text = std::str::from_utf8(self.bytes32()?);
        Ok(text.map_err(|_| CodecError::BadValue(at))?.to_owned())
    }

    fn sums(&mut self) -> Result<Vec<u32>, CodecError> {
        let at = self.at;
        let count = self.u32()? as usize;
        let raw = self.take(count.checked_mul(4).ok_or(CodecError::BadLength(at))?)?;
        Ok(raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|c| u32::from_le_bytes(*c))
            .collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn one_of_each() -> Vec<Change> {
        let row = InodeRow {
            ino: Ino(7),
            mode: libc::S_IFREG | 0o644,
            uid: 1,
            gid: 2,
            nlink: 3,
            rdev: 4,
            size: 5,
            allocated: 6,
            atime_ns: -7,
            mtime_ns: 8,
            ctime_ns: 9,
            btime_ns: 10,
            parent: Ino(0),
            entries_hash: 11,
            next_cookie: 12,
        };
        let name: crate::rows::Name = b"n\xff".as_slice().into();
        let segment = Place::Segment {
            segment: 3,
            offset: 4096,
        };
        vec![
            Change::PutInode(row),
            Change::DropInode(Ino(8)),
            Change::PutDirent {
                parent: Ino(1),
                name: name.clone(),
                dirent: Dirent {
                    ino: Ino(7),
                    kind: 8,
                    cookie: Cookie(9),
                },
            },
            Change::DelDirent {
                parent: Ino(1),
                name: name.clone(),
            },
            Change::PutExtent(ExtentRow {
                ino: Ino(7),
                offset: 1,
                len: 2,
                extent: ExtentId(3),
                extent_offset: 4,
            }),
            Change::DelExtent {
                ino: Ino(7),
                offset: 9,
            },
            Change::CutExtents {
                ino: Ino(7),
                from: 10,
            },
            Change::PutLocation {
                extent: ExtentId(3),
                location: Location {
                    place: segment,
                    len: 5000,
                    sums: vec![1, 2],
                },
            },
            Change::PutLocation {
                extent: ExtentId(4),
                location: Location {
                    place: Place::Pack { pack: 1, offset: 2 },
                    len: 3,
                    sums: vec![],
                },
            },
            Change::GrowLocation {
                extent: ExtentId(3),
                len: 9000,
                from_block: 1,
                sums: vec![3, 4],
            },
            Change::PutXattr {
                ino: Ino(7),
                name: name.clone(),
                value: vec![0, 1],
            },
            Change::DelXattr {
                ino: Ino(7),
                name: name.clone(),
            },
            Change::PutSymlink {
                ino: Ino(9),
                target: b"t".to_vec(),
            },
            Change::PutOrphan(Ino(7)),
            Change::DelOrphan(Ino(7)),
            Change::PutTrash(TrashRow {
                ino: Ino(7),
                parent: Ino(1),
                name: name.clone(),
                deleted_ms: 11,
                dir_mtime_ns: -12,
            }),
            Change::DelTrash {
                ino: Ino(7),
                parent: Ino(1),
                name,
            },
            Change::PutSnapshot {
                epoch: Epoch(3),
                next_ino: Ino(10),
                new: NewSnapshot {
                    name: "before".into(),
                    note: "why \u{e9}".into(),
                    owner: String::new(),
                    kept: true,
                    made_ms: 1234,
                },
            },
            Change::Bulk(Ino(1)),
        ]
    }

    #[test]
    fn every_change_survives_a_round_trip() {
        let mut bytes = Vec::new();
        encode_changes(&one_of_each(), &mut bytes);
        assert_eq!(decode_changes(&bytes).unwrap(), one_of_each());
    }

    #[test]
    fn every_truncation_inside_a_change_is_refused() {
        for change in one_of_each() {
            let mut bytes = Vec::new();
            encode_changes(std::slice::from_ref(&change), &mut bytes);
            for cut in 1..bytes.len() {
                assert!(
                    decode_changes(&bytes[..cut]).is_err(),
                    "{change:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_huge_count_does_not_allocate() {
        let mut bytes = vec![GROW_LOCATION];
        bytes.extend_from_slice(&[0; 24]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode_changes(&bytes).is_err());
    }
}
