//! `weldrfs snapshot` and `weldrfs clone`: states of a mounted volume that can be gone back to. Asks the process that serves
//! the mount.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use weldrfs_control::{
    BlockingVolumeClient, CloneRequest, DiffReport, DiffRequest, DifferenceInfo, DifferenceKind,
    RemoveRequest, SnapshotInfo, SnapshotRequest, SnapshotRestoreRequest, path_text,
};

use super::{api_failure, patch, target};
use crate::failure::Failure;
use crate::registry::Registry;
use crate::report::bytes;
use crate::{moment, report};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Create {
        name: Option<String>,
        note: String,
        automatic: bool,
    },
    List {
        as_json: bool,
    },
    Show {
        name: String,
        as_json: bool,
    },
    Remove {
        name: String,
    },
    Diff {
        older: String,
        newer: Option<String>,
        form: Form,
    },
    Restore {
        name: String,
    },
}

/// How differences are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Names,
    Stat,
    Json,
    /// What `git apply` takes.
    Patch,
}

/// Does what `request` says to the volume that `path` lies on; a path below the mountpoint means no more than that.
pub(crate) fn run(path: &Path, request: Request, registry: &Registry) -> Result<(), Failure> {
    let place = Place::of(path, registry)?;
    let shown = path.display();
    match request {
        Request::Create {
            name,
            note,
            automatic,
        } => {
            place.whole(path)?;
            let made = place.client.snapshot(&SnapshotRequest {
                name,
                note,
                automatic,
                ..SnapshotRequest::default()
            });
            let made = made.map_err(|error| api_failure("no snapshot was made", &error))?;
            report::print(&format!("{}\n", made.name))
        }
        Request::List { as_json } => {
            place.whole(path)?;
            report::print(&listing(&place.all()?, as_json)?)
        }
        Request::Show { name, as_json } => {
            place.whole(path)?;
            report::print(&details(&place.named(&name)?, as_json)?)
        }
        Request::Remove { name } => {
            place.whole(path)?;
            let removed = place.client.remove_snapshot(&RemoveRequest { name });
            removed
                .map(drop)
                .map_err(|error| api_failure("the snapshot was not removed", &error))
        }
        Request::Diff { older, newer, form } => {
            let (path, path_base64) = path_text(&place.path);
            let request = DiffRequest {
                older,
                newer,
                path,
                path_base64,
            };
            let found = place.client.diff(&request);
            let found = found.map_err(|error| api_failure("cannot compare", &error))?;
            match form {
                Form::Patch => place.patch(&request, &found),
                Form::Names => report::print_bytes(&names(&found)),
                form => report::print(&differences(&found, form)?),
            }
        }
        Request::Restore { name } => {
            let (path, path_base64) = path_text(&place.path);
            let request = SnapshotRestoreRequest {
                name: name.clone(),
                path,
                path_base64,
            };
            let restored = place.client.restore(&request);
            let restored =
                restored.map_err(|error| api_failure(&format!("the restore of {name}"), &error))?;
            let late = restored.late_writes;
            report::print(&match restored.safety {
                Some(safety) if late > 0 => format!(
                    "{shown} is as it was at {name}; what was there before is the snapshot {}, with what programs wrote \
                     into {late} of its files meanwhile\n",
                    safety.name
                ),
                None => format!("nothing to do: {shown} is as it was at {name}\n"),
                Some(safety) => format!(
                    "{shown} is as it was at {name}; what was there before is the snapshot {}\n",
                    safety.name
                ),
            })
        }
    }
}

/// Copies the directory `from` to the new path `to` on the same mount, sharing the content.
pub(crate) fn clone(from: &Path, to: &Path, registry: &Registry) -> Result<(), Failure> {
    let (source, place) = (Place::of(from, registry)?, Place::of(to, registry)?);
    if source.mountpoint != place.mountpoint {
        return Err(Failure::Invocation(format!(
            "{} and {} are on different mounts; cp -a copies from one to another",
            from.display(),
            to.display()
        )));
    }
    if source.path.is_empty() || place.path.is_empty() {
        return Err(Failure::Invocation(
            "a mountpoint cannot be cloned, nor be a clone; name directories below it".into(),
        ));
    }
    let (from, from_base64) = path_text(&source.path);
    let (to, to_base64) = path_text(&place.path);
    let request = CloneRequest {
        from,
        from_base64,
        to,
        to_base64,
    };
    let made = place.client.clone_tree(&request);
    made.map(drop)
        .map_err(|error| api_failure("nothing was cloned", &error))
}

