//! Where extents lie, as SQLite knows it: what packing and gc go by. Asked only once a checkpoint covers everything that
//! names the segments and packs in question.

use super::Namespace;
use crate::error::Result;
use crate::ids::{ExtentId, Ino};
use crate::rows::Location;
use crate::sqlite::{Own, PackRow, PackUsage, own, packs, read};

impl Namespace {
    /// Extents that lie in a segment, in order, with whether any file uses them.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn segment_extents(&self, segment: u64) -> Result<Vec<(ExtentId, Location, bool)>> {
        self.readers.with(|c| read::segment_extents(c, segment))
    }

    /// The segments that hold bytes of the volume.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn segments(&self) -> Result<Vec<u64>> {
        self.readers.with(read::segments)
    }

    /// The packs that hold bytes of the volume, and those that did and are not deleted yet.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn packs(&self) -> Result<Vec<PackRow>> {
        self.readers.with(packs::packs)
    }

    /// How much is used of each pack that is not dead.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn pack_usage(&self) -> Result<Vec<PackUsage>> {
        self.readers.with(packs::usage)
    }

    /// The extents in a pack that are used, in order.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn used_in_pack(&self, pack: u64) -> Result<Vec<(ExtentId, Location)>> {
        self.readers.with(|c| read::used_in_pack(c, pack))
    }

    /// Where the bytes lie that nothing of the present but a directory and what is in it uses. What a snapshot has kept does
    /// not count: it is seldom read.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn own_of(&self, dir: Ino) -> Result<Own> {
        self.checkpoint(self.acknowledged())?;
        self.readers.with(|c| own::of(c, dir))
    }
}
