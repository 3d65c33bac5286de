//! Cuts: the database at rest, for whoever copies its pages.
//!
//! Owns getting there: everything acknowledged is in the database file itself and nobody changes it while it is looked
//! at. What is done with the pages is none of its business.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rusqlite::Connection;

use crate::error::{MetaError, Result};
use crate::ids::{ExtentId, Lsn};
use crate::namespace::Namespace;
use crate::rows::Location;
use crate::sqlite::open::named;
use crate::sqlite::read;

/// How often folding the write-ahead log is tried while readers are in the way.
const FOLD_TRIES: u32 = 50;
/// Between two tries.
const FOLD_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// The database as of one operation.
#[derive(Debug)]
pub struct Cut<'a> {
    /// The last operation in it.
    pub lsn: Lsn,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// How many pages there are.
    pub pages: u64,
    /// Extents that files use and that lie in local segments, with their places: what the pages alone cannot restore.
    pub in_segments: Vec<(ExtentId, Location)>,
    file: &'a File,
}

impl Cut<'_> {
    /// Reads pages, the first of which has number 0, into `buffer`, whose length is a multiple of the page's.
    ///
    /// # Errors
    /// Those of the file.
    pub fn read(&self, first: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.file
            .read_exact_at(buffer, first * self.page_bytes as u64)
    }
}

/// What is done with a cut, on the checkpointer's thread.
pub(crate) type Look = Box<dyn FnOnce(Result<Cut<'_>>) + Send>;

impl Namespace {
    /// Brings everything acknowledged so far into the database file and shows it at rest to `look`. Checkpoints wait
    /// meanwhile, mutations do not.
    ///
    /// # Errors
    /// When SQLite fails, or does not come to rest.
    pub fn cut<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cut<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        let next_ino = self.numbers.next_ino();
        self.checkpoint(self.acknowledged())?;
        let looked = self.checkpointer.look(look)?;
        self.grown_up(next_ino);
        Ok(looked)
    }
}

/// Makes a cut of what is in SQLite now.
pub(crate) fn make<'a>(ns: &Namespace, connection: &Connection, file: &'a File) -> Result<Cut<'a>> {
    fold(connection)?;
    let number = |name: &str| -> Result<u64> {
        let value: i64 = named(connection.pragma_query_value(None, name, |r| r.get(0)))?;
        u64::try_from(value).map_err(|_| MetaError::damaged("metadata database", name))
    };
    let (page_bytes, pages) = (number("page_size")? as usize, number("page_count")?);
    Ok(Cut {
        lsn: ns.checkpointed(),
        page_bytes,
        pages,
        in_segments: named(read::used_in_segments(connection))?,
        file,
    })
}

/// Brings the whole write-ahead log into the database file.
fn fold(connection: &Connection) -> Result<()> {
    for _ in 0..FOLD_TRIES {
        let busy: i64 =
            named(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)))?;
        if busy == 0 {
            return Ok(());
        }
        std::thread::sleep(FOLD_PAUSE);
    }
    Err(MetaError::Overloaded(
        u64::from(FOLD_TRIES) * FOLD_PAUSE.as_secs(),
    ))
}
