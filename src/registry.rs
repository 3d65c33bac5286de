//! Which mounts run on this machine: a record per mount, in the volume's state folder (`mount.json`) and, so that mounts
//! with their state elsewhere are found too, in one folder that a reboot empties.
//!
//! Records are hints for finding a socket. What is mounted is the kernel's to say, and who owns a volume its lock's.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the record in a volume's state folder.
const RECORD_NAME: &str = "mount.json";
/// Longest record that is read.
const RECORD_MAX: u64 = 64 * 1024;

/// One mount, running or left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    /// Process that serves the mount.
    pub(crate) pid: u32,
    /// When it started, in the kernel's ticks, and in which boot: a process id alone is reused.
    pub(crate) pid_started_ticks: u64,
    pub(crate) boot_id: String,
    pub(crate) volume_id: String,
    pub(crate) source: String,
    /// What serves the bucket; a bucket of the same name elsewhere is another one. `None` for directories, and in the
    /// notes of older versions.
    #[serde(default)]
    pub(crate) endpoint: Option<String>,
    /// Lossy where it is not UTF-8, and compared that way.
    pub(crate) mountpoint: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    /// Milliseconds since 1970.
    pub(crate) started_ms: u64,
}

impl MountRecord {
    /// Whether the process that wrote this still runs.
    pub(crate) fn is_running(&self) -> bool {
        boot_id().is_ok_and(|now| now == self.boot_id)
            && is_process(self.pid, self.pid_started_ticks)
    }

    /// Whether this is the record of the mount on `mountpoint`.
    pub(crate) fn is_at(&self, mountpoint: &Path) -> bool {
        self.mountpoint == mountpoint.to_string_lossy()
    }
}

/// What a record says about the process that serves the mount.
pub(crate) struct ProcessMark {
    pub(crate) pid: u32,
    pub(crate) started_ticks: u64,
    pub(crate) boot_id: String,
}

impl ProcessMark {
    /// The mark of process `pid`.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            started_ticks: started_ticks(pid)?,
            boot_id: boot_id()?,
        })
    }
}

/// Where records are looked for and written.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    state_bases: Vec<PathBuf>,
    run_dir: Option<PathBuf>,
}

impl Registry {
    /// Records below `state_bases` and in `run_dir`.
    pub(crate) fn new(state_bases: Vec<PathBuf>, run_dir: Option<PathBuf>) -> Self {
        Self {
            state_bases,
            run_dir,
        }
    }

    /// Writes `record` into its volume's state folder and, if possible, into the run folder.
    ///
    /// # Errors
    /// When the state folder cannot be written to. The run folder is only a convenience.
    pub(crate) fn note(&self, record: &MountRecord) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        if let Some(run_dir) = &self.run_dir {
            self.forget_dead(&record.state_dir);
            let noted = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(run_dir);
            let noted = noted.and_then(|()| write_whole(&run_dir.join(run_name(record)), &text));
            if let Err(error) = noted {
                tracing::warn!(%error, dir = %run_dir.display(), "the mount is not noted there; status needs --state-dir");
            }
        }
        write_whole(&record.state_dir.join(RECORD_NAME), &text)
    }

    /// Removes what [`Registry::note`] wrote. Only after an orderly end: what a killed process leaves says that it was
    /// killed.
    pub(crate) fn forget(&self, record: &MountRecord) {
        let in_run = self.run_dir.as_ref().map(|dir| dir.join(run_name(record)));
        for path in in_run
            .into_iter()
            .chain([record.state_dir.join(RECORD_NAME)])
        {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "the record of this mount stays behind");
            }
        }
    }

    /// Every record, one per state folder, ordered by mountpoint. Unreadable ones are skipped.
    pub(crate) fn records(&self) -> Vec<MountRecord> {
        let volumes = self
            .state_bases
            .iter()
            .flat_map(|base| entries(base))
            .map(|folder| folder.join(RECORD_NAME));
        let noted = self.run_dir.iter().flat_map(|dir| entries(dir));
        let mut records: Vec<MountRecord> = volumes
            .chain(noted)
            .filter_map(|path| read(&path))
            .collect();
        records.sort_by(|a, b| {
            let newest_first = b.started_ms.cmp(&a.started_ms);
            (&a.mountpoint, &a.state_dir)
                .cmp(&(&b.mountpoint, &b.state_dir))
                .then(newest_first)
        });
        records.dedup_by(|later, kept| later.state_dir == kept.state_dir);
        records
    }

    /// The record of the mount on `mountpoint`, a running one if there is any.
    pub(crate) fn at(&self, mountpoint: &Path) -> Option<MountRecord> {
        let mut records: Vec<_> = self
            .records()
            .into_iter()
            .filter(|record| record.is_at(mountpoint))
            .collect();
        records.sort_by_key(|record| (!record.is_running(), std::cmp::Reverse(record.started_ms)));
        records.into_iter().next()
    }

    /// Removes what earlier, dead mounts of the same state folder noted in the run folder.
    fn forget_dead(&self, state_dir: &Path) {
        for path in self.run_dir.iter().flat_map(|dir| entries(dir)) {
            if read(&path).is_some_and(|old| old.state_dir == state_dir && !old.is_running()) {
                // A leftover that cannot be removed is harmless: it is told from a running one by its process.
                drop(std::fs::remove_file(&path));
            }
        }
    }
}

