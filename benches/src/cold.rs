//! Cold resume: a machine without local state mounts a volume in a store that is some way off, asks for `git status`, and
//! reads everything. Requests are counted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::coding::own_work;
use crate::error::{At, Error, Result, ensure};
use crate::inputs::Inputs;
use crate::process::{POLL, run as run_program};
use crate::record::{Run, StepRecord, Unit};
use crate::rounds::{self, Notes, Plan};
use crate::store::{Counts, Store};
use crate::sys;
use crate::target::{
    Base, MOUNTPOINT, Mounted, Setting, Target, mount_command, prepare, remove, weldrfs_command,
};

const COPY_DEADLINE: Duration = Duration::from_secs(3600);
const SYNC_DEADLINE: Duration = Duration::from_secs(1800);
const SETTLED: Duration = Duration::from_secs(5);
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(120);

/// What a cold run is told besides the plan.
pub(crate) struct Resume {
    pub(crate) inputs: Inputs,
    /// The tree that is put into the volume: a repository and an installed application, on the local disk.
    pub(crate) tree: PathBuf,
    pub(crate) tree_sum: String,
    pub(crate) limit: Duration,
    /// How long the idle volume is watched; zero: not at all.
    pub(crate) idle: Duration,
}

const STEPS: [(&str, Unit, &str); 10] = [
    (
        "mount",
        Unit::Seconds,
        "mount without local state, until it answers",
    ),
    ("git_status_first", Unit::Seconds, "the first git status"),
    ("read_all", Unit::Seconds, "then read every file"),
    ("resume", Unit::Seconds, "all three together"),
    (
        "requests_status",
        Unit::Count,
        "requests until git status was answered",
    ),
    (
        "requests",
        Unit::Count,
        "requests until everything was read",
    ),
    ("mebibytes", Unit::Mebibytes, "bytes fetched for it"),
    ("objects", Unit::Count, "objects in the store"),
    ("memory", Unit::Mebibytes, "resident memory afterwards"),
    (
        "idle_per_hour",
        Unit::Count,
        "requests of the idle volume, for an hour",
    ),
];

/// Runs it.
pub(crate) fn run(plan: &Plan, resume: &Resume) -> Result<Run> {
    let steps = STEPS.map(|(name, unit, about)| StepRecord {
        name: name.into(),
        unit,
        about: about.into(),
    });
    rounds::run(plan, steps.into(), |target, notes| match target.base {
        Base::Weldrfs(_) | Base::Juicefs => turn(plan, resume, target, notes),
        _ => Err(Error::Missing(
            "it has no volume that another machine could resume".into(),
        )),
    })
}

fn turn(plan: &Plan, resume: &Resume, target: &Target, notes: &mut Notes<'_>) -> Result<()> {
    let ground = &plan.ground;
    let folder = ground.turn();
    remove(&folder)?;
    std::fs::create_dir_all(&folder).at(&folder)?;
    let mut near = ground.distance;
    near.latency_ms = 0;
    let mut store = Store::start(&ground.places, near, &folder.join("store.log"))?;
    fill(plan, resume, target, &folder, &mut store)?;
    store.set_latency(ground.distance.latency_ms)?;
    sys::drop_caches()?;
    // git itself is on the local disk, and warm.
    git_status(&resume.inputs.path("repo"), resume.limit)?;
    let measured = resumed(plan, resume, target, &folder, &mut store, notes);
    drop(store);
    remove(&folder)?;
    measured
}

fn setting<'a>(plan: &'a Plan, folder: &Path, store: &'a Store, state: &str) -> Setting<'a> {
    Setting {
        places: &plan.ground.places,
        state: folder.join(state),
        mountpoint: folder.join(MOUNTPOINT),
        store: Some(store),
        eager: true,
    }
}

fn mounted(target: &Target, setting: &Setting<'_>, log: &Path) -> Result<Mounted> {
    let none = || Error::Missing("this target is not mounted".into());
    let command = mount_command(&target.base, setting)?.ok_or_else(none)?;
    Mounted::start(command, &setting.mountpoint, log)
}

