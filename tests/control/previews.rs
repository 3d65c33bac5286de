//! Previews: apps that start, are reached at ports of the machine, fail in every way, and outlive the sidecar.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::exec::{Alone, left_behind, sidecar_with, unmount};
use crate::sidecar::{Sidecar, kill};
use crate::support::{PATIENCE, until};

/// Ports that other tests on this machine hardly use at the same time.
pub(crate) fn first_port() -> u16 {
    20_000 + u16::try_from(std::process::id() % 500).unwrap() * 20
}

pub(crate) fn sidecar() -> Alone {
    let first = first_port();
    sidecar_with(&["--preview-ports", &format!("{first}-{}", first + 19)])
}

/// A server that answers with what it is told by variables, on the port that it is told.
pub(crate) const SERVER: &str = "
const http = require('http');
console.log('listening for', process.env.GREETING || 'hello');
console.error('and complaining');
http.createServer((request, response) => {
  if (request.url === '/crash') process.exit(7);
  if (request.url === '/eat') { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)); }
  response.end((process.env.GREETING || 'hello') + ' ' + request.url);
}).listen(process.env.PORT, process.env.ADDRESS || '127.0.0.1');
";

pub(crate) fn write(sidecar: &Sidecar, path: &str, text: &str) {
    let path = sidecar
        .place
        .path("ws/project")
        .join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

pub(crate) fn node_project(sidecar: &Sidecar, folder: &str) {
    write(sidecar, &format!("{folder}/server.js"), SERVER);
    let package = r#"{"name":"app","scripts":{"start":"node server.js"}}"#;
    write(sidecar, &format!("{folder}/package.json"), package);
}

#[track_caller]
pub(crate) fn start(sidecar: &Sidecar, body: &Value) -> Value {
    sidecar
        .ask("POST", "/previews/start", &body.to_string())
        .success()
}

pub(crate) fn get(sidecar: &Sidecar, id: &str) -> Value {
    sidecar.ask("GET", &format!("/previews/{id}"), "").success()
}

#[track_caller]
pub(crate) fn reach(sidecar: &Sidecar, id: &str, state: &str) -> Value {
    let mut now = Value::Null;
    until(&format!("{id} is {state}"), || {
        now = get(sidecar, id);
        let is_over = now["state"] == "failed" || now["state"] == "stopped";
        assert!(!is_over || now["state"] == state, "{now:#}");
        now["state"] == state
    });
    now
}

/// Starts what `body` says and waits until it is ready.
#[track_caller]
pub(crate) fn ready(sidecar: &Sidecar, body: &Value) -> Value {
    let preview = start(sidecar, body);
    reach(sidecar, id(&preview), "ready")
}

pub(crate) fn id(preview: &Value) -> &str {
    preview["id"].as_str().unwrap()
}

pub(crate) fn port(preview: &Value) -> u16 {
    u16::try_from(preview["host_port"].as_u64().unwrap()).unwrap()
}

#[track_caller]
pub(crate) fn stop(sidecar: &Sidecar, preview: &Value) -> Value {
    let body = json!({"id": id(preview)}).to_string();
    let answer = sidecar.ask("POST", "/previews/stop", &body).success();
    assert!(["stopping", "stopped"].contains(&answer["state"].as_str().unwrap()));
    reach(sidecar, id(preview), "stopped")
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The body of what the app answers.
pub(crate) fn fetch(port: u16, path: &str) -> String {
    let mut stream = connect(port);
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    drop(stream.read_to_string(&mut answer));
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    // Small bodies of node's are one chunk.
    let body = body.unwrap_or_default();
    match body.split("\r\n").collect::<Vec<_>>()[..] {
        [_, chunk, "0", "", ""] => chunk.to_owned(),
        _ => body,
    }
}

pub(crate) fn lines(sidecar: &Sidecar, preview: &Value) -> Vec<String> {
    let log = sidecar
        .ask("GET", &format!("/previews/{}/logs", id(preview)), "")
        .success();
    let lines = log["lines"].as_array().unwrap().iter();
    lines
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
pub(crate) fn stop_all(sidecar: &Sidecar) {
    let list = sidecar.ask("GET", "/previews", "").success();
    for preview in list["previews"].as_array().unwrap() {
        if preview["state"] != "failed" && preview["state"] != "stopped" {
            let body = json!({"id": id(preview)}).to_string();
            sidecar.ask("POST", "/previews/stop", &body).success();
        }
    }
    until("all have ended", || {
        let list = sidecar.ask("GET", "/previews", "").success();
        list["previews"]
            .as_array()
            .unwrap()
            .iter()
            .all(|preview| preview["state"] == "failed" || preview["state"] == "stopped")
    });
    unmount(sidecar);
}

#[test]
fn an_app_is_found_started_reached_followed_and_stopped() {
    let sidecar = sidecar();
    node_project(&sidecar, "");
    let started = start(&sidecar, &json!({"mount": "project"}));
    assert_eq!(started["state"], "starting", "{started}");
    assert_eq!(started["command"], "npm run start");
    let preview = reach(&sidecar, id(&started), "ready");
    assert_eq!(port(&preview), first_port());
    assert_eq!(fetch(port(&preview), "/page"), "hello /page");
    assert!(preview["ready_after_ms"].as_u64().is_some(), "{preview}");
    assert!(preview["usage"]["memory_bytes"].as_u64().unwrap() > 0);
    let log = lines(&sidecar, &preview);
    assert!(log.contains(&"listening for hello".into()), "{log:?}");
    assert!(log.contains(&"and complaining".into()), "{log:?}");
    let message = sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .refused(409, "in_use");
    assert!(message.contains(id(&preview)), "{message}");
    let metrics = sidecar.ask("GET", "/metrics", "").body;
    assert!(
        metrics.contains(r#"weldrfs_preview_state{mount="project",path="",state="ready"} 1"#),
        "{metrics}"
    );
    let ended = stop(&sidecar, &preview);
    assert_eq!(ended["ended"]["reason"], "it was ended", "{ended}");
    assert!(TcpStream::connect(("127.0.0.1", port(&preview))).is_err());
    // Its log is still there.
    assert!(lines(&sidecar, &preview).contains(&"listening for hello".into()));
    let events = sidecar.events("project");
    for kind in ["starting", "ready", "stopping", "stopped"] {
        let kind = format!("preview.{kind}");
        assert!(events.contains(&kind), "{kind}: {events:?}");
    }
    stop_all(&sidecar);
}

#[test]
fn by_the_command_line_from_nothing_to_stopped() {
    let sidecar = sidecar();
    node_project(&sidecar, "app");
    let answer = sidecar
        .run(&["previews", "start", "project:app", "-e", "GREETING=hi"])
        .success();
    let url = format!("http://localhost:{}", first_port());
    assert!(
        answer.stdout.contains(&format!("is ready at {url}")),
        "{answer:?}"
    );
    assert_eq!(fetch(first_port(), "/"), "hi /");
    let list = sidecar.run(&["previews", "ls"]).success().stdout;
    assert!(
        list.contains("ready") && list.contains("project:app"),
        "{list}"
    );
    let open = sidecar.run(&["previews", "open", "project:app"]).success();
    assert_eq!(open.stdout.trim(), url);
    let port = first_port().to_string();
    let logs = sidecar.run(&["previews", "logs", &port]).success().stdout;
    assert!(logs.contains("listening for hi"), "{logs}");
    let mut following = sidecar
        .command()
        .args(["previews", "logs", "-f", "project:app"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let list = sidecar.ask("GET", "/previews", "").success();
    let preview = id(&list["previews"][0]).to_owned();
    let stopped = sidecar.run(&["previews", "stop", "project:app"]).success();
    assert!(stopped.stdout.contains("is stopped"), "{stopped:?}");
    // It ends with the app.
    let mut followed = String::new();
    let mut out = following.stdout.take().unwrap();
    out.read_to_string(&mut followed).unwrap();
    assert!(following.wait().unwrap().success());
    assert!(followed.contains("listening for hi"), "{followed}");
    let told = kinds_about(&sidecar, &preview);
    let kinds = ["starting", "ready", "stopping", "stopped"];
    assert_eq!(told, kinds.map(|kind| format!("preview.{kind}")));
    let failed = sidecar.run(&[
        "previews",
        "start",
        "project:app",
        "--",
        "sh",
        "-c",
        "echo no; exit 3",
    ]);
    assert_ne!(failed.code, 0, "{failed:?}");
    assert!(
        failed.stderr.contains("status 3") && failed.stderr.contains("no"),
        "{failed:?}"
    );
    stop_all(&sidecar);
}

/// The kinds of the events about a preview, as the command line follows them, until it has stopped.
fn kinds_about(sidecar: &Sidecar, preview: &str) -> Vec<String> {
    let mut following = sidecar
        .command()
        .args(["events", "--after", "0", "--json", "--preview", preview])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(following.stdout.take().unwrap()).lines();
    let mut kinds = Vec::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        kinds.push(event["kind"].as_str().unwrap().to_owned());
        if kinds.last().is_some_and(|kind| kind == "preview.stopped") {
            break;
        }
    }
    following.kill().unwrap();
    following.wait().unwrap();
    kinds
}

#[test]
fn there_is_one_app_for_each_folder_and_a_changed_one_replaces_it_when_asked_to() {
    let sidecar = sidecar();
    node_project(&sidecar, "a");
    node_project(&sidecar, "b");
    let body = json!({"mount": "project", "path": "a", "env": {"GREETING": "one"}});
    let first = ready(&sidecar, &body);
    let again = json!({"mount": "project", "path": "./a/", "env": {"GREETING": "one"}});
    assert_eq!(id(&start(&sidecar, &again)), id(&first), "the same request");
    let other = json!({"mount": "project", "path": "a", "env": {"GREETING": "two"}});
    sidecar
        .ask("POST", "/previews/start", &other.to_string())
        .refused(409, "conflict");
    assert_eq!(fetch(port(&first), "/"), "one /");
    let mut replacing = other.clone();
    replacing["replace"] = json!(true);
    let replaced = start(&sidecar, &replacing);
    assert_eq!((id(&replaced), port(&replaced)), (id(&first), port(&first)));
    until("the other one answers", || {
        fetch(port(&first), "/") == "two /"
    });
    // Another folder is another app, on another port, and inside both listen on the same.
    let second = ready(&sidecar, &json!({"mount": "project", "path": "b"}));
    assert_ne!(port(&second), port(&first));
    assert_eq!(second["port"], first["port"]);
    assert_eq!(fetch(port(&second), "/"), "hello /");
    stop_all(&sidecar);
}

#[test]
fn what_cannot_work_is_refused_before_anything_runs() {
    let sidecar = sidecar();
    std::fs::create_dir(sidecar.place.path("ws/project/empty")).unwrap();
    std::os::unix::fs::symlink("/etc", sidecar.place.path("ws/project/out")).unwrap();
    for (body, status, code) in [
        (json!({"mount": "other"}), 404, "not_found"),
        (
            json!({"mount": "project", "path": "empty"}),
            400,
            "invalid_request",
        ),
        (
            json!({"mount": "project", "path": "missing", "command": "x"}),
            400,
            "invalid_request",
        ),
        (
            json!({"mount": "project", "path": "out", "command": "x"}),
            400,
            "invalid_request",
        ),
        (
            json!({"mount": "project", "command": "x", "host_port": 80}),
            400,
            "invalid_request",
        ),
        (
            json!({"mount": "project", "command": "x", "colour": 1}),
            400,
            "invalid_request",
        ),
    ] {
        sidecar
            .ask("POST", "/previews/start", &body.to_string())
            .refused(status, code);
    }
    sidecar
        .ask("POST", "/previews/stop", r#"{"id":"preview-0-0"}"#)
        .refused(404, "not_found");
    sidecar
        .ask("GET", "/previews/preview-0-0/logs", "")
        .refused(404, "not_found");
    assert_eq!(
        sidecar.ask("GET", "/previews", "").success()["previews"],
        json!([])
    );
    stop_all(&sidecar);
}

#[test]
fn every_failure_has_its_state_its_reason_and_the_last_lines() {
    let sidecar = sidecar();
    node_project(&sidecar, "");
    let fails = |folder: &str, command: &str, more: Value| {
        write(&sidecar, &format!("{folder}/file"), "");
        let mut body = json!({"mount": "project", "path": folder, "command": command});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let preview = start(&sidecar, &body);
        reach(&sidecar, id(&preview), "failed")
    };
    let missing = fails("missing", "no-such-program", json!({}));
    assert_eq!(missing["ended"]["status"], 127, "{missing}");
    let log = missing["ended"]["log"].to_string();
    assert!(log.contains("no-such-program"), "{missing}");
    let at_once = fails("at-once", "echo sorry; exit 5", json!({}));
    assert_eq!(at_once["ended"]["status"], 5);
    assert!(
        at_once["ended"]["log"].to_string().contains("sorry"),
        "{at_once}"
    );
    let never = fails(
        "never",
        "echo waiting; sleep 600",
        json!({"ready_timeout_ms": 1500}),
    );
    let reason = never["ended"]["reason"].as_str().unwrap();
    assert!(reason.contains("did not answer within"), "{never}");
    assert!(never["ended"]["log"].to_string().contains("waiting"));
    // One that runs and then does not.
    let body = json!({"mount": "project", "limits": {"memory_mb": 128}});
    let crashing = ready(&sidecar, &body);
    fetch(port(&crashing), "/crash");
    let crashed = reach(&sidecar, id(&crashing), "failed");
    assert_ne!(crashed["ended"]["status"], 0, "{crashed}");
    let hungry = ready(&sidecar, &body);
    fetch(port(&hungry), "/eat");
    let starved = reach(&sidecar, id(&hungry), "failed");
    assert_eq!(starved["ended"]["out_of_memory"], true, "{starved}");
    assert!(
        starved["ended"]["reason"]
            .as_str()
            .unwrap()
            .contains("memory")
    );
    stop_all(&sidecar);
}

#[test]
fn a_crash_is_restarted_if_asked_to_and_the_port_stays() {
    let sidecar = sidecar();
    node_project(&sidecar, "");
    let body =
        json!({"mount": "project", "restart": "on_failure", "command": ["node", "server.js"]});
    let preview = ready(&sidecar, &body);
    for times in 1..=2 {
        fetch(port(&preview), "/crash");
        until("it is back", || {
            let now = get(&sidecar, id(&preview));
            now["state"] == "ready" && now["restarts"] == times
        });
        assert_eq!(fetch(port(&preview), "/"), "hello /");
    }
    let now = get(&sidecar, id(&preview));
    assert_eq!(now["ended"]["status"], 7, "{now}");
    let events = sidecar.events("project");
    assert_eq!(
        events
            .iter()
            .filter(|kind| *kind == "preview.restarting")
            .count(),
        2
    );
    stop_all(&sidecar);
}

#[test]
fn an_app_outlives_a_killed_sidecar_and_the_next_one_takes_it_back() {
    let mut sidecar = sidecar();
    node_project(&sidecar, "");
    let preview = ready(
        &sidecar,
        &json!({"mount": "project", "env": {"GREETING": "before"}}),
    );
    sidecar.kill();
    assert!(
        left_behind()
            .iter()
            .any(|left| left.contains("sandbox-init"))
    );
    sidecar.start_again();
    let back = reach(&sidecar, id(&preview), "ready");
    assert_eq!(port(&back), port(&preview));
    assert_eq!(fetch(port(&preview), "/"), "before /");
    until("its log is read again", || {
        lines(&sidecar, &preview).contains(&"listening for before".into())
    });
    until("the mount is in use again", || {
        sidecar
            .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
            .status
            == 409
    });
    // An orderly end leaves it running too.
    sidecar.sidecar.stop();
    sidecar.start_again();
    reach(&sidecar, id(&preview), "ready");
    stop(&sidecar, &preview);
    stop_all(&sidecar);
}

#[test]
fn whenever_one_that_was_taken_back_is_said_to_be_ready_it_is_reached() {
    let mut sidecar = sidecar();
    node_project(&sidecar, "");
    let preview = ready(&sidecar, &json!({"mount": "project"}));
    let path = format!("/previews/{}", id(&preview));
    for round in 0..12 {
        match round % 2 {
            0 => sidecar.kill(),
            _ => sidecar.stop(),
        }
        // Asked from before it is there until it has been there for a while.
        let asking = std::thread::spawn({
            let (socket, path, port) = (sidecar.socket(), path.clone(), port(&preview));
            move || {
                let mut tries = 0;
                let deadline = std::time::Instant::now() + PATIENCE;
                while tries < 50 {
                    assert!(std::time::Instant::now() < deadline, "it is never ready");
                    if ask_for_state(&socket, &path).as_deref() == Some("ready") {
                        tries += 1;
                        let said = fetch(port, "/");
                        assert_eq!(said, "hello /", "round {round}, try {tries}");
                    }
                }
            }
        });
        sidecar.start_again();
        if let Err(panic) = asking.join() {
            std::panic::resume_unwind(panic);
        }
    }
    stop(&sidecar, &preview);
    stop_all(&sidecar);
}

/// The state of a preview, if anybody answers.
fn ask_for_state(socket: &std::path::Path, path: &str) -> Option<String> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let preview: Value = serde_json::from_str(body).ok()?;
    preview["state"].as_str().map(str::to_owned)
}

#[test]
fn what_died_while_no_sidecar_watched_is_reported() {
    let mut sidecar = sidecar();
    node_project(&sidecar, "a");
    node_project(&sidecar, "b");
    let a = ready(
        &sidecar,
        &json!({"mount": "project", "path": "a", "command": "node server.js; exit 9"}),
    );
    let b = ready(&sidecar, &json!({"mount": "project", "path": "b"}));
    sidecar.kill();
    // The one ends, and its shim has written down how; of the other the shim dies too.
    let sandboxes = sidecar.place.path("state/control/sandboxes");
    let note = |preview: &Value| -> Value {
        let note = sandboxes.join(format!("{}-1/note.json", id(preview)));
        serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap()
    };
    kill(note(&b)["shim_pid"].as_i64().unwrap(), Signal::KILL);
    let init = note(&a)["pid"].as_i64().unwrap();
    kill(init, Signal::TERM);
    until("the one has ended", || {
        sandboxes.join(format!("{}-1/ended.json", id(&a))).exists()
    });
    sidecar.start_again();
    let ended = reach(&sidecar, id(&a), "failed");
    assert!(ended["ended"]["status"].as_i64().is_some(), "{ended}");
    assert!(
        ended["ended"]["log"].to_string().contains("listening"),
        "{ended}"
    );
    let lost = reach(&sidecar, id(&b), "failed");
    let reason = lost["ended"]["reason"].as_str().unwrap();
    assert!(reason.contains("no sidecar"), "{lost}");
    // What it wrote was not lost with it.
    assert!(
        lost["ended"]["log"].to_string().contains("listening"),
        "{lost}"
    );
    assert!(lines(&sidecar, &lost).contains(&"and complaining".into()));
    stop_all(&sidecar);
}

#[test]
fn an_app_whose_keeper_is_killed_has_failed_and_nothing_of_it_is_left() {
    let sidecar = sidecar();
    node_project(&sidecar, "");
    let preview = ready(&sidecar, &json!({"mount": "project"}));
    let note = sidecar
        .place
        .path("state/control/sandboxes")
        .join(format!("{}-1/note.json", id(&preview)));
    let note: Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
    kill(note["shim_pid"].as_i64().unwrap(), Signal::KILL);
    let failed = reach(&sidecar, id(&preview), "failed");
    assert!(
        failed["ended"]["reason"].as_str().unwrap().contains("died"),
        "{failed}"
    );
    stop_all(&sidecar);
}

#[test]
fn wherever_it_listens_inside_it_is_reached() {
    let sidecar = sidecar();
    for (folder, address, says_port) in [
        ("v4", "127.0.0.1", true),
        ("any", "0.0.0.0", true),
        ("v6", "::1", true),
        ("any6", "::", true),
        ("elsewhere", "127.0.0.1", false),
    ] {
        node_project(&sidecar, folder);
        let mut body = json!({"mount": "project", "path": folder, "env": {"ADDRESS": address}});
        if !says_port {
            // It does not do what it is told.
            body["command"] = json!("PORT=5173 exec node server.js");
        }
        let preview = ready(&sidecar, &body);
        assert_eq!(fetch(port(&preview), "/x"), "hello /x", "{folder}");
        assert_eq!(
            preview["port"],
            if says_port { 3000 } else { 5173 },
            "{folder}"
        );
    }
    stop_all(&sidecar);
}

#[test]
fn connections_are_handed_on_whatever_they_speak() {
    let sidecar = sidecar();
    // Says hello first, echoes, and says how much there was once the other side has ended.
    let echo = "
require('net').createServer({allowHalfOpen: true}, (socket) => {
  let bytes = 0;
  socket.write('hello\\n');
  socket.on('data', (data) => { bytes += data.length; socket.write(data); });
  socket.on('end', () => socket.end('\\n' + bytes + ' bytes'));
}).listen(process.env.PORT);";
    write(&sidecar, "echo.js", echo);
    let preview = ready(
        &sidecar,
        &json!({"mount": "project", "command": ["node", "echo.js"]}),
    );
    let mut streams: Vec<TcpStream> = (0..200).map(|_| connect(port(&preview))).collect();
    for stream in &mut streams {
        stream.write_all(b"ping").unwrap();
    }
    for stream in &mut streams {
        let mut said = [0; 10];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello\nping");
    }
    assert!(
        get(&sidecar, id(&preview))["usage"]["connections"]
            .as_u64()
            .unwrap()
            >= 200
    );
    drop(streams);
    let mut stream = connect(port(&preview));
    let sent = vec![b'x'; 20 << 20];
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let all = reading.join().unwrap();
    assert!(all.ends_with(b"\n20971520 bytes"));
    assert_eq!(all.len(), 6 + sent.len() + 15);
    until("the connections are gone", || {
        get(&sidecar, id(&preview))["usage"]["connections"] == 0
    });
    stop_all(&sidecar);
}

#[test]
fn twenty_run_at_once_on_3000_to_3019_and_one_more_is_refused() {
    // Where nobody else can have one of these ports.
    in_a_network_of_its_own(|| {
        for port in 3000..3020 {
            let free = TcpListener::bind(("127.0.0.1", port));
            assert!(free.is_ok(), "something else has port {port}: {free:?}");
        }
        twenty_and_one_more();
    });
}

/// Runs `work` on a thread whose network, and that of all programs that it starts, has nothing but a loopback.
fn in_a_network_of_its_own(work: impl FnOnce() + Send + 'static) {
    let apart = std::thread::spawn(move || {
        // SAFETY: the network of this thread alone; no descriptor is taken from anybody.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("this test needs network namespaces of its own (CAP_SYS_ADMIN)");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .output();
        let up = up.expect("this test needs ip: apt-get install iproute2");
        assert!(up.status.success(), "{up:?}");
        work();
    });
    if let Err(panic) = apart.join() {
        std::panic::resume_unwind(panic);
    }
}

fn twenty_and_one_more() {
    // Its ports are the usual ones.
    let sidecar = sidecar_with(&[]);
    // Somebody else has one of them.
    let foreign = TcpListener::bind(("127.0.0.1", 3005)).unwrap();
    let body = |number: u16| {
        write(
            &sidecar,
            &format!("p{number}/index.html"),
            &format!("page {number}"),
        );
        json!({"mount": "project", "path": format!("p{number}"), "limits": {"memory_mb": 64}})
    };
    let mut given = body(50);
    given["host_port"] = json!(3005);
    let message = sidecar
        .ask("POST", "/previews/start", &given.to_string())
        .refused(409, "conflict");
    assert!(message.contains("another program"), "{message}");
    let mut all: Vec<Value> = (0..19)
        .map(|number| start(&sidecar, &body(number)))
        .collect();
    let message = sidecar
        .ask("POST", "/previews/start", &body(51).to_string())
        .refused(409, "limit_reached");
    assert!(message.contains("other programs have 1"), "{message}");
    drop(foreign);
    all.push(start(&sidecar, &body(19)));
    let message = sidecar
        .ask("POST", "/previews/start", &body(52).to_string())
        .refused(409, "limit_reached");
    let told = "20 previews run, as many as there are ports (3000 to 3019)";
    assert!(message.contains(told), "{message}");
    for (number, preview) in all.iter().enumerate() {
        reach(&sidecar, id(preview), "ready");
        assert_eq!(fetch(port(preview), "/"), format!("page {number}"));
    }
    let mut ports: Vec<u16> = all.iter().map(port).collect();
    ports.sort_unstable();
    assert_eq!(ports, (3000..3020).collect::<Vec<_>>());
    // A port is free again once its app has ended.
    stop(&sidecar, &all[7]);
    let again = ready(&sidecar, &body(53));
    assert_eq!(port(&again), port(&all[7]));
    stop_all(&sidecar);
}

#[test]
fn one_that_is_stopped_while_it_starts_ends_and_leaves_nothing() {
    let sidecar = sidecar();
    node_project(&sidecar, "");
    for _ in 0..3 {
        let preview = start(&sidecar, &json!({"mount": "project"}));
        stop(&sidecar, &preview);
    }
    // One that does not want to end is killed.
    let stubborn =
        json!({"mount": "project", "command": "trap '' TERM; node server.js & wait; sleep 600"});
    let preview = ready(&sidecar, &stubborn);
    stop(&sidecar, &preview);
    stop_all(&sidecar);
}

#[test]
fn an_app_whose_mount_dies_has_failed_or_comes_back_as_asked() {
    let sidecar = sidecar();
    node_project(&sidecar, "a");
    node_project(&sidecar, "b");
    let a = ready(&sidecar, &json!({"mount": "project", "path": "a"}));
    let b = ready(
        &sidecar,
        &json!({"mount": "project", "path": "b", "restart": "on_failure"}),
    );
    let pid = sidecar.listed("project").unwrap()["pid"].as_i64().unwrap();
    kill(pid, Signal::KILL);
    let failed = reach(&sidecar, id(&a), "failed");
    assert!(
        failed["ended"]["reason"]
            .as_str()
            .unwrap()
            .contains("mount"),
        "{failed}"
    );
    until("the other one is back", || {
        let now = get(&sidecar, id(&b));
        assert_ne!(now["state"], "failed", "{now}");
        now["state"] == "ready" && now["restarts"].as_u64() > Some(0)
    });
    assert_eq!(fetch(port(&b), "/"), "hello /");
    stop_all(&sidecar);
}

#[test]
fn a_key_starts_one_preview_once() {
    let sidecar = sidecar();
    node_project(&sidecar, "");
    let body = json!({"mount": "project"}).to_string();
    let ask = || {
        let mut stream = std::os::unix::net::UnixStream::connect(sidecar.socket()).unwrap();
        let request = format!(
            "POST /previews/start HTTP/1.0\r\nhost: s\r\nidempotency-key: k1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let first = ask();
    let again = ask();
    assert!(again.contains("idempotency-replayed: true"), "{again}");
    let text = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(text(&first), text(&again));
    let list = sidecar.ask("GET", "/previews", "").success();
    assert_eq!(list["previews"].as_array().unwrap().len(), 1);
    stop_all(&sidecar);
}

#[test]
fn an_isolated_app_gets_out_only_to_what_is_allowed() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = outside.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in outside.incoming().flatten() {
            drop((&stream).write_all(b"from outside"));
        }
    });
    let first = first_port();
    let ports = format!("{first}-{}", first + 19);
    let sidecar = sidecar_with(&["--preview-ports", &ports, "--allow-host", &there]);
    let app = format!(
        "
import http.server, os, socket, urllib.parse
def ask(target):
    proxy = urllib.parse.urlsplit(os.environ['HTTPS_PROXY'])
    s = socket.create_connection((proxy.hostname, proxy.port), 5)
    s.sendall(f'CONNECT {{target}} HTTP/1.1\\r\\nHost: {{target}}\\r\\n\\r\\n'.encode())
    said = b''
    while part := s.recv(1000): said += part
    return said
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(ask('{there}' if self.path == '/there' else '127.0.0.1:1'))
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()
"
    );
    let preview = ready(
        &sidecar,
        &json!({"mount": "project", "command": ["python3", "-c", app]}),
    );
    let said = fetch(port(&preview), "/there");
    assert!(
        said.contains("established") && said.ends_with("from outside"),
        "{said}"
    );
    let said = fetch(port(&preview), "/elsewhere");
    assert!(said.contains("403"), "{said}");
    let log = lines(&sidecar, &preview);
    assert!(
        log.iter()
            .any(|line| line.contains("127.0.0.1:1 is not among")),
        "{log:?}"
    );
    stop_all(&sidecar);
}
