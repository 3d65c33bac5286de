//! From the command line to a run, and from a run to its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cli::{Common, Size};
use crate::coding::{self, Day, Sizes};
use crate::cold::Resume;
use crate::error::{At, Error, Result, ensure};
use crate::facts::Commit;
use crate::inputs::Inputs;
use crate::ops::Amount;
use crate::places::Places;
use crate::record::{Run, RunKind};
use crate::rounds::Plan;
use crate::snapshots::{self, Amounts};
use crate::store::Distance;
use crate::target::{Ground, LOCAL_DISK, MOUNTPOINT, Target, remove};
use crate::work::tree_sum;
use crate::{cold as cold_resume, ops as small_ops, previews, process, report, workflows};

/// Measured unless told otherwise; the first few when it has to be quick.
const ALL_TARGETS: [&str; 8] = [
    LOCAL_DISK,
    "weldrfs",
    "floor",
    "juicefs",
    "ext4+low_latency",
    "floor+low_latency",
    "rclone",
    "s3fs",
];
/// Rounds, and those of the peers.
const ROUNDS: (u32, u32) = (5, 2);
const SNAPSHOT_ROUNDS: (u32, u32) = (2, 1);
const QUICK_TARGETS: usize = 4;
const COLD_TARGETS: [&str; 2] = ["weldrfs", "juicefs"];
const PREVIEW_TARGETS: [&str; 2] = [LOCAL_DISK, "weldrfs_file"];
const SNAPSHOT_TARGETS: [&str; 4] = [LOCAL_DISK, "weldrfs", "weldrfs_file", "juicefs"];
/// Files of the trees that snapshots are made of, and snapshots kept, unless told otherwise.
const TREES: [u64; 1] = [27_000];
const KEPT: [u64; 3] = [0, 10, 1_000];
const QUICK_TREES: [u64; 1] = [1_000];
const QUICK_KEPT: [u64; 2] = [0, 10];
/// Files written and flushed when small operations are measured.
const FSYNCS: u64 = 500;
/// Ten thousand commands.
const RUNS_DEADLINE: Duration = Duration::from_secs(3600);
const TREE_DEADLINE: Duration = Duration::from_secs(600);
/// Exit code of a run that was stopped.
const STOPPED: i32 = 130;
/// Longest part of a commit in the name of a folder.
const SHORT_COMMIT: usize = 10;

/// The coding workload.
pub(crate) fn coding(
    places: &Places,
    common: &Common,
    size: Option<Size>,
    only: Vec<String>,
) -> Result<()> {
    let mut plan = plan(places, common, RunKind::Coding)?;
    let size = common.or(size, Size::Full, Size::Small);
    let scratch = scratch(&plan.ground)?;
    let sizes = match size {
        Size::Small => Sizes::SMALL,
        Size::Full => Sizes::FULL,
    };
    plan.settings.insert("size".into(), size.word().into());
    plan.settings.insert("amounts".into(), format!("{sizes:?}"));
    let only = match only.is_empty() && common.quick {
        true => coding::quick_steps(),
        false => only,
    };
    let day = Day {
        inputs: Inputs::make(places, size.word(), &scratch.0)?,
        sizes,
        limit: common.limit(),
        peer_limit: common.peer_limit(),
        only,
        scratch: scratch.0.clone(),
    };
    finish(places, common, coding::run(&plan, &day)?)
}

/// Small operations.
pub(crate) fn ops(
    places: &Places,
    common: &Common,
    files: Option<u64>,
    seconds: Option<f64>,
    threads: Vec<u64>,
) -> Result<()> {
    let mut plan = plan(places, common, RunKind::Ops)?;
    let amount = Amount {
        files: common.or(files, 10_000, 1_000),
        fsyncs: FSYNCS,
        seconds: common.or(seconds, 5.0, 0.5),
        threads,
        limit: common.limit(),
    };
    let sensible = (1..=1_000_000).contains(&amount.files)
        && (0.01..=3600.0).contains(&amount.seconds)
        && amount.threads.iter().all(|n| (1..=64).contains(n));
    ensure(sensible, || {
        "--files takes 1 to 1,000,000, --seconds 0.01 to 3600, --threads 1 to 64".into()
    })?;
    let told = [
        ("files", amount.files.to_string()),
        ("fsyncs", amount.fsyncs.to_string()),
        ("seconds", amount.seconds.to_string()),
    ];
    plan.settings
        .extend(told.map(|(name, value)| (name.to_owned(), value)));
    finish(places, common, small_ops::run(&plan, &amount)?)
}

