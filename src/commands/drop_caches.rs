//! `weldrfs drop-caches`: empties a volume's local caches of file content, never what is not in the store yet.

use std::path::Path;

use super::{api_failure, target};
use crate::failure::Failure;
use crate::registry::Registry;
use crate::report::{bytes, print};

/// Empties the caches of the volume that `path` lies on.
pub(crate) fn run(path: &Path, registry: &Registry) -> Result<(), Failure> {
    let client = target::client(path, registry)?;
    let report = client
        .drop_caches()
        .map_err(|error| api_failure("the caches were not emptied", &error))?;
    let kept = match report.kept_bytes {
        0 => String::new(),
        kept => format!("; kept {} that the store does not hold yet", bytes(kept)),
    };
    print(&format!("freed {}{kept}\n", bytes(report.freed_bytes)))
}
