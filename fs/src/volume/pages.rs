//! The pages of a published database: what they were when they were published, so that the next publication carries
//! only those that have changed since. Comparing every page needs no bookkeeping that a crash could get wrong.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use weldrfs_meta::{Cut, Lsn};
use xxhash_rust::xxh3::xxh3_128;

use super::layer::Spool;

/// Bytes of the database that are read at a time.
const READ_BYTES: usize = 1 << 20;
const MAGIC: &[u8; 8] = b"WFSPAGES";
/// What the name of the file begins with; the rest is the hash of the whole table.
const FILE_PREFIX: &str = "pages-";
const HASH_BYTES: usize = 16;

/// A hash of every page of a database, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageTable {
    hashes: Vec<u128>,
}

impl PageTable {
    /// One hash for the whole database, as a layer names it.
    pub(super) fn image(&self) -> String {
        format!("{:032x}", xxh3_128(&self.bytes()))
    }

    pub(super) fn pages(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// The page size of a SQLite database file: bytes 16 and 17 of its header, see sqlite.org/fileformat2.html.
    pub(super) fn page_bytes(file: &Path) -> io::Result<u32> {
        let mut header = [0; 18];
        File::open(file)?.read_exact(&mut header)?;
        Ok(match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65_536,
            bytes => bytes.into(),
        })
    }

    /// The table of a database file that nobody changes.
    pub(super) fn of_file(file: &Path, page_bytes: usize) -> io::Result<Self> {
        let mut file = File::open(file)?;
        let mut page = vec![0; page_bytes];
        let mut hashes = Vec::new();
        let pages = file.metadata()?.len() / page_bytes as u64;
        for _ in 0..pages {
            file.read_exact(&mut page)?;
            hashes.push(xxh3_128(&page));
        }
        Ok(Self { hashes })
    }

    fn bytes(&self) -> Vec<u8> {
        self.hashes
            .iter()
            .flat_map(|hash| hash.to_le_bytes())
            .collect()
    }

    /// Keeps the table, durably, before a head is put that names its database.
    pub(super) fn save(&self, state: &Path) -> io::Result<()> {
        let path = path(state, &self.image());
        let mut file = File::create(&path)?;
        let body = self.bytes();
        file.write_all(MAGIC)?;
        file.write_all(&xxh3_128(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        File::open(state)?.sync_all()
    }

    /// The table of this database; `None` when there is none that can be trusted.
    pub(super) fn load(state: &Path, image: &str) -> Option<Self> {
        let bytes = fs::read(path(state, image)).ok()?;
        Self::parse(&bytes).filter(|table| table.image() == image)
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (sum, body) = rest.split_first_chunk::<HASH_BYTES>()?;
        let (hashes, odd) = body.as_chunks::<HASH_BYTES>();
        let good = magic == MAGIC && odd.is_empty() && xxh3_128(body) == u128::from_le_bytes(*sum);
        let hashes = hashes
            .iter()
            .map(|hash| u128::from_le_bytes(*hash))
            .collect();
        good.then_some(Self { hashes })
    }

    /// Removes the tables of all other databases.
    pub(super) fn keep_only(state: &Path, image: &str) {
        let kept = path(state, image);
        for entry in fs::read_dir(state).into_iter().flatten().flatten() {
            let is_table = entry.file_name().to_string_lossy().starts_with(FILE_PREFIX);
            if is_table && entry.path() != kept {
                // One that stays is a few kilobytes.
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

fn path(state: &Path, image: &str) -> PathBuf {
    state.join(format!("{FILE_PREFIX}{image}"))
}

/// What a cut came to: its pages are in the spool.
pub(super) struct Taken {
    pub(super) lsn: Lsn,
    pub(super) page_bytes: u32,
    pub(super) table: PageTable,
    pub(super) spool: Spool,
    pub(super) in_segments: Vec<(weldrfs_meta::ExtentId, weldrfs_meta::Location)>,
}

/// Writes the pages of a cut that differ from those of `before` to `spool`; all of them without one.
pub(super) fn take(cut: &Cut<'_>, before: Option<&PageTable>, spool: &Path) -> io::Result<Taken> {
    let per_read = (READ_BYTES / cut.page_bytes).max(1) as u64;
    let mut buffer = vec![0; per_read as usize * cut.page_bytes];
    let mut table = PageTable::default();
    let mut spool = Spool::create(spool)?;
    let mut first = 0;
    while first < cut.pages {
        let some = per_read.min(cut.pages - first);
        let bytes = &mut buffer[..some as usize * cut.page_bytes];
        cut.read(first, bytes)?;
        for (number, page) in (first..).zip(bytes.chunks_exact(cut.page_bytes)) {
            let hash = xxh3_128(page);
            let known = before.and_then(|before| before.hashes.get(number as usize));
            if known != Some(&hash) {
                spool.push(number, page)?;
            }
            table.hashes.push(hash);
        }
        first += some;
    }
    Ok(Taken {
        lsn: cut.lsn,
        page_bytes: u32::try_from(cut.page_bytes).map_err(io::Error::other)?,
        table,
        spool: spool.done()?,
        in_segments: cut.in_segments.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        fs::write(&database, [[1; 512], [2; 512], [1; 512]].concat()).unwrap();
        let table = PageTable::of_file(&database, 512).unwrap();
        assert_eq!(table.pages(), 3);
        fs::write(&database, [4; 512]).unwrap();
        let other = PageTable::of_file(&database, 512).unwrap();
        table.save(dir.path()).unwrap();
        other.save(dir.path()).unwrap();
        let load = |table: &PageTable| PageTable::load(dir.path(), &table.image());
        assert_eq!(load(&table), Some(table.clone()));
        assert_eq!(load(&other), Some(other.clone()));
        // One under another's name is not taken for it.
        fs::copy(path(dir.path(), &table.image()), path(dir.path(), "cc")).unwrap();
        assert_eq!(PageTable::load(dir.path(), "cc"), None);
        PageTable::keep_only(dir.path(), &other.image());
        assert_eq!(load(&table), None);
        let mut bytes = fs::read(path(dir.path(), &other.image())).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(PageTable::parse(&bytes), None);
        for len in [0, 7, 8, 23, 25] {
            assert_eq!(PageTable::parse(&bytes[..len]), None);
        }
    }
}
