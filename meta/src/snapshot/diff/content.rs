//! Whether what two inodes hold is the same, judged by their extents and without reading any.

use crate::filemap::Piece;
use crate::rows::InodeRow;
use crate::sqlite::at::At;

use super::Sql;

/// Whether two inodes of one kind have the same bytes, target or number.
pub(in crate::snapshot) fn same_content(
    old: At<'_>,
    before: &InodeRow,
    new: At<'_>,
    after: &InodeRow,
) -> Sql<bool> {
    if before.is_dir() {
        return Ok(true);
    }
    if before.is_symlink() {
        return Ok(old.symlink(before.ino)? == new.symlink(after.ino)?);
    }
    if !before.is_file() {
        return Ok(before.rdev == after.rdev);
    }
    Ok(before.size == after.size && joined(old.runs(before.ino)?) == joined(new.runs(after.ino)?))
}

/// Runs with those put together that go on in the same extent: how a file was cut up is no difference.
fn joined(runs: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(runs.len());
    for run in runs {
        match out.last_mut() {
            Some(last)
                if last.end() == run.offset
                    && last.extent == run.extent
                    && last.extent_offset + last.len == run.extent_offset =>
            {
                last.len += run.len;
            }
            _ => out.push(run),
        }
    }
    out
}
