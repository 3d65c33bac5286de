//! Puts the right checksums into whatever the fuzzer made, so that what is behind them is reached too.

/// Little-endian number of eight bytes.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let raw = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(raw.try_into().ok()?))
}

fn put_sum(bytes: &mut [u8], at: usize, sum: u32) {
    if let Some(field) = at.checked_add(4).and_then(|end| bytes.get_mut(at..end)) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

fn sum_of(bytes: &[u8], from: usize, to: usize) -> u32 {
    bytes.get(from..to).map_or(0, crc32c::crc32c)
}

/// A journal file's header.
pub fn journal_header(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let sum = sum_of(&bytes, 0, 64);
    put_sum(&mut bytes, 64, sum);
    bytes
}

/// A journal record under a salt.
pub fn journal_record(salt: u64, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((len, _)) = bytes.split_first_chunk::<4>() {
        let end = 40_usize.saturating_add(u32::from_le_bytes(*len) as usize);
        let sum = crc32c::crc32c(&salt.to_le_bytes());
        let sum = crc32c::crc32c_append(sum, len);
        let sum = crc32c::crc32c_append(sum, bytes.get(8..end).unwrap_or_default());
        put_sum(&mut bytes, 4, sum);
    }
    bytes
}

/// A segment file's header.
pub fn segment_header(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let sum = sum_of(&bytes, 0, 4092);
    put_sum(&mut bytes, 4092, sum);
    bytes
}

/// A pack, or the end of one that begins at `start` of the object.
pub fn pack(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if start == 0 {
        let sum = sum_of(&bytes, 0, 60);
        put_sum(&mut bytes, 60, sum);
    }
    let Some(trailer) = bytes.len().checked_sub(80) else {
        return bytes;
    };
    let index = u64_at(&bytes, trailer)
        .and_then(|at| at.checked_sub(start))
        .and_then(|at| usize::try_from(at).ok())
        .unwrap_or(trailer);
    let sum = sum_of(&bytes, index, trailer);
    put_sum(&mut bytes, trailer + 64, sum);
    let sum = sum_of(&bytes, trailer, trailer + 68);
    put_sum(&mut bytes, trailer + 68, sum);
    bytes
}
