//! What ends what is in the trash: a thread that looks for it, and whoever empties it.

use std::time::Duration;

use super::Volume;
use crate::engine::TrashFigures;
use crate::error::FsError;

/// How often what has been in the trash for long enough is looked for.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

impl Volume {
    /// Ends for good what was put into the trash this long ago, milliseconds.
    ///
    /// # Errors
    /// `EROFS`; what was ended before an error stays ended.
    pub fn empty_trash(&self, older_than_ms: u64) -> Result<TrashFigures, FsError> {
        let now_ms = self.engine.clock.now_ms();
        match older_than_ms {
            // Also what a clock that was wrong has put into the future.
            0 => self.engine.empty_trash(u64::MAX),
            _ => match now_ms.checked_sub(older_than_ms) {
                Some(until_ms) => self.engine.empty_trash(until_ms),
                None => Ok(TrashFigures::default()),
            },
        }
    }

    /// Ends what has been in the trash for long enough, and the oldest of it when there is too much.
    pub(crate) fn tidy_trash(&self, stop: &dyn Fn() -> bool) {
        // Whoever may not write ends nothing either.
        if self.engine.ns.read_only().is_some() {
            return;
        }
        match self.engine.tidy_trash(self.trash_kept, stop) {
            Ok(TrashFigures { names: 0, .. }) => {}
            Ok(ended) => tracing::info!(
                names = ended.names,
                bytes = ended.bytes,
                "what was removed long ago left the trash"
            ),
            Err(error) => {
                tracing::warn!(%error, "the trash could not be tidied; it is tried again")
            }
        }
    }
}
