//! More requests than are taken, while many follow events and one of them never reads: how many are taken, what the rest
//! are told, that everybody hears of everything, and that memory stays bounded. `WELDRFS_LOAD_SECONDS` says for how long;
//! the latencies are printed, never judged.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::sidecar::Sidecar;
use crate::support::{PATIENCE, require_fuse, until};

/// Requests in a second that are taken, which is also the largest burst.
const RATE: u64 = 100;
/// Requests in a second that are made.
const OFFERED: u64 = 200;
/// Threads that make them, each on a connection of its own.
const CLIENTS: u64 = 8;
/// Who follow events; one more never reads.
const LISTENERS: usize = 49;
/// Most that the sidecar may grow by, and be.
const GROWTH_MAX: u64 = 24 << 20;
const RESIDENT_MAX: u64 = 96 << 20;

/// What one client was told.
#[derive(Default)]
struct Told {
    taken: Vec<Duration>,
    refused: Vec<Duration>,
    other: Vec<String>,
}

#[test]
fn what_is_too_much_is_told_to_wait_while_many_follow_and_one_never_reads() {
    require_fuse();
    let seconds = seconds();
    let mut sidecar = Sidecar::start();
    let mounts = ["one", "two", "three", "four"].map(|name| sidecar.mount(name)["pid"].clone());
    let before = sidecar.resident_bytes();
    let deaf = follow(&sidecar.socket());
    let stop = AtomicBool::new(false);
    let (told, heard, memory) = std::thread::scope(|scope| {
        let sidecar = &sidecar;
        let stop = &stop;
        let listeners: Vec<_> = (0..LISTENERS)
            .map(|_| scope.spawn(move || listen(&sidecar.socket(), stop)))
            .collect();
        until("all of them listen", || {
            let text = sidecar.ask("GET", "/metrics", "").body;
            text.contains(&format!("weldrfs_control_listeners {}\n", LISTENERS + 1))
        });
        let started = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| scope.spawn(move || ask_at_a_rate(&sidecar.socket(), n, started, seconds)))
            .collect();
        let happening = scope.spawn(move || make_events(sidecar, stop));
        let mut memory = before;
        while clients.iter().any(|client| !client.is_finished()) {
            memory = memory.max(sidecar.resident_bytes());
            std::thread::sleep(Duration::from_millis(100));
        }
        let told: Vec<Told> = clients.into_iter().map(|c| c.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        happening.join().unwrap();
        let heard: Vec<Vec<i64>> = listeners.into_iter().map(|l| l.join().unwrap()).collect();
        (told, heard, memory)
    });
    drop(deaf);

    let other: Vec<_> = told.iter().flat_map(|t| &t.other).collect();
    assert!(other.is_empty(), "neither 200 nor 429: {other:?}");
    let mut taken: Vec<_> = told.iter().flat_map(|t| t.taken.clone()).collect();
    let mut refused: Vec<_> = told.iter().flat_map(|t| t.refused.clone()).collect();
    assert_eq!((taken.len() + refused.len()) as u64, OFFERED * seconds);
    // What the test itself asked beside the clients was taken too, so only the upper bound is exact.
    let most = RATE * (seconds + 1) + RATE;
    assert!(taken.len() as u64 <= most, "{} of {most}", taken.len());
    assert!(!refused.is_empty(), "{} were taken", taken.len());
    // Everybody heard the same, in order, without holes: as far as each has come.
    let longest = heard.iter().max_by_key(|ids| ids.len()).unwrap();
    assert!(
        longest.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{longest:?}"
    );
    for ids in &heard {
        assert!(
            !ids.is_empty() && longest.starts_with(ids),
            "{ids:?} is not the beginning of {longest:?}"
        );
    }
    assert!(
        memory < RESIDENT_MAX && memory < before + GROWTH_MAX,
        "from {before} to {memory}"
    );
    taken.sort_unstable();
    refused.sort_unstable();
    eprintln!(
        "{seconds} s, {OFFERED} requests/s offered: {} taken (p50 {:?}, p99 {:?}), {} refused (p50 {:?}, p99 {:?}); \
         {} listeners and one that never reads, {} events; resident {} MiB before, {} MiB at most",
        taken.len(),
        part(&taken, 50),
        part(&taken, 99),
        refused.len(),
        part(&refused, 50),
        part(&refused, 99),
        LISTENERS,
        longest.len(),
        before >> 20,
        memory >> 20
    );

    // Killed in the middle of the same: the mounts live on, and the next one knows them all at once.
    let socket = sidecar.socket();
    let asking: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || ask_until_it_is_gone(&socket))
        })
        .collect();
    let followers: Vec<_> = (0..LISTENERS).map(|_| follow(&socket)).collect();
    std::thread::sleep(Duration::from_millis(300));
    sidecar.kill();
    let asked: u64 = asking.into_iter().map(|one| one.join().unwrap()).sum();
    assert!(asked > 0, "nothing was asked before it was killed");
    drop(followers);
    sidecar.start_again();
    for (name, pid) in ["one", "two", "three", "four"].iter().zip(&mounts) {
        let mount = sidecar.listed(name).expect("it is known at once");
        assert_eq!((&mount["pid"], &mount["state"]), (pid, &json!("mounted")));
        assert_eq!(mount["managed"], true);
    }
    for name in ["one", "two", "three", "four"] {
        let body = json!({ "name": name }).to_string();
        until("it is unmounted", || {
            sidecar.ask("POST", "/mounts/unmount", &body).status == 200
        });
    }
}

