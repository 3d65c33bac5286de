//! Integrations from outside: on real mounts, in real sandboxes, with a real PostgreSQL and the real Better Auth library;
//! the sidecar killed in the middle of an install.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::exec::{exec, require_runtime};
use crate::previews::{id, port, ready, stop};
use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Settings};
use crate::sidecar::{Response, Sidecar};
use crate::support::{PATIENCE, until};
use crate::workflow_events::told_of;
use crate::workflows::{TURN, git, over, post, show, sidecar, step};

const OWN: &str = ".weldr/integrations";

fn project(sidecar: &Sidecar) -> PathBuf {
    sidecar.place.path("ws/project")
}

fn write(sidecar: &Sidecar, path: &str, text: &str) {
    let path = project(sidecar).join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn text(sidecar: &Sidecar, path: &str) -> String {
    std::fs::read_to_string(project(sidecar).join(path)).unwrap_or_default()
}

/// Puts an integration of the project's own there.
fn own(sidecar: &Sidecar, name: &str, rest: &str) {
    let text = format!("name: {name}\nversion: 1.0.0\n{rest}");
    write(sidecar, &format!("{OWN}/{name}/manifest.yaml"), &text);
}

fn ask(sidecar: &Sidecar, integrations: &Value) -> Response {
    let body = json!({"mount": "project", "integrations": integrations});
    post(sidecar, "/install-integrations", &body)
}

/// Installs, and waits for the end of the run.
#[track_caller]
fn install(sidecar: &Sidecar, integrations: &Value) -> Value {
    let begun = ask(sidecar, integrations).success();
    over(sidecar, begun["run"].as_str().unwrap())
}

#[track_caller]
fn installed(sidecar: &Sidecar, integrations: &Value) -> Value {
    let done = install(sidecar, integrations);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    done
}

fn runs(sidecar: &Sidecar) -> usize {
    let list = sidecar.ask("GET", "/workflows", "").success();
    list["runs"].as_array().unwrap().len()
}

/// Everything in a folder: its kind, mode, owner and content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let content = match stat.file_type() {
                kind if kind.is_dir() => {
                    left.push(path.clone());
                    Vec::new()
                }
                kind if kind.is_file() => std::fs::read(&path).unwrap(),
                _ => std::fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
            };
            all.insert(path, (stat.mode(), stat.uid(), content));
        }
    }
    all
}

fn commit(sidecar: &Sidecar) {
    let project = project(sidecar);
    git(&project, &["init", "-q"]);
    git(&project, &["add", "-A"]);
    git(&project, &["commit", "-q", "-m", "first"]);
}

fn status(sidecar: &Sidecar) -> String {
    git(&project(sidecar), &["status", "--short"])
}

