//! Machines that fight for one volume, with real processes: whoever lost it writes nothing more, what it had acknowledged
//! and not shipped becomes a divergent copy that can be looked at and exported, and no clock on a wall counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bucket::{Bucket, tree};
use crate::machine::{Machine, two_machines, writes};
use crate::s3_server::Settings;
use crate::support::{PATIENCE, require_fuse, until};

const MINUTE_S: i64 = 60;
const YEAR_S: i64 = 365 * 24 * 3_600;
const READ_ONLY: Result<(), Option<i32>> = Err(Some(libc::EROFS));
/// Nothing is published but by `weldrfs sync`.
const ON_DEMAND: &str = "upload_delay=3600";

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// A process that stands still.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).unwrap();
    }
}

/// What one mount acknowledged, and what a sync said is in the store.
#[derive(Default)]
struct Written {
    acknowledged: BTreeMap<String, String>,
    confirmed: BTreeSet<String>,
}

impl Written {
    /// Writes and syncs until the volume is taken away.
    fn until_overruled(machine: &Machine<'_>, round: usize) -> Self {
        let mut written = Self::default();
        let deadline = Instant::now() + PATIENCE;
        for n in 0_usize.. {
            let name = format!("{}-{round}-{n}", machine.name);
            let text = format!("{name} ").repeat(1 + n % 7 * 300);
            if let Err(error) = std::fs::write(machine.file(&name), &text) {
                assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{name}: {error}");
                return written;
            }
            written.acknowledged.insert(name, text);
            if n % 3 == 2 && machine.sync().code == 0 {
                written.confirmed = written.acknowledged.keys().cloned().collect();
            }
            assert!(
                Instant::now() < deadline,
                "{} was overruled and goes on: there are two histories",
                machine.name
            );
        }
        written
    }
}

/// Every file of a mount without folders.
fn files(root: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(root).unwrap().map(Result::unwrap);
    let file = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().into_string().unwrap(), text)
    };
    entries.map(file).collect()
}

#[test]
fn two_mounts_fight_and_one_history_is_left() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (one, two) = two_machines(&bucket);
    // Both at once, where no volume is yet.
    let (said, also) = std::thread::scope(|scope| {
        let first = scope.spawn(|| one.mount(""));
        (two.mount(""), first.join().unwrap())
    });
    let (mut holder, mut other) = match (also.code, said.code) {
        (0, 0) => panic!("there are two histories: both have the volume"),
        (0, _) => {
            said.refused(32, &["is held by"]);
            (&one, &two)
        }
        _ => {
            also.refused(32, &["is held by"]);
            said.success();
            (&two, &one)
        }
    };
    let mut all = Vec::new();
    for round in 0..4 {
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| Written::until_overruled(holder, round));
            // Somewhere in the middle of it, and not always in the same place.
            std::thread::sleep(Duration::from_millis(150 * (1 + round as u64)));
            other.mount("take_over,diverged=keep").success();
            writer.join().unwrap()
        });
        holder.unmount();
        all.push((holder.name, written));
        (holder, other) = (other, holder);
    }
    // The last one that was overruled comes back, too.
    holder.unmount();
    other.mount("diverged=keep").success();
    let shared = files(&other.root());
    let mut copies = BTreeMap::new();
    for machine in [&one, &two] {
        for copy in machine.copies() {
            let mounted = machine.mount_on(holder.name, &format!("divergent={copy}"));
            mounted.success();
            let kept: &mut Vec<_> = copies.entry(machine.name).or_default();
            kept.push(files(&holder.root()));
            machine.unmount_from(holder.name);
        }
    }
    for (name, written) in &all {
        for file in &written.confirmed {
            let there = shared.get(file);
            assert!(
                there == Some(&written.acknowledged[file]),
                "{file} was in the store and is not there: there are two histories"
            );
        }
        for (file, text) in &written.acknowledged {
            let kept = copies.get(name).into_iter().flatten();
            let mut places = kept.chain([&shared]);
            assert!(
                places.any(|place| place.get(file) == Some(text)),
                "{file} was acknowledged and is in neither the volume nor a copy"
            );
        }
    }
    let acknowledged: usize = all.iter().map(|(_, w)| w.acknowledged.len()).sum();
    let confirmed: usize = all.iter().map(|(_, w)| w.confirmed.len()).sum();
    println!(
        "{acknowledged} files, {confirmed} of them in the store before their writer was overruled, {} copies",
        copies.values().map(Vec::len).sum::<usize>()
    );
    assert!(confirmed > 0);
    other.unmount();
}

