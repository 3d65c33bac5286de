//! Previews: what the sandbox, the port and the sidecar cost an app, beside the same app run by hand on the local disk. Owns
//! what is measured and in which order.

mod app;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{At, Error, Result, ensure};
use crate::process::Background;
use crate::record::{Run, StepRecord, Unit};
use crate::rounds::{self, Notes, Plan};
use crate::sidecar::Sidecar;
use crate::target::{Base, Target, remove};

/// The port of the app that is run by hand; previews have those behind it.
const PORT: u16 = 20_480;
/// Connections at a time.
const PARALLEL: u64 = 8;

/// What a run is told besides the plan.
pub(crate) struct Amounts {
    /// How often the app is started in a turn.
    pub(crate) starts: u64,
    /// Small requests, over one connection and each over its own.
    pub(crate) requests: u64,
    /// Bytes that are fetched in one piece.
    pub(crate) bytes: u64,
    /// Previews at a time when memory is measured.
    pub(crate) apps: u64,
    /// Of one step.
    pub(crate) limit: Duration,
}

const FIGURES: [(&str, Unit, &str); 13] = [
    (
        "answers",
        Unit::Milliseconds,
        "start the app until its port answers; ext4: node by hand",
    ),
    (
        "request",
        Unit::Milliseconds,
        "until the request to start it is answered",
    ),
    (
        "ready",
        Unit::Milliseconds,
        "until the sidecar says that it is ready",
    ),
    (
        "stop",
        Unit::Milliseconds,
        "until it has ended; by hand: SIGTERM",
    ),
    (
        "latency_p50",
        Unit::Milliseconds,
        "a small request over a connection that is there: half of them are as fast",
    ),
    ("latency_p99", Unit::Milliseconds, "the same: 99 of 100"),
    (
        "connect_p50",
        Unit::Milliseconds,
        "a small request over a new connection: half of them are as fast",
    ),
    ("connect_p99", Unit::Milliseconds, "the same: 99 of 100"),
    (
        "requests",
        Unit::PerSecond,
        "small requests over 8 connections",
    ),
    ("download_mib", Unit::PerSecond, "MiB of one large answer"),
    (
        "memory_sidecar",
        Unit::Kibibytes,
        "what the sidecar grows by for each preview",
    ),
    (
        "memory_shim",
        Unit::Kibibytes,
        "of the processes that keep a preview and are not the app",
    ),
    (
        "memory_app",
        Unit::Kibibytes,
        "of the app, as the sidecar counts it",
    ),
];

/// Runs it.
pub(crate) fn run(plan: &Plan, amounts: &Amounts) -> Result<Run> {
    let steps = FIGURES.map(|(name, unit, about)| StepRecord {
        name: name.to_owned(),
        unit,
        about: about.to_owned(),
    });
    rounds::run(plan, steps.into(), |target, notes| {
        let folder = plan.ground.turn();
        remove(&folder)?;
        std::fs::create_dir_all(&folder).at(&folder)?;
        match &target.base {
            Base::Disk => by_hand(amounts, &folder, notes),
            Base::WeldrfsFile => as_preview(plan, amounts, &folder, notes),
            _ => Err(not_here(target)),
        }
    })
}

fn not_here(target: &Target) -> Error {
    let name = &target.name;
    Error::Wrong(format!(
        "{name} has no part in this: an app runs by hand on ext4, or as a preview on weldrfs_file"
    ))
}