#[test]
fn several_of_the_projects_own_are_one_run_and_what_somebody_changed_is_listed() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    own(
        sidecar,
        "top",
        "requires: [base]\nsteps:\n  - {name: uses, run: 'cat conf/base.txt >seen'}\n",
    );
    own(
        sidecar,
        "base",
        "description: what others need\ninputs: {port: {type: number, default: 1}}\nenv: {BASE_PORT: '${{ inputs.port }}'}\n\
         files:\n  - {path: conf/base.txt, from: base.txt}\n  - {path: bin/go, text: \"#!/bin/sh\\n\", executable: true}\n",
    );
    write(
        sidecar,
        &format!("{OWN}/base/base.txt"),
        "port ${{ inputs.port }}\n",
    );
    write(sidecar, ".env", "MINE=1\n");
    let listed = sidecar
        .run(&["integrations", "ls", "project"])
        .success()
        .stdout;
    assert!(listed.contains("what others need"), "{listed}");
    assert!(listed.contains("postgresql"), "{listed}");

    let missing = ask(sidecar, &json!([{"name": "top"}])).refused(400, "invalid_request");
    assert!(missing.contains("top requires base"), "{missing}");
    ask(sidecar, &json!([{"name": "none"}])).refused(404, "not_found");
    let unknown = json!([{"name": "base", "inputs": {"prot": 1}}]);
    let unknown = ask(sidecar, &unknown).refused(400, "invalid_request");
    assert!(
        unknown.contains("base") && unknown.contains("\"prot\""),
        "{unknown}"
    );
    assert_eq!(runs(sidecar), 0);

    let followed = sidecar.run(&[
        "integrations",
        "install",
        "project",
        "top",
        "base",
        "-i",
        "base.port=7",
        "--follow",
    ]);
    let followed = followed.success().stdout;
    assert!(
        followed.contains("install:base,top is succeeded"),
        "{followed}"
    );
    assert_eq!(text(sidecar, "seen"), "port 7\n");
    assert_eq!(text(sidecar, ".env"), "MINE=1\nBASE_PORT=7\n");
    let mode = std::fs::metadata(project(sidecar).join("bin/go"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    let shown = sidecar
        .ask("GET", "/integrations/base?mount=project", "")
        .success();
    assert_eq!(
        (&shown["installed"], &shown["changed"], &shown["source"]),
        (&json!("1.0.0"), &json!([]), &json!("project"))
    );

    // The same again changes nothing; with other inputs, what we wrote is replaced.
    let before = tree(&project(sidecar));
    installed(sidecar, &json!([{"name": "base", "inputs": {"port": 7}}]));
    assert!(
        tree(&project(sidecar)) == before,
        "installing again changed something"
    );
    installed(sidecar, &json!([{"name": "base", "inputs": {"port": 8}}]));
    assert_eq!(text(sidecar, "conf/base.txt"), "port 8\n");
    assert_eq!(text(sidecar, ".env"), "MINE=1\nBASE_PORT=8\n");

    write(sidecar, "conf/base.txt", "mine\n");
    write(sidecar, ".env", "BASE_PORT=9\n");
    let (count, before) = (runs(sidecar), tree(&project(sidecar)));
    for asked in [
        json!([{"name": "base"}]),
        json!([{"name": "top"}, {"name": "base"}]),
    ] {
        let refused = ask(sidecar, &asked).refused(409, "files_changed");
        assert!(
            refused.contains("conf/base.txt, BASE_PORT of .env"),
            "{refused}"
        );
    }
    let shown = sidecar.run_json(&["integrations", "show", "base", "project", "--json"]);
    assert_eq!(
        shown["changed"],
        json!(["conf/base.txt", "BASE_PORT of .env"])
    );
    assert_eq!(runs(sidecar), count, "nothing has begun");
    assert!(tree(&project(sidecar)) == before);
}

#[test]
fn an_install_whose_last_step_fails_or_that_is_cancelled_leaves_the_tree_as_it_was() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    own(
        sidecar,
        "good",
        "files: [{path: new/file, text: x}]\nenv: {A: 1}\nsteps:\n  - {name: makes, run: 'echo y >made; mkdir deep; rm gone; echo z >>kept'}\n",
    );
    own(
        sidecar,
        "bad",
        "requires: [good]\nsteps:\n  - {name: fails, run: 'exit 3'}\n",
    );
    own(
        sidecar,
        "slow",
        "requires: [good]\nsteps:\n  - {name: waits, run: 'echo here >waits; sleep 600'}\n",
    );
    write(sidecar, "gone", "g\n");
    write(sidecar, "kept", "k\n");
    write(sidecar, ".gitignore", "made\n");
    commit(sidecar);
    let before = tree(&project(sidecar));

    let done = install(sidecar, &json!([{"name": "bad"}, {"name": "good"}]));
    assert_eq!(done["state"], "reverted", "{done:#}");
    assert_eq!(done["error"]["code"], "exit_status");
    assert!(
        done["error"]["message"]
            .as_str()
            .unwrap()
            .contains("bad_fails"),
        "{done:#}"
    );
    assert_eq!(step(&done, "good_makes")["state"], "succeeded");
    assert_eq!(done["reverts"][0]["done"], true);
    assert!(
        tree(&project(sidecar)) == before,
        "the tree is not what it was"
    );
    assert_eq!(status(sidecar), "");
    // Git has written down that it looked.
    let before = tree(&project(sidecar));

    let begun = ask(sidecar, &json!([{"name": "slow"}, {"name": "good"}])).success();
    let run = begun["run"].as_str().unwrap();
    until("it waits", || project(sidecar).join("waits").exists());
    post(sidecar, &format!("/workflows/{run}/cancel"), &json!({})).success();
    let done = over(sidecar, run);
    assert_eq!(
        (&done["state"], &done["error"]["code"]),
        (&json!("reverted"), &json!("cancelled"))
    );
    assert!(
        tree(&project(sidecar)) == before,
        "the tree is not what it was"
    );

    // What somebody writes after it was asked for is not overwritten either.
    own(
        sidecar,
        "first",
        "steps:\n  - {name: waits, run: 'echo >waits; while [ ! -e go ]; do sleep 0.1; done; rm waits go'}\n",
    );
    own(sidecar, "late", "files: [{path: late/file, text: x}]\n");
    let first = ask(sidecar, &json!([{"name": "first"}])).success();
    let late = ask(sidecar, &json!([{"name": "late"}])).success();
    until("it waits", || project(sidecar).join("waits").exists());
    write(sidecar, "late/file", "mine\n");
    write(sidecar, "go", "");
    let first = over(sidecar, first["run"].as_str().unwrap());
    assert_eq!(first["state"], "succeeded", "{first:#}");
    let late = over(sidecar, late["run"].as_str().unwrap());
    assert_eq!(
        (&late["state"], &late["error"]["code"]),
        (&json!("reverted"), &json!("files_changed")),
        "{late:#}"
    );
    assert_eq!(text(sidecar, "late/file"), "mine\n");
    std::fs::remove_dir_all(project(sidecar).join("late")).unwrap();
    git(&project(sidecar), &["add", "-A"]);
    git(&project(sidecar), &["commit", "-q", "-m", "second"]);

    // It is alone in the project: a run that begins meanwhile waits for its end.
    let begun = ask(sidecar, &json!([{"name": "slow"}, {"name": "good"}])).success();
    let run = begun["run"].as_str().unwrap();
    until("it waits", || project(sidecar).join("waits").exists());
    let other =
        json!({"mount": "project", "workflow": {"steps": [{"name": "a", "run": "echo o >other"}]}});
    let other = post(sidecar, "/trigger", &other).success();
    let other = other["run"].as_str().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(show(sidecar, other)["state"], "queued");
    assert!(!project(sidecar).join("other").exists());
    post(sidecar, &format!("/workflows/{run}/cancel"), &json!({})).success();
    assert_eq!(over(sidecar, run)["state"], "reverted");
    assert_eq!(over(sidecar, other)["state"], "succeeded");
    assert_eq!(text(sidecar, "other"), "o\n");
    assert_eq!(status(sidecar), "?? other\n");
}

