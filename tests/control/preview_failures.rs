//! What goes wrong with previews that is nobody's attack: no runtime, a port that another program has, an app that stops
//! listening or never stops crashing, and a sidecar that is killed at any moment.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::exec::sidecar_with;
use crate::previews::{
    fetch, first_port, get, id, lines, node_project, port, reach, ready, sidecar, start, stop,
    stop_all, write,
};
use crate::sidecar::Sidecar;
use crate::support::until;

/// Listens again when it is told to, on a port that lives beside the one that it closes.
const DOOR: &str = "
const http = require('http'), fs = require('fs');
const door = http.createServer((request, response) => {
  if (request.url === '/close') {
    response.end('closing');
    door.close();
    door.closeAllConnections();
    console.log('closed');
    const look = setInterval(() => {
      if (!fs.existsSync('again')) return;
      clearInterval(look);
      door.listen(process.env.PORT);
    }, 100);
  } else response.end('open');
}).listen(process.env.PORT);
";

#[test]
fn without_a_runtime_it_has_failed_and_says_which_are_missing() {
    let sidecar = sidecar_with(&["--runtime", "no-such-crun", "--runtime", "no-such-runc"]);
    node_project(&sidecar, "");
    for restart in ["never", "always"] {
        let body = json!({"mount": "project", "restart": restart});
        let failed = reach(&sidecar, id(&start(&sidecar, &body)), "failed");
        let reason = failed["ended"]["reason"].as_str().unwrap();
        for name in [
            "no container runtime works here",
            "no-such-crun",
            "no-such-runc",
        ] {
            assert!(reason.contains(name), "{failed}");
        }
    }
    stop_all(&sidecar);
}

#[test]
fn a_port_that_another_program_took_meanwhile_is_said_and_taken_back() {
    let mut sidecar = sidecar();
    node_project(&sidecar, "");
    let preview = ready(&sidecar, &json!({"mount": "project"}));
    sidecar.kill();
    let mut foreign = None;
    until("the port is free", || {
        foreign = TcpListener::bind(("127.0.0.1", port(&preview))).ok();
        foreign.is_some()
    });
    sidecar.start_again();
    let trouble = |sidecar: &Sidecar| get(sidecar, id(&preview))["trouble"].clone();
    until("it is said", || trouble(&sidecar).is_string());
    let said = trouble(&sidecar);
    assert!(said.as_str().unwrap().contains("another program"), "{said}");
    let health = sidecar.ask("GET", "/health", "").json();
    assert_eq!(
        health["parts"]["previews"]["status"], "degraded",
        "{health}"
    );
    assert_eq!(get(&sidecar, id(&preview))["state"], "ready");
    drop(foreign);
    until("it is taken back", || trouble(&sidecar).is_null());
    assert_eq!(fetch(port(&preview), "/"), "hello /");
    stop(&sidecar, &preview);
    stop_all(&sidecar);
}

#[test]
fn an_app_that_listens_no_longer_is_probed_until_it_does_again() {
    let sidecar = sidecar();
    write(&sidecar, "server.js", DOOR);
    let body = json!({"mount": "project", "command": ["node", "server.js"]});
    let preview = ready(&sidecar, &body);
    assert_eq!(fetch(port(&preview), "/close"), "closing");
    let probing = reach(&sidecar, id(&preview), "probing");
    assert!(probing["ready_by_ms"].is_u64(), "{probing}");
    // Meanwhile clients are told.
    assert!(fetch(port(&preview), "/").contains("does not answer"));
    write(&sidecar, "again", "");
    let again = reach(&sidecar, id(&preview), "ready");
    assert_eq!(again["ready_after_ms"], preview["ready_after_ms"]);
    assert_eq!(fetch(port(&preview), "/"), "open");
    let events = sidecar.events("project");
    let of = |kind: &str| events.iter().filter(|event| *event == kind).count();
    assert_eq!(
        (of("preview.probing"), of("preview.ready")),
        (1, 2),
        "{events:?}"
    );
    stop_all(&sidecar);
}

