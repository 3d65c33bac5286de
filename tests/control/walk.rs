//! What the README shows of the sidecar, line by line, on a machine that has nothing of WeldrFS yet: by the command line
//! alone, and by curl alone.
//!
//! The machine is this one, seen from a mount namespace and a process namespace of its own, in which every folder that the
//! lines name is new. What runs in it ends with it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::PoisonError;

use crate::exec::TURN;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY, Settings};
use crate::support::{Answer, PROGRAM, Place, require_fuse};

/// The folder of the README that may not exist on this machine.
const WORKSPACE: &str = "/workspace";
/// What makes the machine fresh, and waits for the sidecar once it was started.
const BEGIN: &str = r#"
mount --make-rprivate /
for folder in /run /mnt /srv /var/lib /workspace; do mount -t tmpfs tmpfs "$folder"; done
up() {
    for _ in $(seq 600); do
        curl -sf --unix-socket /run/weldrfs/control.sock http://weldrfs/health > /dev/null && return
        sleep 0.1
    done
    echo "the sidecar does not answer" >&2; return 1
}
"#;

/// The indented lines of the README after `heading`, up to the next text.
fn shown_after(heading: &str) -> Vec<String> {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once(heading).expect("the README has it");
    let lines = rest.lines().skip(1).skip_while(|line| line.is_empty());
    let shown = lines.take_while(|line| line.starts_with("    "));
    let shown: Vec<String> = shown.map(|line| line.trim().to_owned()).collect();
    assert!(shown.len() > 15, "{shown:?}");
    shown
}

/// Runs `lines` on a fresh machine, and returns what each of them said.
fn walk(lines: &[String]) -> Vec<(String, String)> {
    require_fuse();
    // Commands run in sandboxes here, too, and there is one workspace.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let server = S3Server::start(Settings {
        buckets: vec!["bucket".into()],
        ..Settings::default()
    });
    let (bin, said) = (place.path("bin"), place.path("said"));
    for folder in [&bin, &said] {
        std::fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink(PROGRAM, bin.join("weldrfs")).unwrap();
    let is_made = !Path::new(WORKSPACE).exists();
    if is_made {
        std::fs::create_dir(WORKSPACE).unwrap();
    }
    let mut script = BEGIN.to_owned();
    for (n, line) in lines.iter().enumerate() {
        script.push_str(&format!("{{\n{line}\n}} > \"$SAID/{n}\"\n"));
        if line.starts_with("weldrfs control") {
            script.push_str("up\n");
        }
    }
    // Nothing is mounted any more.
    script.push_str("! grep -E ' (/mnt/v|/workspace/[^ ]+) ' /proc/self/mountinfo\n");
    let mut command = Command::new("timeout");
    command
        .args([
            "--kill-after=10",
            "300",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
        ])
        .args(["--kill-child", "--mount-proc", "bash", "-euxc", &script])
        .env_remove("WELDR_ENV_VOL")
        .env_remove("WELDRFS_RUN_DIR")
        .env_remove("WORKSPACE_BASE")
        .env("SAID", &said)
        .env(
            "PATH",
            format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
        )
        .env("S3_ENDPOINT", server.endpoint())
        .env("S3_ACCESS_KEY_ID", ACCESS_KEY)
        .env("S3_SECRET_ACCESS_KEY", SECRET_KEY)
        .stdin(Stdio::null());
    let answer = Answer::of(command.output().unwrap());
    if is_made {
        std::fs::remove_dir(WORKSPACE).unwrap();
    }
    assert_eq!(answer.code, 0, "{}\n{}", answer.stdout, answer.stderr);
    let said = |n: usize| std::fs::read_to_string(said.join(n.to_string())).unwrap_or_default();
    let lines = lines.iter().enumerate();
    lines.map(|(n, line)| (line.clone(), said(n))).collect()
}

/// What the line that has `part` in it said; every one of them has `expected`.
#[track_caller]
fn says(walked: &[(String, String)], part: &str, expected: &str) {
    let lines: Vec<_> = walked
        .iter()
        .filter(|(line, _)| line.contains(part))
        .collect();
    assert!(!lines.is_empty(), "no line of the README has {part:?}");
    for (line, said) in lines {
        assert!(
            said.contains(expected),
            "{line}\nsaid {said:?}, not {expected:?}"
        );
    }
}

#[test]
fn the_readme_by_the_command_line_alone() {
    let walked = walk(&shown_after("By the command line, which"));
    for (part, expected) in [
        (
            "mounts add s3://",
            "bucket-project is mounted on /workspace/bucket-project",
        ),
        ("mounts add file:", "v is mounted on /mnt/v"),
        ("mounts ls", "bucket-project  mounted"),
        ("weldrfs exec v:app ", "it works"),
        ("snapshot create", "before"),
        ("snapshot diff", "M\tapp/run.sh"),
        (
            "snapshot restore",
            "what was there before is the snapshot before-restore-",
        ),
        ("branches create", "v:fix is /mnt/v/.weldr/branches/fix"),
        // The branch was made after the restore.
        ("weldrfs exec v:.weldr", "it works"),
        ("branches ls", "v:fix   ready  app"),
        ("branches rm", "v:fix is removed"),
        ("previews start", "is ready at http://localhost:30"),
        ("previews stop", "is stopped"),
        ("weldrfs events", "branch.removed"),
        ("mounts logs", "mounted"),
        ("mounts sync", "everything of v is in the store"),
        ("mounts rm v ", "v is unmounted"),
        ("mounts rm bucket-project", "bucket-project is unmounted"),
    ] {
        says(&walked, part, expected);
    }
}

#[test]
fn the_readme_by_curl_alone() {
    let mut lines = vec![format!("{PROGRAM} control &\nup")];
    lines.extend(shown_after("The same by curl:"));
    let walked = walk(&lines);
    for (line, said) in &walked {
        assert!(!said.contains("\"code\""), "{line}\nsaid {said}");
    }
    for (part, expected) in [
        ("/health", r#""status":"ok""#),
        (
            "s3://bucket/project",
            r#""path":"/workspace/bucket-project","state":"mounted""#,
        ),
        ("file:///srv/volume", r#""path":"/mnt/v","state":"mounted""#),
        ("\"path\": \"app\", \"command\"", r#""text":"it works\n""#),
        ("/snapshots -d", r#""name":"before""#),
        ("/diff", r#""path":"app/run.sh","kind":"changed""#),
        ("/restore", r#""name":"before-restore-"#),
        (
            "weldrfs /branches -d",
            r#""folder":"/mnt/v/.weldr/branches/fix","state":"ready""#,
        ),
        (
            ".weldr/branches/fix\", \"command\"",
            r#""text":"it works\n""#,
        ),
        ("-X DELETE", r#""state":"removed""#),
        ("/events", "event: branch.removed"),
        ("/logs", r#""lines":["#),
        ("/sync", r#""in_store_lsn":"#),
        ("/mounts/unmount", r#""state":"unmounted""#),
    ] {
        says(&walked, part, expected);
    }
    let list = walked.iter().find(|(line, _)| line == "weldrfs /branches");
    assert!(list.unwrap().1.contains(r#""id":"v:fix""#), "{list:?}");
}
