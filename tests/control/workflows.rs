//! Workflows from outside: with real sandboxes on a real mount, the sidecar killed in the middle, a real agent, and git beside
//! them.

use std::io::{BufRead, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::exec::require_runtime;
use crate::sidecar::{Response, Sidecar};
use crate::support::until;

/// Sandboxes take memory: these tests take turns.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Alone {
    pub(crate) sidecar: Sidecar,
    _turn: MutexGuard<'static, ()>,
}

pub(crate) fn sidecar() -> Alone {
    require_runtime();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sidecar = Sidecar::start();
    sidecar.mount("project");
    Alone {
        sidecar,
        _turn: turn,
    }
}

pub(crate) fn post(sidecar: &Sidecar, path: &str, body: &Value) -> Response {
    sidecar.ask("POST", path, &body.to_string())
}

#[track_caller]
pub(crate) fn trigger(sidecar: &Sidecar, definition: &str) -> String {
    let body = json!({"mount": "project", "workflow": definition});
    let begun = post(sidecar, "/trigger", &body).success();
    begun["run"].as_str().unwrap().to_owned()
}

pub(crate) fn show(sidecar: &Sidecar, run: &str) -> Value {
    sidecar
        .ask("GET", &format!("/workflows/{run}"), "")
        .success()
}

#[track_caller]
pub(crate) fn over(sidecar: &Sidecar, run: &str) -> Value {
    let mut shown = Value::Null;
    until("the run is over", || {
        shown = show(sidecar, run);
        let is_over = !["queued", "running", "waiting"].contains(&shown["state"].as_str().unwrap());
        is_over && shown["releasing"] == false
    });
    shown
}

pub(crate) fn step<'v>(shown: &'v Value, name: &str) -> &'v Value {
    let steps = shown["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap()
}

/// Counts requests by their path.
struct Counter {
    port: u16,
    count: Arc<AtomicUsize>,
}

