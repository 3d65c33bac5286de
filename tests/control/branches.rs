//! Branches of real mounts. `WELDRFS_BRANCH_FILES` says how many files the large one has (2,000; 27,000 are those of an
//! install).

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::sidecar::Sidecar;
use crate::support::{Answer, require_fuse, until};

const UNMOUNT: &str = r#"{"name":"project"}"#;

/// Makes a branch of the mount `project`.
#[track_caller]
fn branch(sidecar: &Sidecar, path: &str, name: &str) -> Value {
    let body = json!({"mount": "project", "path": path, "name": name}).to_string();
    sidecar.ask("POST", "/branches", &body).success()
}

fn listed(sidecar: &Sidecar) -> Vec<String> {
    let list = sidecar.ask("GET", "/branches", "").success();
    let branches = list["branches"].as_array().unwrap().iter();
    branches
        .map(|b| {
            format!(
                "{} {}",
                b["id"].as_str().unwrap(),
                b["state"].as_str().unwrap()
            )
        })
        .collect()
}

fn removed(sidecar: &Sidecar, id: &str) {
    let path = format!("/branches/{id}");
    sidecar.ask("DELETE", &path, "").success();
    until("it is gone", || sidecar.ask("GET", &path, "").status == 404);
}

fn shell(dir: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    Answer::of(command.output().unwrap()).success().stdout
}

#[test]
fn a_branch_is_worked_on_apart_and_is_there_on_another_machine() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    let mount = sidecar.place.path("ws/project");
    std::fs::create_dir_all(mount.join("app/src")).unwrap();
    std::fs::write(mount.join("app/src/a"), "one").unwrap();
    let made = branch(&sidecar, "app", "fix");
    let folder = mount.join(".weldr/branches/fix");
    assert_eq!(made["folder"], folder.to_str().unwrap());
    std::fs::write(folder.join("src/a"), "in the branch").unwrap();
    std::fs::write(mount.join("app/src/b"), "in the project").unwrap();
    assert_eq!(
        std::fs::read_to_string(mount.join("app/src/a")).unwrap(),
        "one"
    );
    assert!(!folder.join("src/b").exists());
    // The same request is the same branch, with what was done in it.
    assert_eq!(branch(&sidecar, "app", "fix")["is_new"], false);
    let text = std::fs::read_to_string(folder.join("src/a")).unwrap();
    assert_eq!(text, "in the branch");
    // One of a branch, and one of a snapshot.
    branch(&sidecar, ".weldr/branches/fix", "fix-2");
    sidecar
        .ask("POST", "/mounts/project/snapshots", r#"{"name":"s"}"#)
        .success();
    std::fs::remove_file(mount.join("app/src/a")).unwrap();
    branch(&sidecar, ".snapshots/s/app", "then");
    let text = std::fs::read_to_string(mount.join(".weldr/branches/then/src/a")).unwrap();
    assert_eq!(text, "one");
    for (path, name) in [
        (".weldr", "x"),
        (".weldr/branches", "x"),
        ("app/src/b", "x"),
        ("none", "x"),
    ] {
        let body = json!({"mount": "project", "path": path, "name": name}).to_string();
        let answer = sidecar.ask("POST", "/branches", &body);
        answer.refused(400, "invalid_request");
    }
    sidecar
        .ask("POST", "/branches/project:fix/sync", "")
        .success();
    sidecar.ask("POST", "/mounts/unmount", UNMOUNT).success();
    assert_eq!(listed(&sidecar), [""; 0]);

    // Another machine, which has nothing but the store.
    let other = Sidecar::start();
    let body = json!({"source": sidecar.source("project")}).to_string();
    other.ask("POST", "/mounts", &body).success();
    assert_eq!(
        listed(&other),
        [
            "project:fix ready",
            "project:fix-2 ready",
            "project:then ready"
        ]
    );
    let folder = other.place.path("ws/project/.weldr/branches/fix-2/src/a");
    assert_eq!(std::fs::read_to_string(folder).unwrap(), "in the branch");
    let found = other.ask("GET", "/branches/project:fix", "").success();
    assert_eq!(found["project"], json!(null));
    other.ask("POST", "/mounts/unmount", UNMOUNT).success();
}

#[test]
fn a_branch_of_all_of_a_mount_has_no_branches_in_it_and_git_sees_none() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    let mount = sidecar.place.path("ws/project");
    std::fs::create_dir_all(mount.join(".weldr/workflows")).unwrap();
    std::fs::write(mount.join(".weldr/workflows/w.yaml"), "kept").unwrap();
    let git = "git init -q; git add -A; git -c user.name=n -c user.email=e commit -q -m one";
    shell(&mount, git);
    for name in ["one", "two"] {
        branch(&sidecar, "", name);
        let folder = mount.join(".weldr/branches").join(name);
        assert!(folder.join(".weldr/workflows/w.yaml").exists());
        assert!(!folder.join(".weldr/branches").exists());
        assert_eq!(shell(&folder, "git status --porcelain"), "");
    }
    assert_eq!(shell(&mount, "git status --porcelain"), "");
    shell(
        &mount.join(".weldr/branches/one"),
        "git checkout -q -b work; echo x > x",
    );
    assert_eq!(
        shell(&mount, "git status --porcelain; git branch --show-current")
            .lines()
            .count(),
        1
    );
    for id in ["project:one", "project:two"] {
        removed(&sidecar, id);
    }
    until("it is unmounted", || {
        sidecar.ask("POST", "/mounts/unmount", UNMOUNT).status == 200
    });
}