/// Puts the tree into the volume as the first machine, brings it all to the store and unmounts.
fn fill(
    plan: &Plan,
    resume: &Resume,
    target: &Target,
    folder: &Path,
    store: &mut Store,
) -> Result<()> {
    let first = setting(plan, folder, store, "state");
    prepare(&target.base, &first)?;
    let mount = mounted(target, &first, &folder.join("mount.log"))?;
    let (mountpoint, state) = (first.mountpoint, first.state);
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .arg(&resume.tree)
        .arg(mountpoint.join("tree"));
    run_program(&mut copy, COPY_DEADLINE)?;
    // git remembers the inodes it saw; that is what the next machine finds.
    git_status(&mountpoint.join("tree/repo"), COPY_DEADLINE)?;
    if let Base::Weldrfs(_) = target.base {
        let mut sync = weldrfs_command(&plan.ground.places, &state, "sync")?;
        run_program(sync.arg(&mountpoint), SYNC_DEADLINE)?;
    }
    settle(store)?;
    mount.unmount(UNMOUNT_DEADLINE)?;
    if let Base::Weldrfs(_) = target.base {
        return remove(&state);
    }
    // The database stays, as if it had been restored already; deployments replicate it by other means.
    remove(&state.join("cache"))
}

/// Waits until nothing is sent to the store any more.
fn settle(store: &mut Store) -> Result<()> {
    let deadline = Instant::now() + SYNC_DEADLINE;
    let requests =
        |store: &mut Store| -> Result<u64> { Ok(store.counts()?.unwrap_or_default().put.requests) };
    let (mut last, mut since) = (requests(store)?, Instant::now());
    while since.elapsed() < SETTLED {
        if Instant::now() > deadline {
            return Err(Error::Deadline(SYNC_DEADLINE));
        }
        std::thread::sleep(POLL);
        let now = requests(store)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn resumed(
    plan: &Plan,
    resume: &Resume,
    target: &Target,
    folder: &Path,
    store: &mut Store,
    notes: &mut Notes<'_>,
) -> Result<()> {
    let before = store.counts()?.unwrap_or_default();
    let since = |now: Counts| (now.requests() - before.requests()) as f64;
    let second = setting(plan, folder, store, "state");
    if let Base::Weldrfs(_) = target.base {
        prepare(&target.base, &second)?;
    }
    let mount = mounted(target, &second, &folder.join("mount-again.log"))?;
    let tree = second.mountpoint.join("tree");
    let mut total = mount.seconds;
    notes.note("mount", Ok(mount.seconds));

    let status = git_status(&tree.join("repo"), resume.limit);
    total += status.as_ref().copied().unwrap_or(f64::NAN);
    notes.note("git_status_first", status);
    let counts = store.counts()?.unwrap_or_default();
    notes.note("requests_status", Ok(since(counts)));

    let read = read_everything(plan, resume, &tree);
    total += read.as_ref().copied().unwrap_or(f64::NAN);
    notes.note("read_all", read);
    let counts = store.counts()?.unwrap_or_default();
    notes.note("requests", Ok(since(counts)));
    let fetched = counts.get.sent_bytes - before.get.sent_bytes;
    notes.note("mebibytes", Ok(fetched as f64 / f64::from(1 << 20)));
    notes.note("objects", Ok(counts.objects as f64));
    if let Some(pid) = mount.pid() {
        let (now, _) = crate::process::memory(pid);
        notes.note("memory", Ok(now as f64 / f64::from(1 << 20)));
    }
    if total.is_finite() {
        notes.note("resume", Ok(total));
    }
    if !resume.idle.is_zero() {
        settle(store)?;
        let before = store.counts()?.unwrap_or_default().requests();
        std::thread::sleep(resume.idle);
        let after = store.counts()?.unwrap_or_default().requests();
        let hours = resume.idle.as_secs_f64() / 3600.0;
        notes.note("idle_per_hour", Ok((after - before) as f64 / hours));
    }
    Ok(())
}

/// `git status` of a clean repository.
fn git_status(repository: &Path, limit: Duration) -> Result<f64> {
    let mut status = Command::new("git");
    status
        .arg("-C")
        .arg(repository)
        .args(["-c", "safe.directory=*", "status", "--porcelain"]);
    let done = run_program(&mut status, limit)?;
    ensure(done.stdout.is_empty(), || {
        format!("git status is not empty: {:.200}", done.stdout)
    })?;
    Ok(done.seconds)
}

fn read_everything(plan: &Plan, resume: &Resume, tree: &Path) -> Result<f64> {
    let said = own_work(&plan.ground.places, "read-all", &[&tree], resume.limit)?;
    // git may write its index again; the repository proper is compared without it.
    ensure(said.done > 0, || "there was nothing to read".into())?;
    let sum = crate::work::tree_sum(tree, Some(Path::new("repo/.git")))?;
    ensure(sum == resume.tree_sum, || {
        format!("the tree is {sum}, not {}", resume.tree_sum)
    })?;
    Ok(said.seconds)
}
