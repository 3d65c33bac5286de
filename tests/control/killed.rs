//! `kill -9`: of the sidecar under load and in the middle of a mount, of a mount process, and of both, as when a machine
//! restarts. SIGTERM, which leaves mounts alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::sidecar::{Sidecar, kill};
use crate::support::{require_fuse, until};

#[test]
fn a_killed_sidecar_takes_no_mount_with_it_and_the_next_one_knows_them_all() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let before = [
        sidecar.mount("one")["pid"].clone(),
        sidecar.mount("two")["pid"].clone(),
    ];
    let stop = AtomicBool::new(false);
    let path = sidecar.place.path("ws/one/log");
    let written = std::thread::scope(|scope| {
        // Work on a mount, and questions to the sidecar, while it is killed.
        let writer = scope.spawn(|| {
            let mut file = File::create(&path).unwrap();
            let mut lines = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                writeln!(file, "{lines}").unwrap();
                lines += 1;
            }
            lines
        });
        for _ in 0..5 {
            let socket = sidecar.socket();
            let asking = std::thread::spawn(move || {
                // Until the sidecar is gone in the middle of it.
                while let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&socket) {
                    let request = b"GET /mounts HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
                    if stream.write_all(request).is_err() {
                        break;
                    }
                    drop(std::io::copy(&mut stream, &mut std::io::sink()));
                }
            });
            std::thread::sleep(Duration::from_millis(50));
            sidecar.kill();
            asking.join().unwrap();
            sidecar.start_again();
            for (name, pid) in ["one", "two"].iter().zip(&before) {
                let mount = sidecar.listed(name).expect("it is known at once");
                assert_eq!((&mount["pid"], &mount["managed"]), (pid, &json!(true)));
                assert_eq!(
                    (&mount["state"], &mount["restarts"]),
                    (&json!("mounted"), &json!(0))
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), written as usize);
    assert_eq!(sidecar.place.mounts().len(), 2);
    for name in ["one", "two"] {
        let body = json!({ "name": name }).to_string();
        until("it is unmounted", || {
            sidecar.ask("POST", "/mounts/unmount", &body).status == 200
        });
    }
}

#[test]
fn a_sidecar_killed_in_the_middle_of_a_mount_is_followed_by_one_that_finishes_it() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    for (round, pause) in [0, 5, 20, 40, 80].into_iter().enumerate() {
        let name = format!("v{round}");
        let body = json!({"source": sidecar.source(&name)}).to_string();
        let mut stream = std::os::unix::net::UnixStream::connect(sidecar.socket()).unwrap();
        let head = format!(
            "POST /mounts HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        sidecar.kill();
        sidecar.start_again();
        // Whoever got no answer asks again: it is the same mount, whatever the first request had come to.
        let mount = sidecar.mount(&name);
        assert_eq!(mount["state"], "mounted", "{mount}");
        let path = sidecar.place.text(&format!("ws/{name}"));
        let mounts = sidecar.place.mounts();
        let there = mounts
            .iter()
            .filter(|line| line.split(' ').nth(4) == Some(&*path))
            .count();
        assert_eq!(there, 1, "{mounts:?}");
        sidecar
            .ask(
                "POST",
                "/mounts/unmount",
                &json!({ "name": name }).to_string(),
            )
            .success();
    }
    assert!(sidecar.place.mounts().is_empty());
}

