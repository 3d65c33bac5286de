//! Everything of a workflow at once, on a project in a bucket: packages, an agent, its tests and a preview, followed, compared
//! and reverted.

use serde_json::{Value, json};

use crate::exec::require_runtime;
use crate::previews::fetch;
use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Settings};
use crate::sidecar::Sidecar;
use crate::workflow_events::told_of;
use crate::workflows::{TURN, git, over, post, step};

/// Serves a file as it is at the moment.
const SERVER: &str = "
const fs = require('fs');
require('http').createServer((_, response) => response.end(fs.readFileSync('broken'))).listen(process.env.PORT);
";

const TEST: &str = "
const assert = require('assert');
assert.equal(require('ms')('1s'), 1000);
assert.equal(require('fs').readFileSync('broken', 'utf8'), 'yes\\n');
";

const WORKFLOW: &str = "
on_failure: keep
steps:
  - {name: install, network: host, run: npm install --no-audit --no-fund --no-update-notifier --ignore-scripts}
  - name: code
    env: {WELDRFS_TEST_AGENT: 1}
    agent:
      command: [./agent, --exact, 'workflows::agent_process', --nocapture]
      prompt: mend it
      permissions: {allow: [edit]}
  - {name: tests, run: npm test}
  - {name: app, preview: {}}
  - {name: asks, http: {url: 'http://127.0.0.1:${{ steps.app.outputs.port }}/'}}
";

/// Ports that the other tests do not use.
fn ports() -> String {
    let first = 30_100 + (std::process::id() % 100) * 20;
    format!("{first}-{}", first + 19)
}

fn paths(sidecar: &Sidecar, run: &str, name: &str) -> Vec<String> {
    let diff = sidecar.run_json(&["workflows", "diff", run, name, "--json"]);
    let differences = diff["differences"].as_array().unwrap().iter();
    let paths = differences.map(|one| one["path"].as_str().unwrap().to_owned());
    paths.collect()
}

