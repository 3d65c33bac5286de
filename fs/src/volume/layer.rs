//! Layers: the pieces a database is published in. A full layer has every page, a delta those that have changed since the
//! layer before it. Encoding, decoding and applying; FORMAT.md has the bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use weldrfs_meta::{ExtentId, PackRow, Packed};

const MAGIC: &[u8; 8] = b"WFSLAYER";
const VERSION: u32 = 1;
/// Sizes of a page that SQLite knows.
const LEAST_PAGE_BYTES: u32 = 512;
const MOST_PAGE_BYTES: u32 = 65_536;
/// Most of anything that one layer counts: what a damaged count may make us do is bounded by the bytes that follow.
const BUFFER_BYTES: usize = 256 << 10;

/// Pages on their way into a layer, in a local file: number and bytes of each.
pub(super) struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    pages: u64,
}

impl Spool {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?),
            path: path.to_owned(),
            pages: 0,
        })
    }

    pub(super) fn push(&mut self, number: u64, page: &[u8]) -> io::Result<()> {
        self.pages += 1;
        self.file.write_all(&number.to_le_bytes())?;
        self.file.write_all(page)
    }

    /// Every page of a database that nobody changes.
    pub(super) fn of_file(database: &Path, page_bytes: usize, path: &Path) -> io::Result<Self> {
        let mut from = BufReader::with_capacity(BUFFER_BYTES, File::open(database)?);
        let pages = from.get_ref().metadata()?.len() / page_bytes as u64;
        let mut spool = Self::create(path)?;
        let mut page = vec![0; page_bytes];
        for number in 0..pages {
            from.read_exact(&mut page)?;
            spool.push(number, &page)?;
        }
        spool.done()
    }

    pub(super) fn done(mut self) -> io::Result<Self> {
        self.file.flush()?;
        Ok(self)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Another one is made over it.
        drop(std::fs::remove_file(&self.path));
    }
}

/// What a layer says besides its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) page_bytes: u32,
    /// Pages of the database once the layer is applied.
    pub(super) pages_after: u64,
    pub(super) lsn: u64,
}

/// Writes a layer.
///
/// # Errors
/// Those of the spool and of `out`.
pub(super) fn encode(
    header: Header,
    spool: &Spool,
    packed: &[Packed],
    out: &mut dyn Write,
) -> io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&header.page_bytes.to_le_bytes())?;
    // Key id: 0 is "not encrypted".
    out.write_all(&0_u64.to_le_bytes())?;
    for number in [header.lsn, header.pages_after, spool.pages] {
        out.write_all(&number.to_le_bytes())?;
    }
    io::copy(
        &mut BufReader::with_capacity(BUFFER_BYTES, File::open(&spool.path)?),
        out,
    )?;
    out.write_all(&(packed.len() as u64).to_le_bytes())?;
    for Packed { pack, extents } in packed {
        out.write_all(&pack.pack.to_le_bytes())?;
        out.write_all(&pack.id)?;
        let numbers = [pack.bytes, pack.raw_len, pack.extents, pack.made_ms];
        for number in numbers.into_iter().chain([extents.len() as u64]) {
            out.write_all(&number.to_le_bytes())?;
        }
        for (extent, offset, len) in extents {
            for number in [extent.0, *offset, *len] {
                out.write_all(&number.to_le_bytes())?;
            }
        }
    }
    Ok(())
}