/// A path on a mount.
struct Place {
    client: BlockingVolumeClient,
    mountpoint: PathBuf,
    /// Below the mountpoint; empty: the mountpoint itself.
    path: Vec<u8>,
}

impl Place {
    fn of(path: &Path, registry: &Registry) -> Result<Self, Failure> {
        // The last name may be of something that is gone, or be there only afterwards.
        let resolved = match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => {
                let above = if above.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    above
                };
                std::fs::canonicalize(above).map(|above| above.join(name))
            }
            _ => std::fs::canonicalize(path),
        };
        let lexical = std::path::absolute(path)
            .map_err(|error| Failure::system("cannot tell where this is", &error))?;
        let asked = resolved.unwrap_or_else(|_| lexical.clone());
        let mountpoint =
            target::mountpoint_of(&lexical).or_else(|_| target::mountpoint_of(&asked))?;
        let below = [&asked, &lexical]
            .into_iter()
            .find_map(|path| path.strip_prefix(&mountpoint).ok())
            .unwrap_or(Path::new(""));
        Ok(Self {
            client: target::client(&mountpoint, registry)?,
            path: below.as_os_str().as_bytes().to_vec(),
            mountpoint,
        })
    }

    /// For what is about a volume and not about a path in it.
    fn whole(&self, path: &Path) -> Result<(), Failure> {
        match self.path.is_empty() {
            true => Ok(()),
            false => Err(Failure::Invocation(format!(
                "{} is a path on the volume at {}; a snapshot is always of all of it: name the mountpoint",
                path.display(),
                self.mountpoint.display()
            ))),
        }
    }

    fn all(&self) -> Result<Vec<SnapshotInfo>, Failure> {
        let listed = self.client.snapshots();
        let listed = listed.map_err(|error| api_failure("cannot list the snapshots", &error))?;
        Ok(listed.snapshots)
    }

    /// Prints what differs as a patch. The present may go on changing meanwhile: each file is shown as it is found.
    fn patch(&self, request: &DiffRequest, found: &DiffReport) -> Result<(), Failure> {
        if found.left_out > 0 {
            return Err(Failure::Invocation(format!(
                "{} paths differ, more than a patch is made of; name a path below {}",
                found.differences.len() as u64 + found.left_out,
                self.mountpoint.display()
            )));
        }
        let snapshots = self.mountpoint.join(".snapshots");
        let newer = match &request.newer {
            Some(newer) => snapshots.join(newer),
            None => self.mountpoint.clone(),
        };
        let older = snapshots.join(&request.older);
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let written = patch::write(&found.differences, &older, &newer, &mut out)
            .and_then(|()| std::io::Write::flush(&mut out));
        match written {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::system("cannot write the patch", &error))
            }
            _ => Ok(()),
        }
    }

    fn named(&self, name: &str) -> Result<SnapshotInfo, Failure> {
        let found = self.all()?.into_iter().find(|s| s.name == name);
        found.ok_or_else(|| Failure::Invocation(format!("there is no snapshot {name}")))
    }
}

pub(super) fn listing(snapshots: &[SnapshotInfo], as_json: bool) -> Result<String, Failure> {
    if as_json {
        return report::json(snapshots);
    }
    let width = snapshots.iter().map(|s| s.name.chars().count()).max();
    let line = |s: &SnapshotInfo| {
        let line = format!(
            "{:width$}  {}  {}",
            s.name,
            moment::shown(s.made_ms),
            s.note.lines().next().unwrap_or_default(),
            width = width.unwrap_or_default()
        );
        format!("{}\n", line.trim_end())
    };
    Ok(snapshots.iter().map(line).collect())
}

pub(super) fn details(snapshot: &SnapshotInfo, as_json: bool) -> Result<String, Failure> {
    if as_json {
        return report::json(snapshot);
    }
    let mut text = format!(
        "name       {}\nmade       {}\noperation  {}\n",
        snapshot.name,
        moment::shown(snapshot.made_ms),
        snapshot.lsn
    );
    for (name, value) in [("owner", &snapshot.owner), ("note", &snapshot.note)] {
        if !value.is_empty() {
            text.push_str(&format!("{name:9}  {value}\n"));
        }
    }
    Ok(text)
}

