//! Rates of small operations: with one thread and with several, and with empty kernel caches where that differs.

use std::time::Duration;

use clap::ValueEnum as _;

use crate::coding::own_work;
use crate::error::{At, Result};
use crate::record::{Run, StepRecord, Unit};
use crate::rounds::{self, Notes, Plan};
use crate::sys;
use crate::target::{Target, Turn};
use crate::work::SmallOp;

/// What a run of the small operations is told besides the plan.
pub(crate) struct Amount {
    /// Files of each thread.
    pub(crate) files: u64,
    /// Most files that are written and flushed.
    pub(crate) fsyncs: u64,
    /// How long one operation is repeated.
    pub(crate) seconds: f64,
    pub(crate) threads: Vec<u64>,
    /// Of one measurement as a whole: renaming and removing go on until all files are done.
    pub(crate) limit: Duration,
}

/// One measurement, with warm caches or without.
#[derive(Clone, Copy)]
struct Measured {
    name: &'static str,
    about: &'static str,
    op: SmallOp,
    is_cold: bool,
}

const fn warm(name: &'static str, op: SmallOp, about: &'static str) -> Measured {
    Measured {
        name,
        about,
        op,
        is_cold: false,
    }
}

const fn cold(name: &'static str, op: SmallOp, about: &'static str) -> Measured {
    Measured {
        is_cold: true,
        ..warm(name, op, about)
    }
}

const MEASURED: [Measured; 10] = [
    warm(
        "create_4k",
        SmallOp::Create,
        "create a file, write 4 KiB, close",
    ),
    warm("stat", SmallOp::Stat, "stat of a file, warm"),
    warm("open_read", SmallOp::Read, "open, read 4 KiB, close, warm"),
    warm("readdir", SmallOp::List, "list a folder, entries, warm"),
    cold("stat_cold", SmallOp::Stat, "stat with empty kernel caches"),
    cold(
        "open_read_cold",
        SmallOp::Read,
        "open, read, close with empty kernel caches",
    ),
    cold(
        "readdir_cold",
        SmallOp::List,
        "list with empty kernel caches",
    ),
    warm(
        "write_fsync",
        SmallOp::Fsync,
        "write 4 KiB into a file that is there, fsync",
    ),
    warm("rename", SmallOp::Rename, "rename within a folder"),
    warm("unlink", SmallOp::Unlink, "remove a file"),
];

fn step_name(measured: &Measured, threads: u64) -> String {
    format!("{}/{threads}", measured.name)
}

/// Runs them.
pub(crate) fn run(plan: &Plan, amount: &Amount) -> Result<Run> {
    let each = amount.threads.iter().flat_map(|threads| {
        MEASURED.iter().map(move |measured| StepRecord {
            name: step_name(measured, *threads),
            unit: Unit::PerSecond,
            about: format!("{}; {threads} threads", measured.about),
        })
    });
    let steps = each.collect();
    rounds::run(plan, steps, |target, notes| {
        turn(plan, amount, target, notes)
    })
}

fn turn(plan: &Plan, amount: &Amount, target: &Target, notes: &mut Notes<'_>) -> Result<()> {
    let turn = Turn::begin(target, &plan.ground)?;
    for threads in &amount.threads {
        let folder = turn.root().join(format!("with-{threads}"));
        let mut files = amount.files;
        for measured in &MEASURED {
            if measured.is_cold {
                sys::drop_caches()?;
            }
            let count = match measured.op {
                SmallOp::Fsync => files.min(amount.fsyncs),
                _ => files,
            };
            let value = measured.op.to_possible_value();
            let op = value
                .as_ref()
                .map_or("", |value| value.get_name())
                .to_owned();
            let said = own_work(
                &plan.ground.places,
                "op",
                &[
                    &op,
                    &folder,
                    &threads.to_string(),
                    &count.to_string(),
                    &amount.seconds.to_string(),
                ],
                amount.limit,
            );
            let is_over = said.is_err();
            let rate = said.map(|said| said.done as f64 / said.seconds.max(f64::EPSILON));
            notes.note(&step_name(measured, *threads), rate);
            if is_over {
                // What follows would not find its files.
                break;
            }
            if measured.op == SmallOp::Create {
                let first = folder.join("thread-0");
                files = std::fs::read_dir(&first).at(&first)?.count() as u64;
            }
        }
    }
    turn.end()
}
