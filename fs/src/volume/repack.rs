//! Writing anew what is left of packs that are mostly dead. The packs it came from die by it; deleting them is gc's.

use std::time::Instant;

use weldrfs_meta::{ExtentId, Location, PackUsage, Piece};

use super::packer::Packer;
use super::uploads::Round;
use crate::error::FsError;

impl Packer {
    /// Puts what is used of these packs into new ones. What cannot be read stays where it is.
    ///
    /// # Errors
    /// When the store fails or the deadline comes; what was moved stays moved.
    pub(super) fn repack(&self, packs: &[PackUsage], until: Instant) -> Result<(), FsError> {
        if packs.is_empty() {
            return Ok(());
        }
        let late = FsError::Late("packing took too long; the rest is written anew later");
        let mut turn = self.turn(until).ok_or(late)?;
        let mut round = self.begin(Some(until));
        let filled = packs.iter().try_for_each(|pack| {
            let extents = self.engine.ns.used_in_pack(pack.row.pack)?;
            extents.iter().try_for_each(|(extent, location)| {
                self.push_anew(&mut round, &mut turn.0, *extent, location)
            })
        });
        round.finish(filled).map(drop)
    }

    fn push_anew(
        &self,
        round: &mut Round<'_>,
        rng: &mut rand::rngs::SmallRng,
        extent: ExtentId,
        location: &Location,
    ) -> Result<(), FsError> {
        let whole = Piece {
            offset: 0,
            len: location.len,
            extent,
            extent_offset: 0,
        };
        let deadline = self.engine.read_deadline();
        match self.engine.read_piece(&whole, Some(deadline)) {
            Ok(Some(data)) => round.push(rng, extent, &data, true),
            // It is nowhere: it died meanwhile.
            Ok(None) => Ok(()),
            Err(FsError::Damaged(what)) => {
                self.note_damaged(extent, &what);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
