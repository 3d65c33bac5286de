//! Commands in sandboxes: what comes out of them, what they cannot do, and that nothing of them is left behind.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sidecar::{Sidecar, kill};
use crate::support::{PATIENCE, require_fuse, until};

/// A container runtime is needed; without one these tests fail and say so.
pub(crate) fn require_runtime() {
    require_fuse();
    let works = |name: &str| {
        let said = Command::new(name).arg("--version").output();
        said.is_ok_and(|said| said.status.success())
    };
    assert!(
        works("crun") || works("runc"),
        "these tests need crun or runc: apt-get install crun runc"
    );
    assert!(rustix::process::getuid().is_root(), "these tests need root");
}

/// What was there before the test began is not its own.
static BEFORE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What is left of sandboxes on this machine.
pub(crate) fn left_behind() -> BTreeSet<String> {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    of_sandboxes().difference(&before).cloned().collect()
}

/// What there is of sandboxes on this machine.
fn of_sandboxes() -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid.parse::<u32>().is_ok() && (line.contains("sandbox-init") || line.contains(" shim /"))
        {
            left.insert(format!("process {line}"));
        }
    }
    for base in [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/pids",
    ] {
        let groups = std::fs::read_dir(format!("{base}/weldrfs"))
            .into_iter()
            .flatten();
        for group in groups.flatten().filter(|group| group.path().is_dir()) {
            left.insert(format!("cgroup {}", group.path().display()));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains("/sandboxes/"))
            .map(|line| format!("mount {line}")),
    );
    left
}

/// What is left behind is looked for on the whole machine, so these tests take turns.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

/// A sidecar with a mount called `project`, and nothing else of the kind.
pub(crate) struct Alone {
    pub(crate) sidecar: Sidecar,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // What outlives a sidecar would outlive a test that fails.
        let place = self.sidecar.place.text("");
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_ours = line.contains("sandbox-init") && line.contains(&place);
            if let (true, Ok(pid)) = (is_ours, entry.file_name().to_string_lossy().parse()) {
                kill(pid, Signal::KILL);
            }
        }
    }
}

impl Deref for Alone {
    type Target = Sidecar;

    fn deref(&self) -> &Sidecar {
        &self.sidecar
    }
}

impl DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut Sidecar {
        &mut self.sidecar
    }
}

pub(crate) fn sidecar() -> Alone {
    sidecar_with(&[])
}

pub(crate) fn sidecar_with(arguments: &[&str]) -> Alone {
    alone(arguments, None)
}

/// The same with a mount called `project` that was asked for so.
pub(crate) fn sidecar_on(arguments: &[&str], mount: &Value) -> Alone {
    alone(arguments, Some(mount))
}

fn alone(arguments: &[&str], mount: Option<&Value>) -> Alone {
    require_runtime();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = of_sandboxes();
    let sidecar = Sidecar::start_with(arguments, &[]);
    match mount {
        None => sidecar.mount("project"),
        Some(body) => sidecar.ask("POST", "/mounts", &body.to_string()).success(),
    };
    Alone {
        sidecar,
        _turn: turn,
    }
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Value,
}

/// Runs a command and returns everything of it.
#[track_caller]
pub(crate) fn exec(sidecar: &Sidecar, body: &Value) -> Ran {
    let lines = raw(sidecar, body);
    let text = |stream: &str| -> String {
        let of = lines.iter().filter(|line| line["stream"] == stream);
        of.map(|line| line["text"].as_str().unwrap_or("(no text)"))
            .collect()
    };
    assert_eq!(lines[0]["type"], "started", "{lines:?}");
    let exit = lines.last().unwrap().clone();
    assert_eq!(exit["type"], "exit", "{lines:?}");
    Ran {
        stdout: text("stdout"),
        stderr: text("stderr"),
        exit,
    }
}

