//! What packs and snapshots keep.

use rusqlite::Connection;

use super::CheckReport;
use crate::error::Result;
use crate::sqlite::capture::UNDO;
use crate::sqlite::live::USED;
use crate::sqlite::open::named;
use crate::sqlite::read;

/// `location-pack`: a location names a pack that is known. `pack-dead`: nothing uses a dead pack.
pub(super) fn check_locations(c: &Connection, report: &mut CheckReport) -> Result<()> {
    let sql = "SELECT 'extent ' || extent || ' is in pack row ' || pack || ', which is missing' FROM location \
               WHERE pack IS NOT NULL AND pack NOT IN (SELECT pack FROM pack) LIMIT 100";
    report.found_by(c, "location-pack", sql)?;
    let sql = format!(
        "SELECT 'pack row ' || p.pack || ' is dead, and extent ' || l.extent || ' in it is used' \
         FROM pack p JOIN location l ON l.pack = p.pack WHERE p.dead_ms IS NOT NULL AND {USED} LIMIT 100"
    );
    report.found_by(c, "pack-dead", &sql)
}

/// `undo-snapshot`: what was kept was kept for a snapshot that is there. `undo-complete`: a row that was written after a
/// snapshot has an older self, or its absence, kept for it, if the inode it belongs to is older. `epoch-counter`: no row and no snapshot is newer than the
/// newest snapshot there ever was.
pub(super) fn check_kept(c: &Connection, report: &mut CheckReport) -> Result<()> {
    let next = named(read::setting(c, "next_epoch"))?.unwrap_or(1);
    for (table, key, _) in UNDO {
        // Names are bytes, and what is shown is text.
        let shown: Vec<&str> = key
            .split(", ")
            .map(|k| if k == "name" { "hex(name)" } else { k })
            .collect();
        let shown = shown.join(" || '/' || ");
        report.found_by(
            c,
            "undo-snapshot",
            &format!(
                "SELECT '{table} ' || {shown} || ' was kept for epoch ' || epoch || ', which is no snapshot' \
                 FROM {table}_undo WHERE epoch NOT IN (SELECT epoch FROM snapshot) LIMIT 100"
            ),
        )?;
        let same: Vec<String> = key.split(", ").map(|k| format!("u.{k} = t.{k}")).collect();
        report.found_by(
            c,
            "undo-complete",
            &format!(
                "SELECT '{table} ' || {shown} || ' was written in epoch ' || epoch || ' and not kept' FROM {table} t \
                 WHERE epoch > 0 AND EXISTS (SELECT 1 FROM snapshot s WHERE s.epoch = \
                 (SELECT max(epoch) FROM snapshot WHERE epoch <= t.epoch) AND t.{} < s.next_ino \
                 AND NOT EXISTS (SELECT 1 FROM {table}_undo u WHERE {} AND u.epoch = s.epoch)) LIMIT 100",
                key.split(", ").next().unwrap_or(key),
                same.join(" AND ")
            ),
        )?;
        report.found_by(
            c,
            "epoch-counter",
            &format!(
                "SELECT '{table} ' || {shown} || ' is of epoch ' || epoch || ', the next one is {next}' \
                 FROM {table} WHERE epoch >= {next} LIMIT 100"
            ),
        )?;
    }
    let sql = format!(
        "SELECT 'snapshot ' || name || ' has epoch ' || epoch || ', the next one is {next}' \
         FROM snapshot WHERE epoch >= {next} OR epoch < 1 LIMIT 100"
    );
    report.found_by(c, "epoch-counter", &sql)
}
