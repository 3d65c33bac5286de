//! Letting go of runs that are over and too many or too old, when there are far more of them than are kept: a piece at a time,
//! so that nobody waits for it. Otherwise the few that are too many go when one is added.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::sidecar::host::Clock;
use crate::sidecar::store::Store;

/// Between two pieces, in which others write.
const PAUSE: Duration = Duration::from_millis(20);
/// Before the next try, when the database does not take it.
const AGAIN: Duration = Duration::from_secs(60);

/// Returns once nothing is left to let go of.
pub(super) async fn remove_surplus(store: Store, clock: Arc<dyn Clock>) {
    let mut removed = 0;
    loop {
        match store.remove_surplus(clock.now_ms()).await {
            Ok(0) => break,
            Ok(some) => {
                removed += some;
                sleep(PAUSE).await;
            }
            // The store says why.
            Err(_) => sleep(AGAIN).await,
        }
    }
    if removed > 0 {
        tracing::info!(removed, "runs that were too many or too old are gone");
    }
}
