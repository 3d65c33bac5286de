//! Agents that write, ask and answer without end: the sidecar's memory and what it keeps stay bounded, and the run ends as it
//! should.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sidecar::Sidecar;
use crate::workflow_events::told_of;
use crate::workflows::{over, post, sidecar, step, trigger};

/// Most that the sidecar's memory may grow by while it talks with such an agent.
const GROWTH_MAX: u64 = 64 << 20;
/// How long an agent that does not read is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// Says hello, and then does what its argument says.
const AGENT: &str = r#"
import json, sys, time
def say(message):
    sys.stdout.write(json.dumps(dict(message, jsonrpc='2.0')) + '\n')
    sys.stdout.flush()
def hear():
    return json.loads(sys.stdin.readline())
def tell(update, method='session/update'):
    say({'method': method, 'params': {'sessionId': 's', 'update': update}})
def text(text):
    return {'sessionUpdate': 'agent_message_chunk', 'content': {'type': 'text', 'text': text}}
say({'id': hear()['id'], 'result': {'protocolVersion': 1, 'agentCapabilities': {}}})
new = hear()
say({'id': new['id'], 'result': {'sessionId': 's'}})
prompt = hear()
def done():
    say({'id': prompt['id'], 'result': {'stopReason': 'end_turn'}})
    time.sleep(60)
what = sys.argv[1]
if what == 'asks':
    for n in range(1000):
        say({'id': n, 'method': 'fs/read_text_file', 'params': {'sessionId': 's', 'path': new['params']['cwd'] + '/large'}})
    open('asked', 'w').close()
    time.sleep(600)
if what == 'answers':
    # As 'asks', but it takes the answers.
    for n in range(100):
        say({'id': n, 'method': 'fs/read_text_file', 'params': {'sessionId': 's', 'path': new['params']['cwd'] + '/large'}})
    for n in range(100):
        answer = hear()
        assert answer['id'] == n and len(answer['result']['content']) == 900000, answer
    tell(text('all ' + str(n + 1)))
    done()
if what == 'tells':
    for n in range(3000):
        tell(text('x' * 100_000))
    done()
if what == 'unknown':
    for n in range(3000):
        tell(text('x' * 100_000), '_of/its/own')
    done()
if what == 'values':
    sys.stdout.write('{"jsonrpc":"2.0","method":"session/update","params":[' + '[],' * 1_000_000 + '0]}\n')
    sys.stdout.flush()
    time.sleep(60)
if what == 'fails':
    say({'id': prompt['id'], 'error': {'code': -32000, 'message': 'y' * 3_000_000}})
    time.sleep(60)
"#;

fn begin(sidecar: &Sidecar, what: &str) -> String {
    let project = sidecar.place.path("ws/project");
    std::fs::write(project.join("agent.py"), AGENT).unwrap();
    // In JSON six times as long.
    std::fs::write(project.join("large"), "\u{1}".repeat(900_000)).unwrap();
    trigger(
        sidecar,
        &format!(
            "steps:\n  - name: code\n    agent: {{command: [python3, agent.py, {what}], prompt: go}}\n"
        ),
    )
}

/// Follows the run to its end; the most memory that the sidecar had more than before.
fn grows(sidecar: &Sidecar, what: &str) -> (Value, u64) {
    let before = sidecar.resident_bytes();
    let run = begin(sidecar, what);
    let mut most = before;
    let done = loop {
        most = most.max(sidecar.resident_bytes());
        let shown = crate::workflows::show(sidecar, &run);
        if !["queued", "running", "waiting"].contains(&shown["state"].as_str().unwrap()) {
            break over(sidecar, &run);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    println!("{what}: {} MiB more", (most - before) >> 20);
    (done, most - before)
}

#[test]
fn an_agent_that_asks_and_does_not_read_the_answers_is_not_read_either() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let before = sidecar.resident_bytes();
    let run = begin(sidecar, "asks");
    let asked = sidecar.place.path("ws/project/asked");
    crate::support::until("it has asked", || asked.exists());
    let began = Instant::now();
    let mut most = before;
    while began.elapsed() < WATCHED && most - before < GROWTH_MAX {
        most = most.max(sidecar.resident_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("asks: {} MiB more", (most - before) >> 20);
    // It can be ended all the same.
    post(
        sidecar,
        &format!("/workflows/{run}/cancel"),
        &serde_json::json!({}),
    )
    .success();
    assert_eq!(over(sidecar, &run)["state"], "cancelled");
    assert!(most - before < GROWTH_MAX, "{} bytes more", most - before);
}

#[test]
fn an_agent_that_asks_much_at_once_and_reads_is_answered_in_order() {
    let alone = sidecar();
    let (done, more) = grows(&alone.sidecar, "answers");
    assert_eq!(done["state"], "succeeded", "{done:#}");
    assert_eq!(step(&done, "code")["outputs"]["message"], "all 100");
    assert!(more < GROWTH_MAX, "{more} bytes more");
}

#[test]
fn an_agent_that_tells_without_end_is_told_of_with_an_end() {
    let alone = sidecar();
    for what in ["tells", "unknown"] {
        let (done, more) = grows(&alone.sidecar, what);
        assert_eq!(done["state"], "succeeded", "{done:#}");
        assert!(more < GROWTH_MAX, "{what}: {more} bytes more");
        let message = step(&done, "code")["outputs"]["message"].as_str().unwrap();
        assert!(message.len() < 40_000, "{}", message.len());
        let told = told_of(&alone.sidecar.socket(), done["run"].as_str().unwrap());
        let lengths = told.iter().map(|(_, data)| data.to_string().len());
        let bytes: usize = lengths.clone().sum();
        assert!(bytes < 1 << 20, "{what}: {bytes} bytes are told");
        let longest = lengths.max();
        assert!(longest < Some(20_000), "{what}: {longest:?}");
    }
}

#[test]
fn an_agent_whose_one_message_is_hostile_fails_and_says_so_briefly() {
    let alone = sidecar();
    for (what, reason) in [("values", "too many values"), ("fails", "yyy")] {
        let (done, more) = grows(&alone.sidecar, what);
        assert_eq!(done["state"], "failed", "{done:#}");
        assert!(more < GROWTH_MAX, "{what}: {more} bytes more");
        let error = &step(&done, "code")["error"];
        assert_eq!(error["code"], "agent_failed");
        assert!(
            error["message"].as_str().unwrap().contains(reason),
            "{what}: {error:.200}"
        );
        let bytes = done.to_string().len();
        assert!(bytes < 40_000, "{what}: it is shown as {bytes} bytes");
    }
}
