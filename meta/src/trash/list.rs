//! What is in the trash, as somebody would look for it: what was removed together is one entry.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::Result;
use crate::ids::{Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::sqlite::at::At;
use crate::sqlite::open::named;
use crate::sqlite::trash;

use super::Rows;

/// Something that was removed: a file, or a directory with what was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashEntry {
    /// Where it was, below the root and without a slash in front. Directories above it have the names that they have now.
    pub path: Vec<u8>,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// When it was removed, milliseconds since 1970.
    pub deleted_ms: u64,
    /// How many files it is, links and everything else that is no directory included.
    pub files: u64,
    /// Bytes in those that are regular files, each counted once.
    pub bytes: u64,
}

impl TrashEntry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

impl Namespace {
    /// What is in the trash at and below a path (empty: everywhere), by time of removal. Of what was removed together only
    /// the top is listed.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn trash(&self, path: &[u8]) -> Result<Vec<TrashEntry>> {
        self.checkpoint(self.acknowledged())?;
        self.look(|c| {
            let rows = Rows::new(named(trash::all(c))?);
            listed(&rows, At::present(c), path)
        })
    }
}

fn listed(rows: &Rows, now: At<'_>, path: &[u8]) -> Result<Vec<TrashEntry>> {
    let mut paths = Paths {
        rows,
        now,
        known: FxHashMap::default(),
    };
    let mut allowed: FxHashSet<usize> = FxHashSet::default();
    for (dir, inside) in &rows.by_dir {
        let dir = paths.of_dir(*dir)?;
        let is_allowed = |at: &&usize| is_within(&joined(&dir, &rows.all[**at].name), path);
        allowed.extend(inside.iter().filter(is_allowed));
    }
    let is_top = |at: &usize| {
        let above = rows.dirs.get(&rows.all[*at].parent);
        above.is_none_or(|above| !allowed.contains(above))
    };
    let mut tops: Vec<usize> = allowed.iter().copied().filter(is_top).collect();
    let mut entries = Vec::new();
    while let Some(top) = tops.pop() {
        let (together, rest) = rows.together(top, |at| allowed.contains(&at));
        tops.extend(rest);
        entries.push(entry(rows, &together, &mut paths)?);
    }
    entries.sort_by(|a, b| (a.deleted_ms, &a.path).cmp(&(b.deleted_ms, &b.path)));
    Ok(entries)
}

fn entry(rows: &Rows, together: &[usize], paths: &mut Paths<'_>) -> Result<TrashEntry> {
    let mut counted: FxHashSet<Ino> = FxHashSet::default();
    let (mut files, mut bytes) = (0, 0);
    for row in together.iter().map(|at| &rows.all[*at]) {
        if row.is_dir() {
            continue;
        }
        files += 1;
        if row.mode & libc::S_IFMT == libc::S_IFREG && counted.insert(row.ino) {
            bytes += row.size;
        }
    }
    // The first is the top.
    let top = &rows.all[together[0]];
    Ok(TrashEntry {
        path: joined(&paths.of_dir(top.parent)?, &top.name),
        mode: top.mode,
        deleted_ms: top.deleted_ms,
        files,
        bytes,
    })
}

/// Where directories are, or were.
pub(super) struct Paths<'a> {
    rows: &'a Rows,
    now: At<'a>,
    known: FxHashMap<Ino, Vec<u8>>,
}

impl Paths<'_> {
    fn of_dir(&mut self, dir: Ino) -> Result<Vec<u8>> {
        // Names from the directory upwards, until one is known.
        let mut steps: Vec<(Ino, Vec<u8>)> = Vec::new();
        let mut at = dir;
        let mut path = loop {
            if at == ROOT_INO {
                break Vec::new();
            }
            if let Some(known) = self.known.get(&at) {
                break known.clone();
            }
            let Some((parent, name)) = self.name_of(at)? else {
                // fsck names it.
                break format!("?{}", at.0).into_bytes();
            };
            if steps.len() > self.rows.dirs.len() + MAX_DEPTH {
                break b"?".to_vec();
            }
            steps.push((at, name));
            at = parent;
        };
        while let Some((dir, name)) = steps.pop() {
            path = joined(&path, &name);
            self.known.insert(dir, path.clone());
        }
        Ok(path)
    }

    fn name_of(&self, dir: Ino) -> Result<Option<(Ino, Vec<u8>)>> {
        if let Some(at) = self.rows.dirs.get(&dir) {
            let row = &self.rows.all[*at];
            return Ok(Some((row.parent, row.name.to_vec())));
        }
        let names = named(self.now.names(dir))?;
        Ok(names.first().map(|(dir, name)| (*dir, name.to_vec())))
    }
}

/// Deeper than any tree of directories that a path can name; a damaged one may go in circles.
const MAX_DEPTH: usize = 1 << 20;

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        b"" => name.to_vec(),
        _ => [dir, name].join(&b'/'),
    }
}

/// Whether a path is `top` or below it; everything is below the empty one.
fn is_within(path: &[u8], top: &[u8]) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| top.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
}
