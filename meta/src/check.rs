//! The invariants of the tables, by name. fsck, the campaigns and the tests all call this one function.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::Result;
use crate::ids::{ExtentId, Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::rows::{Dirent, InodeRow};
use crate::sqlite::at::At;
use crate::sqlite::capture::UNDO;
use crate::sqlite::live::USED;
use crate::sqlite::open::named;
use crate::sqlite::{PackRow, packs, read, trash};

/// Findings that are reported; a wrecked volume would have millions.
const MAX_FINDINGS: usize = 1000;

/// One violation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The invariant's name.
    pub invariant: &'static str,
    /// Where and how.
    pub detail: String,
}

/// What a check found.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct CheckReport {
    /// Inodes looked at.
    pub inodes: u64,
    /// Directory entries looked at.
    pub dirents: u64,
    /// Runs of files looked at.
    pub extents: u64,
    /// The first violations.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    fn found(&mut self, invariant: &'static str, detail: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { invariant, detail });
        }
    }

    /// Every row of a query is a violation.
    fn found_by(&mut self, c: &Connection, invariant: &'static str, sql: &str) -> Result<()> {
        let details = named(c.prepare(sql).and_then(|mut statement| {
            let rows = statement.query_map([], |r| r.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        }))?;
        for detail in details {
            self.found(invariant, detail);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Names {
    count: u64,
    subdirs: u64,
    hash: u64,
}

impl Namespace {
    /// Checks every invariant of the tables, after a checkpoint of everything acknowledged.
    ///
    /// # Errors
    /// When the tables cannot be read at all.
    pub fn check(&self) -> Result<CheckReport> {
        self.checkpoint(self.acknowledged())?;
        // Nothing may be committed to SQLite between the statements: hold them in one read transaction.
        self.readers.with(|c| {
            let t = c.unchecked_transaction()?;
            let report = check(&t);
            drop(t);
            Ok(report)
        })?
    }
}

/// A database that no namespace has open: one that was made from the store, to be looked at.
#[derive(Debug)]
pub struct RestedDatabase(Connection);

impl RestedDatabase {
    /// Opens one that [`settle_restored`](crate::settle_restored) has settled.
    ///
    /// # Errors
    /// When it is no database of a volume.
    pub fn open(file: &Path) -> Result<Self> {
        let connection = named(Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        ))?;
        Ok(Self(connection))
    }

    /// Checks every invariant of the tables, and that SQLite finds the file whole (`sqlite-integrity`).
    ///
    /// # Errors
    /// When the tables cannot be read at all.
    pub fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mut statement = named(self.0.prepare("PRAGMA integrity_check(100)"))?;
        let said = named(
            statement
                .query_map([], |r| r.get::<_, String>(0))
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>),
        )?;
        for line in said.into_iter().filter(|line| line != "ok") {
            report.found("sqlite-integrity", line);
        }
        // The rows of a broken file tell nothing more.
        match report.findings.is_empty() {
            true => check(&self.0),
            false => Ok(report),
        }
    }

    /// The packs.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn packs(&self) -> Result<Vec<PackRow>> {
        named(packs::packs(&self.0))
    }

    /// Visits the extents that files use and that lie in packs: the extent, its pack's row number, where in the pack's raw
    /// bytes it begins, and its length. In the order of packs.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn each_packed(&self, visit: impl FnMut(ExtentId, u64, u64, u64)) -> Result<()> {
        named(read::each_packed(&self.0, visit))
    }
}

/// Checks every invariant of a database: of the tree as it is, of every snapshot's, and of what snapshots have kept.
pub(crate) fn check(c: &Connection) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let present = At::present(c);
    let inodes = check_tree(present, &mut report)?;
    check_orphans(c, &inodes, &mut report)?;
    check_locations(c, &mut report)?;
    check_kept(c, &mut report)?;
    for snapshot in named(read::snapshots(c))? {
        let mut at = CheckReport::default();
        check_tree(At::snapshot(c, snapshot.point()), &mut at)?;
        for finding in at.findings {
            let detail = format!("in snapshot {}: {}", snapshot.name, finding.detail);
            report.found(finding.invariant, detail);
        }
    }
    Ok(report)
}

/// What holds of a tree at any time. Returns its inodes.
fn check_tree(at: At<'_>, report: &mut CheckReport) -> Result<FxHashMap<Ino, InodeRow>> {
    let mut inodes: FxHashMap<Ino, InodeRow> = FxHashMap::default();
    named(at.each_inode(|row| {
        inodes.insert(row.ino, row);
    }))?;
    report.inodes = inodes.len() as u64;
    let links = check_dirents(at, &inodes, report)?;
    check_links(&inodes, &links, report);
    check_extents(at, &inodes, report)?;
    check_reachable(&inodes, report);
    check_belongings(at, &inodes, report)?;
    Ok(inodes)
}