/// Reads a layer and hands each page, with its number, to `page`. Returns the rest.
///
/// # Errors
/// `InvalidData` when it is damaged; those of `input` and `page`.
pub(super) fn decode(
    input: &mut dyn Read,
    page: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(Header, Vec<Packed>)> {
    let magic: [u8; 8] = take(input)?;
    if &magic != MAGIC || u32::from_le_bytes(take(input)?) != VERSION {
        return Err(damaged("it is no layer of version 1"));
    }
    let page_bytes = u32::from_le_bytes(take(input)?);
    let valid = (LEAST_PAGE_BYTES..=MOST_PAGE_BYTES).contains(&page_bytes);
    if !valid || !page_bytes.is_power_of_two() || number(input)? != 0 {
        return Err(damaged("its header makes no sense"));
    }
    let header = Header {
        page_bytes,
        lsn: number(input)?,
        pages_after: number(input)?,
    };
    let mut buffer = vec![0; page_bytes as usize];
    for _ in 0..number(input)? {
        let at = number(input)?;
        if at >= header.pages_after {
            return Err(damaged("it has a page beyond the end"));
        }
        input.read_exact(&mut buffer)?;
        page(at, &buffer)?;
    }
    let mut packed = Vec::new();
    for _ in 0..number(input)? {
        packed.push(packed_extents(input)?);
    }
    match input.read(&mut [0])? {
        0 => Ok((header, packed)),
        _ => Err(damaged("something follows its end")),
    }
}

fn packed_extents(input: &mut dyn Read) -> io::Result<Packed> {
    let pack = PackRow {
        pack: number(input)?,
        id: take(input)?,
        bytes: number(input)?,
        raw_len: number(input)?,
        extents: number(input)?,
        made_ms: number(input)?,
        dead: None,
    };
    let mut extents = Vec::new();
    for _ in 0..number(input)? {
        extents.push((ExtentId(number(input)?), number(input)?, number(input)?));
    }
    Ok(Packed { pack, extents })
}

fn take<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(input: &mut dyn Read) -> io::Result<u64> {
    Ok(u64::from_le_bytes(take(input)?))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Applies a layer to a database file. Returns what it says besides its pages.
///
/// # Errors
/// As [`decode`]; those of the file.
pub(super) fn apply(input: &mut dyn Read, database: &Path) -> io::Result<(Header, Vec<Packed>)> {
    let mut options = OpenOptions::new();
    // A full layer begins with a file that is not there yet.
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(database)?;
    let (header, packed) = decode(input, &mut |at, page| {
        file.write_all_at(page, at * page.len() as u64)
    })?;
    file.set_len(header.pages_after * u64::from(header.page_bytes))?;
    Ok((header, packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dir: &Path, pages: &[(u64, u8)], pages_after: u64, packed: &[Packed]) -> Vec<u8> {
        let mut spool = Spool::create(&dir.join("spool")).unwrap();
        for (number, byte) in pages {
            spool.push(*number, &[*byte; 512]).unwrap();
        }
        let (spool, mut out) = (spool.done().unwrap(), Vec::new());
        let header = Header {
            page_bytes: 512,
            pages_after,
            lsn: 7,
        };
        encode(header, &spool, packed, &mut out).unwrap();
        out
    }

    fn some_packed() -> Packed {
        Packed {
            pack: PackRow {
                pack: 3,
                id: [9; 16],
                bytes: 100,
                raw_len: 200,
                extents: 1,
                made_ms: 5,
                dead: None,
            },
            extents: vec![(ExtentId(4), 10, 20)],
        }
    }

    #[test]
    fn layers_are_applied_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        let full = layer(dir.path(), &[(0, 1), (1, 2), (2, 3)], 3, &[]);
        let delta = layer(dir.path(), &[(1, 9)], 2, &[some_packed()]);
        apply(&mut &full[..], &database).unwrap();
        let (header, packed) = apply(&mut &delta[..], &database).unwrap();
        assert_eq!((header.lsn, header.pages_after), (7, 2));
        assert_eq!(packed, [some_packed()]);
        let wanted = [[1; 512], [9; 512]].concat();
        assert!(std::fs::read(&database).unwrap() == wanted);
    }

    #[test]
    fn fuzz_layers() {
        use rand::rngs::SmallRng;
        use rand::{Rng, SeedableRng};
        let dir = tempfile::tempdir().unwrap();
        let good = layer(
            dir.path(),
            &[(0, 1), (1, 2)],
            3,
            &[some_packed(), some_packed()],
        );
        let rounds = std::env::var("WELDRFS_FUZZ_ROUNDS").ok();
        let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(20_000);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut refused = 0;
        for _ in 0..rounds {
            let mut bytes = good.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            let mut pages = 0;
            let decoded = decode(&mut &bytes[..], &mut |_, _| {
                pages += 1;
                Ok(())
            });
            refused += u64::from(decoded.is_err());
            assert!(pages <= bytes.len() / 512);
        }
        assert!(refused > rounds / 2);
    }
}
