//! Listing directories. `.` and `..` are made here; the engine does not know them.

use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use weldrfs_meta::Ino;

use super::{Adapter, GENERATION, convert, errno};
use crate::engine::{Attr, DirEntry};
use crate::error::FsError;

/// Cookies of the two entries that are not stored.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Entries that are asked of the engine at a time: about what one reply holds.
const PAGE: usize = 128;
/// The same with attributes.
const PAGE_PLUS: usize = 32;

/// Feeds entries to a reply until it is full or the directory ends.
///
/// `push` returns whether the reply is full, in which case the entry is not in it.
fn list(
    adapter: &Adapter,
    dir: &Attr,
    offset: u64,
    page: usize,
    mut push: impl FnMut(&DirEntry) -> Result<bool, FsError>,
) -> Result<(), FsError> {
    let dots = [
        (b".".as_slice(), dir.ino, DOT),
        (b"..".as_slice(), dir.parent, DOT_DOT),
    ];
    for (name, ino, cookie) in dots.into_iter().filter(|(_, _, cookie)| *cookie > offset) {
        let entry = DirEntry {
            name: bytes::Bytes::from_static(name),
            ino,
            kind: dir.kind,
            cookie,
        };
        if push(&entry)? {
            return Ok(());
        }
    }
    let mut after = offset.max(DOT_DOT);
    loop {
        let entries = adapter.engine.readdir(dir.ino, after, page)?;
        for entry in &entries {
            if push(entry)? {
                return Ok(());
            }
            after = entry.cookie;
        }
        if entries.len() < page {
            return Ok(());
        }
    }
}

fn name(entry: &DirEntry) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(&entry.name)
}

impl Adapter {
    pub(super) fn list_plain(&self, ino: Ino, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.asked().getattr(ino).and_then(|dir| {
            list(self, &dir, offset, PAGE, |entry| {
                Ok(reply.add(
                    INodeNo(entry.ino.0),
                    entry.cookie,
                    convert::kind(entry.kind),
                    name(entry),
                ))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("readdir", &error)),
        }
    }

    pub(super) fn list_plus(&self, ino: Ino, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut held = Vec::new();
        let listed = self.asked().getattr(ino).and_then(|dir| {
            list(self, &dir, offset, PAGE_PLUS, |entry| {
                let attr = match self.engine.getattr(entry.ino) {
                    Ok(attr) => attr,
                    // Removed since the page was read: as if it had been removed before.
                    Err(error) if error.errno() == libc::ENOENT => return Ok(false),
                    Err(error) => return Err(error),
                };
                // The kernel counts a lookup for every entry it is given, but for the two dots.
                let counted = entry.cookie > DOT_DOT;
                if counted {
                    self.engine.retain(entry.ino, 1);
                }
                let ttl = self
                    .manners
                    .attr_timeout(&attr)
                    .min(self.manners.entry_timeout);
                let shown = convert::attr(&attr);
                let full = reply.add(
                    shown.ino,
                    entry.cookie,
                    name(entry),
                    &ttl,
                    &shown,
                    GENERATION,
                );
                match (counted, full) {
                    (true, true) => self.engine.forget(entry.ino, 1),
                    (true, false) => held.push(entry.ino),
                    _ => {}
                }
                Ok(full)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => {
                self.engine.forget_all(held.into_iter().map(|ino| (ino, 1)));
                reply.error(errno("readdirplus", &error));
            }
        }
    }
}
