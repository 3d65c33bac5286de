//! Who may ask: over the socket, and over TCP with tokens made by the command line.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::sidecar::{Sidecar, ask_tcp};
use crate::support::{Answer, PROGRAM, require_fuse, until};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[test]
fn without_a_token_there_is_no_tcp_and_with_one_there_is() {
    let port = free_port();
    let mut sidecar = Sidecar::start();
    sidecar.stop();
    let listen = format!("127.0.0.1:{port}");
    sidecar
        .run(&["control", "--listen", &listen])
        .refused(1, &["--listen needs", "token create"]);

    let made = sidecar.run_json(&["control", "token", "create", "--name", "the page", "--json"]);
    let (token, id) = (
        made["token"].as_str().unwrap(),
        made["id"].as_str().unwrap(),
    );
    let listed = sidecar.run(&["control", "token", "list"]).success().stdout;
    assert!(
        listed.contains(id) && listed.contains("the page") && !listed.contains(token),
        "{listed}"
    );
    let file = sidecar.place.path("state/control/tokens");
    assert!(
        !std::fs::read_to_string(&file)
            .unwrap()
            .contains(token.rsplit('_').next().unwrap())
    );
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    sidecar.add_arguments(&["--listen", &listen]);
    sidecar.start_again();
    let bearer = format!("Bearer {token}");
    let authorized = [("authorization", bearer.as_str())];
    assert_eq!(ask_tcp(port, "GET", "/health", &[], "").status, 200);
    ask_tcp(port, "GET", "/mounts", &[], "").refused(401, "unauthorized");
    ask_tcp(port, "GET", "/mounts", &authorized, "").success();
    sidecar.run(&["control", "token", "revoke", id]).success();
    sidecar
        .run(&["control", "token", "revoke", id])
        .refused(1, &["no token"]);
    ask_tcp(port, "GET", "/mounts", &authorized, "").refused(401, "unauthorized");
    sidecar.ask("GET", "/mounts", "").success();
}

#[test]
fn a_token_that_has_ended_is_refused() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let sidecar = Sidecar::start_with(
        &["--listen", &listen],
        &[("BETTER_AUTH_SECRET", &"s".repeat(40))],
    );
    let made = sidecar.run_json(&["control", "token", "create", "--expires", "1s", "--json"]);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    until("it ends", || {
        ask_tcp(port, "GET", "/mounts", &[("authorization", &bearer)], "").status == 401
    });
    sidecar
        .run(&["control", "token", "create", "--expires", "soon"])
        .refused(1, &["--expires"]);
}

#[test]
fn the_secret_of_sessions_does_not_reach_a_mount() {
    require_fuse();
    let secret = "never-shown-to-a-mount-0123456789";
    let sidecar = Sidecar::start_with(&[], &[("BETTER_AUTH_SECRET", secret)]);
    let pid = sidecar.mount("project")["pid"].as_i64().unwrap();
    let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&variables).contains(secret));
    assert!(!sidecar.log().contains(secret));
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn the_socket_is_for_its_group_and_root() {
    let root = rustix::process::geteuid().is_root();
    assert!(
        root,
        "this test becomes other users and has to be run by root"
    );
    const GROUP: &str = "54321";
    let sidecar = Sidecar::start_with(&["--group", GROUP], &[]);
    // Where others can start it.
    let program = sidecar.place.path("weldrfs");
    std::fs::copy(PROGRAM, &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_user = |groups: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", groups])
            .arg(&program)
            .args(["mounts", "ls", "--socket"])
            .arg(sidecar.socket());
        Answer::of(command.output().unwrap())
    };
    as_user(&format!("--groups={GROUP}")).success();
    as_user("--clear-groups").refused(1, &["no sidecar answers"]);
    // A socket whose permissions somebody loosened is still closed.
    for (name, mode) in [("run", 0o755), ("run/control.sock", 0o666)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(sidecar.place.path(name), mode).unwrap();
    }
    as_user("--clear-groups").refused(1, &["members of its group"]);
    as_user(&format!("--groups={GROUP}")).success();
}

#[test]
fn a_client_that_does_not_speak_http_is_let_go() {
    let sidecar = Sidecar::start();
    for junk in [
        b"\x16\x03\x01\x02\x00".as_slice(),
        b"GET\r\n\r\n",
        &[0xff; 40_000],
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(sidecar.socket()).unwrap();
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(60)))
            .unwrap();
        // It may hang up before all is written.
        drop(stream.write_all(junk));
        let mut answer = Vec::new();
        drop(std::io::Read::read_to_end(&mut stream, &mut answer));
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(
        sidecar.ask("GET", "/mounts", "").success(),
        json!({"mounts": []})
    );
}

#[test]
fn settings_that_make_no_sense_are_refused_before_anything_is_there() {
    let mut sidecar = Sidecar::start();
    sidecar.stop();
    for (arguments, variable, part) in [
        (
            ["--group", "no-such-group"].as_slice(),
            None,
            "no such group",
        ),
        (&["--listen", "nowhere"], None, "--listen takes"),
        (&["--listen"], Some(("PORT", "web")), "PORT"),
        (&["--max-mounts", "0"], None, "--max-mounts"),
        (&["--rate", "0"], None, "--rate"),
        (&["--log-level", "loud"], None, "trace"),
        (&["--workspace", "relative"], None, "absolute"),
        (&[], Some(("BETTER_AUTH_SECRET", "short")), "32 bytes"),
        (&[], Some(("CORS_ORIGIN", "*")), "CORS_ORIGIN takes"),
        (&["--jwks", "/no/such/file"], None, "/no/such/file"),
    ] {
        let mut command = sidecar.command();
        command.arg("control").args(arguments);
        if let Some((name, value)) = variable {
            command.env(name, value);
        }
        Answer::of(command.output().unwrap()).refused(1, &[part]);
    }
    assert!(!sidecar.socket().exists());
}