fn seconds() -> u64 {
    let text = std::env::var("WELDRFS_LOAD_SECONDS").unwrap_or_else(|_| "4".into());
    text.parse().expect("WELDRFS_LOAD_SECONDS takes a number")
}

/// The value below which so many percent lie.
fn part(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Begins to follow, and reads nothing.
fn follow(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = b"GET /events?after=0 HTTP/1.1\r\nhost: s\r\n\r\n";
    stream.write_all(request).unwrap();
    stream
}

/// The numbers of all events until there has been silence after the stop.
fn listen(socket: &Path, stop: &AtomicBool) -> Vec<i64> {
    let stream = loop {
        let stream = follow(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = String::new();
        BufReader::new(stream.try_clone().unwrap().take(12))
            .read_line(&mut head)
            .unwrap();
        // There are more who want to begin than are taken in one second.
        if head.ends_with("200") {
            break stream;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut ids = Vec::new();
    let mut line = String::new();
    loop {
        match reader.read_line(&mut line) {
            Ok(0) => panic!("it was cut off after {} events", ids.len()),
            Ok(_) => {
                if let Some(id) = line.strip_prefix("id: ") {
                    ids.push(id.trim().parse().unwrap());
                }
                line.clear();
            }
            // What is there of a line stays.
            Err(_) if !stop.load(Ordering::Relaxed) => {}
            Err(_) => return ids,
        }
    }
}

/// The share of client `n` of all requests, evenly over the time.
fn ask_at_a_rate(socket: &Path, n: u64, started: Instant, seconds: u64) -> Told {
    let mut told = Told::default();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for turn in (n..OFFERED * seconds).step_by(CLIENTS as usize) {
        let at = started + Duration::from_micros(turn * 1_000_000 / OFFERED);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        // Some that are answered from memory, and some that look at the machine.
        let path = match turn % 10 {
            0 => "/mounts",
            1 => "/metrics",
            _ => "/health",
        };
        let asked = Instant::now();
        let head = ask(&mut stream, path);
        let took = asked.elapsed();
        if head.starts_with("http/1.1 200") {
            told.taken.push(took);
        } else if head.starts_with("http/1.1 429") && head.contains("\r\nretry-after: 1\r\n") {
            told.refused.push(took);
        } else {
            told.other.push(head);
        }
    }
    told
}

/// One request on a connection that stays open; the head of its answer, in small letters.
fn ask(stream: &mut UnixStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: s\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    let (head, length) = loop {
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "it hung up");
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let head = format!("{}\r\n", head.to_lowercase());
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let body: usize = length
                .expect("every answer says how long it is")
                .parse()
                .unwrap();
            break (head.clone(), text.find("\r\n\r\n").unwrap() + 4 + body);
        }
    };
    while answer.len() < length {
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "it hung up");
        answer.extend_from_slice(&part[..read]);
    }
    head
}

/// Makes things happen until the stop: mounts that fail, some each second.
fn make_events(sidecar: &Sidecar, stop: &AtomicBool) {
    std::fs::write(sidecar.place.path("no-folder"), "").unwrap();
    let source = format!("file://{}/v", sidecar.place.text("no-folder"));
    let body = json!({"source": source, "name": "failing"}).to_string();
    while !stop.load(Ordering::Relaxed) {
        sidecar.ask("POST", "/mounts", &body);
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn ask_until_it_is_gone(socket: &Path) -> u64 {
    let mut asked = 0;
    while let Ok(mut stream) = UnixStream::connect(socket) {
        let request = b"GET /mounts HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
        if stream.write_all(request).is_err() {
            break;
        }
        asked += 1;
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
    }
    asked
}