/// `dirent-inode`: every entry names an inode of its kind. `dir-counts`: every directory's row has the count and hash
/// of its entries. `dirent-parent`: entries are in directories. Returns how often each inode is named.
fn check_dirents(
    at: At<'_>,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<FxHashMap<Ino, u64>> {
    let mut links: FxHashMap<Ino, u64> = FxHashMap::default();
    let mut dirs: FxHashMap<Ino, Names> = FxHashMap::default();
    named(at.each_dirent(|parent, name, dirent: Dirent| {
        report.dirents += 1;
        *links.entry(dirent.ino).or_default() += 1;
        let dir = dirs.entry(parent).or_default();
        dir.count += 1;
        dir.hash = dir.hash.wrapping_add(dirent.hash(name));
        let shown = String::from_utf8_lossy(name);
        match inodes.get(&dirent.ino) {
            None => report.found(
                "dirent-inode",
                format!("{parent}/{shown} names {}, which is missing", dirent.ino),
            ),
            Some(row) if row.kind() != dirent.kind => {
                report.found(
                    "dirent-inode",
                    format!(
                        "{parent}/{shown} has kind {}, its inode {}",
                        dirent.kind,
                        row.kind()
                    ),
                );
            }
            Some(row) if row.is_dir() => {
                dir.subdirs += 1;
                if row.parent != parent {
                    report.found(
                        "dirent-parent",
                        format!("{parent}/{shown}: its row says it is in {}", row.parent),
                    );
                }
            }
            Some(_) => {}
        }
        if !inodes.get(&parent).is_some_and(InodeRow::is_dir) {
            report.found(
                "dirent-parent",
                format!("{parent}/{shown} is in what is no directory"),
            );
        }
    }))?;
    for row in inodes.values().filter(|r| r.is_dir()) {
        let names = dirs.remove(&row.ino).unwrap_or_default();
        if (names.count, names.hash) != (row.size, row.entries_hash) {
            report.found(
                "dir-counts",
                format!(
                    "{}: {} entries, its row says {}",
                    row.ino, names.count, row.size
                ),
            );
        }
        let expected = if row.nlink == 0 { 0 } else { names.subdirs + 2 };
        if u64::from(row.nlink) != expected {
            report.found(
                "link-count",
                format!("{}: {} links, should be {expected}", row.ino, row.nlink),
            );
        }
    }
    Ok(links)
}

/// `link-count`: a file has as many links as names.
fn check_links(
    inodes: &FxHashMap<Ino, InodeRow>,
    links: &FxHashMap<Ino, u64>,
    report: &mut CheckReport,
) {
    for row in inodes.values().filter(|r| !r.is_dir()) {
        let named = links.get(&row.ino).copied().unwrap_or(0);
        if u64::from(row.nlink) != named {
            report.found(
                "link-count",
                format!("{}: {} links, {named} names", row.ino, row.nlink),
            );
        }
    }
}

