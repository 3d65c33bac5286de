//! What somebody may do to the sidecar who means harm, or what a machine may do to it: floods, slow and deaf clients,
//! hostile names, full disks, damaged files, sockets taken away.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::access::free_port;
use crate::sidecar::{Sidecar, ask_tcp};
use crate::support::{Answer, require_fuse, until};

/// As many connections of each listener as the sidecar serves, and a few descriptors of its own.
const DESCRIPTORS_MAX: usize = 2 * 256 + 100;

fn listening() -> (Sidecar, u16) {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let secret = "s".repeat(40);
    let variables = [("BETTER_AUTH_SECRET", secret.as_str())];
    (
        Sidecar::start_with(&["--listen", &listen, "--rate", "5000"], &variables),
        port,
    )
}

fn descriptors(sidecar: &Sidecar) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid()))
        .unwrap()
        .count()
}

#[test]
fn names_that_mean_harm_are_refused_by_name_and_reach_nothing() {
    let sidecar = Sidecar::start();
    for path in [
        "/mounts/..%2F..%2Fetc%2Fpasswd",
        "/mounts/%2e%2e",
        "/mounts/..",
        "/mounts/a%00b",
        "/mounts/a%0d%0ax-evil:%201",
        "/mounts/%F0%9F%92%A9",
        "/mounts/%ff%fe",
        "/mounts/;rm%20-rf",
        "/mounts/$(id)",
        "/mounts/%60id%60/logs",
        "/mounts//logs",
        "/mounts/a/logs/../../../health",
        "//mounts",
        "/mounts/",
        "/%2e%2e/mounts",
        "/mounts/%",
        "/mounts/%zz",
    ] {
        let answer = sidecar.ask("GET", path, "");
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        let body = answer.json();
        assert!(
            body["code"].is_string() && body["request_id"].is_string(),
            "{path}: {body}"
        );
        assert!(!answer.body.contains("root:"), "{path}: {body}");
    }
    let long = format!("/mounts/{}", "n".repeat(10_000));
    sidecar.ask("GET", &long, "").refused(404, "not_found");
    for (field, value) in [
        ("name", "../up"),
        ("name", "a/b"),
        ("name", ".hidden"),
        ("name", "a\nb"),
        ("name", "a\u{0}b"),
        ("name", "-rf"),
        ("name", "ｎａｍｅ"),
        ("name", "unmount"),
        ("name", ""),
        ("path", "relative"),
        ("path", "/ws/../../etc"),
        ("path", "/"),
        ("path", "//"),
        ("path", "/a\u{0}b"),
        ("path", "/a\nb"),
        ("path", ""),
        ("source", "file:///srv/\u{0}"),
        ("source", "file://elsewhere/srv"),
        ("source", "http://127.0.0.1/"),
        ("source", "s3://bucket/../other"),
        ("source", "s3://-bucket;id"),
        ("source", "-o foreground"),
        ("source", ""),
    ] {
        let mut body = json!({"source": sidecar.source("v")});
        body[field] = json!(value);
        let answer = sidecar.ask("POST", "/mounts", &body.to_string());
        assert_eq!(answer.status, 400, "{field} {value:?}: {answer:?}");
        assert_eq!(answer.json()["code"], "invalid_request");
    }
    for option in [
        "exec=$(id)",
        "a\u{0}b",
        "ro\nrw",
        "",
        "=",
        "foreground",
        "secret_access_key=x",
    ] {
        let body = json!({"source": sidecar.source("v"), "options": [option]}).to_string();
        let answer = sidecar.ask("POST", "/mounts", &body);
        assert_eq!(answer.status, 400, "{option:?}: {answer:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    sidecar
        .ask("POST", "/mounts", &deep)
        .refused(400, "invalid_request");
    assert_eq!(
        sidecar.ask("GET", "/mounts", "").success(),
        json!({"mounts": []})
    );
    assert!(sidecar.place.mounts().is_empty());
}

#[test]
fn clients_that_are_slow_on_purpose_hold_up_neither_the_socket_nor_the_port_for_long() {
    let (sidecar, port) = listening();
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(stream.write_all(b"GET /mounts HTTP/1.1\r\nhost: s\r\nx-slow: "));
        slow.push(stream);
    }
    // The other listener does not notice.
    sidecar.ask("GET", "/mounts", "").success();
    // And this one once their time for a head is over, although they go on.
    let answer = ask_tcp(port, "GET", "/health", &[], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    for stream in &mut slow {
        drop(stream.write_all(b"x"));
    }
    let answer = ask_tcp(port, "GET", "/health", &[], "");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn ten_thousand_connections_take_a_bounded_number_of_descriptors_and_pass() {
    const CONNECTIONS: usize = 10_000;
    let (sidecar, port) = listening();
    let limit = getrlimit(Resource::Nofile);
    let wanted = Some(CONNECTIONS as u64 + 1_000);
    assert!(
        limit.maximum.is_none_or(|most| Some(most) >= wanted),
        "{limit:?}: raise ulimit -Hn"
    );
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: wanted,
            ..limit
        },
    )
    .unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut held = Vec::new();
    let mut tried = 0;
    // What does not fit into the backlog any more is not answered at all; a second of that is enough.
    while tried < CONNECTIONS {
        tried += 1;
        match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            Ok(stream) => held.push(stream),
            Err(_) if tried > 1_000 => break,
            Err(_) => {}
        }
    }
    assert!(held.len() >= 256, "{} of {tried}", held.len());
    assert!(
        descriptors(&sidecar) <= DESCRIPTORS_MAX,
        "{}",
        descriptors(&sidecar)
    );
    sidecar.ask("GET", "/mounts", "").success();
    // The rest come and go at once, one after the other, while those are held.
    for _ in tried..CONNECTIONS {
        drop(UnixStream::connect(sidecar.socket()));
    }
    sidecar.ask("GET", "/mounts", "").success();
    drop(held);
    until("the port answers again", || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
            && ask_tcp(port, "GET", "/health", &[], "").status == 200
    });
    until("what they held is given back", || {
        descriptors(&sidecar) < 100
    });
}

