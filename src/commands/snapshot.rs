//! `weldrfs snapshot` and `weldrfs clone`: states of a mounted volume that can be gone back to. Asks the process that serves
//! the mount.

use std::path::{Path, PathBuf};

use weldrfs_control::{
    BlockingVolumeClient, CloneRequest, DiffReport, DiffRequest, DifferenceInfo, DifferenceKind,
    RemoveRequest, SnapshotInfo, SnapshotRequest, SnapshotRestoreRequest,
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
        Request::Create { name, note } => {
            place.whole(path)?;
            let owner = String::new();
            let made = place
                .client
                .snapshot(&SnapshotRequest { name, note, owner });
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
            let request = DiffRequest {
                older,
                newer,
                path: place.path.clone(),
            };
            let found = place.client.diff(&request);
            let found = found.map_err(|error| api_failure("cannot compare", &error))?;
            match form {
                Form::Patch => place.patch(&request, &found),
                form => report::print(&differences(&found, form)?),
            }
        }
        Request::Restore { name } => {
            let request = SnapshotRestoreRequest {
                name: name.clone(),
                path: place.path,
            };
            let restored = place.client.restore(&request);
            let restored = restored.map_err(|error| api_failure("nothing was restored", &error))?;
            report::print(&match restored.safety {
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
    let request = CloneRequest {
        from: source.path,
        to: place.path,
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
    path: String,
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
        let Some(below) = below.to_str() else {
            return Err(Failure::Invocation(format!(
                "{} is no UTF-8, which this command cannot say; name a directory above it",
                path.display()
            )));
        };
        Ok(Self {
            client: target::client(&mountpoint, registry)?,
            path: below.trim_matches('/').to_owned(),
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
    let mut text: String = match form {
        Form::Json => return report::json(found),
        Form::Names | Form::Patch => found.differences.iter().map(name_line).collect(),
        Form::Stat => return Ok(stat(found)),
    };
    if found.left_out > 0 {
        text.push_str(&format!("and {} more\n", found.left_out));
    }
    Ok(text)
}

/// As `git diff --name-status` has it; directories end with a slash.
fn name_line(one: &DifferenceInfo) -> String {
    let slash = if one.directory { "/" } else { "" };
    let path = &one.path;
    match (&one.kind, &one.from) {
        (DifferenceKind::Created, _) => format!("A\t{path}{slash}\n"),
        (DifferenceKind::Deleted, _) => format!("D\t{path}{slash}\n"),
        (DifferenceKind::Renamed, Some(from)) => format!("R\t{from}{slash}\t{path}{slash}\n"),
        _ => format!("M\t{path}{slash}\n"),
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
            differences(&found, Form::Names).unwrap(),
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