/// `orphan-row`: an inode without links is an orphan or in the trash, not both, and no other is an orphan. `counter`: inode
/// numbers are below the next one.
fn check_orphans(
    c: &Connection,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<()> {
    let orphans: FxHashSet<Ino> = named(read::orphans(c))?.into_iter().collect();
    let trash = check_trash(c, inodes, report)?;
    let next = named(read::setting(c, "next_ino"))?.unwrap_or(0);
    for row in inodes.values() {
        let (is_orphan, is_trashed) = (orphans.contains(&row.ino), trash.contains_key(&row.ino));
        let is_right = match row.nlink {
            0 => is_orphan != is_trashed,
            _ => !is_orphan,
        };
        if !is_right {
            report.found(
                "orphan-row",
                format!(
                    "{}: {} links, orphan: {is_orphan}, in the trash: {is_trashed}",
                    row.ino, row.nlink
                ),
            );
        }
        if row.ino.0 >= next {
            report.found(
                "counter",
                format!("{} exists, the next one is {next}", row.ino),
            );
        }
    }
    for ino in orphans.iter().filter(|ino| !inodes.contains_key(ino)) {
        report.found("orphan-row", format!("{ino} is an orphan but has no row"));
    }
    Ok(())
}

/// `trash-row`: a name in the trash is of an inode that is there; a directory has one, and none while it has a place in the
/// tree; the row of anything else without a name says where it had the last one, and of no other. `trash-parent`: the
/// directory that a name was in is there, in the tree or in the trash. Returns the directories that each inode was in.
fn check_trash(
    c: &Connection,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<FxHashMap<Ino, Vec<Ino>>> {
    let mut trash: FxHashMap<Ino, Vec<Ino>> = FxHashMap::default();
    let mut dirs: FxHashSet<Ino> = FxHashSet::default();
    named(trash::each(c, |ino, parent| {
        trash.entry(ino).or_default().push(parent);
        dirs.insert(parent);
    }))?;
    for dir in dirs {
        let is_there = inodes
            .get(&dir)
            .is_some_and(|row| row.is_dir() && (row.nlink > 0) != trash.contains_key(&dir));
        if !is_there {
            let detail = format!("{dir} is no directory, and something in the trash was in it");
            report.found("trash-parent", detail);
        }
    }
    for (ino, was_in) in &trash {
        match inodes.get(ino) {
            None => report.found("trash-row", format!("{ino} is in the trash but has no row")),
            Some(row) if row.is_dir() && (row.nlink > 0 || *was_in != [row.parent]) => {
                let detail = format!("{ino} is a directory in the trash and elsewhere");
                report.found("trash-row", detail);
            }
            Some(_) => {}
        }
    }
    for row in inodes.values().filter(|row| !row.is_dir()) {
        let was_in = trash.get(&row.ino).filter(|_| row.nlink == 0);
        let is_right = match was_in {
            Some(was_in) => was_in.contains(&row.parent),
            None => row.parent == Ino(0),
        };
        if !is_right {
            let detail = format!("{}: its row says that it was in {}", row.ino, row.parent);
            report.found("trash-row", detail);
        }
    }
    Ok(trash)
}

/// `extent-order`: runs are not empty, do not overlap and end at or before the size. `extent-location`: each lies
/// within a known location. `allocated`: a file's row has the sum of its runs.
fn check_extents(
    at: At<'_>,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<()> {
    let mut mapped: BTreeMap<Ino, (u64, u64)> = BTreeMap::new();
    let mut count = 0;
    let mut found = Vec::new();
    named(at.each_run(|ino, run, location| {
        count += 1;
        let (sum, end) = mapped.entry(ino).or_default();
        if run.len == 0 || run.offset < *end {
            found.push((
                "extent-order",
                format!("{ino} at {}: empty or overlapping", run.offset),
            ));
        }
        *sum += run.len;
        *end = run.end();
        match location {
            None => found.push((
                "extent-location",
                format!("{ino} at {}: {} is nowhere", run.offset, run.extent),
            )),
            Some(len) if run.extent_offset + run.len > len => {
                found.push((
                    "extent-location",
                    format!("{ino} at {}: past the end of {}", run.offset, run.extent),
                ));
            }
            Some(_) => {}
        }
    }))?;
    report.extents = count;
    for (invariant, detail) in found {
        report.found(invariant, detail);
    }
    for (ino, (_, end)) in &mapped {
        match inodes.get(ino) {
            Some(row) if row.is_file() && *end <= row.size => {}
            Some(row) => report.found(
                "extent-order",
                format!("{ino}: runs end at {end}, its size is {}", row.size),
            ),
            None => report.found("extent-order", format!("{ino} has runs but no row")),
        }
    }
    for row in inodes.values() {
        let sum = mapped.get(&row.ino).map_or(0, |m| m.0);
        if sum != row.allocated {
            report.found(
                "allocated",
                format!(
                    "{}: runs have {sum} bytes, its row says {}",
                    row.ino, row.allocated
                ),
            );
        }
    }
    Ok(())
}

/// `reachable`: going up from any directory that has links ends at the root.
fn check_reachable(inodes: &FxHashMap<Ino, InodeRow>, report: &mut CheckReport) {
    let mut good: FxHashSet<Ino> = FxHashSet::from_iter([ROOT_INO]);
    for row in inodes.values().filter(|r| r.is_dir() && r.nlink > 0) {
        let mut path = Vec::new();
        let mut at = row.ino;
        while !good.contains(&at) {
            path.push(at);
            match inodes.get(&at) {
                Some(up) if path.len() <= inodes.len() && up.nlink > 0 => at = up.parent,
                _ => {
                    report.found(
                        "reachable",
                        format!("{} does not lead to the root", row.ino),
                    );
                    path.clear();
                    break;
                }
            }
        }
        good.extend(path);
    }
}

/// `symlink-target`: a symbolic link has a target, and nothing else has. `xattr-inode`: attributes belong to inodes.
fn check_belongings(
    at: At<'_>,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<()> {
    let targets: FxHashSet<Ino> = named(at.with_target())?.into_iter().collect();
    for row in inodes.values() {
        if row.is_symlink() && !targets.contains(&row.ino) {
            report.found("symlink-target", format!("{} has no target", row.ino));
        }
    }
    for ino in targets {
        if !inodes.get(&ino).is_some_and(InodeRow::is_symlink) {
            let detail = format!("{ino} has a target but is no link");
            report.found("symlink-target", detail);
        }
    }
    for ino in named(at.with_xattrs())? {
        if !inodes.contains_key(&ino) {
            report.found("xattr-inode", format!("{ino} has attributes but no row"));
        }
    }
    Ok(())
}

/// `location-pack`: a location names a pack that is known. `pack-dead`: nothing uses a dead pack.
fn check_locations(c: &Connection, report: &mut CheckReport) -> Result<()> {
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
fn check_kept(c: &Connection, report: &mut CheckReport) -> Result<()> {
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
