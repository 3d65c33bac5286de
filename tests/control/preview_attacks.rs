//! Previews from inside: what a hostile app reaches, and what it leaves of the machine.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::previews::{
    fetch, get, id, lines, node_project, port, reach, ready, sidecar, start, stop, stop_all, write,
};
use crate::sidecar::Sidecar;
use crate::support::until;

/// A server that does what the path says, and answers with what came of it.
const HOSTILE: &str = r#"
import http.server, os, socket, threading, time
children = []
def reach():
    said = []
    for target in os.environ.get('TARGETS', '').split():
        host, port = target.rsplit(':', 1)
        try:
            socket.create_connection((host, int(port)), 2).close()
            said.append('reached ' + target)
        except OSError as error:
            said.append('not ' + target)
    return '\n'.join(said)
def bomb():
    forks = 0
    try:
        while True:
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            children.append(child)
            forks += 1
    except OSError as error:
        return 'refused after %d: %s' % (forks, error.strerror)
def defuse():
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return 'defused'
def fill():
    said = []
    for folder in ('/tmp', '/var/tmp', '/dev/shm', '/run', os.environ['HOME']):
        written = 0
        try:
            with open(folder + '/full', 'wb', 0) as file:
                while written < 1 << 30:
                    written += file.write(bytes(1 << 20))
            said.append('filled without end: ' + folder)
        except OSError as error:
            said.append('%s after %d MB: %s' % (folder, written >> 20, error.strerror))
    return '\n'.join(said)
def flood():
    for number in range(64):
        os.write(1, b'x' * ((1 << 20) - 1) + b'\n')
    os.write(1, b'the last line\n')
    return 'written'
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        does = {'/reach': reach, '/bomb': bomb, '/defuse': defuse, '/fill': fill, '/flood': flood}
        text = does.get(self.path, lambda: 'hello')()
        self.send_response(200); self.end_headers(); self.wfile.write(text.encode())
    def log_message(self, *_): pass
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), App).serve_forever()
"#;

