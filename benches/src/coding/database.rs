//! SQLite: transactions that each wait for the disk.

use serde_json::Value;

use super::{Desk, Step, said};
use crate::error::{At, Result, ensure};

pub(super) const STEPS: [Step; 2] = [
    Step {
        name: "sqlite_wal",
        about: "SQLite transactions, write-ahead log",
        needs: &[],
        run: |desk| transactions(desk, "wal"),
    },
    Step {
        name: "sqlite_rollback",
        about: "SQLite transactions, rollback journal",
        needs: &[],
        run: |desk| transactions(desk, "delete"),
    },
];

/// The script checks what it wrote and says how long the transactions took.
fn transactions(desk: &Desk<'_>, mode: &str) -> Result<f64> {
    let folder = desk.at(&format!("sqlite-{mode}"));
    std::fs::create_dir(&folder).at(&folder)?;
    let mut script = desk.command("python3", "");
    script
        .arg(desk.places.coding("sqlite_transactions.py"))
        .arg(folder.join("day.db"))
        .args([mode, &desk.sizes.transactions.to_string()]);
    let done = desk.run(&mut script)?;
    let rows = serde_json::from_str::<Value>(&done.stdout)
        .ok()
        .and_then(|said| said["done"].as_u64());
    ensure(rows == Some(desk.sizes.transactions), || {
        format!("the script says {:?}", done.stdout)
    })?;
    Ok(said(&done.stdout)?.seconds)
}