#[test]
fn a_large_project_is_branched_whole_and_removed_behind_the_answer() {
    require_fuse();
    let files = std::env::var("WELDRFS_BRANCH_FILES").map_or(2_000, |text| text.parse().unwrap());
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    let mount = sidecar.place.path("ws/project");
    for n in 0..files {
        let dir = mount.join(format!("app/node_modules/m{}", n / 30));
        if n % 30 == 0 {
            std::fs::create_dir_all(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("f{n}.js")), format!("exports.n = {n};")).unwrap();
    }
    let began = Instant::now();
    branch(&sidecar, "app", "big");
    println!("{files} files branched in {:?}", began.elapsed());
    let count = shell(&mount, "find .weldr/branches/big -type f | wc -l");
    assert_eq!(count.trim(), files.to_string());
    let last = format!(
        ".weldr/branches/big/node_modules/m{}/f{}.js",
        (files - 1) / 30,
        files - 1
    );
    let text = std::fs::read_to_string(mount.join(last)).unwrap();
    assert_eq!(text, format!("exports.n = {};", files - 1));
    let began = Instant::now();
    let removing = sidecar.ask("DELETE", "/branches/project:big", "").success();
    println!("{} after {:?}", removing["state"], began.elapsed());
    until("it is gone", || listed(&sidecar).is_empty());
    println!("gone after {:?}", began.elapsed());
    assert!(!mount.join(".weldr/branches/big").exists());
    let events = sidecar.events("project");
    assert!(events.contains(&"branch.removed".to_owned()), "{events:?}");
    until("it is unmounted", || {
        sidecar.ask("POST", "/mounts/unmount", UNMOUNT).status == 200
    });
}

#[test]
fn a_branch_that_a_program_works_in_is_not_removed() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    branch(&sidecar, "", "busy");
    let folder = sidecar.place.path("ws/project/.weldr/branches/busy");
    let mut working = Command::new("sleep")
        .arg("600")
        .current_dir(&folder)
        .spawn()
        .unwrap();
    let message = sidecar
        .ask("DELETE", "/branches/project:busy", "")
        .refused(409, "in_use");
    working.kill().unwrap();
    working.wait().unwrap();
    assert!(
        message.contains(&format!("sleep (process {})", working.id())),
        "{message}"
    );
    assert_eq!(listed(&sidecar), ["project:busy ready"]);
    removed(&sidecar, "project:busy");
    // What a program does beside the sidecar is seen.
    branch(&sidecar, "", "gone");
    let folder = sidecar.place.path("ws/project/.weldr/branches");
    std::fs::remove_dir_all(folder.join("gone")).unwrap();
    std::fs::create_dir(folder.join("by-hand")).unwrap();
    assert_eq!(listed(&sidecar), ["project:by-hand ready"]);
    until("it is unmounted", || {
        sidecar.ask("POST", "/mounts/unmount", UNMOUNT).status == 200
    });
}

/// Whoever works on a mount may put anything anywhere.
#[test]
fn nothing_outside_of_the_mount_is_removed_or_made() {
    require_fuse();
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    let mount = sidecar.place.path("ws/project");
    let outside = sidecar.place.path("outside");
    std::fs::create_dir_all(outside.join("branches/victim/deep")).unwrap();
    std::fs::write(outside.join("branches/victim/deep/file"), "stays").unwrap();
    branch(&sidecar, "", "victim");
    std::fs::rename(mount.join(".weldr"), mount.join("moved")).unwrap();
    symlink(&outside, mount.join(".weldr")).unwrap();
    let answer = sidecar.ask("DELETE", "/branches/project:victim", "");
    assert_ne!(answer.json()["state"], "removed", "{answer:?}");
    let body = r#"{"mount":"project","path":"moved","name":"victim-2"}"#;
    sidecar
        .ask("POST", "/branches", body)
        .refused(400, "invalid_request");
    assert_eq!(
        std::fs::read_to_string(outside.join("branches/victim/deep/file")).unwrap(),
        "stays"
    );
    let entries = std::fs::read_dir(outside.join("branches")).unwrap().count();
    assert_eq!(entries, 1);
    // A link in the place of a branch is none.
    std::fs::remove_file(mount.join(".weldr")).unwrap();
    std::fs::rename(mount.join("moved"), mount.join(".weldr")).unwrap();
    until("what was begun is ended", || listed(&sidecar).is_empty());
    symlink(
        outside.join("branches/victim"),
        mount.join(".weldr/branches/link"),
    )
    .unwrap();
    assert_eq!(listed(&sidecar), [""; 0]);
    let body = r#"{"mount":"project","name":"link"}"#;
    sidecar
        .ask("POST", "/branches", body)
        .refused(400, "invalid_request");
    sidecar
        .ask("DELETE", "/branches/project:link", "")
        .refused(404, "not_found");
    assert!(outside.join("branches/victim/deep/file").exists());
    until("it is unmounted", || {
        sidecar.ask("POST", "/mounts/unmount", UNMOUNT).status == 200
    });
}