#[test]
fn a_crash_loop_is_seen_as_one_and_can_be_stopped() {
    let sidecar = sidecar();
    write(&sidecar, "file", "");
    let body = json!({"mount": "project", "command": "echo again; exit 3", "restart": "always"});
    let preview = start(&sidecar, &body);
    let mut now = Value::Null;
    until("it was started three times", || {
        now = get(&sidecar, id(&preview));
        assert!(now["state"] != "failed" && now["state"] != "ready", "{now}");
        now["restarts"].as_u64() >= Some(2)
    });
    assert_eq!(now["ended"]["status"], 3, "{now}");
    assert!(now["ended"]["log"].to_string().contains("again"), "{now}");
    let log = lines(&sidecar, &preview);
    assert!(
        log.iter().filter(|line| *line == "again").count() >= 2,
        "{log:?}"
    );
    stop(&sidecar, &preview);
    stop_all(&sidecar);
}

/// Asks without waiting for what comes of it.
fn send(sidecar: &Sidecar, path: &str, body: &Value) -> UnixStream {
    let body = body.to_string();
    let mut stream = UnixStream::connect(sidecar.socket()).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

#[test]
fn a_sidecar_killed_while_one_starts_or_ends_is_followed_by_one_that_goes_on() {
    let mut sidecar = sidecar();
    node_project(&sidecar, "");
    let body = json!({"mount": "project", "command": ["node", "server.js"]});
    let mut gone_on_with = 0;
    for pause in [0, 5, 10, 20, 40, 80, 160, 320] {
        let asking = send(&sidecar, "/previews/start", &body);
        std::thread::sleep(Duration::from_millis(pause));
        sidecar.kill();
        drop(asking);
        sidecar.start_again();
        let list = sidecar.ask("GET", "/previews", "").success();
        let all = list["previews"].as_array().unwrap();
        let live: Vec<_> = all.iter().filter(|one| one["state"] != "stopped").collect();
        assert!(live.len() <= 1, "{list:#}");
        gone_on_with += live.len();
        // Whoever got no answer asks again: it is the same app.
        let again = start(&sidecar, &body);
        if let Some(live) = live.first() {
            assert_eq!(id(&again), id(live), "{list:#}");
        }
        let preview = reach(&sidecar, id(&again), "ready");
        assert_eq!(fetch(port(&preview), "/"), "hello /");
        let stopping = send(&sidecar, "/previews/stop", &json!({"id": id(&preview)}));
        std::thread::sleep(Duration::from_millis(pause / 4));
        sidecar.kill();
        drop(stopping);
        sidecar.start_again();
        // If the request did not arrive it still runs.
        let ended = stop(&sidecar, &preview);
        assert_eq!(ended["state"], "stopped", "{ended}");
    }
    assert!(
        gone_on_with > 0,
        "none was killed after it was written down"
    );
    let list = sidecar.ask("GET", "/previews", "").success();
    assert_eq!(list["previews"].as_array().unwrap().len(), 1, "{list:#}");
    stop_all(&sidecar);
}

#[test]
fn with_the_network_of_the_machine_an_app_has_the_port_itself() {
    let sidecar = sidecar();
    for folder in ["a", "b", "c"] {
        node_project(&sidecar, folder);
    }
    let on = |folder: &str, network: &str| json!({"mount": "project", "path": folder, "network": network});
    let host = ready(&sidecar, &on("a", "host"));
    assert_eq!(host["port"], host["host_port"], "{host}");
    assert_eq!(fetch(port(&host), "/"), "hello /");
    let none = ready(&sidecar, &on("b", "none"));
    assert_eq!(
        (none["port"].as_u64(), fetch(port(&none), "/")),
        (Some(3000), "hello /".into())
    );
    let mut same = on("c", "host");
    same["host_port"] = json!(port(&host));
    sidecar
        .ask("POST", "/previews/start", &same.to_string())
        .refused(409, "conflict");
    // One that does not come to its port, because it is not the one that it was told.
    let mut elsewhere = on("c", "host");
    elsewhere["command"] = json!(format!("PORT={} exec node server.js", first_port() + 19));
    elsewhere["ready_timeout_ms"] = json!(2000);
    let failed = reach(&sidecar, id(&start(&sidecar, &elsewhere)), "failed");
    assert!(
        failed["ended"]["reason"]
            .as_str()
            .unwrap()
            .contains("did not answer"),
        "{failed}"
    );
    stop(&sidecar, &host);
    assert!(TcpListener::bind(("127.0.0.1", port(&host))).is_ok());
    stop_all(&sidecar);
}
