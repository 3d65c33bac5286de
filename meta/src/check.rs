//! The invariants of the tables, by name. fsck, the campaigns and the tests all call this one function.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::Result;
use crate::ids::{ExtentId, Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::rows::{Dirent, InodeRow};
use crate::sqlite::open::named;
use crate::sqlite::{PackRow, packs, read};

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

/// Checks every invariant of a database.
pub(crate) fn check(c: &Connection) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let mut inodes: FxHashMap<Ino, InodeRow> = FxHashMap::default();
    named(read::each_inode(c, |row| {
        inodes.insert(row.ino, row);
    }))?;
    report.inodes = inodes.len() as u64;
    let links = check_dirents(c, &inodes, &mut report)?;
    check_inodes(c, &inodes, &links, &mut report)?;
    check_extents(c, &inodes, &mut report)?;
    check_reachable(&inodes, &mut report);
    check_references(c, &mut report)?;
    Ok(report)
}

/// `dirent-inode`: every entry names an inode of its kind. `dir-counts`: every directory's row has the count and hash
/// of its entries. `dirent-parent`: entries are in directories. Returns how often each inode is named.
fn check_dirents(
    c: &Connection,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<FxHashMap<Ino, u64>> {
    let mut links: FxHashMap<Ino, u64> = FxHashMap::default();
    let mut dirs: FxHashMap<Ino, Names> = FxHashMap::default();
    named(read::each_dirent(c, |parent, name, dirent: Dirent| {
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

/// `link-count`: a file has as many links as names. `orphan-row`: an inode without links is an orphan, and no other.
/// `counter`: inode numbers are below the next one.
fn check_inodes(
    c: &Connection,
    inodes: &FxHashMap<Ino, InodeRow>,
    links: &FxHashMap<Ino, u64>,
    report: &mut CheckReport,
) -> Result<()> {
    let orphans: FxHashSet<Ino> = named(read::orphans(c))?.into_iter().collect();
    let next = named(read::setting(c, "next_ino"))?.unwrap_or(0);
    for row in inodes.values() {
        let named = links.get(&row.ino).copied().unwrap_or(0);
        if !row.is_dir() && u64::from(row.nlink) != named {
            report.found(
                "link-count",
                format!("{}: {} links, {named} names", row.ino, row.nlink),
            );
        }
        if (row.nlink == 0) != orphans.contains(&row.ino) {
            report.found(
                "orphan-row",
                format!(
                    "{}: {} links, orphan: {}",
                    row.ino,
                    row.nlink,
                    row.nlink != 0
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

/// `extent-order`: runs are not empty, do not overlap and end at or before the size. `extent-location`: each lies
/// within a known location. `allocated`: a file's row has the sum of its runs.
fn check_extents(
    c: &Connection,
    inodes: &FxHashMap<Ino, InodeRow>,
    report: &mut CheckReport,
) -> Result<()> {
    let mut mapped: BTreeMap<Ino, (u64, u64)> = BTreeMap::new();
    let mut count = 0;
    let mut found = Vec::new();
    named(read::each_extent(c, |ino, run, location| {
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

/// `location-pack`: a location names a pack that is known. `pack-dead`: nothing uses a dead pack. `symlink-target`: a symbolic link has a target, and nothing
/// else has. `xattr-inode`: attributes belong to inodes.
fn check_references(c: &Connection, report: &mut CheckReport) -> Result<()> {
    const QUERIES: [(&str, &str); 5] = [
        (
            "location-pack",
            "SELECT 'extent ' || extent || ' is in pack row ' || pack || ', which is missing' FROM location \
             WHERE pack IS NOT NULL AND pack NOT IN (SELECT pack FROM pack) LIMIT 100",
        ),
        (
            "pack-dead",
            "SELECT 'pack row ' || p.pack || ' is dead, and extent ' || l.extent || ' in it is used' \
             FROM pack p JOIN location l ON l.pack = p.pack JOIN extent e ON e.extent = l.extent \
             WHERE p.dead_ms IS NOT NULL LIMIT 100",
        ),
        (
            "symlink-target",
            "SELECT 'inode ' || ino || ' has no target' FROM inode WHERE (mode & 61440) = 40960 \
             AND ino NOT IN (SELECT ino FROM symlink) LIMIT 100",
        ),
        (
            "symlink-target",
            "SELECT 'inode ' || ino || ' has a target but is no link' FROM symlink \
             WHERE ino NOT IN (SELECT ino FROM inode WHERE (mode & 61440) = 40960) LIMIT 100",
        ),
        (
            "xattr-inode",
            "SELECT 'inode ' || ino || ' has attributes but no row' FROM xattr \
             WHERE ino NOT IN (SELECT ino FROM inode) LIMIT 100",
        ),
    ];
    for (invariant, sql) in QUERIES {
        let mut statement = named(c.prepare(sql))?;
        let details = named(
            statement
                .query_map([], |r| r.get::<_, String>(0))
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>),
        )?;
        for detail in details {
            report.found(invariant, detail);
        }
    }
    Ok(())
}