fn by_hand(amounts: &Amounts, folder: &Path, notes: &mut Notes<'_>) -> Result<()> {
    app::write(folder)?;
    let start = || {
        let mut command = Command::new("node");
        command.arg("server.js").current_dir(folder);
        command.env("PORT", PORT.to_string());
        Background::start(&mut command, &folder.join("log"), Stdio::null(), None)
    };
    let (mut answers, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..amounts.starts {
        let began = Instant::now();
        let mut app = start()?;
        app::until_it_answers(PORT, amounts.limit)?;
        answers.push(milliseconds(began));
        let began = Instant::now();
        app.terminate();
        ensure(app.wait(amounts.limit), || "the app does not end".into())?;
        stops.push(milliseconds(began));
    }
    notes.note_all("answers", &answers);
    notes.note_all("stop", &stops);
    let _app = start()?;
    app::until_it_answers(PORT, amounts.limit)?;
    traffic(PORT, amounts, notes)
}

fn as_preview(plan: &Plan, amounts: &Amounts, folder: &Path, notes: &mut Notes<'_>) -> Result<()> {
    let ports = (PORT + 1, PORT + 20);
    let mut sidecar = Sidecar::start(&plan.ground.places, folder, ports, amounts.limit)?;
    let measured = of_previews(&mut sidecar, amounts, notes);
    // Also after trouble: what it started outlives it.
    let ended = sidecar.end();
    measured.and(ended)
}

fn of_previews(sidecar: &mut Sidecar, amounts: &Amounts, notes: &mut Notes<'_>) -> Result<()> {
    let one = project(sidecar, 0)?;
    let mut values: [Vec<f64>; 4] = Default::default();
    for _ in 0..amounts.starts {
        let began = Instant::now();
        let app = sidecar.start_app(&one)?;
        values[0].push(milliseconds(began));
        app::until_it_answers(app.port, amounts.limit)?;
        values[1].push(milliseconds(began));
        sidecar.until(&app, "ready")?;
        values[2].push(milliseconds(began));
        let began = Instant::now();
        sidecar.stop_app(&app)?;
        sidecar.until(&app, "stopped")?;
        values[3].push(milliseconds(began));
    }
    for (name, values) in ["request", "answers", "ready", "stop"].iter().zip(&values) {
        notes.note_all(name, values);
    }
    let app = sidecar.start_app(&one)?;
    sidecar.until(&app, "ready")?;
    traffic(app.port, amounts, notes)?;
    sidecar.stop_app(&app)?;
    sidecar.until(&app, "stopped")?;
    memory(sidecar, amounts, notes)
}

fn memory(sidecar: &mut Sidecar, amounts: &Amounts, notes: &mut Notes<'_>) -> Result<()> {
    let before = sidecar.memory()?;
    let mut apps = Vec::new();
    for number in 1..=amounts.apps {
        let folder = project(sidecar, number)?;
        apps.push(sidecar.start_app(&folder)?);
    }
    let mut of_apps = 0;
    for app in &apps {
        sidecar.until(app, "ready")?;
        of_apps += sidecar.memory_of(app)?;
    }
    let each = |bytes: u64| bytes as f64 / 1024.0 / amounts.apps.max(1) as f64;
    let grown = sidecar.memory()?.saturating_sub(before);
    notes.note("memory_sidecar", Ok(each(grown)));
    notes.note("memory_shim", Ok(each(sidecar.memory_of_shims()?)));
    notes.note("memory_app", Ok(each(of_apps)));
    Ok(())
}

fn project(sidecar: &Sidecar, number: u64) -> Result<String> {
    let name = format!("app{number}");
    let folder: PathBuf = sidecar.mount().join(&name);
    std::fs::create_dir_all(&folder).at(&folder)?;
    app::write(&folder)?;
    Ok(name)
}

/// What goes through a port.
fn traffic(port: u16, amounts: &Amounts, notes: &mut Notes<'_>) -> Result<()> {
    let limit = amounts.limit;
    // The first ones warm the app up.
    app::small(port, amounts.requests / 10, true, limit)?;
    for (name, is_one) in [("latency", true), ("connect", false)] {
        let mut times = app::small(port, amounts.requests, is_one, limit)?;
        times.sort_by(f64::total_cmp);
        for (end, share) in [("p50", 0.5), ("p99", 0.99)] {
            let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            let value = times.get(at).copied();
            let nothing = || Error::Wrong("nothing was asked".into());
            notes.note(&format!("{name}_{end}"), value.ok_or_else(nothing));
        }
    }
    let began = Instant::now();
    let asking: Vec<_> = (0..PARALLEL)
        .map(|_| {
            let count = amounts.requests / PARALLEL;
            std::thread::spawn(move || app::small(port, count, true, limit).map(|all| all.len()))
        })
        .collect();
    let mut done = 0;
    for one in asking {
        let crashed = |_| Error::Wrong("a client broke down".into());
        done += one.join().map_err(crashed)??;
    }
    notes.note("requests", Ok(done as f64 / began.elapsed().as_secs_f64()));
    let began = Instant::now();
    let got = app::large(port, amounts.bytes, limit)?;
    let mebibytes = got as f64 / f64::from(1 << 20);
    notes.note(
        "download_mib",
        Ok(mebibytes / began.elapsed().as_secs_f64()),
    );
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
