//! An empty file system in memory, to measure what FUSE itself costs on a machine: the floor that no FUSE file system
//! comes below. It makes nothing durable, keeps no extended attributes and answers OPEN with ENOSYS.
//!
//!     floor MOUNTPOINT [THREADS]
//!
//! Serves in the foreground until it is unmounted.

mod node;
mod serve;
mod tree;

use std::process::ExitCode;

use fuser::{Config, MountOption, SessionACL};

const DEFAULT_THREADS: usize = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(mountpoint) = arguments.next() else {
        eprintln!("usage: floor MOUNTPOINT [THREADS]");
        return ExitCode::from(1);
    };
    let threads = match arguments.next() {
        None => Some(DEFAULT_THREADS),
        Some(text) => text.to_str().and_then(|text| text.parse().ok()),
    };
    let Some(threads @ 1..=64) = threads else {
        eprintln!("floor: THREADS takes 1 to 64");
        return ExitCode::from(1);
    };
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config.mount_options = vec![
        MountOption::FSName("floor".into()),
        MountOption::Subtype("floor".into()),
        MountOption::DefaultPermissions,
    ];
    match fuser::mount(serve::Floor::default(), mountpoint, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::from(32)
        }
    }
}
