//! The bytes of a journal file: its header and its records. FORMAT.md documents every field. No I/O.

use crate::error::MetaError;
use crate::ids::Lsn;

/// Bytes of a journal file before its first record.
pub(crate) const HEADER_BYTES: u64 = 4096;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 40;
/// Records start at multiples of this.
pub(crate) const ALIGN: u64 = 8;

const MAGIC: &[u8; 8] = b"WFJRNL01";
pub(crate) const FORMAT_VERSION: u32 = 1;
const HEADER_USED: usize = 68;

/// The header of a journal file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalHeader {
    /// Encryption key id; version 1 knows only 0, none.
    pub key_id: u32,
    /// Number of the file, growing.
    pub number: u64,
    /// Random; seeds every checksum of the file, so that a recycled file's old records never parse.
    pub salt: u64,
    /// The machine's boot when the file was made.
    pub boot_id: [u8; 16],
    /// LSN of the first record.
    pub first: Lsn,
    /// Everything up to this LSN was known durable when the file was made.
    pub durable: Lsn,
}

impl JournalHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.key_id.to_le_bytes());
        for v in [self.number, self.salt] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&self.boot_id);
        for v in [self.first.0, self.durable.0] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.resize(HEADER_BYTES as usize, 0);
        out
    }

    /// Parses the first bytes of a journal file.
    ///
    /// # Errors
    /// `Damaged` when this is no journal header, `NewerFormat` when a newer program wrote it.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetaError> {
        let bad = |what: &str| MetaError::damaged("journal", format!("header: {what}"));
        let used = bytes.get(..HEADER_USED).ok_or_else(|| bad("too short"))?;
        if &used[..8] != MAGIC {
            return Err(bad("wrong magic"));
        }
        let version = u32_at(used, 8);
        if version > FORMAT_VERSION {
            return Err(MetaError::NewerFormat {
                what: "journal",
                found: version.into(),
                known: FORMAT_VERSION.into(),
            });
        }
        if version == 0 {
            return Err(bad("there is no version 0"));
        }
        if crc32c::crc32c(&used[..HEADER_USED - 4]) != u32_at(used, HEADER_USED - 4) {
            return Err(bad("wrong checksum"));
        }
        let mut boot_id = [0; 16];
        boot_id.copy_from_slice(&used[32..48]);
        let header = Self {
            key_id: u32_at(used, 12),
            number: u64_at(used, 16),
            salt: u64_at(used, 24),
            boot_id,
            first: Lsn(u64_at(used, 48)),
            durable: Lsn(u64_at(used, 56)),
        };
        if header.key_id != 0 {
            return Err(bad("encrypted with a key this version does not know"));
        }
        Ok(header)
    }
}

/// The header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of the payload.
    pub len: u32,
    /// CRC-32C of the salt, the rest of the header and the payload.
    pub crc: u32,
    /// The record's place in the history.
    pub lsn: Lsn,
    /// Everything up to this LSN was known durable when the record was written.
    pub durable: Lsn,
    /// Reserved for groups: 0 in version 1's records.
    pub flags: u32,
    /// Encryption key id: 0, none.
    pub key_id: u32,
    /// Wall clock when it was written, milliseconds since 1970.
    pub time_ms: u64,
}

/// Appends one record to `out`, padded to the alignment. The payload is already there, behind a gap left by
/// [`begin_record`].
pub(crate) fn finish_record(
    out: &mut Vec<u8>,
    start: usize,
    salt: u64,
    lsn: Lsn,
    durable: Lsn,
    time_ms: u64,
) {
    let payload = out.len() - start - RECORD_HEADER_BYTES;
    let header = &mut out[start..start + RECORD_HEADER_BYTES];
    header[..4].copy_from_slice(&(payload as u32).to_le_bytes());
    header[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    header[16..24].copy_from_slice(&durable.0.to_le_bytes());
    header[24..32].fill(0);
    header[32..40].copy_from_slice(&time_ms.to_le_bytes());
    let crc = record_crc(salt, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    while !out.len().is_multiple_of(ALIGN as usize) {
        out.push(0);
    }
}

/// Leaves room for a record's header.
pub(crate) fn begin_record(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + RECORD_HEADER_BYTES, 0);
    start
}

/// The checksum of a record: everything but the checksum itself, seeded with the salt.
fn record_crc(salt: u64, record: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &record[..4]);
    crc32c::crc32c_append(crc, &record[8..])
}

/// Parses the record at the start of `bytes`; `None` when there is no valid one.
///
/// All zeros never parse: a record has a payload.
pub fn parse_record(salt: u64, bytes: &[u8]) -> Option<(RecordHeader, &[u8])> {
    let head = bytes.get(..RECORD_HEADER_BYTES)?;
    let header = RecordHeader {
        len: u32_at(head, 0),
        crc: u32_at(head, 4),
        lsn: Lsn(u64_at(head, 8)),
        durable: Lsn(u64_at(head, 16)),
        flags: u32_at(head, 24),
        key_id: u32_at(head, 28),
        time_ms: u64_at(head, 32),
    };
    if header.len == 0 {
        return None;
    }
    let end = RECORD_HEADER_BYTES.checked_add(header.len as usize)?;
    let record = bytes.get(..end)?;
    (record_crc(salt, record) == header.crc).then_some((header, &record[RECORD_HEADER_BYTES..]))
}

/// The LSN that the bytes would have if they were a record of a plausible length; cheap, and proves nothing.
pub(crate) fn claimed_lsn(bytes: &[u8]) -> Option<Lsn> {
    let head = bytes.get(..RECORD_HEADER_BYTES)?;
    let len = u32_at(head, 0) as usize;
    (len > 0 && len <= bytes.len() - RECORD_HEADER_BYTES).then(|| Lsn(u64_at(head, 8)))
}

/// Bytes a record with this payload takes in the file.
pub(crate) fn record_bytes(payload: usize) -> u64 {
    ((RECORD_HEADER_BYTES + payload) as u64).next_multiple_of(ALIGN)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> JournalHeader {
        JournalHeader {
            key_id: 0,
            number: 3,
            salt: 77,
            boot_id: [5; 16],
            first: Lsn(9),
            durable: Lsn(8),
        }
    }

    #[test]
    fn a_header_survives_a_round_trip_and_no_flipped_bit() {
        let bytes = header().encode();
        assert_eq!(JournalHeader::parse(&bytes).unwrap(), header());
        for bit in 0..HEADER_USED * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(JournalHeader::parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_parses_only_with_its_salt_and_whole() {
        let mut out = Vec::new();
        let start = begin_record(&mut out);
        out.extend_from_slice(b"payload");
        finish_record(&mut out, start, 1, Lsn(5), Lsn(4), 1234);
        assert_eq!(out.len() as u64, record_bytes(7));
        let (header, payload) = parse_record(1, &out).unwrap();
        assert_eq!(
            (header.lsn, header.durable, header.time_ms),
            (Lsn(5), Lsn(4), 1234)
        );
        assert_eq!(payload, b"payload");
        assert!(parse_record(2, &out).is_none());
        for bit in 0..(RECORD_HEADER_BYTES + 7) * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_record(1, &bad).is_none(), "bit {bit}");
        }
        assert!(parse_record(1, &out[..RECORD_HEADER_BYTES + 6]).is_none());
    }

    #[test]
    fn zeros_never_parse() {
        for salt in [0, 1, u64::MAX] {
            assert!(parse_record(salt, &[0; 4096]).is_none());
        }
    }
}
