//! The commands, one per file. Each takes what the command line said and answers with success or a [`Failure`].

pub(crate) mod branches;
pub(crate) mod control;
pub(crate) mod drop_caches;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod integrations;
pub(crate) mod mount;
pub(crate) mod mount_snapshots;
pub(crate) mod mounts;
mod patch;
pub(crate) mod previews;
mod progress;
pub(crate) mod restore;
mod serve;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod target;
pub(crate) mod trash;
pub(crate) mod umount;
pub(crate) mod volumes;
pub(crate) mod workflows;

use weldrfs_control::{Advice, ApiError};

use crate::failure::Failure;

/// How an error of a volume's API ends a command.
fn api_failure(attempt: &str, error: &ApiError) -> Failure {
    let text = format!("{attempt}: {error}");
    match error.advice() {
        Advice::Fix => Failure::Invocation(text),
        Advice::Retry | Advice::GiveUp => Failure::System(text),
    }
}
