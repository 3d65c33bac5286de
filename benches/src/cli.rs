//! The command line of the harness.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::work::Work;

/// Benchmarks of WeldrFS beside other file systems.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A day's coding: git, installs, builds, SQLite, copying, large files, removing
    Coding {
        #[command(flatten)]
        common: Common,
        /// Inputs and amounts [default: full; with --quick small]
        #[arg(long, value_enum)]
        size: Option<Size>,
        /// Only these steps and what they need, separated by commas [default: all; with --quick not the slowest]
        #[arg(long, value_delimiter = ',')]
        steps: Vec<String>,
    },
    /// Rates of small operations
    Ops {
        #[command(flatten)]
        common: Common,
        /// Files of each thread [default: 10000; with --quick 1000]
        #[arg(long)]
        files: Option<u64>,
        /// How long one operation is repeated at most [default: 5; with --quick 0.5]
        #[arg(long)]
        seconds: Option<f64>,
        /// Numbers of threads
        #[arg(long, value_delimiter = ',', default_values_t = [1, 4])]
        threads: Vec<u64>,
    },
    /// A machine without local state mounts a volume, asks for git status and reads everything
    Cold {
        #[command(flatten)]
        common: Common,
        /// Inputs [default: full; with --quick small]
        #[arg(long, value_enum)]
        size: Option<Size>,
        /// How long the idle volume is watched, seconds [default: 120; with --quick 5]
        #[arg(long)]
        idle_seconds: Option<u64>,
    },
    /// Snapshots, differences, restores and clones of trees of many small files, beside copies
    Snapshots {
        #[command(flatten)]
        common: Common,
        /// Files of the trees, separated by commas [default: 27000; with --quick 1000]
        #[arg(long, value_delimiter = ',')]
        files: Vec<u64>,
        /// Snapshots kept before, separated by commas [default: 0,10,1000; with --quick 0,10]
        #[arg(long, value_delimiter = ',')]
        kept: Vec<u64>,
    },
    /// An app as a preview beside the same app run by hand: start, latency, throughput, memory
    Previews {
        #[command(flatten)]
        common: Common,
    },
    /// Runs of ten steps: how many a sidecar does, what they take, and the same commands by hand
    Workflows {
        #[command(flatten)]
        common: Common,
    },
    /// Make tables, pages and the figures of the README again from the records of the kept runs
    Report {
        /// Change nothing; fail when something differs
        #[arg(long)]
        check: bool,
    },
    /// One piece of work, for the harness itself
    #[command(hide = true)]
    Work {
        #[command(subcommand)]
        work: Work,
    },
}

/// What all runs take.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Small amounts, one round, few targets: about two minutes
    #[arg(long)]
    pub(crate) quick: bool,
    /// ext4, weldrfs, weldrfs_file, floor, juicefs, rclone, s3fs, each also with +low_latency [default: all that there are]
    #[arg(long, value_delimiter = ',')]
    pub(crate) targets: Vec<String>,
    /// Measure WeldrFS with these mount options as a target of its own; may be repeated
    #[arg(long = "weldrfs-options", value_name = "OPTIONS")]
    pub(crate) weldrfs_options: Vec<String>,
    /// Rounds [default: 5, of snapshots and workflows 2; with --quick 1]
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// Rounds in which juicefs, rclone and s3fs take part [default: 2, of snapshots 1]
    #[arg(long)]
    pub(crate) peer_rounds: Option<u32>,
    /// How long one step may take, seconds [default: 600; with --quick 60]
    #[arg(long)]
    pub(crate) step_deadline: Option<u64>,
    /// The same for juicefs, rclone and s3fs; after two such steps their turn is over [default: 300; with --quick 30]
    #[arg(long)]
    pub(crate) peer_deadline: Option<u64>,
    /// How far away the store is
    #[arg(long, default_value_t = 20)]
    pub(crate) store_latency_ms: u64,
    /// Megabytes per second to and from the store; 0 for no limit
    #[arg(long, default_value_t = 100)]
    pub(crate) store_bandwidth_mb: u64,
    /// The folder that is measured, on ext4 [default: target/bench-work]
    #[arg(long)]
    pub(crate) work: Option<PathBuf>,
    /// Keep the run in benches/results and show it in the README
    #[arg(long)]
    pub(crate) keep: bool,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    Small,
    Full,
}

impl Size {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
        }
    }
}

impl Common {
    /// What was given, else one of two defaults.
    pub(crate) fn or<T>(&self, given: Option<T>, full: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    /// How long one step of the coding workload may take on a peer.
    pub(crate) fn peer_limit(&self) -> Duration {
        Duration::from_secs(self.or(self.peer_deadline, 300, 30))
    }

    /// How long one step may take.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.or(self.step_deadline, 600, 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
