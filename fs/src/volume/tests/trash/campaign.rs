//! A random history with a trash: files and directories that are made, removed and brought back, a trash that is emptied and
//! expires, snapshots, restores and clones, publications, packs, gc, crashes, and machines that are lost. What is in the
//! trash comes back with its content, and nothing else changes by that.
//!
//! `WELDRFS_GC_ROUNDS` makes it longer, `WELDRFS_TEST_SEED` repeats it.

use super::*;
use crate::volume::tests::history::number;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

type Data = Arc<Vec<u8>>;
type Files = BTreeMap<String, Data>;

const DIRS: usize = 4;
/// Snapshots that are kept at most.
const MOST_SNAPSHOTS: usize = 4;
const KEPT_MS: u64 = 7 * DAY_MS;

/// A file that was removed.
#[derive(Clone)]
struct Gone {
    path: String,
    data: Data,
    deleted_ms: u64,
}

/// What a volume has.
#[derive(Clone, Default)]
struct State {
    live: Files,
    trash: Vec<Gone>,
    snapshots: BTreeMap<String, Files>,
    /// Inodes with greater numbers are too young for the trash.
    old: u64,
}

struct Campaign {
    hours: Hours,
    rng: SmallRng,
    now: State,
    /// What the store has.
    published: State,
    machines: u64,
    named: u64,
    /// How often each thing was really done.
    done: BTreeMap<&'static str, u64>,
}

fn files(volume: &Volume, top: Ino) -> Files {
    let found = tree(volume, top).into_iter();
    let files = found.filter(|(_, (mode, _))| *mode == 0o644);
    files
        .map(|(path, (_, data))| (path[1..].to_owned(), Arc::new(data)))
        .collect()
}

impl Campaign {
    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn open(&self, state: &str) -> Arc<Volume> {
        let config = VolumeConfig {
            upload_delay: Duration::from_secs(24 * 3_600),
            ..self.hours.machine.config(state)
        };
        self.hours.open_with(config).unwrap()
    }

    /// Every inode that there is is old from now on.
    fn grown_up(&mut self, volume: &Volume) {
        let found = volume.engine().ns.usage();
        let newest = newest_ino(volume, ROOT_INO);
        assert!(found.inodes > 0);
        self.now.old = self.now.old.max(newest);
    }

    fn is_published(&mut self, volume: &Volume) {
        self.grown_up(volume);
        self.published = self.now.clone();
    }

    /// Notes that a file is removed, before it is.
    fn going(&mut self, volume: &Volume, path: &str) {
        let ino = volume.engine().walk(path.as_bytes()).unwrap().ino;
        let data = self.now.live.remove(path).unwrap();
        if ino.0 <= self.now.old {
            self.now.trash.push(Gone {
                path: path.to_owned(),
                data,
                deleted_ms: self.hours.clock.now_ms(),
            });
        }
    }

    fn change(&mut self, volume: &Volume) {
        let engine = Arc::clone(volume.engine());
        let dir = format!("d{}", self.rng.random_range(0..DIRS));
        let name = format!("f{}", self.rng.random_range(0..5));
        let path = format!("{dir}/{name}");
        match self.rng.random_range(0..10) {
            0..2 if self.now.live.contains_key(&path) => {
                self.going(volume, &path);
                let at = engine.walk(dir.as_bytes()).unwrap().ino;
                engine.unlink(at, name.as_bytes()).unwrap();
            }
            2..4 if engine.walk(dir.as_bytes()).is_ok() => {
                let below = format!("{dir}/");
                let all = self.now.live.keys().filter(|p| p.starts_with(&below));
                for path in all.cloned().collect::<Vec<_>>() {
                    self.going(volume, &path);
                }
                remove_tree(volume, &dir);
                self.count("trees removed");
            }
            4 if self.now.live.contains_key(&path) => {
                // As editors save: another file takes the name.
                let data = content(self.rng.random(), self.rng.random_range(1..20_000));
                write(volume, "new", &data);
                self.going(volume, &path);
                let at = engine.walk(dir.as_bytes()).unwrap().ino;
                let flags = crate::RenameFlags::default();
                engine
                    .rename(ROOT_INO, b"new", at, name.as_bytes(), flags)
                    .unwrap();
                self.now.live.insert(path, Arc::new(data));
            }
            _ => {
                let at = match engine.walk(dir.as_bytes()) {
                    Ok(found) => found.ino,
                    Err(_) => {
                        engine
                            .mkdir(ROOT_INO, dir.as_bytes(), 0o755, &ME)
                            .unwrap()
                            .ino
                    }
                };
                let data = content(self.rng.random(), self.rng.random_range(1..40_000));
                let ino = match engine.find(at, name.as_bytes()).unwrap() {
                    Some(found) => {
                        let empty = crate::AttrChange {
                            size: Some(0),
                            ..crate::AttrChange::default()
                        };
                        engine.setattr(found.ino, empty).unwrap();
                        found.ino
                    }
                    None => {
                        let made = engine.mknod(at, name.as_bytes(), Kind::File, 0o644, 0, &ME);
                        made.unwrap().ino
                    }
                };
                engine.write(ino, 0, &data, false).unwrap();
                self.now.live.insert(path, Arc::new(data));
            }
        }
    }

