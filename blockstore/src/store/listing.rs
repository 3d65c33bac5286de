//! Listing a directory tree in the order of keys, a page at a time. Reads names only, never contents.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::key::is_key_part;
use super::{ListPage, ListedObject};

/// What a page is made of.
pub(super) struct Listing<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    page: ListPage,
}

impl<'a> Listing<'a> {
    /// Lists the objects below `root`.
    pub(super) fn of(
        root: &Path,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> io::Result<ListPage> {
        let mut listing = Self {
            prefix,
            after,
            limit,
            page: ListPage::default(),
        };
        listing.walk(root, "")?;
        Ok(listing.page)
    }

    /// Adds the objects of a directory whose keys begin with `base`. Depth is bounded by the length of a path.
    fn walk(&mut self, dir: &Path, base: &str) -> io::Result<()> {
        for (key, is_dir) in self.entries(dir, base)? {
            if self.page.more {
                break;
            }
            let path = dir.join(&key[base.len()..]);
            if is_dir {
                self.walk(&path, &key)?;
            } else {
                self.add(&path, key)?;
            }
        }
        Ok(())
    }

    /// The entries of a directory that can matter, in the order of their keys. A directory's key ends with a slash:
    /// that is where its objects sort.
    fn entries(&self, dir: &Path, base: &str) -> io::Result<Vec<(String, bool)>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_key_part(name)) else {
                continue;
            };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let key = format!("{base}{name}/");
                if self.reaches_into(&key) {
                    found.push((key, true));
                }
            } else if kind.is_file() {
                let key = format!("{base}{name}");
                if key.starts_with(self.prefix)
                    && self.after.is_none_or(|after| key.as_str() > after)
                {
                    found.push((key, false));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Whether a directory can hold keys that were asked for.
    fn reaches_into(&self, dir_key: &str) -> bool {
        let wanted = dir_key.starts_with(self.prefix) || self.prefix.starts_with(dir_key);
        let past = self
            .after
            .is_some_and(|after| after > dir_key && !after.starts_with(dir_key));
        wanted && !past
    }

    fn add(&mut self, path: &Path, key: String) -> io::Result<()> {
        if self.page.objects.len() == self.limit {
            self.page.more = true;
            return Ok(());
        }
        let info = match std::fs::metadata(path) {
            // Deleted since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            info => info?,
        };
        self.page.objects.push(ListedObject {
            key,
            len: info.len(),
            modified_ms: modified_ms(&info),
        });
        Ok(())
    }
}

/// When a file was written, in milliseconds since 1970.
pub(super) fn modified_ms(info: &std::fs::Metadata) -> u64 {
    let since = info
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
