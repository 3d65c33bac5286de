//! `weldrfs mounts`: asks the sidecar about mounts.

use std::path::PathBuf;
use std::time::Duration;

use weldrfs_control::{
    BlockingControlClient, Credentials, Mount, MountDetails, MountRequest, UnmountRequest,
};

use super::{api_failure, control, progress};
use crate::bucket::{BucketAccess, Keys};
use crate::environment::{Environment, Variables};
use crate::failure::Failure;
use crate::options::{S3Options, split};
use crate::report;

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    List {
        name: Option<String>,
    },
    Add {
        source: String,
        path: Option<String>,
        name: Option<String>,
        /// The texts after every `-o`.
        options: Vec<String>,
        env_keys: bool,
    },
    Remove {
        name: String,
        sync: bool,
    },
    Sync {
        name: String,
        timeout: Duration,
    },
    Logs {
        name: String,
        lines: usize,
    },
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
        Request::List { name: None } => list(&client, as_json),
        Request::List { name: Some(name) } => show(&client, &name, as_json),
        Request::Add {
            source,
            path,
            name,
            options,
            env_keys,
        } => {
            let credentials = env_keys.then(|| keys(&environment.variables)).transpose()?;
            let request = MountRequest {
                source,
                name,
                path: path.map(absolute).transpose()?,
                options: options_of(&options)?,
                credentials,
            };
            let text = format!("mounting {}", request.source);
            let mount = progress::during(&text, || client.add(&request))
                .map_err(|error| api_failure("not mounted", &error))?;
            let text = format!("{} is mounted on {}\n", mount.name, mount.path);
            answer(&mount, as_json, text)
        }
        Request::Remove { name, sync } => {
            let request = UnmountRequest { name, sync };
            let removing = || client.remove(&request);
            let mount = match sync {
                true => watched(&request.name, socket, environment, removing),
                false => progress::during(&format!("unmounting {}", request.name), removing),
            }
            .map_err(|error| api_failure("not unmounted", &error))?;
            let text = format!("{} is unmounted\n", mount.name);
            answer(&mount, as_json, text)
        }
        Request::Sync { name, timeout } => {
            let syncing = || client.sync(&name, Some(timeout));
            let synced = watched(&name, socket, environment, syncing)
                .map_err(|error| api_failure("not everything is in the store", &error))?;
            let text = format!("everything of {name} is in the store\n");
            answer(&synced, as_json, text)
        }
        Request::Logs { name, lines } => {
            let log = client
                .logs(&name, lines)
                .map_err(|error| api_failure("no log", &error))?;
            let text = log.lines.iter().map(|line| format!("{line}\n")).collect();
            answer(&log, as_json, text)
        }
    }
}

/// Does `work`, which waits for the store to have everything of mount `name`, and shows how much is left.
pub(super) fn watched<T>(
    name: &str,
    socket: Option<PathBuf>,
    environment: &Environment,
    work: impl FnOnce() -> T,
) -> T {
    // A client of its own: the other one waits for its answer.
    let other = control::client(socket, environment).ok();
    let left = || {
        let details = other.as_ref()?.mount(name).ok()?;
        details.status.map(|status| status.behind.records)
    };
    progress::down_to_nothing(&format!("bringing {name} to the store"), left, work)
}

/// Shows an answer as JSON, or else `text`.
pub(super) fn answer(
    value: &impl serde::Serialize,
    as_json: bool,
    text: String,
) -> Result<(), Failure> {
    match as_json {
        true => report::print(&report::json(value)?),
        false => report::print(&text),
    }
}

fn list(client: &BlockingControlClient, as_json: bool) -> Result<(), Failure> {
    let list = client
        .mounts()
        .map_err(|error| api_failure("no list", &error))?;
    let rows: Vec<_> = list.mounts.iter().map(row).collect();
    let text = report::table(
        &["NAME", "STATE", "PID", "PATH", "SOURCE", "NOTE"],
        &rows,
        "no mounts are known here",
    );
    answer(&list, as_json, text)
}

fn row(mount: &Mount) -> Vec<String> {
    let mut notes = Vec::new();
    if !mount.managed {
        notes.push("mounted beside the sidecar".to_owned());
    }
    if mount.restarts > 0 {
        notes.push(format!("mounted again {} times", mount.restarts));
    }
    notes.extend(mount.error.clone());
    if let Some(left) = mount.retry_in_ms {
        notes.push(format!("tried again in {}", report::span(left)));
    }
    vec![
        mount.name.clone(),
        mount.state.to_string(),
        mount
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        mount.path.clone(),
        mount.source.clone(),
        notes.join("; "),
    ]
}

fn show(client: &BlockingControlClient, name: &str, as_json: bool) -> Result<(), Failure> {
    let details = client
        .mount(name)
        .map_err(|error| api_failure("no such mount", &error))?;
    let text = details_text(&details);
    answer(&details, as_json, text)
}

fn details_text(details: &MountDetails) -> String {
    let mount = &details.mount;
    let mut text = format!("{} is {}\n", mount.name, mount.state);
    if let Some(error) = mount.error.as_ref().or(details.status_error.as_ref()) {
        text.push_str(&format!("  {error}\n"));
    }
    match &details.status {
        Some(status) => text.push_str(&report::volume(status)),
        None => text.push_str(&format!("{}\n  source      {}\n", mount.path, mount.source)),
    }
    text
}

/// The sidecar works in another folder.
fn absolute(path: String) -> Result<String, Failure> {
    let absolute = std::path::absolute(&path)
        .map_err(|error| Failure::system("cannot tell where this is", &error))?;
    absolute.into_os_string().into_string().map_err(|path| {
        Failure::Invocation(format!(
            "{} is not UTF-8, which the sidecar cannot be told",
            path.display()
        ))
    })
}

/// Each option on its own, with commas and backslashes as they are.
fn options_of(texts: &[String]) -> Result<Vec<String>, Failure> {
    let mut options = Vec::new();
    for text in texts {
        for option in split(text)? {
            options.push(match option.value {
                Some(value) => format!("{}={value}", option.name),
                None => option.name,
            });
        }
    }
    Ok(options)
}

/// The keys that are in the environment.
fn keys(variables: &Variables) -> Result<Credentials, Failure> {
    // What they are keys of does not matter here.
    let access = BucketAccess::resolve("bucket", "", &S3Options::default(), variables)?;
    match access.keys {
        Keys::Given {
            access_key_id,
            secret_access_key,
            session_token,
        } => Ok(Credentials {
            access_key_id,
            secret_access_key,
            session_token,
        }),
        _ => Err(Failure::Invocation(
            "--env-keys: set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or the AWS_ ones".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sent_one_by_one() {
        let options = options_of(&["ro,fsname=a\\,b".into(), "x-y=1".into()]).unwrap();
        assert_eq!(options, ["ro", "fsname=a,b", "x-y=1"]);
        assert!(options_of(&["a\\b".into()]).is_err());
    }

    #[test]
    fn keys_are_taken_from_the_environment_or_not_at_all() {
        let set = Variables::of([
            ("S3_ACCESS_KEY_ID", "id"),
            ("S3_SECRET_ACCESS_KEY", "secret"),
        ]);
        let keys_found = keys(&set).unwrap();
        assert_eq!(
            (
                keys_found.access_key_id.as_str(),
                keys_found.secret_access_key.as_str()
            ),
            ("id", "secret")
        );
        assert!(
            keys(&Variables::default())
                .unwrap_err()
                .to_string()
                .contains("S3_ACCESS_KEY_ID")
        );
    }
}
