//! A web application: package installs, builds, type checks, loading modules; and a small Rust crate.

use super::{Desk, Step};
use crate::error::{At, Result, ensure};
use crate::sys;
use crate::work::tree_sum;

pub(super) const WARM: [Step; 8] = [
    Step {
        name: "bun_install",
        about: "bun install from its cache, copying files",
        needs: &[],
        run: bun_install,
    },
    Step {
        name: "find_stat",
        about: "find with a stat of every file of node_modules",
        needs: &["bun_install"],
        run: find_stat,
    },
    Step {
        name: "module_load",
        about: "node imports every dependency, second time",
        needs: &["bun_install"],
        run: module_load,
    },
    Step {
        name: "vite_build",
        about: "bundle the application",
        needs: &["bun_install"],
        run: vite_build,
    },
    Step {
        name: "tsc",
        about: "type check",
        needs: &["bun_install"],
        run: |desk| {
            Ok(desk
                .run(desk.command("node_modules/.bin/tsc", "app").arg("--noEmit"))?
                .seconds)
        },
    },
    Step {
        name: "npm_ci",
        about: "npm ci from its cache",
        needs: &[],
        run: npm_ci,
    },
    Step {
        name: "cargo_build",
        about: "build a small crate with two dependencies",
        needs: &[],
        run: cargo_build,
    },
    Step {
        name: "cargo_build_again",
        about: "find that nothing is to be built",
        needs: &["cargo_build"],
        run: cargo_build_again,
    },
];

pub(super) const COLD: [Step; 2] = [
    Step {
        name: "find_stat_cold",
        about: "find and stat with empty kernel caches",
        needs: &["find_stat"],
        run: find_stat_cold,
    },
    Step {
        name: "module_load_cold",
        about: "node imports every dependency, with empty kernel caches",
        needs: &["module_load"],
        run: module_load_cold,
    },
];

const LOADER: &str = "load_modules.mjs";

fn copied(desk: &Desk<'_>, from: &str, to: &str) -> Result<()> {
    let mut copy = desk.command("cp", "");
    copy.arg("-r").arg(desk.inputs.path(from)).arg(to);
    desk.run(&mut copy).map(drop)
}

fn count_files(desk: &Desk<'_>, folder: &str) -> Result<u64> {
    let mut find = desk.command("find", folder);
    find.args(["node_modules", "!", "-type", "d", "-printf", "x"]);
    Ok(desk.run(&mut find)?.stdout.len() as u64)
}

fn bun_install(desk: &Desk<'_>) -> Result<f64> {
    copied(desk, "app", "app")?;
    let home = desk.inputs.path("bun-home");
    let mut install = desk.command(desk.inputs.path("bin/bun"), "app");
    install
        .args(["install", "--frozen-lockfile", "--ignore-scripts"])
        .args(["--backend", "copyfile", "--cache-dir"])
        .arg(desk.inputs.path("bun-cache"))
        .env("HOME", &home)
        .env("BUN_INSTALL", &home);
    let done = desk.run(&mut install)?;
    let (files, wanted) = (count_files(desk, "app")?, desk.inputs.app.bun_files);
    ensure(files == wanted, || {
        format!("{files} files were installed, not {wanted}")
    })?;
    Ok(done.seconds)
}

fn npm_ci(desk: &Desk<'_>) -> Result<f64> {
    copied(desk, "app", "npm-app")?;
    let mut install = desk.command("npm", "npm-app");
    install
        .args(["ci", "--offline", "--ignore-scripts", "--no-audit"])
        .args(["--no-fund", "--cache"])
        .arg(desk.inputs.path("npm-cache"));
    let done = desk.run(&mut install)?;
    let (files, wanted) = (count_files(desk, "npm-app")?, desk.inputs.app.npm_files);
    ensure(files == wanted, || {
        format!("{files} files were installed, not {wanted}")
    })?;
    Ok(done.seconds)
}

fn find_stat(desk: &Desk<'_>) -> Result<f64> {
    let mut find = desk.command("find", "app");
    find.args(["node_modules", "!", "-type", "d", "-printf", "%s\\n"]);
    let done = desk.run(&mut find)?;
    let (files, wanted) = (
        done.stdout.lines().count() as u64,
        desk.inputs.app.bun_files,
    );
    ensure(files == wanted, || {
        format!("find sees {files} files, not {wanted}")
    })?;
    Ok(done.seconds)
}

fn find_stat_cold(desk: &Desk<'_>) -> Result<f64> {
    sys::drop_caches()?;
    desk.run(desk.command("find", "").arg("--version"))?;
    find_stat(desk)
}

fn module_load(desk: &Desk<'_>) -> Result<f64> {
    let to = desk.at("app").join(LOADER);
    std::fs::copy(desk.places.coding(LOADER), &to).at(&to)?;
    load_modules(desk)?;
    load_modules(desk)
}

/// The script fails when a module is missing or broken.
fn load_modules(desk: &Desk<'_>) -> Result<f64> {
    Ok(desk.run(desk.command("node", "app").arg(LOADER))?.seconds)
}

fn module_load_cold(desk: &Desk<'_>) -> Result<f64> {
    sys::drop_caches()?;
    // node itself is on the local disk: warm.
    desk.run(desk.command("node", "").args(["-e", "import('node:fs')"]))?;
    load_modules(desk)
}

fn vite_build(desk: &Desk<'_>) -> Result<f64> {
    let mut build = desk.command("node_modules/.bin/vite", "app");
    let done = desk.run(build.arg("build"))?;
    let sum = tree_sum(&desk.at("app/dist"), None)?;
    ensure(sum == desk.inputs.dist_sum, || {
        format!("the bundle is {sum}, not {}", desk.inputs.dist_sum)
    })?;
    Ok(done.seconds)
}

/// Builds; what it prints says of every crate whether it was fresh.
fn cargo(desk: &Desk<'_>) -> Result<crate::process::Done> {
    let mut build = desk.command("cargo", "crate");
    build
        .args(["build", "--offline", "--locked", "--message-format=json"])
        .env("CARGO_TARGET_DIR", desk.at("crate/target"));
    desk.run(&mut build)
}

fn cargo_build(desk: &Desk<'_>) -> Result<f64> {
    copied(desk, "crate", "crate")?;
    let done = cargo(desk)?;
    let built = desk.at("crate/target/debug/coding-day-crate");
    let said = desk.run(&mut desk.command(built, "crate"))?.stdout;
    ensure(said.trim() == desk.inputs.says, || {
        format!("the built program says {said:?}")
    })?;
    Ok(done.seconds)
}

fn cargo_build_again(desk: &Desk<'_>) -> Result<f64> {
    let done = cargo(desk)?;
    let is_fresh =
        done.stdout.contains("\"fresh\":true") && !done.stdout.contains("\"fresh\":false");
    ensure(is_fresh, || "cargo built again what was fresh".into())?;
    Ok(done.seconds)
}