#[test]
fn a_killed_mount_is_reported_and_mounted_again_with_all_that_was_acknowledged() {
    require_fuse();
    let sidecar = Sidecar::start();
    let mount = sidecar.mount("project");
    let folder = sidecar.place.path("ws/project");
    for n in 0..100 {
        std::fs::write(folder.join(format!("file-{n}")), n.to_string()).unwrap();
    }
    kill(mount["pid"].as_i64().unwrap(), Signal::KILL);
    until("it is mounted again", || {
        let now = sidecar.listed("project").unwrap();
        now["state"] == "mounted" && now["pid"] != mount["pid"]
    });
    for n in 0..100 {
        let text = std::fs::read_to_string(folder.join(format!("file-{n}"))).unwrap();
        assert_eq!(text, n.to_string());
    }
    let now = sidecar.listed("project").unwrap();
    assert_eq!((&now["restarts"], &now["error"]), (&json!(1), &json!(null)));
    let events = sidecar.events("project");
    let at = events
        .iter()
        .position(|kind| kind == "mount.died")
        .expect("it is reported");
    assert!(
        events[at..].contains(&"mount.mounted".to_owned()),
        "{events:?}"
    );
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn a_mount_that_died_while_there_was_no_sidecar_is_mounted_again_by_the_next() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let mount = sidecar.mount("project");
    std::fs::write(sidecar.place.path("ws/project/file"), "kept").unwrap();
    sidecar.kill();
    kill(mount["pid"].as_i64().unwrap(), Signal::KILL);
    sidecar.start_again();
    until("it is mounted again", || {
        sidecar.listed("project").unwrap()["state"] == "mounted"
    });
    let text = std::fs::read_to_string(sidecar.place.path("ws/project/file")).unwrap();
    assert_eq!(text, "kept");
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn after_a_restart_of_the_machine_everything_wanted_is_mounted_again() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let pids = ["one", "two"].map(|name| sidecar.mount(name)["pid"].as_i64().unwrap());
    std::fs::write(sidecar.place.path("ws/two/file"), "kept").unwrap();
    sidecar.mount("unwanted");
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"unwanted"}"#)
        .success();
    // Everything dies at once; mount table and run folder are empty afterwards.
    sidecar.kill();
    for (name, pid) in ["one", "two"].into_iter().zip(pids) {
        kill(pid, Signal::KILL);
        let path = sidecar.place.path(&format!("ws/{name}"));
        assert!(
            Command::new("umount")
                .arg("-l")
                .arg(path)
                .status()
                .unwrap()
                .success()
        );
    }
    std::fs::remove_dir_all(sidecar.place.path("run")).unwrap();
    sidecar.start_again();
    until("both are mounted", || {
        ["one", "two"]
            .iter()
            .all(|name| sidecar.listed(name).unwrap()["state"] == "mounted")
    });
    assert!(sidecar.listed("unwanted").is_none());
    let text = std::fs::read_to_string(sidecar.place.path("ws/two/file")).unwrap();
    assert_eq!(text, "kept");
    for name in ["one", "two"] {
        sidecar
            .ask(
                "POST",
                "/mounts/unmount",
                &json!({ "name": name }).to_string(),
            )
            .success();
    }
}

