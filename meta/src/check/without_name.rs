//! Inodes that no name leads to: orphans, and what is in the trash.

use rusqlite::Connection;
use rustc_hash::{FxHashMap, FxHashSet};

use super::CheckReport;
use crate::error::Result;
use crate::ids::Ino;
use crate::rows::InodeRow;
use crate::sqlite::open::named;
use crate::sqlite::{read, trash};

/// `orphan-row`: an inode without links is an orphan or in the trash, not both, and no other is an orphan. `counter`: inode
/// numbers are below the next one.
pub(super) fn check(
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
