//! Reading directories, statelessly: a cookie says where to go on, whatever happened meanwhile.

use crate::cache::DirContent;
use crate::error::{MetaError, Result};
use crate::ids::{Cookie, Ino};
use crate::rows::{Dirent, Name};
use crate::sqlite::read;

use super::Namespace;

/// An entry as it is listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: Name,
    /// What it names.
    pub ino: Ino,
    /// The file type as in `d_type`.
    pub kind: u8,
    /// Give this to go on behind the entry.
    pub cookie: Cookie,
}

impl DirEntry {
    pub(crate) fn new(name: &Name, dirent: Dirent) -> Self {
        Self {
            name: Name::clone(name),
            ino: dirent.ino,
            kind: dirent.kind,
            cookie: dirent.cookie,
        }
    }
}

impl Namespace {
    /// At most `max` entries behind a cookie, in cookie order. An empty answer is the end.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Damaged` when the directory is not what its row says.
    pub fn readdir(&self, ino: Ino, after: Cookie, max: usize) -> Result<Vec<DirEntry>> {
        let node = self.node(ino)?;
        {
            let state = node.state.read();
            if state.dead {
                return Err(MetaError::NotFound);
            }
            if !state.row.is_dir() {
                return Err(MetaError::NotDir);
            }
            if let DirContent::Whole { by_name, by_cookie } = &state.dir {
                return Ok(whole(by_name, by_cookie, after, max));
            }
        }
        let mut state = node.state.write();
        self.load_dir(&mut state)?;
        if let DirContent::Whole { by_name, by_cookie } = &state.dir {
            return Ok(whole(by_name, by_cookie, after, max));
        }
        self.page(ino, after, max)
    }

    /// A page of a directory that is not held whole: SQLite's rows under the overlay's. The caller holds the node's
    /// lock, so that no change of this directory is committed meanwhile.
    fn page(&self, ino: Ino, after: Cookie, max: usize) -> Result<Vec<DirEntry>> {
        let mut from = after;
        loop {
            let (mut out, bound) = self.merged(ino, from, max)?;
            out.sort_unstable_by_key(|e| e.cookie);
            out.truncate(max);
            match bound {
                Some(bound) if out.is_empty() => from = bound,
                _ => return Ok(out),
            }
        }
    }

    /// Entries behind `from`, unordered; complete up to the returned cookie (none: to the end).
    fn merged(
        &self,
        ino: Ino,
        from: Cookie,
        max: usize,
    ) -> Result<(Vec<DirEntry>, Option<Cookie>)> {
        // The overlay first: what leaves it meanwhile is in SQLite by then.
        let mut newer: rustc_hash::FxHashMap<Name, Option<Dirent>> = Default::default();
        self.overlay.visit(|g| {
            if let Some(names) = g.dirents.get(&ino) {
                newer.extend(names.iter().map(|(n, d)| (Name::clone(n), *d)));
            }
        });
        let rows = self.readers.with(|c| read::dirents(c, ino, from, max))?;
        let bound = (rows.len() == max)
            .then(|| rows.last().map(|(_, d)| d.cookie))
            .flatten();
        let mut out: Vec<DirEntry> = rows
            .iter()
            .filter(|(n, _)| !newer.contains_key(n))
            .map(|(n, d)| DirEntry::new(n, *d))
            .collect();
        let inside = |d: &Dirent| d.cookie > from && bound.is_none_or(|b| d.cookie <= b);
        out.extend(
            newer
                .iter()
                .filter_map(|(n, d)| d.filter(|d| inside(d)).map(|d| DirEntry::new(n, d))),
        );
        Ok((out, bound))
    }
}

fn whole(
    by_name: &rustc_hash::FxHashMap<Name, Dirent>,
    by_cookie: &std::collections::BTreeMap<u64, Name>,
    after: Cookie,
    max: usize,
) -> Vec<DirEntry> {
    let Some(start) = after.0.checked_add(1) else {
        return Vec::new();
    };
    let named = by_cookie
        .range(start..)
        .filter_map(|(_, name)| by_name.get(name).map(|d| DirEntry::new(name, *d)));
    named.take(max).collect()
}
