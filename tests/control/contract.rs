//! The description of the API against the server: schemathesis makes requests up from it, fitting ones and others, and
//! every answer has to be one that is described. The sidecar is a real one, in a world of its own: what it mounts and
//! writes goes with it. `WELDRFS_CONTRACT_EXAMPLES` says how many requests each operation gets.

use std::process::{Child, Command, Stdio};

use crate::access::free_port;
use crate::monitoring::tools;
use crate::sidecar::ask_tcp;
use crate::support::{Answer, PROGRAM, Place, require_fuse, until};

/// Longest time for one of the two rounds, in seconds.
const SECONDS_MAX: &str = "580";
/// What is given a millisecond may be too late, and says so. Nothing else may answer like a server that has failed.
const IN_TIME: &str = r#"
[[operations]]
include-path = "/mounts/{name}/sync"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]
"#;

/// A sidecar that sees this machine's files and changes only copies of them, in memory; it and all that it starts end
/// with this.
struct Apart {
    process: Child,
    place: Place,
    port: u16,
    token: String,
}

impl Apart {
    fn start() -> Self {
        let place = Place::new();
        let port = free_port();
        std::fs::create_dir(place.path("apart")).unwrap();
        // Made here, because the file of tokens has to be there when it starts.
        let token = place
            .command(PROGRAM)
            .args(["control", "token", "create"])
            .output();
        let token = Answer::of(token.unwrap())
            .success()
            .stdout
            .trim()
            .to_owned();
        let script = r#"
            mount --make-rprivate /
            mount -t tmpfs -o size=512m tmpfs "$APART"
            mkdir "$APART/changed" "$APART/work" "$APART/root"
            mount -t overlay overlay -o "lowerdir=/,upperdir=$APART/changed,workdir=$APART/work" "$APART/root"
            for folder in dev sys; do mount --rbind "/$folder" "$APART/root/$folder"; done
            mount -t proc proc "$APART/root/proc"
            mkdir -p "$APART/root/contract/run"
            cp -a "$STATE" "$APART/root/contract/state"
            cp "$PROGRAM" "$APART/root/contract/weldrfs"
            exec chroot "$APART/root" env HOME=/root WELDRFS_RUN_DIR=/contract/run WELDR_ENV_VOL=/contract/state \
                WORKSPACE_BASE=/contract/ws /contract/weldrfs control --listen "127.0.0.1:$PORT" --rate 100000 \
                --token-rate 100000 --auth-rate 100000
        "#;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-euc",
                script,
            ])
            .env("APART", place.path("apart"))
            .env("STATE", place.path("state"))
            .env("PROGRAM", PROGRAM)
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(place.path("control.log")).unwrap());
        let mut apart = Self {
            process: command.spawn().unwrap(),
            place,
            port,
            token,
        };
        until("the sidecar answers", || {
            let ended = apart.process.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}):\n{}", apart.log());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        apart
    }

    /// Makes requests up for the operations that `which` names, with `configuration`, and fails for any answer that is
    /// not described.
    fn fuzz(&self, which: &[&str], configuration: &str) {
        let schemathesis = tools().join("schemathesis/bin/schemathesis");
        assert!(
            schemathesis.exists(),
            "{} is missing: scripts/dev setup brings it",
            schemathesis.display()
        );
        let examples = std::env::var("WELDRFS_CONTRACT_EXAMPLES").unwrap_or_else(|_| "15".into());
        let seed = std::env::var("WELDRFS_TEST_SEED").unwrap_or_else(|_| self.port.to_string());
        let description = format!("{}/control/openapi.json", env!("CARGO_MANIFEST_DIR"));
        let settings = self.place.path("schemathesis.toml");
        std::fs::write(&settings, format!("{configuration}{IN_TIME}")).unwrap();
        let mut command = Command::new("timeout");
        command
            .args([SECONDS_MAX.as_ref(), schemathesis.as_os_str()])
            .arg("--config-file")
            .arg(&settings)
            .args(["run", &description])
            .args(["--url", &format!("http://127.0.0.1:{}", self.port)])
            .args(["--header", &format!("Authorization: Bearer {}", self.token)])
            .args(which)
            .args(["--max-examples", &examples, "--seed", &seed])
            .args(["--phases", "examples,coverage,fuzzing,stateful"])
            // The server refuses more than the description can say, such as a source that no bucket has.
            .args(["--checks", "all"])
            .args(["--exclude-checks", "positive_data_acceptance"])
            .args(["--request-timeout", "60", "--generation-database", "none"])
            .args(["--mode", "all", "--no-color", "--continue-on-failure"])
            .current_dir(self.place.root());
        let answer = Answer::of(command.output().unwrap());
        assert!(
            answer.code == 0 && answer.stdout.contains(" generated, "),
            "seed {seed}, exit code {}:\n{}\n{}",
            answer.code,
            answer.stdout,
            answer.stderr
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("control.log")).unwrap_or_default()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn every_answer_is_one_that_is_described() {
    require_fuse();
    let apart = Apart::start();
    // What is followed has no end; its errors are in the tests of the server.
    apart.fuzz(&["--exclude-path", "/events"], "");
    // The same of what is below a mount, with one that is there.
    let bearer = format!("Bearer {}", apart.token);
    let authorized = [("authorization", bearer.as_str())];
    let body = r#"{"source": "file:///contract/volume", "name": "project"}"#;
    ask_tcp(apart.port, "POST", "/mounts", &authorized, body).success();
    let known = "[parameters]\n\"path.name\" = \"project\"\n";
    apart.fuzz(&["--include-path-regex", "^/mounts/.name"], known);
    // And of a snapshot and a branch.
    let snapshots = "/mounts/project/snapshots";
    let snapshot = r#"{"name": "kept"}"#;
    ask_tcp(apart.port, "POST", snapshots, &authorized, snapshot).success();
    let known = "[parameters]\n\"path.name\" = \"project\"\n\"path.id\" = \"kept\"\n";
    apart.fuzz(
        &["--include-path-regex", "^/mounts/.name./snapshots/.id"],
        known,
    );
    let branch = r#"{"mount": "project", "name": "kept"}"#;
    ask_tcp(apart.port, "POST", "/branches", &authorized, branch).success();
    let known = "[parameters]\n\"path.id\" = \"project:kept\"\n";
    apart.fuzz(&["--include-path-regex", "^/branches/"], known);
    // And of integrations.
    let known =
        "[parameters]\n\"path.integration\" = \"postgresql\"\n\"query.mount\" = \"project\"\n";
    apart.fuzz(&["--include-path-regex", "^/integrations"], known);
    // And of a run, over and over: it is cancelled, gone on with, reverted.
    let run =
        r#"{"mount": "project", "workflow": {"steps": [{"name": "a", "wait": {"for": "1s"}}]}}"#;
    let run = ask_tcp(apart.port, "POST", "/trigger", &authorized, run).success();
    let known = format!("[parameters]\n\"path.run\" = {}\n", run["run"]);
    apart.fuzz(&["--include-path-regex", "^/workflows/"], &known);
    // The sidecar is none the worse for it.
    ask_tcp(apart.port, "GET", "/mounts", &authorized, "").success();
    let log = apart.log();
    assert!(!log.contains("panicked"), "{log}");
}