#[test]
fn heads_without_end_are_cut_off() {
    let (sidecar, port) = listening();
    for flood in [
        "x-flood: yes\r\n".repeat(100_000),
        format!("x-flood: {}", "y".repeat(4 << 20)),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        drop(stream.write_all(b"GET /mounts HTTP/1.1\r\nhost: s\r\n"));
        // It may hang up before all is written.
        drop(stream.write_all(flood.as_bytes()));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
    // Neither more than the memory of a few heads, nor the end of it.
    assert!(
        sidecar.resident_bytes() < 64 << 20,
        "{}",
        sidecar.resident_bytes()
    );
    sidecar.ask("GET", "/mounts", "").success();
}

#[test]
fn followers_that_vanish_without_a_word_give_their_places_back() {
    let sidecar = Sidecar::start_with(&["--rate", "5000"], &[]);
    // Many more than may listen at a time, each gone in another way.
    for n in 0..200 {
        let mut stream = UnixStream::connect(sidecar.socket()).unwrap();
        let request = "GET /events?after=0 HTTP/1.1\r\nhost: s\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        match n % 3 {
            0 => {}
            1 => {
                let mut part = [0; 64];
                assert!(stream.read(&mut part).unwrap() > 0);
            }
            _ => stream.shutdown(std::net::Shutdown::Write).unwrap(),
        }
    }
    until("all places are free", || {
        let text = sidecar.ask("GET", "/metrics", "").body;
        text.contains("weldrfs_control_listeners 0\n")
    });
}

