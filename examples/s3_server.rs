//! The S3 server of the tests as a program, to run by hand or under a benchmark.
//!
//!     cargo run --example s3_server -- [--port N] [--latency-ms N] [--bandwidth-mb N] [--bucket NAME] [DIR]
//!
//! Prints its endpoint and keys, then serves until stdin ends or it is stopped. Each line on stdin is a command that is
//! answered with one line: `counts` with requests and bytes as JSON, `bytes PREFIX` with the length of all objects whose
//! keys begin so, `latency N` (milliseconds) with `ok`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a tool for tests: whoever starts it sees the panic"
)]

#[path = "../tests/support/s3_server/mod.rs"]
mod s3_server;

use std::io::Write as _;
use std::time::Duration;

use s3_server::{ACCESS_KEY, S3Server, SECRET_KEY, Settings, VerbCounts};

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
    std::io::stdout().flush().unwrap();
    // Whoever started this closes the pipe, or never does.
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let answer = match line.split_once(' ') {
            None if line == "counts" => counts(&server, &bucket),
            Some(("bytes", prefix)) => server.bytes_of(&bucket, prefix).to_string(),
            Some(("latency", ms)) if ms.parse::<u64>().is_ok() => {
                server.set_latency(Duration::from_millis(ms.parse().unwrap()));
                "ok".into()
            }
            _ => "this takes: counts, bytes PREFIX, latency N".into(),
        };
        println!("{answer}");
        // A pipe is not flushed at the end of a line.
        std::io::stdout().flush().unwrap();
    }
}

/// Everything so far, as one line of JSON.
fn counts(server: &S3Server, bucket: &str) -> String {
    let of = |counts: VerbCounts| {
        serde_json::json!({
            "requests": counts.requests,
            "received_bytes": counts.received_bytes,
            "sent_bytes": counts.sent_bytes,
        })
    };
    let all = server.counts();
    serde_json::json!({
        "get": of(all.get),
        "put": of(all.put),
        "head": of(all.head),
        "list": of(all.list),
        "delete": of(all.delete),
        "objects": server.keys(bucket).len(),
        "bytes": server.bytes_of(bucket, ""),
    })
    .to_string()
}
