//! Public test suites on a mount: pjdfstest for what system calls answer, fsx for what files contain.
//!
//! `WELDRFS_FSX_OPS` sets how many operations fsx does in all, `WELDRFS_TEST_SEED` repeats a run.
//! `scripts/dev setup` installs the tools.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests fail the test that calls them"
)]

mod exclusions;
mod fsx;
mod links;
#[path = "../support/mount.rs"]
mod mount;
mod pjdfstest;
#[path = "../support/s3_server/mod.rs"]
mod s3_server;
#[path = "../support/seed.rs"]
mod seed;
mod times;
mod tools;
