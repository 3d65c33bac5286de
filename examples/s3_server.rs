//! The S3 server of the tests as a program, to run by hand or under a benchmark.
//!
//!     cargo run --example s3_server -- [--port N] [--latency-ms N] [--bandwidth-mb N] [--bucket NAME] [DIR]
//!
//! Prints its endpoint and keys, then serves until stdin ends or it is stopped; prints its counts when stdin ends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a tool for tests: whoever starts it sees the panic"
)]

#[path = "../tests/support/s3_server/mod.rs"]
mod s3_server;

use std::io::Read as _;
use std::time::Duration;

use s3_server::{ACCESS_KEY, S3Server, SECRET_KEY, Settings};

fn main() {
    let mut settings = Settings::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> u64 {
            let value = arguments.next();
            value
                .and_then(|value| value.parse().ok())
                .unwrap_or_else(|| panic!("{argument} takes a number"))
        };
        match argument.as_str() {
            "--port" => settings.port = number().try_into().unwrap(),
            "--latency-ms" => settings.latency = Duration::from_millis(number()),
            "--bandwidth-mb" => settings.bandwidth = Some(number() * 1_000_000),
            "--bucket" => settings.buckets = arguments.next().into_iter().collect(),
            dir => settings.dir = Some(dir.into()),
        }
    }
    let bucket = settings.buckets[0].clone();
    let server = S3Server::start(settings);
    println!("endpoint={}", server.endpoint());
    println!("bucket={bucket}");
    println!("access_key_id={ACCESS_KEY}");
    println!("secret_access_key={SECRET_KEY}");
    // Whoever started this closes the pipe, or never does.
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    println!("{:?}", server.counts());
    println!("bytes={}", server.bytes_of(&bucket));
}