#[test]
fn a_full_disk_stops_what_would_be_forgotten_and_nothing_else() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let before = sidecar.mount("before");
    sidecar.stop();
    // Its own folder on a disk of its own, which can be filled.
    let folder = sidecar.place.path("state/control");
    let aside = sidecar.place.path("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"],
        &folder,
    );
    run("cp", &["-a", &format!("{}/.", aside.display())], &folder);
    sidecar.start_again();
    let filler = folder.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    drop(file);

    let mut refused = None;
    for _ in 0..50 {
        // The log that SQLite keeps beside the database has some room yet.
        let body = json!({"source": sidecar.source("other"), "name": "other"}).to_string();
        let answer = sidecar.ask("POST", "/mounts", &body);
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
        let answer = sidecar.ask("POST", "/mounts/unmount", r#"{"name":"other"}"#);
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the disk is full");
    refused.refused(503, "database_unavailable");
    // What is mounted works, is listed, and health tells what is wrong.
    std::fs::write(sidecar.place.path("ws/before/file"), "written").unwrap();
    assert_eq!(sidecar.listed("before").unwrap()["pid"], before["pid"]);
    let health = sidecar.ask("GET", "/health", "");
    assert_eq!(
        (health.status, &health.json()["parts"]["store"]["status"]),
        (503, &json!("down"))
    );

    std::fs::remove_file(&filler).unwrap();
    until("it is well again", || {
        sidecar.ask("GET", "/health", "").status == 200
    });
    until(
        "the mount of a moment ago is gone, or can be asked for again",
        || {
            let body = json!({"source": sidecar.source("other"), "name": "other"}).to_string();
            sidecar.ask("POST", "/mounts", &body).status == 200
        },
    );
    for name in ["before", "other"] {
        let body = json!({ "name": name }).to_string();
        until("it is unmounted", || {
            sidecar.ask("POST", "/mounts/unmount", &body).status == 200
        });
    }
    sidecar.stop();
    run("umount", &[], &folder);
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let done = Command::new(program).args(arguments).arg(path).output();
    let answer = Answer::of(done.unwrap());
    assert_eq!(answer.code, 0, "{program}: {answer:?}");
}

#[test]
fn a_damaged_database_is_named_and_moving_it_away_finds_the_mounts_again() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let mount = sidecar.mount("project");
    sidecar.stop();
    let database = sidecar.place.path("state/control/control.db");
    let whole = std::fs::read(&database).unwrap();
    let mut damaged = whole;
    // Where the first page says what it is.
    damaged[100..108].fill(0xff);
    for (bytes, part) in [
        (damaged, "control.db is damaged"),
        (vec![b'x'; 8192], "control.db is damaged"),
    ] {
        for side in ["-wal", "-shm"] {
            drop(std::fs::remove_file(format!(
                "{}{side}",
                database.display()
            )));
        }
        std::fs::write(&database, &bytes).unwrap();
        sidecar
            .run(&["control"])
            .refused(4, &[part, "move it away"]);
        assert_eq!(std::fs::read(&database).unwrap(), bytes);
        assert!(!sidecar.socket().exists());
    }
    std::fs::rename(&database, sidecar.place.path("damaged.db")).unwrap();
    sidecar.start_again();
    let found = sidecar.listed("project").expect("it is found");
    assert_eq!(
        (&found["pid"], &found["managed"]),
        (&mount["pid"], &json!(false))
    );
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn a_second_sidecar_is_refused_by_folder_and_by_socket() {
    let sidecar = Sidecar::start();
    sidecar
        .run(&["control"])
        .refused(2, &["another \"weldrfs control\"", "--state-dir"]);
    let elsewhere = sidecar.place.text("elsewhere");
    let socket = sidecar.socket();
    let socket = socket.to_str().unwrap();
    sidecar
        .run(&["control", "--state-dir", &elsewhere, "--socket", socket])
        .refused(2, &["somebody else answers there", "--socket"]);
    sidecar.ask("GET", "/mounts", "").success();
}

#[test]
fn a_socket_that_is_taken_away_comes_back_and_what_took_its_place_is_left_alone() {
    let mut sidecar = Sidecar::start();
    std::fs::remove_file(sidecar.socket()).unwrap();
    until("it is made again", || {
        UnixStream::connect(sidecar.socket()).is_ok()
    });
    sidecar.ask("GET", "/mounts", "").success();

    std::fs::remove_file(sidecar.socket()).unwrap();
    let theirs = UnixListener::bind(sidecar.socket()).unwrap();
    until("it is noticed", || {
        sidecar.log().contains("something else is in the place")
    });
    sidecar.stop();
    assert!(sidecar.socket().exists(), "it was not its own");
    drop(theirs);
    // Left behind and dead, it is in nobody's way.
    sidecar.start_again();
    sidecar.ask("GET", "/mounts", "").success();
}
