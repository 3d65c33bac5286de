//! A project on a mount, what an agent does to it, and how to tell whether it is as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::mount::{PROGRAM, Volume, finish};

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Path to everything that counts of it.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>;

/// Mode, time of change and content of everything below `top`.
pub(crate) fn tree(top: &Path) -> Tree {
    let mut found = Tree::new();
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let data = if stat.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else if stat.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            let below = path.strip_prefix(top).unwrap().to_owned();
            // A directory's time changes when something in it is restored as another inode.
            let time = if stat.is_dir() {
                (0, 0)
            } else {
                (stat.mtime(), stat.mtime_nsec())
            };
            found.insert(below, (stat.mode(), time.0, time.1, data));
        }
    }
    found
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = finish(command, DEADLINE);
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub(crate) fn shell(dir: &Path, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(dir));
}

/// Runs `weldrfs snapshot` on a path of the mount and returns what it says.
pub(crate) fn snapshot(volume: &Volume, verb: &str, path: &Path, more: &[&str]) -> String {
    let path = path.to_string_lossy();
    let mut arguments = vec!["snapshot", verb, &path];
    arguments.extend(more);
    String::from_utf8(volume.command(&arguments).stdout).unwrap()
}

/// The same where it may fail.
pub(crate) fn attempt(volume: &Volume, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env("WELDR_ENV_VOL", volume.beside("state"))
        .env("WELDRFS_RUN_DIR", volume.beside("run"));
    let output = finish(&mut command, DEADLINE);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said)
}

/// A git repository with 2,000 files, committed.
pub(crate) fn project(volume: &Volume) -> PathBuf {
    let project = volume.root().join("project");
    for dir in 0..20 {
        let dir = project.join(format!("src/d{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..100 {
            let path = dir.join(format!("f{file}.ts"));
            fs::write(
                &path,
                format!("export const n = {file};\n").repeat(file + 1),
            )
            .unwrap();
        }
    }
    fs::set_permissions(
        project.join("src/d1/f1.ts"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    symlink("src/d0", project.join("link")).unwrap();
    fs::hard_link(
        project.join("src/d0/f0.ts"),
        project.join("src/d1/linked.ts"),
    )
    .unwrap();
    git(
        &project,
        "git init -q . && git add -A && git commit -qm first",
    );
    project
}

pub(crate) fn git(project: &Path, script: &str) {
    run(Command::new("sh")
        .args(["-euc", script])
        .current_dir(project)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.org")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.org"));
}

/// A turn that went wrong, and with all of it in the kernel's memory.
pub(crate) fn agents_turn(project: &Path) {
    git(
        project,
        "echo broken >> src/d2/f3.ts; sed -i s/const/let/ src/d3/*.ts; rm -r src/d4
         mkdir -p build/deep; for n in $(seq 200); do echo $n > build/deep/$n; done
         mv src/d5 src/moved; chmod 600 src/d6/f1.ts; ln -sfn /nowhere link; rm src/d7/f1.ts; mkdir src/d7/f1.ts
         git add -A src/d3; git commit -qm wrong; git reset -q --hard HEAD~1 -- 2>/dev/null || git reset -q --hard HEAD~1
         echo again >> src/d2/f3.ts; rm -rf src/d4 src/d5; find . > /dev/null; ls -lR . > /dev/null
         test ! -e src/d4/f1.ts; test ! -e src/d5",
    );
}