impl Counter {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut part = [0; 4096];
                if stream.read(&mut part).is_ok_and(|length| length > 0) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer =
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                    drop(stream.write_all(answer.as_bytes()));
                }
            }
        });
        Self { port, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let done = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args([
            "-c",
            "user.name=n",
            "-c",
            "user.email=e@e",
            "-c",
            "safe.directory=*",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn a_workflow_of_the_project_is_followed_compared_and_reverted() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let project = sidecar.place.path("ws/project");
    std::fs::create_dir_all(project.join(".weldr/workflows")).unwrap();
    std::fs::write(
        project.join(".weldr/workflows/build.yaml"),
        "inputs: {who: {}}\nsteps:\n  - {name: one, run: 'echo one >tracked; mkdir out; echo \"$WHO\" >out/untracked', env: {WHO: '${{ inputs.who }}'}}\n  \
         - {name: two, run: 'echo two >>tracked; echo said; echo warned >&2'}\n",
    )
    .unwrap();
    std::fs::write(project.join("tracked"), "zero\n").unwrap();
    git(&project, &["init", "-q"]);
    git(&project, &["add", "-A"]);
    git(&project, &["commit", "-q", "-m", "first"]);

    let followed = sidecar.run(&[
        "workflows",
        "trigger",
        "project",
        "build",
        "-i",
        "who=a $(b)",
        "--follow",
    ]);
    let followed = followed.success();
    assert!(
        followed.stdout.contains("two | said") && followed.stdout.contains("is succeeded"),
        "{followed:?}"
    );
    assert_eq!(
        std::fs::read_to_string(project.join("out/untracked")).unwrap(),
        "a $(b)\n"
    );
    let list = sidecar.run_json(&["workflows", "ls", "--json"]);
    let run = list["runs"][0]["run"].as_str().unwrap().to_owned();
    let shown = sidecar.run(&["workflows", "show", &run]).success().stdout;
    assert!(shown.contains("build is succeeded"), "{shown}");
    let two = sidecar.run_json(&["workflows", "diff", &run, "two", "--json"]);
    let paths: Vec<&str> = two["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["tracked"]);
    let patch = sidecar
        .run(&["workflows", "diff", &run, "--patch"])
        .success()
        .stdout;
    assert!(
        patch.contains("+two") && patch.contains("+++ b/out/untracked"),
        "{patch}"
    );

    let reverted = sidecar
        .run(&["workflows", "revert", &run, "two"])
        .success()
        .stdout;
    assert_eq!(
        std::fs::read_to_string(project.join("tracked")).unwrap(),
        "one\n",
        "{reverted}"
    );
    sidecar.run(&["workflows", "revert", &run]).success();
    assert_eq!(git(&project, &["status", "--porcelain"]), "");
    assert!(!project.join("out").exists());
    // Somebody edits, and reverts once more: nothing is lost.
    sidecar
        .run(&["workflows", "revert", &run, "--undo"])
        .success();
    assert_eq!(
        std::fs::read_to_string(project.join("tracked")).unwrap(),
        "one\n"
    );
    std::fs::write(project.join("edited"), "mine").unwrap();
    let report = post(sidecar, "/revert", &json!({"run": run})).success();
    assert!(!project.join("edited").exists());
    let kept = report["kept"].as_str().unwrap();
    let kept = project.join(".snapshots").join(kept).join("edited");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "mine");
    assert_eq!(show(sidecar, &run)["state"], "reverted");
}

#[test]
fn a_run_goes_on_with_the_next_sidecar_and_its_command_never_notices() {
    let mut alone = sidecar();
    let counter = Counter::start();
    let project = alone.sidecar.place.path("ws/project");
    let run = trigger(
        &alone.sidecar,
        &format!(
            "steps:\n  - {{name: long, run: 'echo begin >>log; for n in 1 2 3 4 5 6; do echo line $n; sleep 0.3; done; echo end >>log'}}\n  \
             - {{name: call, http: {{method: POST, url: 'http://127.0.0.1:{}/'}}}}\n",
            counter.port
        ),
    );
    for _ in 0..3 {
        until("it has begun", || project.join("log").exists());
        std::thread::sleep(Duration::from_millis(150));
        alone.sidecar.kill();
        alone.sidecar.start_again();
    }
    let done = over(&alone.sidecar, &run);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    assert_eq!(
        std::fs::read_to_string(project.join("log")).unwrap(),
        "begin\nend\n"
    );
    assert_eq!(step(&done, "long")["attempt"], 1);
    let lines = "line 1\nline 2\nline 3\nline 4\nline 5\nline 6";
    assert_eq!(step(&done, "long")["outputs"]["stdout"], lines);
    assert_eq!(counter.count(), 1);
    let followed = alone.sidecar.run(&["workflows", "follow", &run]).success();
    let told: Vec<&str> = followed
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("long | "))
        .collect();
    assert_eq!(told.join("\n"), lines, "no gap and no double");
}

/// The process itself is killed, at points that are told by a variable.
#[test]
fn the_process_is_killed_at_points_and_nothing_is_done_twice() {
    require_runtime();
    for point in [
        "triggered",
        "begin.before",
        "begin.after",
        "first-snapshot",
        "first-snapshot.after",
        "skip.after",
        "attempt.before",
        "attempt.after",
        "started",
        "output",
        "retry.after",
        "ended",
        "outcome.after",
        "snapshot",
        "settled.after",
        "finish.before",
        "finish.after",
    ] {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sidecar = Sidecar::start_with(&[], &[("WELDRFS_FAILPOINT", point)]);
        sidecar.mount("project");
        let project = sidecar.place.path("ws/project");
        let text = "steps:\n  - {name: a, run: 'echo x | tee -a effects', idempotent: false}\n  - {name: b, run: 'echo y >>effects'}\n  \
                    - {name: c, if: failure(), run: 'echo z >>effects'}\n  \
                    - {name: d, run: 'echo d >>tries; [ $(wc -l <tries) -gt 1 ]', retry: {attempts: 9, backoff: 10ms}}\n";
        let body = json!({"mount": "project", "workflow": text}).to_string();
        // Its answer may be lost with the sidecar.
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            sidecar.ask("POST", "/trigger", &body)
        }));
        drop(asked);
        sidecar.wait_for_death();
        sidecar.forget_variables();
        sidecar.start_again();
        let list = sidecar.ask("GET", "/workflows", "").success();
        assert_eq!(list["runs"].as_array().unwrap().len(), 1, "{point}: {list}");
        let run = list["runs"][0]["run"].as_str().unwrap().to_owned();
        let done = over(&sidecar, &run);
        assert_eq!(done["state"], "succeeded", "{point}: {done:#}");
        assert_eq!(
            std::fs::read_to_string(project.join("effects")).unwrap(),
            "x\ny\n",
            "{point}"
        );
        drop(sidecar);
        drop(turn);
    }
}