pub(super) fn differences(found: &DiffReport, form: Form) -> Result<String, Failure> {
    match form {
        Form::Json => report::json(found),
        Form::Names | Form::Patch | Form::Stat => Ok(stat(found)),
    }
}

pub(super) fn names(found: &DiffReport) -> Vec<u8> {
    let mut text: Vec<u8> = found.differences.iter().flat_map(name_line).collect();
    if found.left_out > 0 {
        text.extend(format!("and {} more\n", found.left_out).bytes());
    }
    text
}

/// As `git diff --name-status` has it; directories end with a slash. Paths are as they are.
fn name_line(one: &DifferenceInfo) -> Vec<u8> {
    let end: &[u8] = if one.directory { b"/" } else { b"" };
    let path = one.exact_path();
    let letter: &[u8] = match one.kind {
        DifferenceKind::Created => b"A",
        DifferenceKind::Deleted => b"D",
        DifferenceKind::Renamed => b"R",
        DifferenceKind::Changed => b"M",
    };
    match (one.kind, one.exact_from()) {
        (DifferenceKind::Renamed, Some(from)) => {
            [letter, b"\t", &from, end, b"\t", &path, end, b"\n"].concat()
        }
        _ => [letter, b"\t", &path, end, b"\n"].concat(),
    }
}

fn stat(found: &DiffReport) -> String {
    let of = |kind| found.differences.iter().filter(|d| d.kind == kind).count();
    let mut text: String = found
        .differences
        .iter()
        .filter(|one| one.bytes_before.is_some() || one.bytes_after.is_some())
        .map(|one| {
            let size = |bytes_: Option<u64>| bytes_.map_or("-".to_owned(), bytes);
            let sizes = (size(one.bytes_before), size(one.bytes_after));
            format!("{} | {} -> {}\n", one.path, sizes.0, sizes.1)
        })
        .collect();
    text.push_str(&format!(
        "{} created, {} changed, {} renamed, {} deleted",
        of(DifferenceKind::Created),
        of(DifferenceKind::Changed),
        of(DifferenceKind::Renamed),
        of(DifferenceKind::Deleted)
    ));
    match found.left_out {
        0 => text.push('\n'),
        more => text.push_str(&format!(", {more} more\n")),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, kind: DifferenceKind) -> DifferenceInfo {
        DifferenceInfo {
            path: path.into(),
            kind,
            bytes_before: (kind != DifferenceKind::Created).then_some(1),
            bytes_after: (kind != DifferenceKind::Deleted).then_some(2048),
            ..DifferenceInfo::default()
        }
    }

    #[test]
    fn differences_read_like_those_of_git() {
        let mut renamed = one("d/new", DifferenceKind::Renamed);
        renamed.from = Some("d/old".into());
        let mut folder = one("e", DifferenceKind::Deleted);
        (folder.directory, folder.bytes_before) = (true, None);
        let found = DiffReport {
            differences: vec![
                one("a", DifferenceKind::Created),
                one("b", DifferenceKind::Changed),
                renamed,
                folder,
            ],
            left_out: 0,
        };
        assert_eq!(
            String::from_utf8(names(&found)).unwrap(),
            "A\ta\nM\tb\nR\td/old\td/new\nD\te/\n"
        );
        assert_eq!(
            differences(&found, Form::Stat).unwrap(),
            "a | - -> 2.0 KiB\nb | 1 B -> 2.0 KiB\nd/new | 1 B -> 2.0 KiB\n1 created, 1 changed, 1 renamed, 1 deleted\n"
        );
    }

    #[test]
    fn a_listing_names_time_and_note() {
        let made = SnapshotInfo {
            name: "before".into(),
            note: "why\nmore".into(),
            made_ms: 1000,
            ..SnapshotInfo::default()
        };
        let listed = listing(&[made], false).unwrap();
        assert_eq!(listed, "before  1970-01-01T00:00:01Z  why\n");
        assert_eq!(listing(&[], false).unwrap(), "");
    }
}
