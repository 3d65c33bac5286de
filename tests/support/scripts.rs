//! The scripts beside the tests: inputs of the coding workload, tree checksums, Python helpers.

#![allow(dead_code, reason = "every test program uses its own part of this")]

use crate::support::mount::finish;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const INPUTS_DEADLINE: Duration = Duration::from_secs(1_800);
const TREESUM_DEADLINE: Duration = Duration::from_secs(600);

/// A file of the repository.
pub(crate) fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command that must succeed; its output is shown when it does not.
pub(crate) fn succeed(command: &mut Command, deadline: Duration) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = finish(command, deadline);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(
        status.success(),
        "{command:?} failed ({status}):\n{stdout}\n{stderr}"
    );
    stdout.into_owned()
}

/// The inputs of a size, made if they are not there yet.
pub(crate) fn inputs(size: &str) -> PathBuf {
    let mut command = Command::new("python3");
    command
        .arg(in_repository("benches/coding/make_inputs.py"))
        .args(["--size", size]);
    PathBuf::from(succeed(&mut command, INPUTS_DEADLINE).trim())
}

/// The same with only these of its stages, also such as are made only when asked for.
pub(crate) fn inputs_with(size: &str, stages: &[&str]) -> PathBuf {
    let mut command = Command::new("python3");
    command
        .arg(in_repository("benches/coding/make_inputs.py"))
        .args(["--size", size])
        .args(stages.iter().flat_map(|stage| ["--only", stage]));
    PathBuf::from(succeed(&mut command, INPUTS_DEADLINE).trim())
}

/// Checksum of a whole tree; the listing behind it goes to `listing`.
pub(crate) fn treesum(root: &Path, listing: &Path) -> String {
    let mut command = Command::new("python3");
    command
        .arg(in_repository("tests/support/treesum.py"))
        .arg("--list")
        .arg(listing)
        .arg(root);
    succeed(&mut command, TREESUM_DEADLINE).trim().to_owned()
}

/// The same without times, owners and link counts: what is the same wherever it lies.
pub(crate) fn portable_treesum(root: &Path, listing: &Path) -> String {
    let mut command = Command::new("python3");
    command
        .arg(in_repository("tests/support/treesum.py"))
        .args(["--portable", "--list"])
        .arg(listing)
        .arg(root);
    succeed(&mut command, TREESUM_DEADLINE).trim().to_owned()
}

/// The first lines in which two listings differ.
pub(crate) fn difference(before: &Path, after: &Path) -> String {
    let output = finish(
        Command::new("diff").arg(before).arg(after),
        Duration::from_secs(60),
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .take(20)
        .collect::<Vec<_>>()
        .join("\n")
}
