//! `weldrfs sync`: waits until all that was acknowledged can be restored from the store alone.

use std::path::Path;
use std::time::Duration;

use super::{api_failure, target};
use crate::failure::Failure;
use crate::registry::Registry;

/// Waits for the volume that `path` lies on.
pub(crate) fn run(path: &Path, timeout: Duration, registry: &Registry) -> Result<(), Failure> {
    let client = target::client(path, registry)?;
    let report = client
        .sync(Some(timeout))
        .map_err(|error| api_failure("not everything is in the store", &error))?;
    tracing::debug!(
        lsn = report.in_store_lsn,
        waited_ms = report.waited_ms,
        "in the store"
    );
    Ok(())
}