/// A database that somebody started meanwhile ends some time, and the project is put back then.
#[test]
fn an_install_that_fails_while_a_database_runs_is_undone_when_that_has_ended() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    own(
        sidecar,
        "it",
        "steps:\n  - {name: s, run: 'echo y >made; while ! [ -e go ]; do sleep 0.1; done; exit 3'}\n",
    );
    write(sidecar, ".weldr/postgres/lock", "");
    commit(sidecar);
    let before = tree(&project(sidecar));
    let begun = ask(sidecar, &json!([{"name": "it"}])).success();
    let run = begun["run"].as_str().unwrap();
    until("it is in its step", || {
        project(sidecar).join("made").exists()
    });
    let database = std::fs::File::open(project(sidecar).join(".weldr/postgres/lock")).unwrap();
    database.lock().unwrap();
    write(sidecar, "go", "");
    until("it is in the way", || {
        sidecar.log().contains("a project is not put back yet")
    });
    assert!(project(sidecar).join("made").exists());
    database.unlock().unwrap();
    let done = over(sidecar, run);
    assert_eq!(done["state"], "reverted", "{done:#}");
    assert!(
        tree(&project(sidecar)) == before,
        "the tree is not what it was"
    );
}

#[test]
fn a_sidecar_killed_in_the_middle_of_an_install_is_followed_by_one_that_ends_or_undoes_it() {
    require_runtime();
    for (point, fails) in [
        ("triggered", false),
        ("first-snapshot", false),
        ("attempt.after:1", false),
        ("outcome.after:1", false),
        ("started", false),
        ("settled.after:2", false),
        ("finish.before", false),
        ("attempt.after:1", true),
        ("started", true),
        ("finish.before", true),
        ("revert.begun", true),
        ("revert.kept", true),
        ("revert.restored", true),
        ("revert.after", true),
    ] {
        let turn = TURN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut sidecar = Sidecar::start_with(&[], &[("WELDRFS_FAILPOINT", point)]);
        sidecar.mount("project");
        let end = if fails { "exit 3" } else { "true" };
        own(
            &sidecar,
            "it",
            &format!(
                "files: [{{path: new/file, text: x}}]\nenv: {{A: 1}}\nsteps:\n  - {{name: s, run: 'echo y >>made; {end}'}}\n"
            ),
        );
        commit(&sidecar);
        let before = tree(&project(&sidecar));
        let body = json!({"mount": "project", "integrations": [{"name": "it"}]}).to_string();
        // Its answer may be lost with the sidecar.
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            sidecar.ask("POST", "/install-integrations", &body)
        }));
        drop(asked);
        sidecar.wait_for_death();
        sidecar.forget_variables();
        sidecar.start_again();
        let list = sidecar.ask("GET", "/workflows", "").success();
        assert_eq!(list["runs"].as_array().unwrap().len(), 1, "{point}: {list}");
        let done = over(&sidecar, list["runs"][0]["run"].as_str().unwrap());
        if fails {
            assert_eq!(done["state"], "reverted", "{point}: {done:#}");
            assert!(
                tree(&project(&sidecar)) == before,
                "{point}: the tree is not what it was"
            );
        } else {
            assert_eq!(done["state"], "succeeded", "{point}: {done:#}");
            assert_eq!(text(&sidecar, "made"), "y\n", "{point}");
            assert_eq!(
                (&*text(&sidecar, "new/file"), &*text(&sidecar, ".env")),
                ("x", "A=1\n")
            );
            assert!(
                text(&sidecar, ".weldr/integrations.json").contains("\"it\""),
                "{point}"
            );
        }
        drop(sidecar);
        drop(turn);
    }
}