    fn bring_back(&mut self, volume: &Volume, story: &str) {
        let entries = volume.engine().trash(b"").unwrap();
        let count: u64 = entries.iter().map(|e| e.files).sum();
        assert_eq!(count, self.now.trash.len() as u64, "{story}");
        let Some(entry) = entries.choose(&mut self.rng) else {
            return;
        };
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let target = TrashTarget {
            path: &entry.path,
            to: None,
            until_ms: Some(entry.deleted_ms),
        };
        let is_there = volume.engine().walk(&entry.path).is_ok();
        let restored = volume.engine().restore_trash(target);
        if is_there {
            let error = restored.unwrap_err();
            assert_eq!(error.errno(), libc::EEXIST, "{story}: {error}");
            return;
        }
        restored.unwrap();
        self.count("brought back");
        volume.drop_caches();
        let found = files(volume, ROOT_INO);
        for (path, data) in &self.now.live {
            assert!(found.get(path) == Some(data), "{story}: {path}");
        }
        for (new, data) in &found {
            if self.now.live.contains_key(new) {
                continue;
            }
            assert!(
                *new == path || new.starts_with(&format!("{path}/")),
                "{story}: {new}"
            );
            let was = self.now.trash.iter().rposition(|gone| {
                gone.path == *new && gone.data == *data && gone.deleted_ms <= entry.deleted_ms
            });
            let was = was.unwrap_or_else(|| panic!("{story}: {new} was not in the trash"));
            self.now.trash.remove(was);
        }
        self.now.live = found;
    }

    fn snapshot(&mut self, volume: &Volume) {
        let engine = volume.engine();
        let names: Vec<String> = self.now.snapshots.keys().cloned().collect();
        let what = match names.len() >= MOST_SNAPSHOTS {
            true => 0,
            false => self.rng.random_range(0..5),
        };
        match (names.choose(&mut self.rng).cloned(), what) {
            (Some(name), 0..2) => {
                engine.remove_snapshot(&name).unwrap();
                self.now.snapshots.remove(&name);
            }
            (Some(name), 2) => {
                let before = self.now.live.clone();
                let restored = engine.restore(&name, b"").unwrap();
                // What it removes is in the snapshot of before, and not in the trash.
                self.now.live = self.now.snapshots[&name].clone();
                if let Some(safety) = restored.safety {
                    let next = safety.next_ino.0 - 1;
                    self.now.old = self.now.old.max(next);
                    self.now.snapshots.insert(safety.name, before);
                }
                self.count("snapshots restored");
            }
            _ => {
                self.named += 1;
                let name = format!("s{}", self.named);
                let made = engine.create_snapshot(named(&name)).unwrap();
                self.now.old = self.now.old.max(made.next_ino.0 - 1);
                self.now.snapshots.insert(name, self.now.live.clone());
            }
        }
    }

    fn clone_some(&mut self, volume: &Volume) {
        let engine = volume.engine();
        let from = format!("d{}", self.rng.random_range(0..DIRS));
        let to = format!("d{}", self.rng.random_range(0..DIRS));
        let (Ok(source), Err(_)) = (engine.walk(from.as_bytes()), engine.walk(to.as_bytes()))
        else {
            return;
        };
        engine
            .clone_tree(source.ino, ROOT_INO, to.as_bytes())
            .unwrap();
        let below = format!("{from}/");
        let cloned: Files = self
            .now
            .live
            .iter()
            .filter_map(|(p, d)| Some((format!("{to}/{}", p.strip_prefix(&below)?), Arc::clone(d))))
            .collect();
        self.now.live.extend(cloned);
    }

    fn pass(&mut self, volume: &Volume) {
        let ms = match self.rng.random_bool(0.3) {
            true => self.rng.random_range(1..3 * DAY_MS),
            false => self.rng.random_range(1..120_000),
        };
        self.hours.pass(ms);
        let acknowledged = volume.engine.ns.acknowledged().0;
        volume.keeper().unwrap().look_after(acknowledged);
        volume.tidy_trash(&|| false);
        self.expire(KEPT_MS);
    }

