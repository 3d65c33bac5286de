//! fsck finds every kind of damage by its name, and none in healthy volumes.

use super::*;
use crate::volume::{FsckReport, fsck, fsck_local};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weldrfs_meta::ROOT_INO;

struct Shelf {
    machine: Machine,
    memory: Arc<MemoryStore>,
}

impl Shelf {
    fn new() -> Self {
        Self {
            machine: Machine::new(),
            memory: Arc::new(MemoryStore::new()),
        }
    }

    fn source(&self) -> Source {
        Source::Own(Arc::clone(&self.memory) as Arc<dyn ObjectStore>)
    }

    /// A volume after a random history: several publications, several chains.
    fn fill(&self, seed: u64) {
        let clock = Arc::new(ManualClock::at(crate::clock::SystemClock.now_ns()));
        let config = VolumeConfig {
            source: self.source(),
            ..self.machine.config("here")
        };
        let handle = self.machine.runtime.handle().clone();
        let volume =
            Volume::open_with(config, handle, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        let mut rng = SmallRng::seed_from_u64(seed);
        for round in 0..rng.random_range(2..5_u64) {
            for n in 0..rng.random_range(1..20_u64) {
                let ino = file(&volume, &format!("f{round}-{n}"));
                let data = content(seed + n, rng.random_range(0..60_000));
                volume
                    .engine()
                    .write(ino, rng.random_range(0..9_000), &data, false)
                    .unwrap();
            }
            if round > 0 && rng.random() {
                let name = format!("f{}-0", round - 1);
                volume.engine().unlink(ROOT_INO, name.as_bytes()).unwrap();
            }
            volume.sync(LONG).unwrap();
            // So old that the next layer is a full one.
            clock.advance(3_700_000_000_000);
        }
        file(&volume, "last");
        volume.sync(LONG).unwrap();
        volume.close().unwrap();
    }

    fn check(&self, deep: bool) -> FsckReport {
        let scratch = self.machine.path("");
        fsck(
            &self.source(),
            deep,
            &scratch,
            self.machine.runtime.handle(),
        )
        .unwrap()
    }

    fn found(&self, deep: bool) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .check(deep)
            .findings
            .into_iter()
            .map(|finding| finding.invariant)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn keys(&self, end: &str) -> Vec<String> {
        let keys = self.memory.keys();
        keys.into_iter().filter(|key| key.ends_with(end)).collect()
    }

    fn packs(&self) -> Vec<String> {
        let keys = self.memory.keys();
        keys.into_iter()
            .filter(|key| key.starts_with("packs/"))
            .collect()
    }

    fn delete(&self, key: &str) {
        let keys = [key.to_owned()];
        self.machine
            .runtime
            .block_on(self.memory.delete(&keys))
            .unwrap();
    }

    /// Publishes a database that was changed by hand, as a mount with a bug would.
    fn publish_with(&self, sql: &str) {
        let config = VolumeConfig {
            source: self.source(),
            ..self.machine.config("here")
        };
        let open = || {
            let handle = self.machine.runtime.handle().clone();
            Volume::open(config.clone(), handle).unwrap()
        };
        let volume = open();
        // The root may be what is damaged.
        let side = volume.engine().mkdir(ROOT_INO, b"side", 0o755, &ME);
        let side = side.unwrap().ino;
        let database = volume.state_dir().join("meta/meta.db");
        volume.close().unwrap();
        drop(volume);
        sqlite(&database, sql);
        let volume = open();
        volume
            .engine()
            .mknod(side, b"after", crate::Kind::File, 0o644, 0, &ME)
            .unwrap();
        volume.sync(LONG).unwrap();
        volume.close().unwrap();
    }
}

pub(super) fn sqlite(database: &Path, sql: &str) {
    let changed = std::process::Command::new("sqlite3")
        .arg(database)
        .arg(sql)
        .status()
        .unwrap();
    assert!(changed.success(), "{sql}");
}

#[test]
fn healthy_volumes_have_no_findings() {
    let volumes = std::env::var("WELDRFS_FSCK_VOLUMES").map_or(20, |n| n.parse().unwrap());
    for seed in 0..volumes {
        let shelf = Shelf::new();
        shelf.fill(seed);
        let report = shelf.check(true);
        assert_eq!(report.findings, vec![], "seed {seed}");
        assert_eq!(report.unnamed, 0, "seed {seed}");
        assert!(report.packs > 0 && report.read_bytes > 0 && report.points > 2);
    }
}

#[test]
fn a_volume_without_anything_published_is_whole() {
    let shelf = Shelf::new();
    let config = VolumeConfig {
        source: shelf.source(),
        ..shelf.machine.config("here")
    };
    let volume = Volume::open(config, shelf.machine.runtime.handle().clone()).unwrap();
    volume.abandon();
    assert_eq!(shelf.check(true), FsckReport::default());
}

#[test]
fn damage_of_objects_is_found_by_name() {
    type Damage = fn(&Shelf);
    let kinds: [(&str, bool, Damage); 9] = [
        ("layer-part", false, |s| s.delete(&s.keys(".layer")[0])),
        ("layer-part", false, |s| {
            s.memory.tamper(&s.keys(".layer")[0], |bytes| bytes.push(0));
        }),
        ("chain-list", false, |s| s.delete(&s.keys(".chain")[0])),
        ("chain-list", false, |s| {
            s.memory
                .tamper(&s.keys(".chain")[0], |bytes| bytes[0] = b'x');
        }),
        ("database-image", false, |s| {
            // The newest layer: the last key.
            let newest = s.keys(".layer").pop().unwrap();
            s.memory.tamper(&newest, |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            });
        }),
        ("chain-image", true, |s| {
            s.memory.tamper(&s.keys(".layer")[0], |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            });
        }),
        ("pack-object", false, |s| s.delete(&s.packs()[0])),
        ("pack-object", false, |s| {
            s.memory.tamper(&s.packs()[0], |bytes| bytes.truncate(100));
        }),
        ("pack-whole", true, |s| {
            s.memory.tamper(&s.packs()[0], |bytes| bytes[70] ^= 1);
        }),
    ];
    for (seed, (name, deep, damage)) in (100..).zip(kinds) {
        let shelf = Shelf::new();
        shelf.fill(seed);
        damage(&shelf);
        let found = shelf.found(deep);
        assert!(found.contains(&name), "{name}: {found:?}");
    }
}