/// And at moments that nobody chose; `WELDRFS_SIDECAR_KILLS` says at how many.
#[test]
fn runs_go_on_over_kills_of_the_process_at_random_moments() {
    let kills = crate::seed::number("WELDRFS_SIDECAR_KILLS", 100);
    let seed = crate::seed::base();
    println!("WELDRFS_TEST_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut alone = sidecar();
    let sidecar = &mut alone.sidecar;
    let project = sidecar.place.path("ws/project");
    let mut runs = Vec::new();
    for kill in 0..kills {
        let step = |name: &str, more: &str| {
            format!("  - {{name: {name}, run: 'echo {name} >>effects-{kill}; sleep 0.05'{more}}}\n")
        };
        let once = step("once", ", idempotent: false");
        let text = format!("steps:\n{}{once}{}", step("first", ""), step("last", ""));
        runs.push(trigger(sidecar, &text));
        std::thread::sleep(Duration::from_millis(random.random_range(1..400)));
        sidecar.kill();
        sidecar.start_again();
    }
    for (kill, run) in runs.iter().enumerate() {
        let done = over(sidecar, run);
        let effects = project.join(format!("effects-{kill}"));
        let effects = std::fs::read_to_string(effects).unwrap_or_default();
        let mut goes_on = true;
        for name in ["first", "once", "last"] {
            let step = step(&done, name);
            let times = effects.lines().filter(|line| *line == name).count() as u64;
            let attempts = step["attempt"].as_u64().unwrap();
            match step["state"].as_str().unwrap() {
                "succeeded" => assert!((1..=attempts).contains(&times), "{run}: {done:#}"),
                // It was cut off before anything of it was there, and may not be tried again.
                "interrupted" if name == "once" => {
                    assert!(times <= 1 && attempts == 1, "{run}: {done:#}");
                    goes_on = false;
                }
                "skipped" if !goes_on => assert_eq!(times, 0, "{run}: {done:#}"),
                other => panic!("{run}: {name} is {other}: {done:#}"),
            }
        }
        let state = if goes_on { "succeeded" } else { "interrupted" };
        assert_eq!(done["state"], state, "{done:#}");
    }
}

#[test]
fn bad_definitions_say_where_and_nothing_starts() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let ask = |workflow: Value| {
        post(
            sidecar,
            "/trigger",
            &json!({"mount": "project", "workflow": workflow}),
        )
    };
    let message = ask("steps:\n  - name: a\n    runs: x\n".into()).refused(400, "invalid_request");
    assert!(
        message.contains("line 3, column") && message.contains("runs"),
        "{message}"
    );
    for name in ["../../../etc/passwd", "/etc/passwd", ".hidden", "a/b"] {
        ask(name.into()).refused(400, "invalid_request");
    }
    ask("missing".into()).refused(404, "not_found");
    ask("steps:\n  - {name: up, preview: {port: 0}}\n".into()).refused(400, "invalid_request");
    let laughs = format!(
        "a: &a [{}]\nb: &b [{}]\nc: [{}]\n",
        "x,".repeat(99),
        "*a,".repeat(99),
        "*b,".repeat(99)
    );
    ask(laughs.into()).refused(400, "invalid_request");
    let key = "trigger-once";
    let body = json!({"mount": "project", "workflow": {"steps": [{"name": "a", "run": "true"}]}})
        .to_string();
    let first = sidecar
        .ask_with("POST", "/trigger", &[("idempotency-key", key)], &body)
        .success();
    let again = sidecar
        .ask_with("POST", "/trigger", &[("idempotency-key", key)], &body)
        .success();
    assert_eq!(first["run"], again["run"]);
    let list = sidecar.ask("GET", "/workflows", "").success();
    assert_eq!(list["runs"].as_array().unwrap().len(), 1);
    over(sidecar, first["run"].as_str().unwrap());
}

#[test]
fn cancel_ends_the_command_and_output_has_an_end() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let run = trigger(
        sidecar,
        "steps:\n  - {name: a, run: 'touch begun; sleep 1000'}\n",
    );
    let begun = sidecar.place.path("ws/project/begun");
    until("it has begun", || begun.exists());
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .refused(409, "in_use");
    let cancelled = sidecar.run_json(&["workflows", "cancel", &run, "--json"]);
    assert_eq!(cancelled["state"], "cancelled");
    over(sidecar, &run);
    let run = trigger(
        sidecar,
        "steps:\n  - {name: a, run: 'head -c 20000000 /dev/zero | tr \"\\0\" x; echo; echo last'}\n",
    );
    let done = over(sidecar, &run);
    assert_eq!(done["state"], "succeeded");
    assert!(
        step(&done, "a")["log"]
            .as_str()
            .unwrap()
            .ends_with("xxx\nlast\n")
    );
    assert!(done.to_string().len() < 100_000);
    let followed = sidecar
        .run(&["workflows", "follow", &run, "--json"])
        .success()
        .stdout;
    assert!(followed.len() < 1_000_000, "{}", followed.len());
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

/// Variable that makes this program an agent, see `agent_process`.
const AGENT: &str = "WELDRFS_TEST_AGENT";