    fn expire(&mut self, older_than_ms: u64) {
        let now_ms = self.hours.clock.now_ms();
        let before = self.now.trash.len();
        self.now
            .trash
            .retain(|gone| now_ms - gone.deleted_ms < older_than_ms);
        if self.now.trash.len() < before {
            self.count("expired");
        }
    }

    fn round(&mut self, volume: Arc<Volume>, state: &mut String, story: &str) -> Arc<Volume> {
        match self.rng.random_range(0..20) {
            0..6 => {
                for _ in 0..self.rng.random_range(1..8) {
                    self.change(&volume);
                }
            }
            6..10 => self.bring_back(&volume, story),
            10..12 => self.snapshot(&volume),
            12 => self.clone_some(&volume),
            13..15 => {
                volume.sync(LONG).unwrap();
                self.is_published(&volume);
            }
            15..17 => self.pass(&volume),
            17 => {
                volume.gc(false).unwrap();
                self.is_published(&volume);
                self.hours.check(story);
            }
            18 => {
                let older_than_ms = self.rng.random_range(1..2 * DAY_MS);
                volume.empty_trash(older_than_ms).unwrap();
                self.expire(older_than_ms);
            }
            _ => {
                volume.abandon();
                if self.rng.random_bool(0.5) {
                    self.machines += 1;
                    *state = format!("machine{}", self.machines);
                    self.now = self.published.clone();
                    self.count("machines lost");
                }
                let volume = self.open(state);
                self.grown_up(&volume);
                self.compare(&volume, story);
                return volume;
            }
        }
        self.compare(&volume, story);
        volume
    }

    fn compare(&mut self, volume: &Volume, story: &str) {
        assert_eq!(volume.check().unwrap().findings, vec![], "{story}");
        let found = files(volume, ROOT_INO);
        let differ = |a: &Files, b: &Files| -> Vec<String> {
            let all = a.keys().chain(b.keys());
            all.filter(|p| a.get(*p) != b.get(*p)).cloned().collect()
        };
        assert_eq!(differ(&self.now.live, &found), [""; 0], "{story}");
        for (name, then) in &self.now.snapshots {
            let found = files(volume, snapshot_root(volume, name).unwrap());
            assert_eq!(differ(then, &found), [""; 0], "{story}: {name}");
        }
        let entries = volume.engine().trash(b"").unwrap();
        let bytes: u64 = entries.iter().map(|e| e.bytes).sum();
        let wanted: usize = self.now.trash.iter().map(|gone| gone.data.len()).sum();
        assert_eq!(bytes, wanted as u64, "{story}");
        assert_eq!(volume.status().trash_bytes, wanted as u64, "{story}");
    }
}

/// The greatest inode number below a directory.
fn newest_ino(volume: &Volume, dir: Ino) -> u64 {
    let mut newest = dir.0;
    for entry in volume.engine().readdir(dir, 0, 10_000).unwrap() {
        newest = newest.max(match entry.kind {
            Kind::Dir => newest_ino(volume, entry.ino),
            _ => entry.ino.0,
        });
    }
    newest
}

#[test]
fn what_is_in_the_trash_comes_back_along_random_histories() {
    let seed = number("WELDRFS_TEST_SEED", SmallRng::from_os_rng().random());
    let rounds = number("WELDRFS_GC_ROUNDS", 200);
    let mut campaign = Campaign {
        hours: Hours::new(seed),
        rng: SmallRng::seed_from_u64(seed),
        now: State::default(),
        published: State::default(),
        machines: 0,
        named: 0,
        done: BTreeMap::new(),
    };
    let mut state = "machine0".to_owned();
    let mut volume = campaign.open(&state);
    volume.sync(LONG).unwrap();
    campaign.is_published(&volume);
    for round in 0..rounds {
        let story = format!("WELDRFS_TEST_SEED={seed}, round {round}");
        volume = campaign.round(volume, &mut state, &story);
    }
    // Without anything that needs it, nothing is left.
    for dir in 0..DIRS {
        let name = format!("d{dir}");
        if volume.engine().walk(name.as_bytes()).is_ok() {
            remove_tree(&volume, &name);
        }
    }
    volume.empty_trash(0).unwrap();
    for name in campaign.now.snapshots.keys() {
        volume.engine().remove_snapshot(name).unwrap();
    }
    collect(&campaign.hours, &volume);
    assert_eq!(campaign.hours.packs(), [""; 0]);
    assert_eq!(
        (volume.status().inodes, volume.status().trash_inodes),
        (1, 0)
    );
    healthy(&volume);
    volume.close().unwrap();
    campaign.hours.check("at the end");
    println!(
        "WELDRFS_TEST_SEED={seed}: {rounds} rounds, {:?}",
        campaign.done
    );
    assert!(
        campaign.done.contains_key("brought back"),
        "WELDRFS_TEST_SEED={seed}"
    );
}