fn hostile(more: &Value) -> Value {
    let mut body = json!({"mount": "project", "path": "hostile", "command": ["python3", "app.py"]});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

/// A harmless app beside a hostile one.
fn neighbour(sidecar: &Sidecar) -> Value {
    write(sidecar, "hostile/app.py", HOSTILE);
    node_project(sidecar, "neighbour");
    ready(sidecar, &json!({"mount": "project", "path": "neighbour"}))
}

/// Addresses of this machine that others reach it by.
fn addresses() -> Vec<String> {
    let said = Command::new("hostname").arg("-I").output();
    let said = said.map(|said| said.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split_whitespace()
        .filter(|address| !address.contains(':'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_app_reaches_neither_other_apps_nor_the_machine_nor_the_outside() {
    let sidecar = sidecar();
    let neighbour = neighbour(&sidecar);
    // It listens on every address of the machine, to be found if there were a way.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let open = listener.local_addr().unwrap().port();
    let mut targets = vec![
        format!("127.0.0.1:{}", port(&neighbour)),
        format!("127.0.0.1:{open}"),
        "1.1.1.1:53".to_owned(),
        "169.254.169.254:80".to_owned(),
    ];
    targets.extend(
        addresses()
            .iter()
            .map(|address| format!("{address}:{open}")),
    );
    for network in ["isolated", "none", "host"] {
        let env = json!({"TARGETS": targets.join(" ")});
        let app = ready(&sidecar, &hostile(&json!({"env": env, "network": network})));
        let said = fetch(port(&app), "/reach");
        assert_eq!(said.lines().count(), targets.len(), "{said}");
        // The last one shows that there is something to be reached.
        let expected = if network == "host" { "reached" } else { "not" };
        for target in &targets[..2] {
            assert!(
                said.contains(&format!("{expected} {target}")),
                "{network}: {said}"
            );
        }
        assert!(
            network == "host" || !said.contains("reached"),
            "{network}: {said}"
        );
        stop(&sidecar, &app);
    }
    stop_all(&sidecar);
}

#[test]
fn a_fork_bomb_hits_its_own_limit_and_nobody_else() {
    let sidecar = sidecar();
    let neighbour = neighbour(&sidecar);
    let app = ready(&sidecar, &hostile(&json!({"limits": {"processes": 60}})));
    let said = fetch(port(&app), "/bomb");
    assert!(said.starts_with("refused after "), "{said}");
    let now = get(&sidecar, id(&app));
    let processes = now["usage"]["processes"].as_u64().unwrap();
    assert!((30..=60).contains(&processes), "{now}");
    assert_eq!(now["state"], "ready", "{now}");
    assert_eq!(fetch(port(&neighbour), "/"), "hello /");
    assert_eq!(fetch(port(&app), "/defuse"), "defused");
    // And with all of them there it ends as any other.
    fetch(port(&app), "/bomb");
    stop(&sidecar, &app);
    stop_all(&sidecar);
}

#[test]
fn full_folders_and_endless_output_take_a_bounded_part_of_the_machine() {
    let sidecar = sidecar();
    let neighbour = neighbour(&sidecar);
    let limits = json!({"memory_mb": 512, "tmp_mb": 16});
    let app = ready(&sidecar, &hostile(&json!({"limits": limits})));
    let said = fetch(port(&app), "/fill");
    assert_eq!(said.lines().count(), 5, "{said}");
    for line in said.lines() {
        assert!(!line.contains("without end"), "{said}");
        if let Some((_, after)) = line.split_once(" after ") {
            let written: u64 = after.split(' ').next().unwrap().parse().unwrap();
            assert!(written <= 16, "{said}");
        }
    }
    assert_eq!(fetch(port(&app), "/flood"), "written");
    until("the last of it is in the log", || {
        lines(&sidecar, &app).contains(&"the last line".into())
    });
    let folder = sidecar
        .place
        .path("state/control/sandboxes")
        .join(format!("{}-1", id(&app)));
    let used = Command::new("du").arg("-sk").arg(folder).output().unwrap();
    let used = String::from_utf8_lossy(&used.stdout).into_owned();
    let used: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
    assert!(used < 8 << 10, "{used} KiB of output are kept");
    assert_eq!(fetch(port(&app), "/"), "hello");
    assert_eq!(fetch(port(&neighbour), "/"), "hello /");
    stop_all(&sidecar);
}

/// Everything that the events say.
fn events(sidecar: &Sidecar) -> String {
    let mut stream = UnixStream::connect(sidecar.socket()).unwrap();
    let ask = b"GET /events?after=0 HTTP/1.1\r\nhost: s\r\n\r\n";
    stream.write_all(ask).unwrap();
    // What is there comes at once.
    let patience = Some(Duration::from_millis(500));
    stream.set_read_timeout(patience).unwrap();
    let mut text = Vec::new();
    let _ends_by_the_timeout = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Nothing but the app itself knows `canary`.
#[track_caller]
fn shows_nowhere(sidecar: &Sidecar, canary: &str, id: &str) {
    let told = events(sidecar);
    assert!(told.contains("preview.starting"), "{told}");
    let mut said = vec![told];
    for path in [
        "/previews",
        &format!("/previews/{id}"),
        &format!("/previews/{id}/logs?lines=5000"),
        "/mounts",
        "/mounts/project/logs?lines=5000",
        "/metrics",
        "/health",
        "/openapi.json",
        "/",
    ] {
        said.push(sidecar.ask("GET", path, "").body);
    }
    for arguments in [["previews", "ls"], ["previews", "logs"], ["mounts", "ls"]] {
        let mut arguments = arguments.to_vec();
        if arguments[1] == "logs" {
            arguments.push(id);
        }
        let answer = sidecar.run(&arguments).success();
        said.push(answer.stdout + &answer.stderr);
    }
    for text in said {
        assert!(!text.contains(canary), "{text}");
    }
    // Databases, run folder, state, log, the mount and its store.
    let grep = Command::new("grep")
        .args(["-rlsa", canary, &sidecar.place.text("")])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&grep.stdout).trim(),
        sidecar.place.text("state/control/secrets/API_KEY")
    );
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let line = read("cmdline");
        assert!(!line.contains(canary), "{line}");
        let is_app = line.starts_with("node server.js") || line.starts_with("/bin/sh -c");
        assert!(is_app || !read("environ").contains(canary), "{line}");
    }
}

#[test]
fn secrets_of_an_app_show_nowhere() {
    let mut sidecar = sidecar();
    let canary = "c4n4ry-0f-4-pr3v13w";
    sidecar.keep_secret("API_KEY", canary);
    write(
        &sidecar,
        "server.js",
        "require('http').createServer((q, r) => {
          if (q.url === '/crash') process.exit(7);
          r.end([...process.env.API_KEY].reverse().join(''));
        }).listen(process.env.PORT)",
    );
    let body = json!({
        "mount": "project", "command": "node server.js", "secrets": ["API_KEY"], "restart": "on_failure",
    });
    let preview = ready(&sidecar, &body);
    let reversed: String = canary.chars().rev().collect();
    let has_it = |preview: &Value| assert_eq!(fetch(port(preview), "/"), reversed);
    has_it(&preview);
    shows_nowhere(&sidecar, canary, id(&preview));
    // After a crash it is handed on once more, and a sidecar that was killed leaves no trace of it either.
    fetch(port(&preview), "/crash");
    until("it is back", || {
        let now = get(&sidecar, id(&preview));
        now["state"] == "ready" && now["restarts"] == 1
    });
    sidecar.kill();
    sidecar.start_again();
    reach(&sidecar, id(&preview), "ready");
    until("it is reached", || fetch(port(&preview), "/") == reversed);
    shows_nowhere(&sidecar, canary, id(&preview));
    stop(&sidecar, &preview);
    shows_nowhere(&sidecar, canary, id(&preview));
    // Nor does one that does not start leave it behind.
    let fails = json!({
        "mount": "project", "command": ["no-such-program", "x"], "secrets": ["API_KEY"],
    });
    let failed = reach(&sidecar, id(&start(&sidecar, &fails)), "failed");
    shows_nowhere(&sidecar, canary, id(&failed));
    stop_all(&sidecar);
}
