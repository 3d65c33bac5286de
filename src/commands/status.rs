//! `weldrfs status`: what one volume says about itself, or a line for every mount that is known here.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use weldrfs_control::VolumeStatus;

use super::{api_failure, target};
use crate::failure::Failure;
use crate::registry::{MountRecord, Registry};
use crate::report::{self, print};

/// One mount in the list: how it is known, and its status or why there is none.
#[derive(Debug, Serialize)]
struct Listed {
    mountpoint: String,
    source: String,
    pid: u32,
    running: bool,
    status: Option<VolumeStatus>,
    error: Option<String>,
}

/// Shows the volume that `path` lies on, or all.
pub(crate) fn run(path: Option<&Path>, as_json: bool, registry: &Registry) -> Result<(), Failure> {
    match path {
        Some(path) => one(path, as_json, registry),
        None => all(as_json, registry),
    }
}

fn one(path: &Path, as_json: bool, registry: &Registry) -> Result<(), Failure> {
    let client = target::client(path, registry)?;
    let status = client
        .status()
        .map_err(|error| api_failure("no status", &error))?;
    if as_json {
        print(&report::json(&status)?)
    } else {
        print(&report::volume(&status))
    }
}

fn all(as_json: bool, registry: &Registry) -> Result<(), Failure> {
    let listed: Vec<Listed> = registry.records().iter().map(list).collect();
    if as_json {
        print(&report::json(&listed)?)
    } else {
        print(&table(&listed))
    }
}

fn list(record: &MountRecord) -> Listed {
    let running = record.is_running();
    let asked = running.then(|| {
        let client = target::client_of(record).map_err(|failure| failure.to_string())?;
        client.status().map_err(|error| error.to_string())
    });
    let (status, error) = match asked {
        Some(Ok(status)) => (Some(status), None),
        Some(Err(error)) => (None, Some(error)),
        None => (
            None,
            Some(format!(
                "not running: process {} was killed or crashed",
                record.pid
            )),
        ),
    };
    Listed {
        mountpoint: record.mountpoint.clone(),
        source: record.source.clone(),
        pid: record.pid,
        running,
        status,
        error,
    }
}

fn table(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no mounts are known here\n".to_owned();
    }
    let width = |column: fn(&Listed) -> &str, name: &str| {
        listed
            .iter()
            .map(|row| column(row).chars().count())
            .chain([name.len()])
            .max()
            .unwrap_or(0)
    };
    let mountpoints = width(|row| &row.mountpoint, "MOUNTPOINT");
    let sources = width(|row| &row.source, "SOURCE");
    let mut text = format!(
        "{:<mountpoints$}  {:<sources$}  {:>7}  STORE\n",
        "MOUNTPOINT", "SOURCE", "PID"
    );
    for row in listed {
        let state = match (&row.status, &row.error) {
            (Some(status), _) => report::lag(status),
            (None, error) => error.clone().unwrap_or_default(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<mountpoints$}  {:<sources$}  {:>7}  {state}",
            row.mountpoint, row.source, row.pid
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_does_not_run_is_listed_as_such() {
        let record = MountRecord {
            pid: u32::MAX,
            pid_started_ticks: 1,
            boot_id: "another".into(),
            volume_id: "v".into(),
            source: "file:///srv".into(),
            endpoint: None,
            mountpoint: "/mnt/v".into(),
            state_dir: "/s".into(),
            socket: "/s/volume.sock".into(),
            started_ms: 0,
        };
        let listed = [list(&record)];
        assert!(!listed[0].running);
        let text = table(&listed);
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.contains("/mnt/v") && text.contains("not running"),
            "{text}"
        );
        let value: serde_json::Value =
            serde_json::from_str(&report::json(&listed).unwrap()).unwrap();
        assert_eq!(value[0]["running"], false);
        assert!(value[0]["status"].is_null());
    }

    #[test]
    fn an_empty_list_says_so() {
        assert_eq!(table(&[]), "no mounts are known here\n");
    }
}
