//! Real applications on a volume in a bucket: installed on the mount, started by detection, told of edits through the
//! kernel's watches, and seen in a browser.

use std::process::Command;

use serde_json::json;

use crate::browser::Browser;
use crate::exec::{Alone, exec, sidecar_on, unmount};
use crate::previews::{fetch, first_port, port, ready, stop, write};
use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Settings};
use crate::support::until;

/// A sidecar with a mount called `project` of a volume in a bucket.
fn in_a_bucket(server: &S3Server) -> Alone {
    let first = first_port();
    let mount = json!({
        "source": format!("s3://{BUCKET}/project"),
        "name": "project",
        "options": [format!("endpoint={}", server.endpoint()), "path_style"],
        "credentials": {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
    });
    let ports = format!("{first}-{}", first + 19);
    sidecar_on(&["--preview-ports", &ports], &mount)
}

/// Runs a command that needs the registry.
#[track_caller]
fn install(sidecar: &Alone, folder: &str, command: &[&str]) {
    let body = json!({"mount": "project", "path": folder, "network": "host", "command": command});
    let ran = exec(sidecar, &body);
    assert_eq!(
        ran.exit["status"], 0,
        "the registry has to be reachable: {ran:?}"
    );
}

#[track_caller]
fn snapshot(sidecar: &Alone, name: &str) {
    let body = json!({"name": name}).to_string();
    let path = "/mounts/project/snapshots";
    sidecar.ask("POST", path, &body).success();
}

#[track_caller]
fn restore(sidecar: &Alone, name: &str, path: &str) {
    let body = json!({"path": path}).to_string();
    let ask = format!("/mounts/project/snapshots/{name}/restore");
    sidecar.ask("POST", &ask, &body).success();
}

/// What Vite watches with (chokidar) drops a change that follows another one of the same file within 50 ms.
const BETWEEN_EDITS: std::time::Duration = std::time::Duration::from_millis(300);

#[test]
fn an_application_of_vite_shows_edits_and_restores_in_a_browser() {
    let server = S3Server::start(Settings::default());
    let sidecar = in_a_bucket(&server);
    write(
        &sidecar,
        "web/package.json",
        r#"{"name":"v","private":true,"type":"module","scripts":{"dev":"vite"},"devDependencies":{"vite":"5.4.21"}}"#,
    );
    write(
        &sidecar,
        "web/index.html",
        r#"<!doctype html><body><script type="module" src="/main.js"></script></body>"#,
    );
    // What it says is replaced without loading the page anew.
    write(
        &sidecar,
        "web/main.js",
        "import { said } from './said.js'
const show = (text) => { document.body.innerText = text }
show(said)
import.meta.hot.accept('./said.js', (changed) => show(changed.said))
",
    );
    let says = |text: &str| {
        write(
            &sidecar,
            "web/said.js",
            &format!("export const said = '{text}'\n"),
        )
    };
    says("one");
    let npm = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
    ];
    install(&sidecar, "web", &npm);
    let preview = ready(&sidecar, &json!({"mount": "project", "path": "web"}));
    assert_eq!(
        preview["command"], "npm run dev -- --port 3000",
        "{preview}"
    );
    let mut browser = Browser::start();
    browser.open(preview["url"].as_str().unwrap());
    browser.shows("one");
    // Edits before that are not heard of.
    browser.logs("[vite] connected");
    browser.value("window.page = 'kept'");
    snapshot(&sidecar, "first");
    // From outside of the sandbox, as an agent edits.
    says("two");
    browser.shows("two");
    // From inside of another one.
    std::thread::sleep(BETWEEN_EDITS);
    let line = "echo \"export const said = 'three'\" >said.js";
    let edit = json!({"mount": "project", "path": "web", "command": line});
    assert_eq!(exec(&sidecar, &edit).exit["status"], 0);
    browser.shows("three");
    // And by going back to what was there before.
    std::thread::sleep(BETWEEN_EDITS);
    restore(&sidecar, "first", "web/said.js");
    browser.shows("one");
    assert_eq!(
        browser.value("window.page"),
        "kept",
        "the page was loaded anew"
    );
    drop(browser);
    stop(&sidecar, &preview);
    sidecar.ask("POST", "/mounts/project/sync", "").success();
    unmount(&sidecar);
    assert!(!server.keys(BUCKET).is_empty());
}

#[test]
fn a_server_of_bun_answers_and_takes_edits_while_it_runs() {
    let server = S3Server::start(Settings::default());
    let sidecar = in_a_bucket(&server);
    write(
        &sidecar,
        "api/package.json",
        r#"{"name":"b","private":true,"scripts":{"dev":"bun --hot server.ts"},"dependencies":{"hono":"4.6.14"}}"#,
    );
    let says = |text: &str| {
        write(
            &sidecar,
            "api/server.ts",
            &format!(
                "import {{ Hono }} from 'hono'
const app = new Hono()
const port: number = Number(process.env.PORT)
globalThis.loads = (globalThis.loads ?? 0) + 1
app.get('/', (context) => context.html(`<body>{text}, by bun, loaded ${{globalThis.loads > 1 ? 'again' : 'once'}}</body>`))
export default {{ port, fetch: app.fetch }}
"
            ),
        );
    };
    says("one");
    // As the package of that name puts it there.
    let own = sidecar.place.path("ws/project/api/node_modules/.bin");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(bun(), own.join("bun")).unwrap();
    install(&sidecar, "api", &["node_modules/.bin/bun", "install"]);
    let preview = ready(&sidecar, &json!({"mount": "project", "path": "api"}));
    assert_eq!(
        preview["command"], "node_modules/.bin/bun run dev",
        "{preview}"
    );
    let mut browser = Browser::start();
    let url = preview["url"].as_str().unwrap();
    browser.open(url);
    browser.shows("one, by bun, loaded once");
    snapshot(&sidecar, "first");
    let mut turns_into = |text: &str| {
        until(text, || fetch(port(&preview), "/").contains(text));
        browser.open(url);
        browser.shows(text);
    };
    says("two");
    turns_into("two, by bun, loaded again");
    restore(&sidecar, "first", "api/server.ts");
    turns_into("one, by bun, loaded again");
    stop(&sidecar, &preview);
    unmount(&sidecar);
}

/// The program that the workload's inputs bring along.
pub(crate) fn bun() -> std::path::PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/coding/make_inputs.py");
    let made = Command::new("python3")
        .args([script, "--only", "app"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::path::Path::new(String::from_utf8_lossy(&made.stdout).trim()).join("bin/bun")
}