pub(crate) fn send(sidecar: &Sidecar, body: &Value) -> UnixStream {
    let mut stream = UnixStream::connect(sidecar.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /exec HTTP/1.0\r\nhost: s\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

#[track_caller]
pub(crate) fn raw(sidecar: &Sidecar, body: &Value) -> Vec<Value> {
    let mut answer = String::new();
    send(sidecar, body).read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.contains(" 200 "), "{answer}");
    body.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

pub(crate) fn shell(line: &str) -> Value {
    json!({"mount": "project", "command": line})
}

#[track_caller]
fn refused(sidecar: &Sidecar, body: &Value, status: u16, code: &str) -> String {
    sidecar
        .ask("POST", "/exec", &body.to_string())
        .refused(status, code)
}

pub(crate) fn unmount(sidecar: &Sidecar) {
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
    until("nothing is left", || left_behind().is_empty());
}

#[test]
fn output_and_status_of_a_command_arrive_and_nothing_is_left() {
    let sidecar = sidecar();
    let ran = exec(
        &sidecar,
        &shell("echo out; echo err >&2; pwd; id -u; echo text >file; exit 7"),
    );
    let path = sidecar.place.text("ws/project");
    assert_eq!(ran.stdout, format!("out\n{path}\n1000\n"), "{ran:?}");
    assert_eq!(ran.stderr, "err\n");
    assert_eq!(ran.exit["status"], 7);
    assert_eq!(
        std::fs::read_to_string(format!("{path}/file")).unwrap(),
        "text\n"
    );
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("{path}/file")).unwrap());
    assert_eq!(owner, 0, "what is written is the owner's of the project");

    for (line, status) in [
        ("true", 0),
        ("no-such-program", 127),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
    ] {
        assert_eq!(
            exec(&sidecar, &shell(line)).exit["status"],
            status,
            "{line}"
        );
    }
    let words = json!({"mount": "project", "command": ["no-such-program"]});
    assert_eq!(exec(&sidecar, &words).exit["status"], 127);
    let input =
        json!({"mount": "project", "command": ["cat"], "stdin": "given", "env": {"A": "b"}});
    assert_eq!(exec(&sidecar, &input).stdout, "given");
    let big = exec(&sidecar, &shell("head -c 20000000 /dev/zero | tr '\\0' x"));
    assert_eq!(big.stdout.len(), 20_000_000, "a reader loses nothing");
    let events = sidecar.events("project");
    assert!(events.contains(&"exec.started".into()) && events.contains(&"exec.finished".into()));
    unmount(&sidecar);
}

#[test]
fn the_command_line_is_the_command() {
    let sidecar = sidecar();
    std::fs::create_dir_all(sidecar.place.path("ws/project/app")).unwrap();
    let answer = sidecar.run(&[
        "exec",
        "-e",
        "A=b c",
        "project:app",
        "--",
        "sh",
        "-c",
        "pwd; echo $A >&2; exit 3",
    ]);
    assert_eq!(answer.code, 3, "{answer:?}");
    assert_eq!(answer.stdout.trim(), sidecar.place.text("ws/project/app"));
    assert_eq!(answer.stderr.trim(), "b c");
    unmount(&sidecar);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    let sidecar = sidecar();
    std::os::unix::fs::symlink("/etc", sidecar.place.path("ws/project/out")).unwrap();
    let body = |path: &str| json!({"mount": "project", "path": path, "command": ["true"]});
    for path in ["out", "missing", "..", "/etc"] {
        refused(&sidecar, &body(path), 400, "invalid_request");
    }
    refused(
        &sidecar,
        &json!({"mount": "other", "command": "true"}),
        404,
        "not_found",
    );
    refused(
        &sidecar,
        &json!({"mount": "project", "command": "true", "colour": 1}),
        400,
        "invalid_request",
    );
    unmount(&sidecar);
}

#[test]
fn a_command_ends_when_its_time_is_over() {
    let sidecar = sidecar();
    let body = json!({"mount": "project", "command": "trap '' TERM; echo on; sleep 600 & wait; sleep 600", "timeout_ms": 300});
    let ran = exec(&sidecar, &body);
    assert_eq!(
        (ran.stdout.as_str(), &ran.exit["timed_out"]),
        ("on\n", &json!(true)),
        "{ran:?}"
    );
    unmount(&sidecar);
}