/// Cold resume.
pub(crate) fn cold(
    places: &Places,
    common: &Common,
    size: Option<Size>,
    idle_seconds: Option<u64>,
) -> Result<()> {
    let mut plan = plan(places, common, RunKind::Cold)?;
    let size = common.or(size, Size::Full, Size::Small);
    let idle = common.or(idle_seconds, 120, 5);
    let scratch = scratch(&plan.ground)?;
    plan.settings.insert("size".into(), size.word().into());
    plan.settings
        .insert("idle_seconds".into(), idle.to_string());
    let inputs = Inputs::make(places, size.word(), &scratch.0)?;
    let tree = tree(&inputs, &scratch.0)?;
    let resume = Resume {
        tree_sum: tree_sum(&tree, Some(Path::new("repo/.git")))?,
        tree,
        inputs,
        limit: common.limit(),
        idle: Duration::from_secs(idle),
    };
    finish(places, common, cold_resume::run(&plan, &resume)?)
}

/// Previews.
pub(crate) fn previews(places: &Places, common: &Common) -> Result<()> {
    let mut plan = plan(places, common, RunKind::Previews)?;
    let amounts = previews::Amounts {
        starts: common.or(None, 10, 2),
        requests: common.or(None, 10_000, 500),
        bytes: common.or(None, 4 << 30, 64 << 20),
        apps: common.or(None, 20, 3),
        limit: common.limit(),
    };
    let told = [
        ("starts", amounts.starts),
        ("requests", amounts.requests),
        ("bytes", amounts.bytes),
        ("apps", amounts.apps),
    ];
    plan.settings
        .extend(told.map(|(name, value)| (name.to_owned(), value.to_string())));
    finish(places, common, previews::run(&plan, &amounts)?)
}

/// Runs of workflows.
pub(crate) fn workflows(places: &Places, common: &Common) -> Result<()> {
    let mut plan = plan(places, common, RunKind::Workflows)?;
    let amounts = workflows::Amounts {
        runs: common.or(None, 1_000, 30),
        limit: common.limit().max(RUNS_DEADLINE),
    };
    plan.settings
        .insert("runs".into(), amounts.runs.to_string());
    finish(places, common, workflows::run(&plan, &amounts)?)
}

/// Snapshots and copies of trees.
pub(crate) fn snapshots(
    places: &Places,
    common: &Common,
    files: Vec<u64>,
    kept: Vec<u64>,
) -> Result<()> {
    let mut plan = plan(places, common, RunKind::Snapshots)?;
    let or = |given: Vec<u64>, full: &[u64], quick: &[u64]| match (given.is_empty(), common.quick) {
        (false, _) => given.into_iter().collect(),
        (true, false) => full.iter().copied().collect(),
        (true, true) => quick.iter().copied().collect::<BTreeSet<u64>>(),
    };
    let amounts = Amounts {
        files: or(files, &TREES, &QUICK_TREES).into_iter().collect(),
        kept: or(kept, &KEPT, &QUICK_KEPT).into_iter().collect(),
        changed: 1_000,
        commands: if common.quick { 5 } else { 20 },
        requests: if common.quick { 20 } else { 50 },
        writes: if common.quick { 500 } else { 3_000 },
        repeats: if common.quick { 2 } else { 3 },
        writer_seconds: if common.quick { 0.5 } else { 2.0 },
        limit: common.limit(),
        peer_limit: common.peer_limit(),
    };
    let sensible = amounts.files.iter().all(|n| (100..=1_000_000).contains(n))
        && amounts.kept.iter().all(|n| *n <= 100_000);
    ensure(sensible, || {
        "--files takes 100 to 1,000,000, --kept 0 to 100,000".into()
    })?;
    let told = [
        ("files", format!("{:?}", amounts.files)),
        ("kept", format!("{:?}", amounts.kept)),
        ("changed", amounts.changed.to_string()),
        ("writes", amounts.writes.to_string()),
        ("writer_seconds", amounts.writer_seconds.to_string()),
    ];
    plan.settings
        .extend(told.map(|(name, value)| (name.to_owned(), value)));
    finish(places, common, snapshots::run(&plan, &amounts)?)
}

/// What the first machine put into the volume: a clone, and an application with its packages.
fn tree(inputs: &Inputs, scratch: &Path) -> Result<PathBuf> {
    let tree = scratch.join("tree");
    std::fs::create_dir(&tree).at(&tree)?;
    let run = |command: &mut Command| process::run(command.current_dir(&tree), TREE_DEADLINE);
    let url = format!("file://{}", inputs.path("repo").display());
    run(Command::new("git").args(["clone", "-q", &url, "repo"]))?;
    run(Command::new("cp")
        .arg("-r")
        .arg(inputs.path("app"))
        .arg("app"))?;
    let home = inputs.path("bun-home");
    let mut install = Command::new(inputs.path("bin/bun"));
    install
        .args(["install", "--cwd", "app", "--frozen-lockfile"])
        .args(["--ignore-scripts", "--backend", "copyfile", "--cache-dir"])
        .arg(inputs.path("bun-cache"))
        .env("HOME", &home)
        .env("BUN_INSTALL", &home);
    run(&mut install)?;
    Ok(tree)
}

