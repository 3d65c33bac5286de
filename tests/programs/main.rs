//! Other people's programs on a mount, with their own ways of finding out that something is wrong.
//!
//! Git's test scripts, SQLite with many processes, stress-ng, fio, package managers, rsync, tar, and programs that
//! wait for inotify. What a program does on the local disk is the measure. `WELDRFS_PROGRAMS=full` runs all at length.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests fail the test that calls them"
)]

mod copying;
mod fio;
mod git_scripts;
mod health;
mod package_managers;
mod sqlite;
mod stress;
#[path = "../support"]
mod support {
    pub(crate) mod mount;
    pub(crate) mod scripts;
}
mod watching;
