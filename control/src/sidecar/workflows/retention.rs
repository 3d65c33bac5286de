//! Letting go of runs that are over and too many or too old, when there are far more of them than are kept: a piece at a time,
//! so that nobody waits for it. Otherwise the few that are too many go when one is added. Their snapshots go before them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Parts;
use super::snapshots;

/// Between two pieces, in which others write.
const PAUSE: Duration = Duration::from_millis(20);
/// Before the next try, when the database does not take it.
const AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether some are too many that still have snapshots: a run that is added does not remove those.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// Never returns.
pub(super) async fn remove_surplus(parts: Arc<Parts>) {
    loop {
        let pause = match one_piece(&parts).await {
            Piece::Nothing => LOOK,
            Piece::Removed => PAUSE,
            Piece::Failed => AGAIN,
        };
        sleep(pause).await;
    }
}

enum Piece {
    Nothing,
    Removed,
    Failed,
}

async fn one_piece(parts: &Parts) -> Piece {
    match parts.store.remove_surplus(parts.clock.now_ms()).await {
        Ok(0) => {}
        Ok(removed) => {
            tracing::debug!(removed, "runs that were too many or too old are gone");
            return Piece::Removed;
        }
        // The store says why.
        Err(_) => return Piece::Failed,
    }
    match snapshots::remove_surplus(parts).await {
        0 => Piece::Nothing,
        removed => {
            tracing::info!(
                removed,
                "runs that were too many have no snapshots any more"
            );
            Piece::Removed
        }
    }
}
