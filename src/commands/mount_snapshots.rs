//! `weldrfs mounts snapshot`: asks the sidecar about the snapshots of a mount. What is shown is as `weldrfs snapshot` has it.

use std::path::PathBuf;

use weldrfs_control::{
    BlockingControlClient, DiffReport, MountRestoreRequest, MountSnapshotRequest,
};

use super::snapshot::{Form, details, differences, listing, names};
use super::{api_failure, control, mounts, progress};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::report;

/// What to ask about which mount.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) mount: String,
    /// Below the mount; all of it when absent.
    pub(crate) path: Option<String>,
    pub(crate) what: What,
}

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Create {
        name: Option<String>,
        note: String,
        automatic: bool,
    },
    List,
    Show {
        name: String,
    },
    Remove {
        name: String,
    },
    Diff {
        older: String,
        newer: Option<String>,
        stat: bool,
    },
    Restore {
        name: String,
    },
}

/// Asks, and shows the answer.
pub(crate) fn run(
    request: Request,
    socket: Option<PathBuf>,
    as_json: bool,
    environment: &Environment,
) -> Result<(), Failure> {
    let Request { mount, path, what } = request;
    let client = control::client(socket, environment)?;
    let failed = |attempt: &'static str| move |error| api_failure(attempt, &error);
    match what {
        What::Create {
            name,
            note,
            automatic,
        } => {
            let request = MountSnapshotRequest {
                name,
                note,
                automatic,
            };
            let made = client.make_snapshot(&mount, &request);
            let made = made.map_err(failed("no snapshot was made"))?;
            mounts::answer(&made, as_json, format!("{}\n", made.name))
        }
        What::List => {
            let list = client.snapshots(&mount).map_err(failed("no list"))?;
            report::print(&listing(&list.snapshots, as_json)?)
        }
        What::Show { name } => {
            let one = client.snapshot(&mount, &name);
            let one = one.map_err(failed("no such snapshot"))?;
            report::print(&details(&one, as_json)?)
        }
        What::Remove { name } => {
            let removing = || client.remove_snapshot(&mount, &name);
            let removed = progress::during(&format!("removing {name}"), removing)
                .map_err(failed("the snapshot was not removed"))?;
            mounts::answer(&removed, as_json, String::new())
        }
        What::Diff { older, newer, stat } => {
            let comparing = || all_of(&client, &mount, (&older, newer.as_deref()), path);
            let found = progress::during(&format!("comparing {mount}"), comparing)?;
            match (as_json, stat) {
                (true, _) => report::print(&differences(&found, Form::Json)?),
                (_, true) => report::print(&differences(&found, Form::Stat)?),
                _ => report::print_bytes(&names(&found)),
            }
        }
        What::Restore { name } => {
            let request = MountRestoreRequest { path };
            let restoring = || client.restore(&mount, &name, &request);
            let restored = progress::during(&format!("restoring {mount}"), restoring)
                .map_err(failed("the restore"))?;
            let late = restored.late_writes;
            let text = match &restored.safety {
                Some(safety) if late > 0 => format!(
                    "{mount} is as it was at {name}; what was there before is the snapshot {}, with what programs wrote \
                     into {late} of its files meanwhile\n",
                    safety.name
                ),
                None => format!("nothing to do: {mount} is as it was at {name}\n"),
                Some(safety) => format!(
                    "{mount} is as it was at {name}; what was there before is the snapshot {}\n",
                    safety.name
                ),
            };
            mounts::answer(&restored, as_json, text)
        }
    }
}

/// All that differs, page by page.
fn all_of(
    client: &BlockingControlClient,
    mount: &str,
    (older, newer): (&str, Option<&str>),
    path: Option<String>,
) -> Result<DiffReport, Failure> {
    let path = path.unwrap_or_default();
    let (mut found, mut offset) = (DiffReport::default(), Some(0));
    while let Some(from) = offset {
        let page = client.diff(mount, older, newer, &path, from);
        let page = page.map_err(|error| api_failure("cannot compare", &error))?;
        found.left_out = page.stat.paths - page.stat.counted;
        found.differences.extend(page.differences);
        offset = page.next_offset;
    }
    Ok(found)
}
