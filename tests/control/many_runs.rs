//! A sidecar that starts with far more runs in its database than it keeps: nothing of them is read before it answers but what
//! the check of the whole database reads, and what is too much goes behind that.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::sidecar::Sidecar;

/// Runs that are kept.
const KEPT: u64 = 10_000;
/// How long the removal of what is too much may take.
const REMOVAL: Duration = Duration::from_secs(600);

/// Writes runs with three steps each, and as many events as are kept.
const FILL: &str = r#"
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1])
count, now = int(sys.argv[2]), int(time.time() * 1000)
db.execute("INSERT INTO definition VALUES ('hash', 'steps: []')")
db.executemany("INSERT INTO run VALUES (?, ?, 'w', 'project', ?, 'hash', '{}', 'succeeded', NULL, ?, ?, ?, NULL, 0, NULL, 0)",
    ((n, f'{n:x}', f'p{n % 7}', now - count + n, now - count + n, now - count + n) for n in range(1, count + 1)))
db.executemany("INSERT INTO step (run, number, name, kind, state, attempt, place, outputs, attempts, log, settled) "
    "VALUES (?, ?, ?, 'run', 'succeeded', 1, '{\"frame\":0,\"skip\":0,\"told\":0}', '{\"status\":0}', '[]', ?, 1)",
    ((f'{n:x}', s, f's{s}', 'x' * 100) for n in range(1, count + 1) for s in range(3)))
db.executemany("INSERT INTO event (at_ms, kind, message, run) VALUES (?, 'workflow.step', 'a step', ?)",
    ((now, f'{n:x}') for n in range(1, 10_001)))
db.commit()
"#;

const COUNT: &str = r"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(*(db.execute(f'SELECT count(*) FROM {table}').fetchone()[0] for table in ('run', 'step')))
";

fn python(sidecar: &Sidecar, script: &str, more: &[&str]) -> String {
    let database = sidecar.place.path("state/control/control.db");
    let done = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .args(more)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn far_more_runs_than_are_kept_hold_up_no_start_and_go_piece_by_piece() {
    let count = std::env::var("WELDRFS_FINISHED_RUNS").unwrap_or_else(|_| "100000".into());
    let count: u64 = count.parse().unwrap();
    assert!(count > KEPT, "WELDRFS_FINISHED_RUNS takes more than {KEPT}");
    let mut sidecar = Sidecar::start();
    sidecar.stop();
    let began = Instant::now();
    sidecar.start_again();
    let empty = began.elapsed();
    sidecar.stop();
    python(&sidecar, FILL, &[&count.to_string()]);
    let began = Instant::now();
    sidecar.start_again();
    let first = began.elapsed();
    let list = sidecar.ask("GET", "/workflows?limit=3", "").success();
    assert_eq!(list["runs"][0]["run"], format!("{count:x}"));
    println!(
        "{count} runs that are over: the first answer after {} ms (without any: {} ms), a list of the newest after {} ms; \
         {} MiB resident",
        first.as_millis(),
        empty.as_millis(),
        began.elapsed().as_millis(),
        sidecar.resident_bytes() >> 20
    );
    let mut slowest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        sidecar.ask("GET", "/workflows?limit=50", "").success();
        let oldest = format!("/workflows/{:x}", count - KEPT);
        let oldest = sidecar.ask("GET", &oldest, "").status;
        slowest = slowest.max(asked.elapsed());
        if oldest == 404 {
            break;
        }
        assert!(began.elapsed() < REMOVAL, "what is too much stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "{} of them removed after {} s; the slowest two answers meanwhile took {} ms",
        count - KEPT,
        began.elapsed().as_secs(),
        slowest.as_millis()
    );
    let kept = format!("/workflows/{:x}", count - KEPT + 1);
    sidecar.ask("GET", &kept, "").success();
    sidecar.stop();
    let counts = python(&sidecar, COUNT, &[]);
    assert_eq!(counts.trim(), format!("{KEPT} {}", 3 * KEPT));
}
