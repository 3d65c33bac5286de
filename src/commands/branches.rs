//! `weldrfs branches`: asks the sidecar about branches.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use weldrfs_control::{ApiError, BlockingControlClient, Branch, BranchRequest, BranchState};

use super::{api_failure, control, mounts, progress};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::{moment, report};

/// How often it is asked whether a branch is gone.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long the end of a removal is waited for; it goes on.
const REMOVAL_WAIT: Duration = Duration::from_secs(30 * 60);

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Create(BranchRequest),
    List { mount: Option<String> },
    Show { id: String },
    Remove { id: String },
    Sync { id: String, timeout: Duration },
}

/// Asks, and shows the answer.
pub(crate) fn run(
    request: Request,
    socket: Option<PathBuf>,
    as_json: bool,
    environment: &Environment,
) -> Result<(), Failure> {
    let client = control::client(socket.clone(), environment)?;
    match request {
        Request::Create(request) => {
            let text = format!("branching {}", request.mount);
            let made = progress::during(&text, || client.make_branch(&request))
                .map_err(|error| api_failure("no branch was made", &error))?;
            let is = if made.is_new { "is" } else { "was there, at" };
            let text = format!("{} {is} {}\n", made.branch.id, made.branch.folder);
            mounts::answer(&made, as_json, text)
        }
        Request::List { mount } => {
            let list = client
                .branches(mount.as_deref())
                .map_err(|error| api_failure("no list", &error))?;
            let rows: Vec<_> = list.branches.iter().map(row).collect();
            let names = ["BRANCH", "STATE", "PROJECT", "USED", "FOLDER", "NOTE"];
            let text = report::table(&names, &rows, "there are no branches");
            mounts::answer(&list, as_json, text)
        }
        Request::Show { id } => {
            let branch = client
                .branch(&id)
                .map_err(|error| api_failure("no such branch", &error))?;
            let text = details(&branch);
            mounts::answer(&branch, as_json, text)
        }
        Request::Remove { id } => {
            let removed = progress::during(&format!("removing {id}"), || remove(&client, &id))
                .map_err(|error| api_failure("the branch was not removed", &error))?;
            let text = format!("{id} is {}\n", removed.state);
            mounts::answer(&removed, as_json, text)
        }
        Request::Sync { id, timeout } => {
            let mount = id.split(':').next().unwrap_or_default().to_owned();
            let syncing = || client.sync_branch(&id, Some(timeout));
            let synced = mounts::watched(&mount, socket, environment, syncing)
                .map_err(|error| api_failure("not everything is in the store", &error))?;
            let text = format!("everything of {id} is in the store\n");
            mounts::answer(&synced, as_json, text)
        }
    }
}

/// Removes a branch, and waits until it is gone.
fn remove(client: &BlockingControlClient, id: &str) -> Result<Branch, ApiError> {
    let mut branch = client.remove_branch(id)?;
    let deadline = Instant::now() + REMOVAL_WAIT;
    while branch.state != BranchState::Removed && Instant::now() < deadline {
        std::thread::sleep(ASK_EVERY);
        branch = match client.branch(id) {
            Err(ApiError::NotFound(_)) => Branch {
                state: BranchState::Removed,
                ..branch
            },
            asked => asked?,
        };
    }
    Ok(branch)
}

fn row(branch: &Branch) -> Vec<String> {
    vec![
        branch.id.clone(),
        branch.state.to_string(),
        project(branch),
        moment::shown(branch.used_ms),
        branch.folder.clone(),
        notes(branch),
    ]
}

/// What it was made from.
fn project(branch: &Branch) -> String {
    match branch.project.as_deref() {
        None => "-".to_owned(),
        Some("") => "/".to_owned(),
        Some(path) => path.to_owned(),
    }
}

fn notes(branch: &Branch) -> String {
    let mut notes = Vec::new();
    if !branch.in_use.is_empty() {
        notes.push(format!("used by {}", branch.in_use.join(", ")));
    }
    if branch.dropped {
        notes.push("not on the local disk".to_owned());
    }
    notes.join("; ")
}

fn details(branch: &Branch) -> String {
    let mut text = format!("{} is {}\n", branch.id, branch.state);
    for (name, value) in [
        ("project", project(branch)),
        ("folder", branch.folder.clone()),
        ("path", branch.path.clone()),
        ("made", moment::shown(branch.created_ms)),
        ("used", moment::shown(branch.used_ms)),
        ("note", notes(branch)),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<12}{value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch() -> Branch {
        Branch {
            id: "m:b".into(),
            mount: "m".into(),
            name: "b".into(),
            project: Some(String::new()),
            path: ".weldr/branches/b".into(),
            folder: "/workspace/m/.weldr/branches/b".into(),
            state: BranchState::Ready,
            created_ms: 1000,
            used_ms: 2000,
            dropped: true,
            in_use: vec!["exec-1 (npm)".into()],
        }
    }

    #[test]
    fn a_row_says_what_it_is_of_and_what_is_special() {
        let row = row(&branch());
        assert_eq!(row[..3], ["m:b", "ready", "/"]);
        assert_eq!(row[5], "used by exec-1 (npm); not on the local disk");
        let found = Branch {
            project: None,
            ..branch()
        };
        assert_eq!(project(&found), "-");
        assert!(details(&found).contains("  used        1970-01-01T00:00:02Z\n"));
    }
}