#[test]
fn a_sidecar_killed_after_an_install_was_cancelled_is_followed_by_one_that_undoes_it() {
    require_runtime();
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut sidecar = Sidecar::start_with(&[], &[("WELDRFS_FAILPOINT", "cancel.after")]);
    sidecar.mount("project");
    own(
        &sidecar,
        "it",
        "files: [{path: new/file, text: x}]\nsteps:\n  - {name: s, run: 'echo y >made; sleep 600'}\n",
    );
    let before = tree(&project(&sidecar));
    let begun = ask(&sidecar, &json!([{"name": "it"}])).success();
    let run = begun["run"].as_str().unwrap();
    until("it is in its step", || {
        project(&sidecar).join("made").exists()
    });
    let path = format!("/workflows/{run}/cancel");
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        post(&sidecar, &path, &json!({}))
    }));
    drop(asked);
    sidecar.wait_for_death();
    sidecar.forget_variables();
    sidecar.start_again();
    let done = over(&sidecar, run);
    assert_eq!(done["state"], "reverted", "{done:#}");
    assert!(
        tree(&project(&sidecar)) == before,
        "the tree is not what it was"
    );
}

#[test]
fn secrets_reach_the_steps_that_name_them_and_nothing_that_is_kept() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    own(
        sidecar,
        "it",
        "secrets: {IT_KEY: {description: for it}}\nsteps:\n  - {name: s, run: 'echo \"key $IT_KEY\"; test ${#IT_KEY} = 12', secrets: [IT_KEY]}\n",
    );
    let refused = ask(sidecar, &json!([{"name": "it"}])).refused(400, "invalid_request");
    assert!(refused.contains("IT_KEY"), "{refused}");
    sidecar.keep_secret("IT_KEY", "canary-of-it");
    let body = json!({"mount": "project", "integrations": [{"name": "it"}]}).to_string();
    let keyed = || {
        let headers = [("idempotency-key", "install-once")];
        let asked = sidecar.ask_with("POST", "/install-integrations", &headers, &body);
        asked.success()["run"].as_str().unwrap().to_owned()
    };
    let run = keyed();
    let done = over(sidecar, &run);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    assert_eq!(step(&done, "it_s")["log"], "key ***\n");
    assert_eq!(keyed(), run);
    assert_eq!(runs(sidecar), 1);
    let told = told_of(&sidecar.socket(), &run);
    let kept = format!("{done}{told:?}{}", sidecar.log());
    assert!(!kept.contains("canary-of-it"));
    for (path, (_, _, content)) in tree(&project(sidecar)) {
        let holds = content.windows(12).any(|part| part == b"canary-of-it");
        assert!(!holds, "{}", path.display());
    }
}

