//! fio writes with checksums in many ways and finds its own data again: at once, after a remount, from the store.

use crate::health::{assert_healthy, bounded, full, on_disk, on_mount, require, script, volume};
use crate::support::mount::{Volume, finish};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const SIZES: [(&str, &str); 2] = [("SIZE", "8m"), ("SHARE", "4m")];
const SIZES_FULL: [(&str, &str); 2] = [("SIZE", "256m"), ("SHARE", "64m")];
const DEADLINE_S: u64 = 1_200;

/// The sections of the job file. The second word is an engine that a machine may forbid.
const SECTIONS: [(&str, Option<&str>); 10] = [
    ("buffered", None),
    ("odd-sizes", None),
    ("overwrite", None),
    ("mmap", None),
    ("direct-libaio", Some("libaio")),
    ("direct-io_uring", Some("io_uring")),
    ("buffered-io_uring", Some("io_uring")),
    ("dsync", None),
    ("several", None),
    ("one-file", None),
];

fn run(section: &str, folder: &Path, verify_only: bool) -> Output {
    let mut command = bounded(DEADLINE_S, "fio");
    command
        .arg(format!("--section={section}"))
        .args(verify_only.then_some("--verify_only"))
        .arg("--output-format=json")
        .arg(script("verify.fio"))
        .env("FOLDER", folder)
        .envs(if full() { SIZES_FULL } else { SIZES })
        .current_dir(folder);
    finish(&mut command, Duration::from_secs(DEADLINE_S + 60))
}

/// Bytes that fio read and found right.
fn verified(what: &str, output: &Output) -> u64 {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "fio, {what}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    // Notes come before the report.
    let report = &said[said
        .find('{')
        .unwrap_or_else(|| panic!("{what}: no report"))..];
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let jobs = report["jobs"].as_array().unwrap();
    jobs.iter()
        .map(|job| {
            assert_eq!(job["error"], 0, "{what}: {job}");
            job["read"]["io_bytes"].as_u64().unwrap()
        })
        .sum()
}

/// Whether the machine lets an engine do anything: asked on the local disk, where the mount cannot be the reason.
fn works_here(engine: &str, scratch: &Path) -> bool {
    let mut command: Command = bounded(60, "fio");
    command
        .args([
            "--name=probe",
            "--rw=write",
            "--size=64k",
            "--ioengine",
            engine,
        ])
        .current_dir(scratch);
    finish(&mut command, Duration::from_secs(90))
        .status
        .success()
}

fn sections(volume: &Volume) -> Vec<&'static str> {
    let scratch = on_disk(volume, "scratch");
    SECTIONS
        .iter()
        .filter(|(section, engine)| {
            let works = engine.is_none_or(|engine| works_here(engine, &scratch));
            if !works {
                println!(
                    "{section}: left out, this machine forbids its engine on the local disk too"
                );
            }
            works
        })
        .map(|(section, _)| *section)
        .collect()
}

#[test]
fn fio_finds_all_its_data_again() {
    require(&["fio"]);
    let mut volume = volume();
    let sections = sections(&volume);
    let root = on_mount(&volume, "fio");
    let mut written = Vec::new();
    for section in &sections {
        let folder = root.join(section);
        std::fs::create_dir(&folder).unwrap();
        let bytes = verified(section, &run(section, &folder, false));
        assert!(bytes > 0, "{section} verified nothing");
        println!("{section}: {} MiB", bytes >> 20);
        written.push(bytes);
    }
    let again = |how: &str| {
        for (section, bytes) in sections.iter().zip(&written) {
            let what = format!("{section} {how}");
            assert_eq!(
                verified(&what, &run(section, &root.join(section), true)),
                *bytes,
                "{what}"
            );
        }
    };
    volume.remount();
    again("after a remount");
    volume.sync_and_drop_caches();
    volume.remount();
    volume.sync_and_drop_caches();
    again("from the store");

    // A wrong byte is found, or all of the above means nothing.
    let file = root.join("one-file/shared");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_234_567).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1_234_567).unwrap();
    let damaged = run("one-file", &root.join("one-file"), true);
    assert!(
        !damaged.status.success(),
        "fio does not notice a wrong byte"
    );
    drop(file);
    assert_healthy(&mut volume);
}