/// Folders with files small and large, a program, a symbolic and a hard link.
fn make_project(root: &Path) {
    let sources = root.join("project/src");
    std::fs::create_dir_all(&sources).unwrap();
    for n in 0..40 {
        let text = format!("line {n}\n").repeat(1 + n * n * 20);
        std::fs::write(sources.join(format!("f{n}")), text).unwrap();
    }
    let program = root.join("project/run");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    std::os::unix::fs::symlink("src/f3", root.join("project/link")).unwrap();
    std::fs::hard_link(sources.join("f5"), root.join("project/same")).unwrap();
}

/// The old machine found out that the volume is somebody else's: it may not write, and at its next mount what it had
/// alone is set aside. Mounted read-only and copied away it is the same as `wanted`.
fn comes_back_with_a_copy(old: &Machine<'_>, new: &Machine<'_>, wanted: &Path) {
    assert_eq!(writes(&old.file("no")), READ_ONLY);
    let barred = old.status()["read_only"].as_str().unwrap().to_owned();
    assert!(barred.contains("another machine"), "{barred}");
    assert!(tree(&old.root()) == tree(wanted), "what it has is there");
    old.unmount();
    new.unmount();
    old.mount("").refused(32, &["diverged=keep"]);
    old.mount("diverged=keep").success();
    assert_eq!(std::fs::read_to_string(old.file("shared")).unwrap(), "2");
    assert!(!old.file("project").exists());
    let copies = old.copies();
    assert_eq!(copies.len(), 1, "{copies:?}");
    old.mount_on(new.name, &format!("divergent={}", copies[0]))
        .success();
    let exported = old.bucket.place.path("exported");
    let copied = Command::new("cp")
        .arg("-a")
        .args([new.root(), exported.clone()])
        .output();
    assert!(copied.unwrap().status.success());
    assert!(tree(&exported) == tree(wanted), "what it had is exported");
    assert_eq!(writes(&new.file("x")), READ_ONLY);
    old.unmount_from(new.name);
    old.unmount();
}

#[test]
fn a_writer_that_was_stopped_past_its_lease_asks_before_it_goes_on() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let old = Machine::new(&bucket, "m").with_clocks();
    let new = Machine::new(&bucket, "m2");
    let twin = bucket.place.path("twin");
    old.mount(ON_DEMAND).success();
    std::fs::write(old.file("shared"), "1").unwrap();
    old.sync().success();
    for root in [&old.root(), &twin] {
        make_project(root);
    }
    std::fs::write(twin.join("shared"), "1").unwrap();

    let stopped = Stopped::new(old.pid());
    bucket.server.pass(minutes(14));
    new.mount("").refused(32, &["is held by", "take_over"]);
    bucket.server.pass(minutes(2));
    // The lease has ended for everybody: nobody has to be overruled.
    new.mount("").success();
    std::fs::write(new.file("shared"), "2").unwrap();
    new.sync().success();
    old.clocks().sleep(16 * MINUTE_S);
    drop(stopped);

    // Nobody told it, and what it was about to acknowledge first it does not.
    assert_eq!(writes(&old.file("late")), READ_ONLY);
    old.sync().refused(2, &["gone on without this machine"]);
    comes_back_with_a_copy(&old, &new, &twin);
}