/// Each project has its own one, so that what the machine has does not matter.
#[test]
fn packages_are_installed_by_the_package_manager_of_the_project() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    own(sidecar, "it", "packages: {is-odd: 3.0.1}\n");
    let manifest = text(sidecar, &format!("{OWN}/it/manifest.yaml"));
    for (manager, lock, made) in [
        (
            "npm",
            "package-lock.json",
            "npm install --no-audit --no-fund --save-dev is-number@7.0.0",
        ),
        (
            "bun",
            "bun.lock",
            "mkdir -p node_modules/.bin && cp bun node_modules/.bin && node_modules/.bin/bun add --save-text-lockfile is-number@7.0.0",
        ),
    ] {
        write(
            sidecar,
            &format!("{manager}/{OWN}/it/manifest.yaml"),
            &manifest,
        );
        let package = format!(r#"{{"name": "{manager}-app", "private": true}}"#);
        write(sidecar, &format!("{manager}/package.json"), &package);
        if manager == "bun" {
            std::fs::copy(crate::real_apps::bun(), project(sidecar).join("bun/bun")).unwrap();
        }
        let asked =
            json!({"mount": "project", "path": manager, "network": "host", "command": made});
        let ran = exec(sidecar, &asked);
        assert_eq!(ran.exit["status"], 0, "{manager}: {ran:?}");
        let asked = json!({"mount": "project", "path": manager, "integrations": [{"name": "it"}]});
        let begun = post(sidecar, "/install-integrations", &asked).success();
        let done = over(sidecar, begun["run"].as_str().unwrap());
        assert_eq!(done["state"], "succeeded", "{manager}: {done:#}");
        let installed = text(
            sidecar,
            &format!("{manager}/node_modules/is-odd/package.json"),
        );
        assert!(installed.contains("3.0.1"), "{manager}: {installed}");
        let package = text(sidecar, &format!("{manager}/package.json"));
        assert!(package.contains("is-odd"), "{manager}: {package}");
        let locked = text(sidecar, &format!("{manager}/{lock}"));
        assert!(locked.contains("is-odd"), "{manager}: {locked}");
        let others = [
            "package-lock.json",
            "pnpm-lock.yaml",
            "yarn.lock",
            "bun.lock",
        ];
        for other in others.iter().filter(|other| **other != lock) {
            let path = project(sidecar).join(manager).join(other);
            assert!(!path.exists(), "{manager} left {other}");
        }
    }
}

const WITH: &str = ".weldr/bin/with-postgres";

/// Runs SQL in a sandbox with the project's database.
#[track_caller]
fn sql(sidecar: &Sidecar, text: &str) -> String {
    let command = [
        WITH,
        "psql",
        "--no-psqlrc",
        "-qAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        text,
    ];
    let ran = exec(sidecar, &json!({"mount": "project", "command": command}));
    assert_eq!(ran.exit["status"], 0, "{ran:?}");
    ran.stdout.trim().to_owned()
}

