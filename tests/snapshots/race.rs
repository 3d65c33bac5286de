//! Programs that go on writing while a restore is made: every write that succeeded is somewhere.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::scene::{shell, snapshot};
use crate::support::mount::Volume;

const FILES: usize = 1500;
const WRITERS: usize = 3;
const ROUNDS: usize = 3;
/// How long the writers go on before and behind the restore.
const MARGIN: Duration = Duration::from_millis(100);

/// Appends a line of its own to one file after the other, each opened by its name, until told to stop. Returns what was
/// acknowledged.
fn write_on(
    top: &Path,
    writer: usize,
    round: usize,
    is_over: &AtomicBool,
) -> Vec<(PathBuf, String)> {
    let mut written = Vec::new();
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let below = PathBuf::from(format!("f{}", (n * 7 + writer * 31) % (2 * FILES)));
        let line = format!("{round}-{writer}-{n}\n");
        // It may be gone, or be there again.
        let Ok(mut file) = File::options().append(true).open(top.join(&below)) else {
            continue;
        };
        file.write_all(line.as_bytes()).unwrap();
        written.push((below, line));
    }
    written
}

#[test]
fn what_is_written_during_a_restore_is_in_the_tree_or_in_the_snapshot_of_what_was_before() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let top = root.join("d");
    shell(
        &root,
        &format!(
            "mkdir d; for n in $(seq 0 {}); do echo old > d/f$n; done",
            FILES - 1
        ),
    );
    snapshot(&volume, "create", &root, &["s"]);
    for round in 0..ROUNDS {
        // Half of it is replaced, the other half removed; the kernel knows all the names.
        shell(
            &root,
            &format!(
                "for n in $(seq 0 {}); do echo new > d/f$n; done; ls -l d > /dev/null",
                2 * FILES - 1
            ),
        );
        let is_over = AtomicBool::new(false);
        let (written, said) = std::thread::scope(|threads| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (top, is_over) = (&top, &is_over);
                    threads.spawn(move || write_on(top, writer, round, is_over))
                })
                .collect();
            std::thread::sleep(MARGIN);
            let said = snapshot(&volume, "restore", &root, &["s"]);
            std::thread::sleep(MARGIN);
            is_over.store(true, Ordering::Relaxed);
            let written = writers.into_iter().flat_map(|w| w.join().unwrap());
            (written.collect::<Vec<_>>(), said)
        });
        let safety = said
            .split_whitespace()
            .find(|word| word.starts_with("before-restore-"))
            .unwrap()
            .trim_end_matches(',');
        let before = root.join(".snapshots").join(safety).join("d");
        let mut known: BTreeMap<&Path, [String; 2]> = BTreeMap::new();
        let mut counts = [0, 0];
        for (below, line) in &written {
            let texts = known.entry(below).or_insert_with(|| {
                [&top, &before].map(|tree| fs::read_to_string(tree.join(below)).unwrap_or_default())
            });
            let found = texts.iter().position(|text| text.contains(line.as_str()));
            assert!(
                found.is_some(),
                "round {round}: {line:?} was written to {} and is nowhere: {texts:?}; {said}",
                below.display()
            );
            counts[found.unwrap()] += 1;
        }
        println!(
            "{} lines, {counts:?} in the tree and before it: {said}",
            written.len()
        );
        assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    }
    volume.unmount();
}
