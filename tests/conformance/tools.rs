//! The programs that `scripts/dev setup` installs for these tests, at the versions in `tools.txt`. Installs nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Each line a program and its version; `scripts/dev` reads the same file.
const VERSIONS: &str = include_str!("tools.txt");

/// The path of a tool. Fails when it is missing or of another version.
pub(crate) fn tool(name: &str) -> PathBuf {
    let wanted = VERSIONS
        .lines()
        .find(|line| line.split(' ').next() == Some(name))
        .unwrap_or_else(|| panic!("{name} is not in tools.txt"));
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(target)
        .join("tools/bin")
        .join(name);
    let said = Command::new(&path).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    assert!(
        said.as_ref().is_ok_and(|said| said == wanted),
        "this test needs {wanted} as {}: run `scripts/dev setup` (found: {said:?})",
        path.display()
    );
    path
}
