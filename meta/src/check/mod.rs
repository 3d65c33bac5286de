//! The invariants of the tables, by name. fsck, the campaigns and the tests all call this one function.
//!
//! The files beside this one say what has to hold, each of one part of the tables. Nothing here mends anything.

mod kept;
mod tree;
mod without_name;

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::Result;
use crate::ids::ExtentId;
use crate::namespace::Namespace;
use crate::sqlite::at::At;
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
    let inodes = tree::check(present, &mut report)?;
    without_name::check(c, &inodes, &mut report)?;
    kept::check_locations(c, &mut report)?;
    kept::check_kept(c, &mut report)?;
    for snapshot in named(read::snapshots(c))? {
        let mut at = CheckReport::default();
        tree::check(At::snapshot(c, snapshot.point()), &mut at)?;
        for finding in at.findings {
            let detail = format!("in snapshot {}: {}", snapshot.name, finding.detail);
            report.found(finding.invariant, detail);
        }
    }
    Ok(report)
}
