//! `weldrfs trash`: what was removed from a mounted volume. Asks the process that serves the mount.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use weldrfs_control::{
    BlockingVolumeClient, TrashEmptyRequest, TrashEntryInfo, TrashList, TrashListRequest,
    TrashRestoreRequest, path_text,
};

use super::{api_failure, target};
use crate::failure::Failure;
use crate::registry::Registry;
use crate::{moment, report};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    List {
        as_json: bool,
    },
    Restore {
        to: Option<PathBuf>,
        at_ms: Option<u64>,
    },
    Empty {
        older_than_ms: Option<u64>,
    },
}

/// Does what `request` says to the volume that `path` lies, or lay, on.
pub(crate) fn run(path: &Path, request: Request, registry: &Registry) -> Result<(), Failure> {
    let place = Place::of(path)?;
    let client = target::client(&place.mountpoint, registry)?;
    match request {
        Request::List { as_json } => list(&client, &place, as_json),
        Request::Restore { to, at_ms } => restore(&client, &place, to.as_deref(), at_ms),
        Request::Empty { older_than_ms } => empty(&client, &place, older_than_ms),
    }
}

fn list(client: &BlockingVolumeClient, place: &Place, as_json: bool) -> Result<(), Failure> {
    let (path, path_base64) = path_text(&place.path);
    let listed = client.trash(&TrashListRequest { path, path_base64 });
    let listed = listed.map_err(|error| api_failure("cannot list the trash", &error))?;
    match as_json {
        true => report::print(&report::json(&listed)?),
        false => report::print(&listing(&listed)),
    }
}

fn restore(
    client: &BlockingVolumeClient,
    place: &Place,
    to: Option<&Path>,
    at_ms: Option<u64>,
) -> Result<(), Failure> {
    if place.path.is_empty() {
        return Err(Failure::Invocation(format!(
            "{} is where the volume is mounted; name what was removed, as trash ls shows it",
            place.mountpoint.display()
        )));
    }
    let to_place = to.map(Place::of).transpose()?;
    if let Some(to) = to_place.as_ref()
        && (to.mountpoint != place.mountpoint || to.path.is_empty())
    {
        return Err(Failure::Invocation(format!(
            "--as takes a path on the mount {}",
            place.mountpoint.display()
        )));
    }
    let (path, path_base64) = path_text(&place.path);
    let (to, to_base64) = match to_place.as_ref().map(|to| path_text(&to.path)) {
        Some((to, to_base64)) => (Some(to), to_base64),
        None => (None, None),
    };
    let restored = client.restore_trash(&TrashRestoreRequest {
        path,
        path_base64,
        to,
        to_base64,
        at_ms,
    });
    let restored = restored.map_err(|error| api_failure("nothing was restored", &error))?;
    let back = to_place.as_ref().unwrap_or(place).whole();
    let names = match restored.names {
        1 => "1 name".to_owned(),
        names => format!("{names} names"),
    };
    report::print(&format!(
        "{} is back: {names}, removed {}\n",
        shown(back.as_os_str().as_bytes()),
        moment::shown(restored.deleted_ms)
    ))
}

fn empty(
    client: &BlockingVolumeClient,
    place: &Place,
    older_than_ms: Option<u64>,
) -> Result<(), Failure> {
    if !place.path.is_empty() {
        return Err(Failure::Invocation(format!(
            "the trash is emptied for all of the volume: name the mountpoint {}",
            place.mountpoint.display()
        )));
    }
    let emptied = client.empty_trash(&TrashEmptyRequest { older_than_ms });
    let emptied = emptied.map_err(|error| api_failure("the trash was not emptied", &error))?;
    report::print(&format!(
        "{} names, {}\n",
        emptied.names,
        report::bytes(emptied.bytes)
    ))
}

/// A path on a mount, of something that may be gone with the directories above it.
struct Place {
    mountpoint: PathBuf,
    /// Below the mountpoint; empty: the mountpoint itself.
    path: Vec<u8>,
}

impl Place {
    fn of(path: &Path) -> Result<Self, Failure> {
        let lexical = std::path::absolute(path)
            .map_err(|error| Failure::system("cannot tell where this is", &error))?;
        // What is left of the path is resolved, the rest is taken by its names.
        let mut there = lexical.as_path();
        let mut resolved = None;
        // The last name is what was removed, even if a symbolic link has it now.
        while let Some(above) = there.parent() {
            there = above;
            if let Ok(real) = std::fs::canonicalize(above) {
                let rest = lexical.strip_prefix(above).unwrap_or(Path::new(""));
                resolved = Some(real.join(rest));
                break;
            }
        }
        let asked = resolved.unwrap_or_else(|| lexical.clone());
        let mountpoint =
            target::mountpoint_of(&lexical).or_else(|_| target::mountpoint_of(&asked))?;
        let below = [&asked, &lexical]
            .into_iter()
            .find_map(|path| path.strip_prefix(&mountpoint).ok())
            .unwrap_or(Path::new(""));
        let climbs = |part| matches!(part, std::path::Component::ParentDir);
        if below.components().any(climbs) {
            return Err(Failure::Invocation(format!(
                "{} climbs with .. out of what is gone; name the path without",
                path.display()
            )));
        }
        Ok(Self {
            path: below.as_os_str().as_bytes().to_vec(),
            mountpoint,
        })
    }

    fn whole(&self) -> PathBuf {
        self.mountpoint.join(OsStr::from_bytes(&self.path))
    }
}

fn listing(list: &TrashList) -> String {
    let mut text = String::new();
    if list.left_out > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} older ones are left out", list.left_out);
    }
    let sizes: Vec<String> = list
        .entries
        .iter()
        .map(|e| report::bytes(e.bytes))
        .collect();
    let width = sizes.iter().map(String::len).max().unwrap_or(0);
    for (entry, size) in list.entries.iter().zip(&sizes) {
        let _ = writeln!(
            text,
            "{}  {size:>width$}  {}",
            moment::shown(entry.deleted_ms),
            named(entry)
        );
    }
    text
}

/// A path as a shell takes it; directories end with a slash and the number of their files.
fn named(entry: &TrashEntryInfo) -> String {
    let path = shown(&entry.exact_path());
    match (entry.directory, entry.files) {
        (false, _) => path,
        (true, 1) => format!("{path}/ (1 file)"),
        (true, files) => format!("{path}/ ({files} files)"),
    }
}

/// A name for people, on one line, in a form that a shell takes: what would disturb it is in `$'...'`.
fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => format!("$'{}'", path.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_has_a_line_for_each_removal() {
        let entry = |path: &str, directory, files| TrashEntryInfo {
            path: path.into(),
            directory,
            files,
            bytes: 2048,
            deleted_ms: 1_000,
            ..TrashEntryInfo::default()
        };
        let list = TrashList {
            entries: vec![entry("a b", false, 1), entry("d", true, 3)],
            left_out: 2,
        };
        assert_eq!(
            listing(&list),
            "2 older ones are left out\n1970-01-01T00:00:01Z  2.0 KiB  a b\n\
             1970-01-01T00:00:01Z  2.0 KiB  d/ (3 files)\n"
        );
    }

    #[test]
    fn names_that_would_disturb_a_terminal_are_escaped() {
        assert_eq!(shown("\u{e4}%".as_bytes()), "\u{e4}%");
        assert_eq!(shown(b"a\nb\x1b"), "$'a\\nb\\x1b'");
        assert_eq!(shown(b"\xff'"), "$'\\xff\\''");
    }
}