fn run_name(record: &MountRecord) -> String {
    format!("{}.{}.json", record.volume_id, record.pid)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map_or_else(
        |_| Vec::new(),
        |found| found.flatten().map(|entry| entry.path()).collect(),
    )
}

fn read(path: &Path) -> Option<MountRecord> {
    let length = std::fs::metadata(path)
        .ok()
        .filter(|found| found.is_file())?
        .len();
    if length > RECORD_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes beside `path` and renames, so that nobody reads half a record.
fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text)?;
    std::fs::rename(&temporary, path)
}

/// Whether the process `pid` that was started at these ticks of the kernel still runs.
pub(crate) fn is_process(pid: u32, started: u64) -> bool {
    started_ticks(pid).is_ok_and(|ticks| ticks == started)
}

/// Names the time since the machine was started.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Field 22 of /proc/PID/stat; counted from behind the program's name, which may contain anything.
fn started_ticks(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut fields = fields.split_ascii_whitespace();
    // A zombie has ended, whatever its parent has noticed.
    if matches!(fields.next(), Some("Z" | "X") | None) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the process has ended",
        ));
    }
    let ticks = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    ticks.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat is not understood"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state_dir: &Path, mountpoint: &str, started_ms: u64) -> MountRecord {
        let own = ProcessMark::of(std::process::id()).unwrap();
        MountRecord {
            pid: own.pid,
            pid_started_ticks: own.started_ticks,
            boot_id: own.boot_id,
            volume_id: "v1".into(),
            source: "file:///srv".into(),
            endpoint: None,
            mountpoint: mountpoint.into(),
            state_dir: state_dir.to_owned(),
            socket: state_dir.join("volume.sock"),
            started_ms,
        }
    }

    fn folder(base: &Path, name: &str) -> PathBuf {
        let folder = base.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_noted_mount_is_found_from_both_sides_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (base, run) = (dir.path().join("state"), dir.path().join("run"));
        let record = record(&folder(&base, "v1"), "/mnt/v", 5);
        let both = Registry::new(vec![base.clone()], Some(run.clone()));
        both.note(&record).unwrap();

        for registry in [
            both.clone(),
            Registry::new(vec![], Some(run.clone())),
            Registry::new(vec![base], None),
        ] {
            assert_eq!(registry.records(), std::slice::from_ref(&record));
            assert_eq!(registry.at(Path::new("/mnt/v")), Some(record.clone()));
            assert_eq!(registry.at(Path::new("/mnt")), None);
        }
        assert!(record.is_running());

        both.forget(&record);
        assert_eq!(both.records(), []);
        assert_eq!(std::fs::read_dir(run).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_process_is_told_from_a_running_one() {
        let dir = tempfile::tempdir().unwrap();
        let alive = record(dir.path(), "/m", 1);
        let reused = MountRecord {
            pid_started_ticks: alive.pid_started_ticks + 1,
            ..alive.clone()
        };
        let rebooted = MountRecord {
            boot_id: "another".into(),
            ..alive.clone()
        };
        let gone = MountRecord {
            pid: u32::MAX,
            ..alive
        };
        for dead in [reused, rebooted, gone] {
            assert!(!dead.is_running(), "{dead:?}");
        }
    }

    #[test]
    fn a_new_mount_replaces_the_note_of_a_killed_one_and_keeps_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let run = folder(dir.path(), "run");
        let registry = Registry::new(vec![], Some(run.clone()));
        let (one, two) = (folder(dir.path(), "one"), folder(dir.path(), "two"));
        let killed = MountRecord {
            pid: u32::MAX,
            ..record(&one, "/mnt/old", 1)
        };
        let other = MountRecord {
            pid: u32::MAX - 1,
            ..record(&two, "/mnt/two", 1)
        };
        registry.note(&killed).unwrap();
        registry.note(&other).unwrap();
        let new = record(&one, "/mnt/new", 2);
        registry.note(&new).unwrap();
        assert_eq!(registry.records(), [new, other]);
    }

    #[test]
    fn of_two_mounts_on_one_place_the_running_one_answers() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_owned();
        let registry = Registry::new(vec![base.clone()], None);
        let running = record(&folder(&base, "one"), "/mnt/v", 1);
        let dead = MountRecord {
            pid: u32::MAX,
            ..record(&folder(&base, "two"), "/mnt/v", 9)
        };
        registry.note(&running).unwrap();
        registry.note(&dead).unwrap();
        assert_eq!(registry.at(Path::new("/mnt/v")), Some(running));
    }

    #[test]
    fn damaged_records_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a", "{"), ("b", ""), ("c", "[]")] {
            std::fs::write(folder(dir.path(), name).join(RECORD_NAME), text).unwrap();
        }
        assert_eq!(
            Registry::new(vec![dir.path().to_owned()], None).records(),
            []
        );
    }
}