#[test]
fn a_sidecar_that_is_asked_to_end_leaves_mounts_alone() {
    require_fuse();
    let mut sidecar = Sidecar::start();
    let mount = sidecar.mount("project");
    let mut following = sidecar
        .command()
        .args(["events", "--after", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun to listen.
    let mut line = String::new();
    BufReader::new(following.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("sidecar.started"), "{line}");
    sidecar.stop();
    // A follower is told, and ends.
    let mut code = None;
    until("the follower ends", || {
        code = following.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(2));
    assert!(!sidecar.socket().exists());
    std::fs::write(sidecar.place.path("ws/project/file"), "it works").unwrap();
    sidecar.start_again();
    assert_eq!(sidecar.listed("project").unwrap()["pid"], mount["pid"]);
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
        .success();
}

#[test]
fn a_stopped_mount_process_is_seen_as_sick_and_hangs_nothing() {
    require_fuse();
    let sidecar = Sidecar::start();
    let pid = sidecar.mount("project")["pid"].as_i64().unwrap();
    kill(pid, Signal::STOP);
    until("it is seen", || {
        sidecar.ask("GET", "/health", "").json()["status"] == "degraded"
    });
    assert_eq!(sidecar.ask("GET", "/mounts", "").status, 200);
    let details = sidecar.ask("GET", "/mounts/project", "").success();
    assert!(
        details["status_error"]
            .as_str()
            .unwrap()
            .contains("does not answer"),
        "{details}"
    );
    let refused = sidecar.ask("POST", "/mounts/unmount", r#"{"name":"project"}"#);
    refused.refused(504, "deadline_exceeded");
    kill(pid, Signal::CONT);
    until("it is well again", || {
        sidecar.ask("GET", "/health", "").json()["status"] == "ok"
    });
    until("it is unmounted", || {
        sidecar
            .ask("POST", "/mounts/unmount", r#"{"name":"project"}"#)
            .status
            == 200
    });
}

#[test]
fn a_sidecar_killed_while_branches_and_snapshots_are_made_leaves_rows_and_directories_that_agree() {
    require_fuse();
    let mut sidecar = Sidecar::start_with(&["--rate", "100000"], &[]);
    sidecar.mount("project");
    let mount = sidecar.place.path("ws/project");
    const FILES: usize = 60;
    for n in 0..FILES {
        let dir = mount.join(format!("app/d{}", n % 5));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{n}")), n.to_string()).unwrap();
    }
    let mut acknowledged = std::collections::BTreeSet::new();
    for round in 0..6 {
        let socket = sidecar.socket();
        let made = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|worker| {
                    let socket = &socket;
                    scope.spawn(move || branch_until_it_is_gone(socket, round, worker))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(150 + 40 * round));
            sidecar.kill();
            let made = workers.into_iter().map(|worker| worker.join().unwrap());
            made.flatten().collect::<Vec<_>>()
        });
        for (name, is_there) in made {
            match is_there {
                true => drop(acknowledged.insert(name)),
                false => drop(acknowledged.remove(&name)),
            }
        }
        sidecar.start_again();
        assert_eq!(sidecar.listed("project").unwrap()["state"], "mounted");
        // Rows and directories agree, every branch is whole, and what was acknowledged is so.
        let mut listed = std::collections::BTreeSet::new();
        until("nothing is under way any more", || {
            let list = sidecar.ask("GET", "/branches", "").success();
            let branches = list["branches"].as_array().unwrap().clone();
            listed = branches
                .iter()
                .map(|b| b["name"].as_str().unwrap().to_owned())
                .collect();
            branches.iter().all(|branch| branch["state"] == "ready")
        });
        let folder = mount.join(".weldr/branches");
        let there = std::fs::read_dir(&folder).unwrap();
        let there: std::collections::BTreeSet<String> = there
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".gitignore")
            .collect();
        assert_eq!(listed, there);
        for name in &listed {
            for n in 0..FILES {
                let file = folder.join(format!("{name}/d{}/f{n}", n % 5));
                assert_eq!(std::fs::read_to_string(file).unwrap(), n.to_string());
            }
        }
        let missing: Vec<_> = acknowledged.difference(&listed).collect();
        assert!(missing.is_empty(), "{missing:?} were acknowledged");
        let snapshots = sidecar
            .ask("GET", "/mounts/project/snapshots", "")
            .success();
        for snapshot in snapshots["snapshots"].as_array().unwrap() {
            let name = snapshot["name"].as_str().unwrap();
            assert!(mount.join(format!(".snapshots/{name}/app/d0/f0")).exists());
        }
    }
    assert!(
        !acknowledged.is_empty(),
        "it was killed too early each time"
    );
    until("it is unmounted", || {
        let body = r#"{"name":"project"}"#;
        sidecar.ask("POST", "/mounts/unmount", body).status == 200
    });
}

/// Makes branches and snapshots, and removes every third branch, until the sidecar does not answer any more. What was
/// acknowledged last of each branch: that it is there, or that it is not.
fn branch_until_it_is_gone(
    socket: &std::path::Path,
    round: u64,
    worker: u32,
) -> Vec<(String, bool)> {
    let ask = |method: &str, path: &str, body: &str| -> Option<u16> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    };
    let mut made = Vec::new();
    for n in 0.. {
        let name = format!("b-{round}-{worker}-{n}");
        let body = json!({"mount": "project", "path": "app", "name": name}).to_string();
        match ask("POST", "/branches", &body) {
            Some(200) => made.push((name.clone(), true)),
            Some(other) => panic!("{name}: {other}"),
            None => break,
        }
        if ask("POST", "/mounts/project/snapshots", "{}").is_none() {
            break;
        }
        if n % 3 == 0 {
            // From here on nobody knows until it is answered.
            made.retain(|(known, _)| *known != name);
            match ask("DELETE", &format!("/branches/project:{name}"), "") {
                Some(200) => made.push((name, false)),
                Some(other) => panic!("{name}: {other}"),
                None => break,
            }
        }
    }
    made
}