#[test]
fn the_projects_postgresql_keeps_its_data_and_is_run_once_at_a_time() {
    let mut alone = sidecar();
    let sidecar = &mut alone.sidecar;
    commit_empty(sidecar);
    for bad in ["x'; touch owned; '", "template1", &"x".repeat(64)] {
        let bad = json!([{"name": "postgresql", "inputs": {"database": bad}}]);
        let done = install(sidecar, &bad);
        assert_eq!(done["state"], "reverted", "{done:#}");
        let said = step(&done, "postgresql_ready")["log"].to_string();
        assert!(said.contains("the database"), "{done:#}");
        assert!(!project(sidecar).join("owned").exists());
        assert_eq!(status(sidecar), "");
    }

    let asked = json!([{"name": "postgresql", "inputs": {"database": "shop"}}]);
    installed(sidecar, &asked);
    assert_eq!(sql(sidecar, "SELECT current_database()"), "shop");
    sql(sidecar, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)");

    // Cut off with everything else in its sandbox, in the middle of a transaction.
    let line = "psql -qc 'INSERT INTO t VALUES (2)'; (echo 'BEGIN; INSERT INTO t VALUES (3);'; sleep 60) | psql -q & \
                sleep 1; kill -9 -1";
    let killed = exec(
        sidecar,
        &json!({"mount": "project", "command": [WITH, "sh", "-c", line]}),
    );
    assert_ne!(killed.exit["status"], 0, "{killed:?}");
    assert!(
        project(sidecar)
            .join(".weldr/postgres/data/postmaster.pid")
            .exists()
    );
    assert_eq!(sql(sidecar, "SELECT sum(n) FROM t"), "3");

    // A second server on the same data is refused, whoever of the first one is left.
    let busy = json!({"mount": "project", "command": [WITH, "sh", "-c", "echo >busy; sleep 30"]})
        .to_string();
    let second = std::thread::scope(|scope| {
        let first = scope.spawn(|| drop(sidecar.ask("POST", "/exec", &busy)));
        until("the first one runs", || {
            project(sidecar).join("busy").exists()
        });
        let ask = json!({"mount": "project", "command": [WITH, "true"]});
        let second = exec(sidecar, &ask);
        first.join().unwrap();
        second
    });
    assert_eq!(second.exit["status"], 75, "{second:?}");
    assert!(second.stderr.contains("another sandbox"), "{second:?}");

    // The command's status and signals are its own.
    let status = exec(
        sidecar,
        &json!({"mount": "project", "command": [WITH, "sh", "-c", "exit 7"]}),
    );
    assert_eq!(status.exit["status"], 7, "{status:?}");
    let ended = [
        WITH,
        "sh",
        "-c",
        "kill -9 $(head -1 .weldr/postgres/data/postmaster.pid); sleep 60",
    ];
    let ended = exec(sidecar, &json!({"mount": "project", "command": ended}));
    assert_eq!(ended.exit["status"], 70, "{ended:?}");
    // And so is its standard input.
    let piped =
        json!({"mount": "project", "command": [WITH, "psql", "-qAt"], "stdin": "SELECT 40 + 2;"});
    assert_eq!(exec(sidecar, &piped).stdout, "42\n");
    // A database that is given is taken, and no server is started.
    let given = json!({"mount": "project", "command": [WITH, "sh", "-c", "echo $DATABASE_URL"],
        "env": {"DATABASE_URL": "postgresql://elsewhere"}});
    let given = exec(sidecar, &given);
    assert_eq!(
        (&*given.stdout, &*given.stderr),
        ("postgresql://elsewhere\n", "")
    );

    // Installing it again is safe, and everything outlives the sidecar and its mount.
    installed(sidecar, &asked);
    let name = json!({"name": "project"}).to_string();
    until("it is unmounted", || {
        sidecar.ask("POST", "/mounts/unmount", &name).status == 200
    });
    sidecar.kill();
    sidecar.start_again();
    sidecar.mount("project");
    assert_eq!(sql(sidecar, "SELECT sum(n) FROM t"), "3");
}

/// Also under one that was started from a folder around its project, or beside the sidecar.
#[test]
fn nothing_is_put_back_under_a_database_wherever_it_was_started() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let lock = "web/.weldr/postgres/lock";
    write(sidecar, lock, "");
    write(sidecar, "web/app.js", "1\n");
    write(sidecar, "api/app.js", "1\n");
    let snapshots = "/mounts/project/snapshots";
    post(sidecar, snapshots, &json!({"name": "one"})).success();
    let restore = |path: &str| {
        let body = json!({"path": path});
        post(sidecar, &format!("{snapshots}/one/restore"), &body)
    };
    let change = || {
        write(sidecar, "web/app.js", "2\n");
        write(sidecar, "api/app.js", "2\n");
    };
    let check = || {
        for path in ["", "web", "web/.weldr"] {
            let refused = restore(path).refused(409, "in_use");
            let named = "runs the database of the project web,";
            assert!(refused.contains(named), "{path}: {refused}");
        }
        restore("api").success();
        assert_eq!(text(sidecar, "api/app.js"), "1\n");
        assert_eq!(text(sidecar, "web/app.js"), "2\n");
    };

    change();
    let line =
        format!("exec 9<{lock}; flock 9; echo >up; while [ ! -e end ]; do sleep 0.1; done; rm end");
    let running = json!({"mount": "project", "command": line}).to_string();
    std::thread::scope(|scope| {
        let database = scope.spawn(|| sidecar.ask("POST", "/exec", &running).status);
        until("it runs", || project(sidecar).join("up").exists());
        check();
        write(sidecar, "end", "");
        assert_eq!(database.join().unwrap(), 200);
    });
    change();
    let mut by_hand = std::process::Command::new("flock")
        .arg("--no-fork")
        .arg(project(sidecar).join(lock))
        .args(["sleep", "600"])
        .spawn()
        .unwrap();
    until("it runs", || {
        let file = std::fs::File::open(project(sidecar).join(lock)).unwrap();
        file.try_lock().is_err()
    });
    check();
    by_hand.kill().unwrap();
    by_hand.wait().unwrap();
    restore("web").success();
    assert_eq!(text(sidecar, "web/app.js"), "1\n");
}