#[test]
fn damage_of_tables_is_found_by_name() {
    // Needs the program sqlite3, which the tests of the whole need as well.
    let kinds = [
        (
            "dirent-inode",
            "DELETE FROM inode WHERE ino = (SELECT min(ino) FROM dirent)",
        ),
        (
            "dir-counts",
            "DELETE FROM dirent WHERE ino = (SELECT min(ino) FROM dirent)",
        ),
        (
            "allocated",
            "UPDATE inode SET allocated = allocated + 1 WHERE ino = (SELECT min(ino) FROM extent)",
        ),
        (
            "extent-location",
            "DELETE FROM location WHERE extent = (SELECT min(extent) FROM extent)",
        ),
        (
            "extent-order",
            "UPDATE inode SET size = 0 WHERE ino = (SELECT min(ino) FROM extent)",
        ),
        (
            "location-pack",
            "DELETE FROM pack WHERE pack = (SELECT min(pack) FROM location)",
        ),
        (
            "symlink-target",
            "INSERT INTO symlink (ino, target, epoch) VALUES (1, x'61', 0)",
        ),
        (
            "xattr-inode",
            "INSERT INTO xattr (ino, name, value, epoch) VALUES (999999, x'61', x'61', 0)",
        ),
        ("extent-in-pack", "UPDATE pack SET raw_len = 1"),
        (
            "pack-extents",
            "UPDATE location SET offset = offset + 1 WHERE extent = (SELECT min(extent) FROM extent) AND offset + len < (SELECT raw_len FROM pack WHERE pack.pack = location.pack)",
        ),
        (
            "pack-dead",
            "UPDATE pack SET dead_ms = 1, dead_seq = 1 WHERE pack = (SELECT min(pack) FROM location)",
        ),
    ];
    for (seed, (name, sql)) in (200..).zip(kinds) {
        let shelf = Shelf::new();
        shelf.fill(seed);
        shelf.publish_with(sql);
        let found = shelf.found(true);
        assert!(found.contains(&name), "{name}: {found:?}");
    }
}

#[test]
fn damage_of_the_local_state_is_found_by_name() {
    let machine = Machine::new();
    let volume = machine.open("here");
    for n in 0..20 {
        let ino = file(&volume, &format!("f{n}"));
        volume
            .engine()
            .write(ino, 0, &content(n, 20_000), false)
            .unwrap();
    }
    let state = volume.state_dir().to_owned();
    let (config, handle) = (machine.config("here"), machine.runtime.handle().clone());
    let found = |deep: bool| -> Vec<&'static str> {
        let report = fsck_local(&config, deep, &handle).unwrap();
        report
            .findings
            .iter()
            .map(|finding| finding.invariant)
            .collect()
    };
    let mounted = fsck_local(&config, true, &handle).unwrap_err();
    assert!(matches!(mounted, OpenError::InUse { .. }), "{mounted}");
    volume.abandon();
    drop(volume);
    let whole = fsck_local(&config, true, &handle).unwrap();
    assert_eq!((whole.findings, whole.inodes), (vec![], 21));
    assert_eq!(whole.read_bytes, 20 * 20_000);

    let segments = std::fs::read_dir(state.join("segments")).unwrap();
    let segment = segments
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("seg-")
        })
        .max_by_key(|path| {
            std::fs::read(path).unwrap()[4_096..]
                .iter()
                .any(|byte| *byte != 0)
        })
        .unwrap();
    let bytes = std::fs::read(&segment).unwrap();
    let mut damaged = bytes.clone();
    damaged[4_096 + 30_000] ^= 1;
    std::fs::write(&segment, damaged).unwrap();
    assert_eq!((found(false), found(true)), (vec![], vec!["segment-sums"]));
    std::fs::remove_file(&segment).unwrap();
    assert_eq!(found(false), ["segment-there"]);
    std::fs::write(&segment, &bytes).unwrap();
    assert_eq!(found(true), Vec::<&str>::new());

    sqlite(
        &state.join("meta/meta.db"),
        "UPDATE inode SET size = size + 1 WHERE ino = 1",
    );
    assert_eq!(found(false), ["dir-counts"]);
    let file = std::fs::File::options()
        .write(true)
        .open(state.join("meta/meta.db"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[0xff; 100], 0).unwrap();
    assert_eq!(found(false), ["state-opens"]);
    std::fs::remove_dir_all(&state).unwrap();
    let none = fsck_local(&config, true, &handle).unwrap_err();
    assert!(matches!(none, OpenError::NoState { .. }), "{none}");
}
