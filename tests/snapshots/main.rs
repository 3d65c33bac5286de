//! Snapshots on a real mount: an agent's turn is made and taken back while programs have files open, mapped and running,
//! watch directories and stand in them; a restore is cut off; and snapshots are read as directories.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests fail the test that calls them"
)]

mod commands;
mod holders;
mod killed;
mod race;
mod reading;
mod real_project;
mod scene;
#[path = "../support"]
mod support {
    pub(crate) mod mount;
    pub(crate) mod scripts;
}
mod trash;
mod turn;
mod watchers;
