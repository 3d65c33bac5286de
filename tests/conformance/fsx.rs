//! fsx: random operations on files whose contents are known, several files at once, on both stores and with what makes
//! it hard: the kernel's write-back, cold caches, publishing meanwhile. What it leaves is compared after a remount and
//! when it is read back from the store.

use crate::mount::{Volume, finish};
use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Settings};
use crate::seed;
use crate::tools::tool;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Operations of all tests together, unless `WELDRFS_FSX_OPS` says otherwise.
const OPS: u64 = 240_000;
/// Files of one mount that are worked on at once, each from a seed of its own.
const FILES: u64 = 3;
/// Most operations of one process: fsx unmaps nothing that it reads through a mapping, and mappings are bounded.
const MOST_OPS_AT_ONCE: u64 = 100_000;
/// Seeds from one file's to the next one's: more than a file has processes.
const SEEDS_APART: u64 = 1_000;
const DEADLINE: Duration = Duration::from_secs(3_600);
/// Between two times that the caches are emptied.
const PAUSE: Duration = Duration::from_millis(100);
/// Least requests for packs when reads are meant to come from the store.
const PACKS_READ: u64 = 10;

const PLAIN: &str = "tests/conformance/fsx.toml";
const COLD: &str = "tests/conformance/fsx-cold.toml";

/// What happens beside fsx.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    /// Everything is published again and again, and then forgotten by the mount and by the kernel.
    SyncAndForget,
}

#[test]
fn fsx_on_a_directory() {
    let mut volume = Volume::mounted();
    let files = exercise(&volume, PLAIN, 40, Meanwhile::Nothing);
    compare(&mut volume, &files);
    volume.unmount();
}

#[test]
fn fsx_on_a_bucket() {
    let server = S3Server::start(Settings::default());
    let mut volume = in_bucket(&server, &[]);
    let files = exercise(&volume, PLAIN, 30, Meanwhile::Nothing);
    compare(&mut volume, &files);
    volume.unmount();
}

#[test]
fn fsx_with_writeback_in_the_kernel_while_the_volume_is_published() {
    let mut volume = Volume::mounted_with(&["kernel_writeback=on"]);
    let files = exercise(&volume, PLAIN, 15, Meanwhile::SyncAndForget);
    compare(&mut volume, &files);
    volume.unmount();
}

#[test]
fn fsx_with_small_caches_on_a_bucket_reads_packs() {
    let server = S3Server::start(Settings::default());
    let mut volume = in_bucket(&server, &["cache_size=64M", "frame_cache=4M"]);
    let files = exercise(&volume, COLD, 15, Meanwhile::SyncAndForget);
    // Before the comparison, which reads everything from the store.
    let packs = server.counts().packs;
    println!("{packs} requests for packs");
    assert!(
        packs >= PACKS_READ,
        "the store was hardly asked: {packs} requests for packs"
    );
    compare(&mut volume, &files);
    volume.unmount();
}

fn in_bucket(server: &S3Server, options: &[&str]) -> Volume {
    let access = [
        format!("endpoint={}", server.endpoint()),
        format!("access_key_id={ACCESS_KEY}"),
        format!("secret_access_key={SECRET_KEY}"),
    ];
    let mut all: Vec<&str> = access.iter().map(String::as_str).collect();
    all.extend(options);
    Volume::mounted_from(Some(&format!("s3://{BUCKET}")), &all)
}

/// Runs fsx on all files at once, for `percent` of all operations; returns the files.
fn exercise(volume: &Volume, config: &str, percent: u64, meanwhile: Meanwhile) -> Vec<PathBuf> {
    let seed = seed::base();
    let ops = (seed::number("WELDRFS_FSX_OPS", OPS) * percent).div_ceil(100 * FILES);
    println!("WELDRFS_TEST_SEED={seed}, {FILES} files, {ops} operations on each");
    let names = |n: u64| volume.root().join(format!("f{n}"));
    let files: Vec<PathBuf> = (0..FILES).map(names).collect();
    let ended = AtomicBool::new(false);
    let complaints: Vec<String> = thread::scope(|scope| {
        let start = |n: usize| {
            let seed = seed + n as u64 * SEEDS_APART;
            let file = &files[n];
            scope.spawn(move || work(file, config, seed, ops))
        };
        let workers: Vec<_> = (0..files.len()).map(start).collect();
        if meanwhile == Meanwhile::SyncAndForget {
            scope.spawn(|| sync_and_forget(volume, &files, &ended));
        }
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        ended.store(true, Ordering::Relaxed);
        ends.into_iter()
            .map(|end| end.expect("fsx could be run"))
            .filter_map(Result::err)
            .collect()
    });
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    files
}

/// The files are the same after a remount and from the store.
fn compare(volume: &mut Volume, files: &[PathBuf]) {
    let left = contents(files);
    volume.remount();
    assert!(left == contents(files), "a remount changed the files");
    volume.sync_and_drop_caches();
    volume.remount();
    // Once more after mounting: nothing that starting read may be left in a cache either.
    volume.sync_and_drop_caches();
    assert!(left == contents(files), "the store has other files");
}

fn contents(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs fsx on one file, process after process. The error says how to repeat it.
fn work(file: &Path, config: &str, mut seed: u64, ops: u64) -> Result<(), String> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(config);
    // It goes with the volume: the seed brings everything back.
    let artifacts = file.ancestors().nth(2).expect("the file lies in a mount");
    let mut left = ops;
    while left > 0 {
        let now = left.min(MOST_OPS_AT_ONCE);
        let mut command = Command::new(tool("fsx"));
        command
            .args(["-N", &now.to_string(), "-S", &seed.to_string(), "-f"])
            .arg(&config)
            .arg("-P")
            .arg(artifacts)
            .arg(file);
        let output = finish(&mut command, DEADLINE);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if !output.status.success() || !said.contains("A-OK!") {
            return Err(format!("{command:?}: {}\n{}", output.status, ends(&said)));
        }
        left -= now;
        seed += 1;
    }
    Ok(())
}

/// What went wrong stands in the first lines, what was done before it in the last.
fn ends(said: &str) -> String {
    const FIRST: usize = 10;
    const LAST: usize = 30;
    let lines: Vec<&str> = said.lines().collect();
    let first = FIRST.min(lines.len());
    let last = lines.len().saturating_sub(LAST).max(first);
    [&lines[..first], &["..."], &lines[last..]]
        .concat()
        .join("\n")
}

fn sync_and_forget(volume: &Volume, files: &[PathBuf], ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        volume.sync_and_drop_caches();
        for file in files {
            // fsx may not have made it yet.
            if let Ok(file) = File::open(file) {
                fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            }
        }
        thread::sleep(PAUSE);
    }
}
