//! The benchmark harness: coding workloads, small operations, cold resumes and snapshots on WeldrFS, on the local disk and
//! on other file systems in turn; records, tables and plots.
//!
//! It drives programs and mounts as a user does. It must not name WeldrFS' crates: what the parts cost is the business of
//! the criterion benches beside it.

mod cli;
mod coding;
mod cold;
mod error;
mod facts;
mod inputs;
mod latency;
mod ops;
mod peers;
mod places;
mod previews;
mod process;
mod record;
mod report;
mod request;
mod rounds;
mod runs;
mod sidecar;
mod snapshots;
mod store;
mod sys;
mod target;
mod tree;
mod work;
mod workflows;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use error::{Error, Result};
use places::Places;

fn main() -> ExitCode {
    match perform(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<()> {
    let places = Places::find()?;
    match command {
        Command::Work { work } => {
            let said = work::perform(&work)?;
            let text = serde_json::to_string(&said).map_err(|source| Error::Json {
                what: "what was found".into(),
                source,
            })?;
            println!("{text}");
            Ok(())
        }
        Command::Report { check: true } => report::check(&places),
        Command::Report { check: false } => report::regenerate(&places),
        Command::Coding {
            common,
            size,
            steps,
        } => runs::coding(&places, &common, size, steps),
        Command::Ops {
            common,
            files,
            seconds,
            threads,
        } => runs::ops(&places, &common, files, seconds, threads),
        Command::Cold {
            common,
            size,
            idle_seconds,
        } => runs::cold(&places, &common, size, idle_seconds),
        Command::Snapshots {
            common,
            files,
            kept,
        } => runs::snapshots(&places, &common, files, kept),
        Command::Previews { common } => runs::previews(&places, &common),
        Command::Workflows { common } => runs::workflows(&places, &common),
    }
}
