//! fio writes with checksums in many ways and finds its own data again: at once, after a remount, from the store.

use crate::health::{assert_healthy, bounded, full, guest, on_mount, require, script, volume};
use crate::support::mount::finish;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const SIZES: [(&str, &str); 2] = [("SIZE", "8m"), ("SHARE", "4m")];
const SIZES_FULL: [(&str, &str); 2] = [("SIZE", "256m"), ("SHARE", "64m")];
const DEADLINE_S: u64 = 1_200;

/// The sections of the job file, and whether they need io_uring, which a machine may forbid.
const SECTIONS: [(&str, bool); 10] = [
    ("buffered", false),
    ("odd-sizes", false),
    ("overwrite", false),
    ("mmap", false),
    ("direct-libaio", false),
    ("direct-io_uring", true),
    ("buffered-io_uring", true),
    ("dsync", false),
    ("several", false),
    ("one-file", false),
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

/// Whether the machine forbids io_uring: the kernel was built without it, or its settings or a container's filter say no.
fn io_uring_is_forbidden() -> bool {
    let nowhere = std::ptr::null_mut::<u8>();
    // SAFETY: the kernel gets no memory to write to: without parameters the call fails whatever it is allowed.
    let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, nowhere) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!(made, -1, "a ring was made of nothing");
    matches!(errno, Some(libc::EPERM | libc::ENOSYS))
}

fn sections() -> Vec<&'static str> {
    let forbidden = io_uring_is_forbidden();
    let can_run = |(section, needs_io_uring): &(&'static str, bool)| {
        let left_out = forbidden && *needs_io_uring;
        if left_out {
            println!("{section}: left out, this machine forbids io_uring");
        }
        (!left_out).then_some(*section)
    };
    SECTIONS.iter().filter_map(can_run).collect()
}

#[test]
fn fio_finds_all_its_data_again() {
    require(&["fio"]);
    let _guest = guest();
    let mut volume = volume();
    let sections = sections();
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