fn plan(places: &Places, common: &Common, kind: RunKind) -> Result<Plan> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Missing(
            "a run mounts, unmounts and drops the kernel's caches and therefore needs root: run it with sudo".into(),
        ));
    }
    if common.keep {
        let commit = Commit::of(&places.repository)?;
        ensure(!commit.changed && commit.profile == "release", || {
            "a run that is kept has to be of a commit without changes, built by scripts/dev bench"
                .into()
        })?;
    }
    let work = common.work.clone().unwrap_or_else(|| places.work());
    std::fs::create_dir_all(&work).at(&work)?;
    let work = work.canonicalize().at(&work)?;
    let lock = lock(&work)?;
    let ground = Ground {
        places: places.clone(),
        work,
        distance: Distance {
            latency_ms: common.store_latency_ms,
            bandwidth_mb: common.store_bandwidth_mb,
        },
    };
    clean_up_when_stopped(&ground)?;
    let targets = targets(common, kind)?;
    let (rounds, peer_rounds) = match kind {
        RunKind::Snapshots | RunKind::Workflows => SNAPSHOT_ROUNDS,
        _ => ROUNDS,
    };
    let rounds = common.or(common.rounds, rounds, 1);
    let peer_rounds = common.peer_rounds.unwrap_or(peer_rounds);
    ensure(rounds > 0, || "--rounds takes 1 or more".into())?;
    let settings = [
        ("quick", common.quick.to_string()),
        ("rounds", rounds.to_string()),
        ("peer_rounds", peer_rounds.min(rounds).to_string()),
        ("step_deadline_s", common.limit().as_secs().to_string()),
        ("peer_deadline_s", common.peer_limit().as_secs().to_string()),
        ("store_latency_ms", common.store_latency_ms.to_string()),
        ("store_bandwidth_mb", common.store_bandwidth_mb.to_string()),
    ];
    Ok(Plan {
        kind,
        _lock: lock,
        ground,
        targets,
        rounds,
        peer_rounds,
        settings: settings
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    })
}

/// A run that is stopped takes its mount away; its programs end with it.
fn clean_up_when_stopped(ground: &Ground) -> Result<()> {
    let mountpoint = ground.turn().join(MOUNTPOINT);
    ctrlc::set_handler(move || {
        // There may be none.
        let _ = rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH);
        std::process::exit(STOPPED);
    })
    .map_err(|why| Error::Missing(format!("signals cannot be handled: {why}")))
}

fn targets(common: &Common, kind: RunKind) -> Result<Vec<Target>> {
    let default = match (kind, common.quick) {
        (RunKind::Cold, _) => &COLD_TARGETS[..],
        (RunKind::Snapshots, _) => &SNAPSHOT_TARGETS[..],
        (RunKind::Previews | RunKind::Workflows, _) => &PREVIEW_TARGETS[..],
        (_, true) => &ALL_TARGETS[..QUICK_TARGETS],
        (_, false) => &ALL_TARGETS[..],
    };
    let named: Vec<&str> = match common.targets.is_empty() {
        true => default.to_vec(),
        false => common.targets.iter().map(String::as_str).collect(),
    };
    let mut targets: Vec<Target> = named
        .into_iter()
        .map(Target::parse)
        .collect::<Result<_>>()?;
    let with = common.weldrfs_options.iter();
    targets.extend(with.map(|options| Target::weldrfs_with(options)));
    for (at, target) in targets.iter().enumerate() {
        let is_twice = targets[..at].iter().any(|other| other.name == target.name);
        ensure(!is_twice, || format!("{} is named twice", target.name))?;
    }
    Ok(targets)
}

/// An empty folder on the local disk, removed when the run is over.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next run begins with an empty one in any case.
        let _ = remove(&self.0);
    }
}

fn scratch(ground: &Ground) -> Result<Scratch> {
    let folder = ground.work.join("scratch");
    remove(&folder)?;
    std::fs::create_dir(&folder).at(&folder)?;
    Ok(Scratch(folder))
}

/// Runs in one folder take turns: the second is refused.
fn lock(work: &Path) -> Result<File> {
    use rustix::fs::FlockOperation::NonBlockingLockExclusive;
    let path = work.join("lock");
    let file = File::create(&path).at(&path)?;
    rustix::fs::flock(&file, NonBlockingLockExclusive).map_err(|_| {
        Error::Missing("another run is under way in this work folder: wait, or give --work".into())
    })?;
    Ok(file)
}

/// Writes a run's folder, and shows it in the README if it is kept.
fn finish(places: &Places, common: &Common, run: Run) -> Result<()> {
    let base = match common.keep {
        true => places.results(),
        false => places.unkept(),
    };
    let commit = run.commit.id.get(..SHORT_COMMIT).unwrap_or_default();
    let when = run.started.replace(':', "");
    let folder = base.join(format!("{when}-{commit}-{}", run.kind.word()));
    remove(&folder)?;
    std::fs::create_dir_all(&folder).at(&folder)?;
    run.write(&folder)?;
    report::write(&run, &folder)?;
    println!("{}", report::shown(&run));
    if common.keep {
        report::regenerate(places)?;
    }
    eprintln!("record, table and page are in {}", folder.display());
    Ok(())
}