#[test]
fn a_real_agent_edits_files_in_a_sandbox_and_its_work_is_reverted() {
    let alone = sidecar();
    let sidecar = &alone.sidecar;
    let project = sidecar.place.path("ws/project");
    let program = std::env::current_exe().unwrap();
    std::fs::copy(program, project.join("agent")).unwrap();
    std::fs::write(project.join("broken"), "no\n").unwrap();
    let text = format!(
        "steps:\n  - {{name: before, run: 'test -f broken'}}\n  - name: code\n    env: {{{AGENT}: '1'}}\n    agent:\n      \
         command: [./agent, --exact, 'workflows::agent_process', --nocapture]\n      prompt: mend it\n      \
         permissions: {{allow: [edit]}}\n  - {{name: tests, run: 'grep -q yes broken && test -f added && cat added'}}\n"
    );
    let run = trigger(sidecar, &text);
    let done = over(sidecar, &run);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    assert_eq!(
        step(&done, "code")["outputs"]["message"],
        "I mend it. allowed: yes"
    );
    assert_eq!(step(&done, "tests")["outputs"]["stdout"], "added by itself");
    let changed = sidecar.run_json(&["workflows", "diff", &run, "code", "--json"]);
    let paths: Vec<&str> = changed["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["added", "broken"]);
    sidecar
        .run(&["workflows", "revert", &run, "code"])
        .success();
    assert_eq!(
        std::fs::read_to_string(project.join("broken")).unwrap(),
        "no\n"
    );
    assert!(!project.join("added").exists());
}

/// No test: what `a_real_agent_edits_files_in_a_sandbox_and_its_work_is_reverted` starts in a sandbox, where the variable is
/// set. Speaks the protocol line by line, as an agent that knows nothing of our library would.
#[test]
fn agent_process() {
    if std::env::var_os(AGENT).is_none() {
        return;
    }
    let mut lines = std::io::stdin().lock().lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let say = |message: Value| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{message}").unwrap();
        out.flush().unwrap();
    };
    let update = |update: Value| {
        say(
            json!({"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": "s", "update": update}}),
        );
    };
    let text = |text: &str| {
        update(
            json!({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}),
        );
    };
    let hello = next();
    assert_eq!(hello["method"], "initialize");
    say(
        json!({"jsonrpc": "2.0", "id": hello["id"], "result": {"protocolVersion": 1, "agentCapabilities": {}}}),
    );
    let new = next();
    let cwd = new["params"]["cwd"].as_str().unwrap().to_owned();
    assert_eq!(std::env::current_dir().unwrap(), Path::new(&cwd));
    say(json!({"jsonrpc": "2.0", "id": new["id"], "result": {"sessionId": "s"}}));
    let prompt = next();
    assert_eq!(prompt["params"]["prompt"][0]["text"], "mend it");
    text("I mend it. ");
    say(
        json!({"jsonrpc": "2.0", "id": 1, "method": "fs/read_text_file", "params": {"sessionId": "s", "path": format!("{cwd}/broken")}}),
    );
    assert_eq!(next()["result"]["content"], "no\n");
    let options = json!([{"optionId": "yes", "name": "Yes", "kind": "allow_once"}, {"optionId": "no", "name": "No", "kind": "reject_once"}]);
    say(
        json!({"jsonrpc": "2.0", "id": 2, "method": "session/request_permission", "params": {"sessionId": "s", "options": options,
        "toolCall": {"toolCallId": "t", "kind": "edit", "title": "edit"}}}),
    );
    let answer = next();
    text(&format!(
        "allowed: {}",
        answer["result"]["outcome"]["optionId"].as_str().unwrap()
    ));
    say(
        json!({"jsonrpc": "2.0", "id": 3, "method": "fs/write_text_file", "params": {"sessionId": "s", "path": format!("{cwd}/broken"), "content": "yes\n"}}),
    );
    next();
    std::fs::write("added", "added by itself\n").unwrap();
    say(json!({"jsonrpc": "2.0", "id": prompt["id"], "result": {"stopReason": "end_turn"}}));
    // The sidecar ends it.
    std::thread::sleep(Duration::from_secs(60));
}

/// Each thread takes memory, of which a small machine has little.
#[test]
fn hundreds_of_runs_at_once_take_no_thread_each() {
    require_runtime();
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sidecar = Sidecar::start_with(&["--rate", "5000"], &[]);
    sidecar.mount("project");
    let steps = (0..5).map(|n| format!("  - {{name: s{n}, wait: {{for: 1ms}}}}\n"));
    let text = format!(
        "steps:\n  - {{name: first, wait: {{for: 2s}}}}\n{}",
        steps.collect::<String>()
    );
    let mut runs = Vec::new();
    for _ in 0..120 {
        runs.push(trigger(&sidecar, &text));
    }
    let mut most = 0;
    until("all are over", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", sidecar.pid())).unwrap();
        most = most.max(tasks.count());
        let list = sidecar.ask("GET", "/workflows?limit=200", "").success();
        let mut runs = list["runs"].as_array().unwrap().iter();
        runs.all(|run| run["state"] == "succeeded")
    });
    assert!(most < 60, "{most} threads");
    for run in runs {
        assert_eq!(over(&sidecar, &run)["state"], "succeeded");
    }
}