#[test]
fn a_writer_that_was_cut_off_finds_the_volume_gone_and_keeps_what_it_has() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let old = Machine::new(&bucket, "m").on_a_line();
    let new = Machine::new(&bucket, "m2");
    let twin = bucket.place.path("twin");
    old.mount(ON_DEMAND).success();
    std::fs::write(old.file("shared"), "1").unwrap();
    old.sync().success();
    old.line().cut();
    // An outage of the store is none of the mount.
    for root in [&old.root(), &twin] {
        make_project(root);
    }
    std::fs::write(twin.join("shared"), "1").unwrap();

    new.mount("").refused(32, &["is held by"]);
    new.mount("take_over").success();
    std::fs::write(new.file("shared"), "2").unwrap();
    new.sync().success();
    for root in [&old.root(), &twin] {
        std::fs::write(root.join("project/still"), "its lease holds").unwrap();
    }
    old.line().mend();
    old.sync().refused(2, &["gone on without this machine"]);
    comes_back_with_a_copy(&old, &new, &twin);
}

#[test]
fn a_writer_that_is_cut_off_writes_until_its_lease_ends_and_again_with_the_store() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let old = Machine::new(&bucket, "m").on_a_line().with_clocks();
    let new = Machine::new(&bucket, "m2");
    old.mount(ON_DEMAND).success();
    old.line().cut();
    old.clocks().sleep(14 * MINUTE_S);
    assert_eq!(writes(&old.file("within")), Ok(()));
    old.clocks().sleep(2 * MINUTE_S);
    assert_eq!(writes(&old.file("after")), READ_ONLY);
    let barred = old.status()["read_only"].as_str().unwrap().to_owned();
    assert!(barred.contains("the lease"), "{barred}");
    assert_eq!(std::fs::read(old.file("within")).unwrap(), b"x");

    // Nobody came meanwhile.
    old.line().mend();
    until("it writes again", || writes(&old.file("healed")) == Ok(()));
    old.sync().success();
    old.unmount();
    new.mount("").success();
    let there: Vec<_> = files(&new.root()).into_keys().collect();
    assert_eq!(there, ["healed", "within"]);
    new.unmount();
}

#[test]
fn clocks_on_the_wall_do_not_count() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let old = Machine::new(&bucket, "m").with_clocks();
    let new = Machine::new(&bucket, "m2").with_clocks();
    old.mount(ON_DEMAND).success();
    // The lease goes on, and so does writing. The store refuses signatures of another year, and says what year it is.
    for (n, jump_s) in [YEAR_S, -2 * YEAR_S].into_iter().enumerate() {
        old.clocks().set_wall(jump_s);
        assert_eq!(writes(&old.file(&format!("jump{n}"))), Ok(()));
        let left_ms = old.status()["lease_left_ms"].as_u64().unwrap();
        assert!((600_000..=900_000).contains(&left_ms), "{left_ms}");
        old.sync().refused(2, &["clock is wrong"]);
        old.sync().success();
    }

    // The old machine stays in its year. Two minutes later, by a clock that is ahead, the lease looks a minute older than it can be.
    let stopped = Stopped::new(old.pid());
    bucket.server.pass(minutes(2));
    new.clocks().set_wall(14 * MINUTE_S);
    new.mount("").refused(32, &["is held by"]);
    // And after a quarter of an hour, by one that is behind, it looks as young as a minute.
    bucket.server.pass(minutes(14));
    new.clocks().set_wall(-28 * MINUTE_S);
    new.mount("").success();
    assert_eq!(writes(&new.file("new")), Ok(()));
    new.sync().success();
    drop(stopped);
    // By its own clock it has the lease, until it hears of the other one.
    until("it finds out", || {
        old.sync();
        writes(&old.file("late")) == READ_ONLY
    });
    old.unmount();
    new.unmount();
}
