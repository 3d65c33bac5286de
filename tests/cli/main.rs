//! The program from outside: what it says and leaves behind when it refuses, and the life of a mount.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests fail the test that calls them"
)]

mod bad_input;
mod bucket;
mod clocks;
mod damage;
mod garbage;
mod keys;
mod lifecycle;
mod line;
mod machine;
mod machines;
mod other_stores;
mod reach;
mod rivals;
#[path = "../support/s3_server/mod.rs"]
mod s3_server;
mod standard_ways;
mod support;