/// `server: url`: a database of somebody else, here in another sandbox, which only the secret knows of.
#[test]
fn a_database_that_is_elsewhere_is_used_and_none_is_started() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let asked = json!([{"name": "postgresql", "inputs": {"server": "url"}}]);
    let missing = ask(sidecar, &asked).refused(400, "invalid_request");
    assert!(missing.contains("DATABASE_URL"), "{missing}");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let line = format!(
        "PATH=$(echo /usr/lib/postgresql/*/bin | tr ' ' :):$PATH; initdb -D /tmp/d -U elsewhere -A trust >&2 && \
         exec postgres -D /tmp/d -k /tmp -p {port} -c listen_addresses=127.0.0.1"
    );
    // Whatever becomes of the test, it is not waited for for ever.
    let server =
        json!({"mount": "project", "network": "host", "command": line, "timeout_ms": 60_000})
            .to_string();
    sidecar.keep_secret(
        "DATABASE_URL",
        &format!("postgresql://elsewhere@127.0.0.1:{port}/postgres"),
    );
    let psql = |sql: &str| {
        let command = json!([WITH, "sh", "-c", "psql \"$DATABASE_URL\" -qAtc \"$0\"", sql]);
        let asked = json!({"mount": "project", "network": "host", "secrets": ["DATABASE_URL"], "command": command});
        exec(sidecar, &asked)
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| sidecar.ask("POST", "/exec", &server));
        until("it listens", || {
            running.is_finished() || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let done = installed(sidecar, &asked);
        let names: Vec<&str> = done["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|step| step["name"].as_str())
            .collect();
        assert_eq!(names, ["files", "note"]);
        let who = psql("SELECT current_user");
        assert_eq!((&*who.stdout, &*who.stderr), ("elsewhere\n", ""), "{who:?}");
        assert!(!project(sidecar).join(".weldr/postgres").exists());
        let ends = psql("COPY (SELECT 1) TO PROGRAM 'kill -INT $(head -1 /tmp/d/postmaster.pid)'");
        drop(ends);
        let ran = running.join().unwrap();
        assert_eq!(ran.status, 200, "{ran:?}");
    });
}

fn commit_empty(sidecar: &Sidecar) {
    write(sidecar, "README", "r\n");
    commit(sidecar);
}

const SERVER: &str = "
import http from 'node:http'
import { authenticate, sessionOf } from './auth/handler.mjs'
http.createServer(async (request, response) => {
  try {
    if (await authenticate(request, response)) return
    const session = await sessionOf(request)
    response.end(session ? `hello ${session.user.email}` : 'who are you?')
  } catch (error) {
    console.error(error)
    response.writeHead(500).end()
  }
}).listen(process.env.PORT)
";

/// Asks an app: its status line, its cookies and its body.
fn http(port: u16, method: &str, path: &str, cookie: &str, body: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost:{port}\r\norigin: http://localhost:{port}\r\nconnection: close\r\n\
         content-type: application/json\r\ncookie: {cookie}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let cookies = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_it = name.eq_ignore_ascii_case("set-cookie");
        is_it.then(|| value.split(';').next().unwrap_or_default())
    });
    let status = head.lines().next().unwrap_or_default().to_owned();
    (
        status,
        cookies.collect::<Vec<_>>().join("; "),
        body.to_owned(),
    )
}

