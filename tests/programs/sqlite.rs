//! SQLite under many processes, some of them killed, in each of its journal modes.

use crate::health::{assert_healthy, bounded, full, guest, on_disk, on_mount, script, volume};
use crate::support::scripts::succeed;
use std::time::Duration;

const TRANSACTIONS: &str = "25";
const TRANSACTIONS_FULL: &str = "500";
const DEADLINE_S: u64 = 1_800;
const MODES: [&str; 6] = [
    "wal",
    "wal-mmap",
    "delete",
    "delete-mmap",
    "truncate",
    "persist",
];

#[test]
fn sqlite_keeps_every_database_whole_under_many_processes() {
    let transactions = if full() {
        TRANSACTIONS_FULL
    } else {
        TRANSACTIONS
    };
    let _guest = guest();
    let mut volume = volume();
    let (folder, logs) = (on_mount(&volume, "databases"), on_disk(&volume, "logs"));
    let deadline = Duration::from_secs(DEADLINE_S + 60);
    let database = |mode: &str| folder.join(format!("{mode}.db"));
    for mode in MODES {
        let mut command = bounded(DEADLINE_S, "python3");
        command
            .arg(script("sqlite_stress.py"))
            .arg(database(mode))
            .args([mode, transactions])
            .arg(&logs);
        print!("{}", succeed(&mut command, deadline));
    }
    // Once more with nothing in memory.
    volume.sync_and_drop_caches();
    volume.remount();
    for mode in MODES {
        let mut command = bounded(DEADLINE_S, "python3");
        command
            .arg(script("sqlite_stress.py"))
            .arg("--check")
            .arg(database(mode))
            .arg(transactions);
        succeed(&mut command, deadline);
        let mut command = bounded(DEADLINE_S, "sqlite3");
        command.arg(database(mode)).arg("PRAGMA integrity_check");
        assert_eq!(succeed(&mut command, deadline).trim(), "ok", "{mode}");
    }
    assert_healthy(&mut volume);
}
