//! The sidecar from outside, with real mounts: over its socket, over TCP and by the command line; killed, and with its
//! mounts killed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests fail the test that calls them"
)]

mod access;
mod agent_floods;
mod attacks;
mod better_auth;
mod branches;
mod browser;
mod contract;
mod exec;
mod integrations;
mod keys;
mod killed;
mod load;
mod many_runs;
mod monitoring;
mod mounts;
mod page;
mod preview_attacks;
mod preview_failures;
mod previews;
mod progress;
mod real_apps;
#[path = "../support/s3_server/mod.rs"]
mod s3_server;
mod sandbox_attacks;
#[path = "../support/seed.rs"]
mod seed;
mod sidecar;
mod snapshots;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "the tests of the command line use the rest")]
mod support;
mod walk;
mod workflow_events;
mod workflow_whole;
mod workflows;
