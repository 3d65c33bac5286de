//! What holds of a tree at any time: of the one there is, and of every snapshot's.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::CheckReport;
use crate::error::Result;
use crate::ids::{Ino, ROOT_INO};
use crate::rows::{Dirent, InodeRow};
use crate::sqlite::at::At;
use crate::sqlite::open::named;

#[derive(Default)]
struct Names {
    count: u64,
    subdirs: u64,
    hash: u64,
}

/// What holds of a tree at any time. Returns its inodes.
pub(super) fn check(at: At<'_>, report: &mut CheckReport) -> Result<FxHashMap<Ino, InodeRow>> {
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
