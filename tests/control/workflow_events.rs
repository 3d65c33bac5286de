//! What a run tells over HTTP: gone on with after a break, shown in health and metrics, and silent about secrets.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sidecar::Sidecar;
use crate::support::{PATIENCE, until};
use crate::workflows::{over, post, show, sidecar, step, trigger};

/// One event as it was sent.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    id: i64,
    kind: String,
    data: Value,
}

/// Events of a run as a browser hears them.
struct Listener(BufReader<UnixStream>);

impl Listener {
    /// Begins after `last`, by the header that browsers send.
    fn begin(socket: &Path, run: &str, last: i64) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("GET /events?run={run} HTTP/1.1\r\nhost: s\r\nlast-event-id: {last}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next event; none when the connection ends in between.
    fn next(&mut self) -> Option<Told> {
        let (mut id, mut kind) = (None, String::new());
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing was told for {PATIENCE:?}: {error}"),
            }
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().ok();
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut kind);
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Some(Told {
                    id: id.unwrap(),
                    kind,
                    data: serde_json::from_str(text).unwrap(),
                });
            }
        }
    }
}

/// Whether nothing of the run follows this event.
fn is_last(told: &Told) -> bool {
    let state = &told.data["data"]["state"];
    told.kind == "workflow.run" && (state == "succeeded" || state == "failed")
}

/// Everything that is told of a run until it is over: kinds and data.
pub(crate) fn told_of(socket: &Path, run: &str) -> Vec<(String, Value)> {
    let mut listener = Listener::begin(socket, run, 0);
    let mut all = Vec::new();
    loop {
        let told = listener.next().expect("the sidecar runs");
        let was_last = is_last(&told);
        all.push((told.kind, told.data));
        if was_last {
            return all;
        }
    }
}

fn output_of(told: &[Told]) -> String {
    let outputs = told.iter().filter(|one| one.kind == "workflow.output");
    let texts = outputs.map(|one| one.data["message"].as_str().unwrap());
    texts.collect()
}

#[test]
fn events_go_on_by_last_event_id_with_no_gap_and_no_double_also_over_a_kill() {
    let mut alone = sidecar();
    let run = trigger(
        &alone.sidecar,
        "steps:\n  - {name: a, run: 'for n in $(seq 30); do echo line $n; sleep 0.1; done'}\n  \
         - {name: b, run: 'echo b'}\n  - {name: c, run: 'for n in $(seq 10); do echo c $n; done'}\n",
    );
    let mut told: Vec<Told> = Vec::new();
    let (mut breaks, mut kills) = (0, 0);
    'all: loop {
        let last = told.last().map_or(0, |one| one.id);
        let mut listener = Listener::begin(&alone.sidecar.socket(), &run, last);
        // A few, and then the line is cut, now and then with the sidecar.
        for _ in 0..3 {
            let Some(next) = listener.next() else { break };
            told.push(next);
            if is_last(told.last().unwrap()) {
                break 'all;
            }
        }
        breaks += 1;
        if breaks % 4 == 2 {
            alone.sidecar.kill();
            alone.sidecar.start_again();
            kills += 1;
        }
    }
    assert!(breaks >= 3 && kills >= 1, "{breaks} breaks, {kills} kills");
    assert_eq!(over(&alone.sidecar, &run)["state"], "succeeded");
    // The same as somebody hears who was never cut off.
    let mut whole = Vec::new();
    let mut listener = Listener::begin(&alone.sidecar.socket(), &run, 0);
    while whole.last().is_none_or(|one| !is_last(one)) {
        whole.push(listener.next().unwrap());
    }
    assert_eq!(told, whole);
    assert!(told.windows(2).all(|pair| pair[0].id < pair[1].id));
    let lines =
        |name: &str, most: u32| -> String { (1..=most).map(|n| format!("{name} {n}\n")).collect() };
    assert_eq!(
        output_of(&told),
        lines("line", 30) + "b\n" + &lines("c", 10)
    );
    // One that asks from the middle on gets the rest and nothing else.
    let middle = told.len() / 2;
    let mut listener = Listener::begin(&alone.sidecar.socket(), &run, told[middle].id);
    for expected in &told[middle + 1..] {
        assert_eq!(listener.next().as_ref(), Some(expected));
    }
}

#[test]
fn health_and_metrics_show_runs() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let health = || sidecar.ask("GET", "/health", "").success()["parts"]["workflows"].clone();
    let figure = |name: &str| -> f64 {
        let text = sidecar.ask("GET", "/metrics", "").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        value.trim().parse().unwrap()
    };
    assert_eq!(health()["status"], "ok");
    assert_eq!(figure("weldrfs_workflow_runs{state=\"running\"}"), 0.0);
    let run = trigger(sidecar, "steps:\n  - {name: a, run: 'sleep 1000'}\n");
    until("it is counted", || {
        figure("weldrfs_workflow_runs{state=\"running\"}") == 1.0
    });
    post(sidecar, &format!("/workflows/{run}/cancel"), &json!({})).success();
    over(sidecar, &run);
    let done = trigger(sidecar, "steps:\n  - {name: a, run: 'true'}\n");
    over(sidecar, &done);
    assert_eq!(figure("weldrfs_workflow_runs{state=\"running\"}"), 0.0);
    for state in ["cancelled", "succeeded"] {
        let name = format!("weldrfs_control_workflows_ended_total{{state=\"{state}\"}}");
        assert_eq!(figure(&name), 1.0, "{state}");
    }
    assert_eq!(health()["status"], "ok");
}

#[test]
fn a_secret_that_a_step_writes_is_nowhere() {
    let alone = sidecar();
    let sidecar: &Sidecar = &alone.sidecar;
    let secret = "canary-0123456789";
    sidecar.keep_secret("KEY", secret);
    let run = trigger(
        sidecar,
        "steps:\n  - name: a\n    secrets: [KEY]\n    outputs: [told]\n    run: 'printf %s \"$KEY\" | cut -c1-9 >/dev/null; echo \"it is $KEY\"; \
         echo \"::output told=$KEY\"; printf canary-012; sleep 0.5; printf \"3456789\\n\"; echo \"$KEY\" >&2'\n  \
         - {name: b, env: {GIVEN: '${{ steps.a.outputs.told }}'}, run: 'echo \"$GIVEN\"; exit 3'}\n",
    );
    let done = over(sidecar, &run);
    assert_eq!(done["state"], "failed", "{done:#}");
    assert_eq!(step(&done, "a")["outputs"]["told"], "***");
    assert_eq!(
        step(&done, "b")["outputs"],
        Value::Object(serde_json::Map::new())
    );
    let followed = sidecar.run(&["workflows", "follow", &run, "--json"]);
    let everything = [
        show(sidecar, &run).to_string(),
        followed.stdout,
        sidecar.ask("GET", "/workflows", "").body,
        sidecar.log(),
    ];
    for text in &everything {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(everything[1].contains("it is ***"), "{}", everything[1]);
    // Nor in the database, once everything of it was written to the file itself.
    std::thread::sleep(Duration::from_millis(100));
    for file in ["control.db", "control.db-wal"] {
        let bytes =
            std::fs::read(sidecar.place.path("state/control").join(file)).unwrap_or_default();
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "it is in {file}");
    }
}
