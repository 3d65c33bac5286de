//! What the command line shows while it waits: on a terminal how far it is, elsewhere nothing but the answer.

use std::process::Command;

use crate::sidecar::Sidecar;
use crate::support::{Answer, PROGRAM, require_fuse};

/// Runs the program on a terminal, as script(1) makes one; what the terminal was sent.
fn on_a_terminal(sidecar: &Sidecar, arguments: &str) -> String {
    let mut command = sidecar.place.command("timeout");
    command
        .args(["60", "script", "--quiet", "--return", "--command"])
        .arg(format!("{PROGRAM} {arguments}"))
        .arg("/dev/null")
        .env("TERM", "xterm")
        .env("WORKSPACE_BASE", sidecar.place.path("ws"));
    Answer::of(command.output().unwrap()).success().stdout
}

#[test]
fn on_a_terminal_the_waiting_shows_and_elsewhere_it_does_not() {
    require_fuse();
    let sidecar = Sidecar::start();
    let source = sidecar.source("vol");
    let shown = on_a_terminal(&sidecar, &format!("mounts add {source}"));
    assert!(shown.contains(&format!("mounting {source}")), "{shown:?}");
    assert!(shown.contains("vol is mounted on"), "{shown:?}");
    std::fs::write(sidecar.place.path("ws/vol/file"), vec![7; 1 << 20]).unwrap();
    let shown = on_a_terminal(&sidecar, "mounts sync vol");
    assert!(shown.contains("bringing vol to the store"), "{shown:?}");
    let shown = on_a_terminal(&sidecar, "mounts rm vol");
    assert!(
        shown.contains("unmounting vol") && shown.contains("vol is unmounted"),
        "{shown:?}"
    );

    for arguments in [
        ["mounts", "add", &source].as_slice(),
        &["mounts", "sync", "vol"],
        &["mounts", "sync", "vol", "--json"],
        &["mounts", "rm", "vol", "--sync"],
    ] {
        let answer = sidecar.run(arguments).success();
        assert_eq!(answer.stderr, "", "{arguments:?}");
        assert!(
            !answer.stdout.contains('\u{1b}') && !answer.stdout.contains('\r'),
            "{answer:?}"
        );
    }
}

#[test]
fn help_names_json_for_everything_that_answers() {
    for command in [
        "mounts ls",
        "mounts add",
        "mounts rm",
        "mounts sync",
        "mounts logs",
        "mounts snapshot create",
        "mounts snapshot ls",
        "mounts snapshot show",
        "mounts snapshot rm",
        "mounts snapshot diff",
        "mounts snapshot restore",
        "branches create",
        "branches ls",
        "branches show",
        "branches rm",
        "branches sync",
        "events",
    ] {
        let mut help = Command::new(PROGRAM);
        help.args(command.split(' '));
        let answer = Answer::of(help.arg("--help").output().unwrap()).success();
        assert!(
            answer.stdout.contains("--json"),
            "{command:?}: {}",
            answer.stdout
        );
    }
}