#[test]
fn packages_an_agent_tests_and_a_preview_on_a_project_in_a_bucket() {
    require_runtime();
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = S3Server::start(Settings::default());
    let endpoint = server.endpoint();
    let sidecar = Sidecar::start_with(
        &["--preview-ports", &ports()],
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
    let project = sidecar.place.path("ws/project");
    let write = |path: &str, text: &str| {
        let path = project.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "package.json",
        r#"{"name":"p","private":true,"scripts":{"start":"node server.js","test":"node test.js"},"dependencies":{"ms":"2.1.3"}}"#,
    );
    write("server.js", SERVER);
    write("test.js", TEST);
    write("broken", "no\n");
    write(".weldr/workflows/ship.yaml", WORKFLOW);
    write(".gitignore", "node_modules\npackage-lock.json\nagent\n");
    std::fs::copy(std::env::current_exe().unwrap(), project.join("agent")).unwrap();
    git(&project, &["init", "-q"]);
    git(&project, &["add", "-A"]);
    git(&project, &["commit", "-q", "-m", "first"]);

    let body = json!({"mount": "project", "workflow": "ship"});
    let begun = post(&sidecar, "/trigger", &body).success();
    let run = begun["run"].as_str().unwrap();
    // Followed to its end as a browser would.
    let told = told_of(&sidecar.socket(), run);
    let done = over(&sidecar, run);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    for (kind, name, part) in [
        ("workflow.output", "install", "added 1 package"),
        ("workflow.agent", "code", "I mend it."),
        ("workflow.step", "app", "waits until http://localhost:"),
        ("workflow.step", "asks", "succeeded"),
    ] {
        let is_it = |one: &&(String, Value)| {
            one.0 == kind
                && one.1["step"] == name
                && one.1["message"].as_str().unwrap().contains(part)
        };
        assert!(
            told.iter().any(|one| is_it(&one)),
            "{kind} {name}: {told:#?}"
        );
    }
    let app = step(&done, "app")["outputs"].clone();
    let port = u16::try_from(app["port"].as_u64().unwrap()).unwrap();
    assert_eq!(step(&done, "asks")["outputs"]["body"], "yes\n");
    assert_eq!(
        git(&project, &["status", "--porcelain"]),
        " M broken\n?? added\n"
    );
    // What each step changed.
    let installed = paths(&sidecar, run, "install");
    assert!(
        installed.iter().any(|path| path == "package-lock.json"),
        "{installed:?}"
    );
    assert!(
        installed.iter().all(|path| path != "broken"),
        "{installed:?}"
    );
    assert_eq!(paths(&sidecar, run, "code"), ["added", "broken"]);
    assert_eq!(paths(&sidecar, run, "tests"), [""; 0]);
    let patch = sidecar
        .run(&["workflows", "diff", run, "code", "--patch"])
        .success();
    assert!(patch.stdout.contains("-no\n+yes\n"), "{patch:?}");
    // All of it is in the bucket.
    post(&sidecar, "/mounts/project/sync", &json!({})).success();
    assert!(!server.keys(BUCKET).is_empty());

    sidecar.run(&["workflows", "revert", run, "code"]).success();
    assert_eq!(git(&project, &["status", "--porcelain"]), "");
    assert_eq!(fetch(port, "/"), "no\n", "the app sees it");
    assert!(project.join("node_modules/ms").exists(), "that was before");
    let id = app["id"].as_str().unwrap();
    let preview = sidecar.ask("GET", &format!("/previews/{id}"), "").success();
    assert_eq!(
        (&preview["state"], &preview["restarts"]),
        (&json!("ready"), &json!(0))
    );
    sidecar
        .run(&["workflows", "revert", run, "--undo"])
        .success();
    assert_eq!(fetch(port, "/"), "yes\n");
    post(&sidecar, "/previews/stop", &json!({"id": id})).success();
    crate::support::until("the app has ended", || {
        let shown = sidecar.ask("GET", &format!("/previews/{id}"), "").success();
        shown["state"] == "stopped"
    });
    post(
        &sidecar,
        "/mounts/unmount",
        &json!({"name": "project", "sync": true}),
    )
    .success();
}

#[test]
fn a_thousand_of_27000_files_are_reverted_while_a_preview_runs() {
    require_runtime();
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let sidecar = Sidecar::start_with(&["--preview-ports", &ports()], &[]);
    sidecar.mount("project");
    let project = sidecar.place.path("ws/project");
    std::fs::write(project.join("server.js"), SERVER).unwrap();
    std::fs::write(project.join("broken"), "old\n").unwrap();
    for folder in 0..270 {
        let folder = project.join(format!("node_modules/{folder}"));
        std::fs::create_dir_all(&folder).unwrap();
        for file in 0..100 {
            std::fs::write(folder.join(file.to_string()), "old\n").unwrap();
        }
    }
    // A third changed, a third removed, a third made; and what the app serves.
    let change = "for d in 0 1 2 3; do for f in $(seq 0 99); do echo new >node_modules/$d/$f; done; done; \
                  rm -r node_modules/4 node_modules/5 node_modules/6; mkdir made; for f in $(seq 300); do echo new >made/$f; done; \
                  echo new >broken";
    let definition = json!({"steps": [
        {"name": "app", "preview": {"command": ["node", "server.js"]}},
        {"name": "change", "run": change},
    ]});
    let body = json!({"mount": "project", "workflow": definition});
    let begun = post(&sidecar, "/trigger", &body).success();
    let run = begun["run"].as_str().unwrap();
    let done = over(&sidecar, run);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    let app = step(&done, "app")["outputs"].clone();
    let port = u16::try_from(app["port"].as_u64().unwrap()).unwrap();
    assert_eq!(fetch(port, "/"), "new\n");
    for undo in [false, true, true] {
        let began = std::time::Instant::now();
        let body = json!({"run": run, "undo": undo, "step": (!undo).then_some("change")});
        let report = post(&sidecar, "/revert", &body).success();
        eprintln!(
            "undo: {undo}, {} names in {:?}",
            report["names"],
            began.elapsed()
        );
        let is_new = fetch(port, "/") == "new\n";
        let text = if is_new { "new\n" } else { "old\n" };
        for (file, expected) in [
            ("node_modules/3/99", Some(text)),
            ("node_modules/100/1", Some("old\n")),
        ] {
            let found = std::fs::read_to_string(project.join(file)).ok();
            assert_eq!(found.as_deref(), expected, "{file}");
        }
        assert_eq!(project.join("made/300").exists(), is_new);
        assert_eq!(project.join("node_modules/6/99").exists(), !is_new);
        let count = walk(&project.join("node_modules"));
        assert_eq!(count, if is_new { 26_700 } else { 27_000 });
    }
    assert_eq!(fetch(port, "/"), "old\n", "undone twice is reverted");
    post(&sidecar, "/previews/stop", &json!({"id": app["id"]})).success();
    crate::support::until("the app has ended", || {
        let list = sidecar.ask("GET", "/previews", "").success();
        list["previews"][0]["state"] == "stopped"
    });
}

fn walk(folder: &std::path::Path) -> usize {
    let folders = std::fs::read_dir(folder).unwrap();
    let files = folders.map(|one| std::fs::read_dir(one.unwrap().path()).unwrap().count());
    files.sum()
}
