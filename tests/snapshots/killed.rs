//! `kill -9` at random moments of restores and clones: all of it is there, or nothing, and the state is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::scene::{DEADLINE, Tree, run, shell, snapshot, tree};
use crate::support::mount::{PROGRAM, Volume};

/// `WELDRFS_SNAPSHOT_KILLS` makes it longer.
const KILLS: usize = 14;
/// What a round takes when it is not killed, at first; then what the last ones took.
const FIRST_GUESS: Duration = Duration::from_millis(60);

/// What is being done when the process is killed.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Of everything, a directory, or one file.
    Restore(&'static str),
    /// Of a directory of the present, or of a snapshot.
    Clone(&'static str),
}

const ACTS: [Act; 6] = [
    Act::Restore(""),
    Act::Restore(""),
    Act::Restore("d/in"),
    Act::Restore("d/in/f3"),
    Act::Clone("d"),
    Act::Clone(".snapshots/good/d"),
];

fn start(volume: &Volume, arguments: &[&Path]) -> Child {
    Command::new(PROGRAM)
        .args(arguments)
        .env("WELDR_ENV_VOL", volume.beside("state"))
        .env("WELDRFS_RUN_DIR", volume.beside("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Act {
    fn begin(self, volume: &Volume) -> Child {
        let root = volume.root();
        let [what, verb, name] = ["snapshot", "restore", "good"].map(Path::new);
        match self {
            Self::Restore(below) => start(volume, &[what, verb, &root.join(below), name]),
            Self::Clone(of) => {
                let copy = root.join("copy");
                start(volume, &[Path::new("clone"), &root.join(of), &copy])
            }
        }
    }
}

/// Part of a tree, with paths from its top.
fn part(tree: &Tree, top: &str) -> Tree {
    let inside = |(path, seen): (&PathBuf, _)| {
        let rest = path.strip_prefix(top).ok()?;
        (!rest.as_os_str().is_empty()).then(|| (rest.to_owned(), Clone::clone(seen)))
    };
    tree.iter().filter_map(inside).collect()
}

/// What the tree is once `act` is done.
fn done(act: Act, present: &Tree, good: &Tree) -> Tree {
    let below = |path: &Path, top: &str| path.starts_with(top);
    let mut tree = present.clone();
    match act {
        Act::Restore(top) => {
            tree.retain(|path, _| !below(path, top));
            let there = good.iter().filter(|(path, _)| below(path, top));
            tree.extend(there.map(|(path, seen)| (path.clone(), seen.clone())));
        }
        Act::Clone(of) => {
            let from = match of {
                "d" => present,
                _ => good,
            };
            let top = Path::new("copy");
            tree.insert(top.to_owned(), from[Path::new("d")].clone());
            for (path, seen) in part(from, "d") {
                tree.insert(top.join(path), seen);
            }
        }
    }
    tree
}

fn check_state(volume: &Volume) {
    let source = format!("file://{}", volume.beside("store").display());
    run(Command::new(PROGRAM)
        .args(["fsck", &source, "--local"])
        .env("WELDR_ENV_VOL", volume.beside("state"))
        .env("WELDRFS_RUN_DIR", volume.beside("run")));
}

#[test]
fn restores_and_clones_that_are_killed_are_there_or_are_not() {
    let kills = std::env::var("WELDRFS_SNAPSHOT_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("WELDRFS_TEST_SEED")
        .map_or_else(|_| SmallRng::from_os_rng().random(), |s| s.parse().unwrap());
    println!("WELDRFS_TEST_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(
        &root,
        "mkdir -p d/in/deep; for n in $(seq 150); do echo old $n > d/in/f$n; echo $n > d/in/deep/g$n; done
         ln d/in/f1 d/in/linked; ln -s f1 d/in/link; echo top > d/top",
    );
    snapshot(&volume, "create", &root, &["good"]);
    let good = tree(&root);
    let mut took = FIRST_GUESS;
    let mut seen = [0, 0];
    for round in 0..kills {
        shell(
            &root,
            "rm -rf copy; for n in $(seq 2 2 150); do echo bad $n >> d/in/f$n; done; rm -f d/in/f7 d/in/link
             mv d/in/deep d/shallow; mkdir -p d/new; for n in $(seq 50); do echo > d/new/$n; done",
        );
        let present = tree(&root);
        let act = *ACTS.choose(&mut rng).unwrap();
        let mut asked = act.begin(&volume);
        let began = Instant::now();
        std::thread::sleep(took.mul_f64(rng.random_range(0.0..1.3)));
        volume.kill();
        let _ = asked.wait();
        if began.elapsed() > DEADLINE {
            panic!("round {round}: {act:?} does not end with the process");
        }
        volume.detach();
        check_state(&volume);
        volume.mount();
        let found = tree(&root);
        let after = done(act, &present, &good);
        let is_done = found == after;
        assert!(
            is_done || found == present,
            "round {round}: {act:?}: half of it; {:#?}",
            differing(&found, &present, &after)
        );
        seen[usize::from(is_done)] += 1;
        // Undone, or done at last, by whoever comes after.
        let finished = Instant::now();
        if !is_done {
            assert!(act.begin(&volume).wait().unwrap().success(), "{act:?}");
            took = finished.elapsed();
            assert_eq!(tree(&root), after, "round {round}: {act:?} at last");
        }
        snapshot(&volume, "restore", &root, &["good"]);
        assert_eq!(tree(&root), good, "round {round}");
    }
    println!("{} not done, {} done", seen[0], seen[1]);
    volume.unmount();
    check_state(&volume);
    assert!(fs::metadata(volume.beside("state")).is_ok());
}

/// Some paths that are neither as they were nor as they should be.
fn differing(found: &Tree, present: &Tree, after: &Tree) -> Vec<(PathBuf, bool, bool)> {
    let paths = found.keys().chain(present.keys()).chain(after.keys());
    let mut all: Vec<_> = paths
        .filter(|path| {
            found.get(*path) != present.get(*path) || found.get(*path) != after.get(*path)
        })
        .map(|path| {
            let is = found.get(path);
            (path.clone(), is == present.get(path), is == after.get(path))
        })
        .collect();
    all.sort();
    all.dedup();
    all.truncate(20);
    all
}