#[test]
fn users_sign_up_and_in_with_better_auth_and_postgresql_in_a_preview() {
    require_runtime();
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = S3Server::start(Settings::default());
    let endpoint = server.endpoint();
    let first = 31_100 + (std::process::id() % 60) * 20;
    let ports = format!("{first}-{}", first + 19);
    let sidecar = Sidecar::start_with(
        &["--preview-ports", &ports],
        &[
            ("S3_ENDPOINT", &endpoint),
            ("S3_ACCESS_KEY_ID", ACCESS_KEY),
            ("S3_SECRET_ACCESS_KEY", SECRET_KEY),
        ],
    );
    let source = format!("s3://{BUCKET}/project");
    post(
        &sidecar,
        "/mounts",
        &json!({"source": source, "name": "project"}),
    )
    .success();
    write(
        &sidecar,
        "package.json",
        r#"{"name":"shop","private":true,"type":"module","scripts":{"start":".weldr/bin/with-postgres node server.js"}}"#,
    );
    write(&sidecar, "server.js", SERVER);
    write(&sidecar, ".gitignore", "node_modules\n.weldr/postgres\n");
    sidecar.keep_secret("BETTER_AUTH_SECRET", "0123456789abcdef0123456789abcdef");
    installed(
        &sidecar,
        &json!([{"name": "better-auth"}, {"name": "postgresql"}]),
    );

    let app_asked = json!({"mount": "project", "secrets": ["BETTER_AUTH_SECRET"]});
    let app = ready(&sidecar, &app_asked);
    let sign_up =
        r#"{"name": "Ada", "email": "ada@example.org", "password": "correct horse battery"}"#;
    let (status, cookie, body) = http(port(&app), "POST", "/api/auth/sign-up/email", "", sign_up);
    assert!(
        status.contains(" 200 ") && body.contains("ada@example.org"),
        "{status} {body}"
    );
    let (_, _, body) = http(port(&app), "GET", "/", &cookie, "");
    assert!(body.contains("hello ada@example.org"), "{body}");
    let (_, _, body) = http(port(&app), "GET", "/", "", "");
    assert!(body.contains("who are you?"), "{body}");
    let (status, _, body) = http(port(&app), "POST", "/api/auth/sign-up/email", "", sign_up);
    assert!(status.contains(" 422 "), "twice: {status} {body}");

    // In another process, on the same data.
    stop(&sidecar, &app);
    post(
        &sidecar,
        "/mounts/project/snapshots",
        &json!({"name": "ada-alone"}),
    )
    .success();
    let again = ready(&sidecar, &app_asked);
    assert_ne!(id(&app), id(&again));
    let (_, _, body) = http(port(&again), "GET", "/", &cookie, "");
    assert!(
        body.contains("hello ada@example.org"),
        "the session is gone: {body}"
    );
    let sign_in = |password: &str| {
        let body = json!({"email": "ada@example.org", "password": password}).to_string();
        http(port(&again), "POST", "/api/auth/sign-in/email", "", &body)
    };
    let (status, cookie, body) = sign_in("wrong horse battery");
    assert!(
        status.contains(" 401 ") && cookie.is_empty(),
        "{status} {body}"
    );
    let (status, cookie, body) = sign_in("correct horse battery");
    assert!(status.contains(" 200 "), "{status} {body}");
    let (_, _, body) = http(port(&again), "GET", "/", &cookie, "");
    assert!(body.contains("hello ada@example.org"), "{body}");
    let bob = r#"{"name": "Bob", "email": "bob@example.org", "password": "correct horse battery"}"#;
    let (status, ..) = http(port(&again), "POST", "/api/auth/sign-up/email", "", bob);
    assert!(status.contains(" 200 "), "{status}");

    // Nothing is put back under a database that runs.
    let restore = || {
        post(
            &sidecar,
            "/mounts/project/snapshots/ada-alone/restore",
            &json!({}),
        )
    };
    let refused = restore().refused(409, "in_use");
    assert!(
        refused.contains("runs the database") && refused.contains(id(&again)),
        "{refused}"
    );
    ask(&sidecar, &json!([{"name": "better-auth"}])).refused(409, "in_use");
    let (_, _, body) = http(port(&again), "GET", "/", &cookie, "");
    assert!(body.contains("hello ada@example.org"), "{body}");
    stop(&sidecar, &again);

    let rows = r#"SELECT count(*) FROM "user""#;
    assert_eq!(sql(&sidecar, rows), "2");
    restore().success();
    assert_eq!(sql(&sidecar, rows), "1");
    for (path, (_, _, content)) in tree(&project(&sidecar).join("auth")) {
        let text = String::from_utf8_lossy(&content).into_owned();
        assert!(!text.contains("0123456789abcdef"), "{}", path.display());
    }
}