#[test]
fn a_mount_is_not_taken_away_under_a_command_which_ends_with_its_client() {
    let sidecar = sidecar();
    let mut stream = send(&sidecar, &shell("echo on; sleep 600"));
    let mut text = String::new();
    while !text.contains("on\\n") {
        let mut part = [0; 512];
        let length = stream.read(&mut part).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    let message = sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .refused(409, "in_use");
    assert!(
        message.contains("exec-") && message.contains("(sh)"),
        "{message}"
    );
    drop(stream);
    until("it has ended", || left_behind().is_empty());
    until("it may be unmounted", || {
        sidecar
            .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
            .status
            == 200
    });
}

#[test]
fn a_command_ends_with_a_killed_sidecar_and_the_next_one_says_so() {
    let mut sidecar = sidecar();
    let stream = send(&sidecar, &shell("sleep 600"));
    until("it runs", || {
        sidecar.events("project").contains(&"exec.started".into())
    });
    sidecar.kill();
    drop(stream);
    until("it has ended", || left_behind().is_empty());
    sidecar.start_again();
    until("it is reported", || {
        sidecar.events("project").contains(&"exec.finished".into())
    });
    assert_eq!(exec(&sidecar, &shell("echo again")).stdout, "again\n");
    unmount(&sidecar);
}

#[test]
fn a_command_whose_shim_is_killed_is_reported_and_cleared_away() {
    let sidecar = sidecar();
    let stream = send(&sidecar, &shell("sleep 600"));
    until("it runs", || {
        sidecar.events("project").contains(&"exec.started".into())
    });
    let folders = std::fs::read_dir(sidecar.place.path("run/sandboxes")).unwrap();
    let note = folders.flatten().next().unwrap().path().join("note.json");
    let note: Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
    kill(note["shim_pid"].as_i64().unwrap(), Signal::KILL);
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    assert!(answer.contains(r#""type":"error""#), "{answer}");
    until("nothing is left", || left_behind().is_empty());
    unmount(&sidecar);
}

#[test]
fn nothing_of_the_machine_can_be_read_that_is_private_or_written_at_all() {
    let sidecar = sidecar();
    let canary = format!("weldrfs-canary-{}", std::process::id());
    let planted: Vec<_> = [
        "/root",
        "/home",
        "/run",
        "/var/lib/weldrfs",
        "/etc/weldrfs",
        "/var/log",
        "/srv",
        "/mnt",
        "/tmp",
    ]
    .iter()
    .map(|folder| {
        let made = !std::path::Path::new(folder).exists();
        std::fs::create_dir_all(folder).unwrap();
        let file = format!("{folder}/{canary}");
        std::fs::write(&file, "secret").unwrap();
        (made.then(|| (*folder).to_owned()), file)
    })
    .collect();
    let mut script: String = planted
        .iter()
        .map(|(_, file)| format!("cat {file} 2>&1;\n"))
        .collect();
    let socket = sidecar.socket().display().to_string();
    script.push_str(&format!(
        "cat /etc/shadow /etc/gshadow 2>/dev/null; test -e {socket} && echo socket;\
         find / -xdev -name '{canary}' 2>/dev/null; ls /sys;\
         for d in / /etc /usr /usr/bin /var/lib /opt; do touch $d/{canary} 2>/dev/null && echo wrote $d; done; true"
    ));
    let ran = exec(&sidecar, &shell(&script));
    for (made, file) in planted {
        std::fs::remove_file(file).unwrap();
        made.into_iter()
            .for_each(|folder| std::fs::remove_dir(folder).unwrap());
    }
    for word in ["secret", "root:", "wrote", "socket\n"] {
        assert!(!ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
    let found: Vec<_> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('/') && line.ends_with(&canary))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    unmount(&sidecar);
}

#[test]
fn there_is_no_way_to_more_rights() {
    let sidecar = sidecar();
    let script = r#"
        grep -E '^(CapEff|CapPrm|CapBnd|CapInh|CapAmb):' /proc/self/status | grep -v 0000000000000000
        grep -q '^NoNewPrivs:.1' /proc/self/status || echo new privileges
        grep -q '^Seccomp:.2' /proc/self/status || echo no filter
        ls -d /proc/[0-9]* | wc -l
        ls -l /proc/1/exe >/dev/null
        mount -t tmpfs x /tmp 2>/dev/null && echo mounted
        unshare -U true 2>/dev/null && echo unshared
        su -c true 2>/dev/null </dev/null && echo su
        mknod /tmp/null c 1 3 2>/dev/null && echo node
        for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /dev/kmsg /dev/mem /dev/vda /dev/fuse; do
            (echo 1 >$f) 2>/dev/null && echo wrote $f
        done
        cat /proc/kcore /proc/kmsg 2>/dev/null | head -c 1 | wc -c
        python3 - <<'P'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    done = libc.syscall(number, *arguments)
    print(name, 'worked' if done >= 0 else ctypes.get_errno())
if os.uname().machine == 'x86_64':
    call('ptrace', 101, 0, 0, 0, 0)
    call('keyctl', 250, 0, -3, 0)
    call('bpf', 321, 0, 0, 0)
    call('io_uring', 425, 1, 0)
    call('setns', 308, 0, 0)
    call('unshare', 272, 0x10000000)
    call('clone', 56, 0x10000000 | 17, 0, 0, 0, 0)
    call('clone3', 435, 0, 0)
    call('open_by_handle_at', 304, 0, 0, 0)
    call('unknown', 10000)
P
        true"#;
    let ran = exec(&sidecar, &shell(script));
    for word in [
        "Cap",
        "privileges",
        "filter",
        "mounted",
        "unshared",
        "su\n",
        "node",
        "wrote",
        "worked",
    ] {
        assert!(!ran.stdout.contains(word), "{word}: {ran:?}");
    }
    let mut lines = ran.stdout.lines();
    let processes: u32 = lines.next().unwrap().trim().parse().unwrap();
    assert!(processes < 10, "other processes show: {ran:?}");
    assert_eq!(lines.next().unwrap().trim(), "0", "{ran:?}");
    unmount(&sidecar);
}

#[test]
fn the_network_is_its_own_unless_asked_otherwise() {
    let sidecar = sidecar();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = format!(
        "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 2); print(\"reached\")' 2>&1 | tail -1"
    );
    for (network, reaches) in [("isolated", false), ("none", false), ("host", true)] {
        let body = json!({"mount": "project", "command": line, "network": network});
        let ran = exec(&sidecar, &body);
        assert_eq!(
            ran.stdout.contains("reached"),
            reaches,
            "{network}: {ran:?}"
        );
    }
    unmount(&sidecar);
}

#[test]
fn limits_hold_and_the_one_of_memory_is_reported_as_such() {
    let sidecar = sidecar();
    let memory = json!({
        "mount": "project", "limits": {"memory_mb": 64},
        "command": ["python3", "-c", "b = bytearray(200 << 20)"],
    });
    let ran = exec(&sidecar, &memory);
    assert_eq!(
        (&ran.exit["out_of_memory"], &ran.exit["status"]),
        (&json!(true), &json!(137)),
        "{ran:?}"
    );
    let bomb = json!({
        "mount": "project", "limits": {"processes": 50}, "timeout_ms": 3000,
        "command": "b() { b | b & }; b; sleep 60",
    });
    let ran = exec(&sidecar, &bomb);
    assert_ne!(ran.exit["status"], 0, "{ran:?}");
    let full = json!({
        "mount": "project", "limits": {"tmp_mb": 4},
        "command": "head -c 100000000 /dev/zero >/tmp/full; stat -c %s /tmp/full",
    });
    let ran = exec(&sidecar, &full);
    assert!(ran.stderr.contains("No space left"), "{ran:?}");
    assert_eq!(ran.stdout.trim(), (4 << 20).to_string());
    unmount(&sidecar);
}

#[test]
fn secrets_reach_the_command_and_nothing_else() {
    let sidecar = sidecar();
    let canary = "c4n4ry-0f-4-s3cr3t";
    sidecar.keep_secret("API_KEY", canary);
    let without = exec(&sidecar, &shell("echo ${API_KEY:-none}"));
    assert_eq!(without.stdout, "none\n");
    let line = "echo $API_KEY | rev; touch running; while [ -e running ]; do sleep 0.05; done";
    let body = json!({"mount": "project", "command": line, "secrets": ["API_KEY"]});
    let mut stream = send(&sidecar, &body);
    let file = sidecar.place.path("ws/project/running");
    until("it runs", || file.exists());
    let mut where_it_is = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(canary) {
            where_it_is.push(entry.path());
        }
    }
    let grep = Command::new("grep")
        .args(["-rlsa", canary])
        .args([
            sidecar.place.path("run"),
            sidecar.place.path("state"),
            sidecar.place.path("control.log"),
        ])
        .output()
        .unwrap();
    let files = String::from_utf8_lossy(&grep.stdout).into_owned();
    for path in ["/mounts", "/metrics", "/health"] {
        assert!(
            !sidecar.ask("GET", path, "").body.contains(canary),
            "{path}"
        );
    }
    std::fs::remove_file(&file).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let reversed: String = canary.chars().rev().collect();
    // It may come in pieces.
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    let written: String = lines
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| Some(line["text"].as_str()?.to_owned()))
        .collect();
    assert_eq!(written.trim_end(), reversed, "{answer}");
    assert_eq!(where_it_is, Vec::<std::path::PathBuf>::new());
    assert_eq!(
        files.trim(),
        sidecar.place.text("state/control/secrets/API_KEY")
    );
    assert!(!sidecar.log().contains(canary));
    unmount(&sidecar);
}

#[test]
fn as_many_commands_run_as_may() {
    let sidecar = sidecar_with(&["--max-execs", "1"]);
    let stream = send(&sidecar, &shell("sleep 600"));
    until("it runs", || {
        sidecar.events("project").contains(&"exec.started".into())
    });
    refused(&sidecar, &shell("true"), 409, "limit_reached");
    drop(stream);
    until("there is room again", || left_behind().is_empty());
    until("it may run", || {
        sidecar
            .ask("POST", "/exec", &shell("true").to_string())
            .status
            == 200
    });
    unmount(&sidecar);
}
