//! The header of a segment file, byte by byte. Knows nothing of files.

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::ids::SegmentId;

/// Bytes of the header; the first append begins here.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// The format version written.
pub const SEGMENT_FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"WFSEGM01";
const HEADER_LEN: usize = SEGMENT_HEADER_BYTES as usize;
/// The checksum is the header's last field and covers everything before it.
const CRC_AT: usize = HEADER_LEN - 4;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The segment.
    pub id: SegmentId,
    /// Random; differs each time a file is used again.
    pub salt: u64,
}

impl SegmentHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&SEGMENT_FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes()); // key id: not encrypted
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header from the first bytes of a file. Total: any input gives a header or an error.
    ///
    /// # Errors
    /// [`Error::Damaged`], or [`Error::UnsupportedFormat`] / [`Error::Encrypted`] for what a newer program wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = |detail: &str| Error::damaged("segment header", detail);
        let header = bytes
            .get(..HEADER_LEN)
            .ok_or_else(|| damaged("it is too short"))?;
        let (covered, crc) = header.split_at(CRC_AT);
        let mut fields = Fields::new(covered);
        if fields.array() != Some(MAGIC) {
            return Err(damaged("it does not begin with the magic"));
        }
        if Fields::new(crc).u32() != Some(crc32c::crc32c(covered)) {
            return Err(damaged("its checksum does not match"));
        }
        let short = || damaged("it is too short");
        let version = fields.u32().ok_or_else(short)?;
        let key_id = fields.u32().ok_or_else(short)?;
        let id = SegmentId(fields.u64().ok_or_else(short)?);
        let salt = fields.u64().ok_or_else(short)?;
        if version != SEGMENT_FORMAT_VERSION {
            return Err(Error::UnsupportedFormat {
                what: "segment",
                found: version,
                known: SEGMENT_FORMAT_VERSION,
            });
        }
        if key_id != 0 {
            return Err(Error::Encrypted {
                what: "segment",
                key_id,
            });
        }
        Ok(Self { id, salt })
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn resum(bytes: &mut [u8]) {
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn layout_is_as_documented() {
        let header = SegmentHeader {
            id: SegmentId(0x0102_0304_0506_0708),
            salt: 0x1112_1314_1516_1718,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[..8], b"WFSEGM01");
        assert_eq!(bytes[8..12], 1u32.to_le_bytes());
        assert_eq!(bytes[12..16], 0u32.to_le_bytes());
        assert_eq!(bytes[16..24], 0x0102_0304_0506_0708u64.to_le_bytes());
        assert_eq!(bytes[24..32], 0x1112_1314_1516_1718u64.to_le_bytes());
        assert!(bytes[32..4092].iter().all(|b| *b == 0));
        assert_eq!(SegmentHeader::parse(&bytes).unwrap(), header);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = SegmentHeader {
            id: SegmentId(5),
            salt: 9,
        }
        .encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(SegmentHeader::parse(&bytes[..len]).is_err());
        }
        assert!(SegmentHeader::parse(&[0; 4096]).is_err());
    }

    #[test]
    fn newer_and_encrypted_are_named_and_garbage_never_panics() {
        let good = SegmentHeader {
            id: SegmentId(5),
            salt: 9,
        }
        .encode();
        let mut newer = good.clone();
        newer[8] = 2;
        resum(&mut newer);
        assert!(matches!(
            SegmentHeader::parse(&newer),
            Err(Error::UnsupportedFormat { found: 2, .. })
        ));
        let mut encrypted = good.clone();
        encrypted[12] = 7;
        resum(&mut encrypted);
        assert!(matches!(
            SegmentHeader::parse(&encrypted),
            Err(Error::Encrypted { key_id: 7, .. })
        ));
        let mut rng = SmallRng::seed_from_u64(3);
        for _ in 0..2_000 {
            let mut bad = good.clone();
            for _ in 0..rng.random_range(1..20) {
                let at = rng.random_range(0..40);
                bad[at] = rng.random();
            }
            resum(&mut bad);
            if let Ok(header) = SegmentHeader::parse(&bad) {
                assert_eq!(header.encode()[..32], bad[..32]);
            }
        }
    }
}
