//! The client of the sidecar over its Unix socket, for the command line.

use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::branches::{Branch, BranchList, BranchMade, BranchRequest, BranchSynced};
use super::exec::{ExecLine, ExecRequest};
use super::integrations::{InstallRequest, IntegrationDetails, IntegrationList};
use super::previews::{
    Preview, PreviewList, PreviewLog, PreviewLogLine, PreviewRequest, PreviewStopRequest,
};
use super::snapshots::{
    LIMIT_MAX, MountDiff, MountRestoreRequest, MountRestored, MountSnapshotRequest,
};
use super::types::{
    Event, LogLines, Mount, MountDetails, MountList, MountRequest, MountSyncRequest, MountSynced,
    UnmountRequest,
};
use super::workflows::{
    CancelRequest, RevertReport, RevertRequest, RunDetails, RunDiff, RunList, RunSummary,
    StepRequest, TriggerRequest,
};
use crate::error::ApiError;
use crate::volume::{SNAPSHOT_DEADLINE, SYNC_DEADLINE_DEFAULT, SnapshotInfo, SnapshotList};
use crate::wire::Exchange;

/// Which events are followed; all when nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventsWanted<'w> {
    /// Only those about this mount.
    pub mount: Option<&'w str>,
    /// Only those about the preview with this id.
    pub preview: Option<&'w str>,
    /// Only those about this run.
    pub run: Option<&'w str>,
}

/// How long an answer may take that needs no mount.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a mount or unmount may take; longer than the sidecar's own limit, so that its message wins.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(200);
/// How long a sandbox may take to start; longer than the sidecar's own limit.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How much longer than its deadline a sync may take to answer.
const SYNC_MARGIN: Duration = Duration::from_secs(30);

/// The sidecar, for callers without a runtime.
#[derive(Debug)]
pub struct BlockingControlClient {
    exchange: Exchange,
    runtime: tokio::runtime::Runtime,
}

impl BlockingControlClient {
    /// A client of the sidecar that listens on `socket`. Nothing is sent before the first call.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the machine gives no event queue.
    pub fn new(socket: &Path) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ApiError::Internal(format!("cannot start a runtime: {error}")))?;
        Ok(Self {
            exchange: Exchange::new(socket, "sidecar"),
            runtime,
        })
    }

    /// The mounts.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the sidecar answered. So with all of these.
    pub fn mounts(&self) -> Result<MountList, ApiError> {
        self.get("/mounts")
    }

    /// One mount.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn mount(&self, name: &str) -> Result<MountDetails, ApiError> {
        self.get(&format!("/mounts/{}", segment(name)))
    }

    /// Mounts a volume.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn add(&self, request: &MountRequest) -> Result<Mount, ApiError> {
        let asking = self
            .exchange
            .ask(Method::POST, "/mounts", Some(request), MOUNT_TIMEOUT);
        self.runtime.block_on(asking)
    }

    /// Unmounts a volume.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn remove(&self, request: &UnmountRequest) -> Result<Mount, ApiError> {
        let asking = self.exchange.ask(
            Method::POST,
            "/mounts/unmount",
            Some(request),
            MOUNT_TIMEOUT,
        );
        self.runtime.block_on(asking)
    }

    /// Waits until everything of a mount is in the store.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn sync(&self, name: &str, deadline: Option<Duration>) -> Result<MountSynced, ApiError> {
        self.wait_for_store(&format!("/mounts/{}/sync", segment(name)), deadline)
    }

    fn wait_for_store<A: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        deadline: Option<Duration>,
    ) -> Result<A, ApiError> {
        let request = MountSyncRequest {
            deadline_ms: deadline.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        };
        let limit = deadline
            .unwrap_or(SYNC_DEADLINE_DEFAULT)
            .saturating_add(SYNC_MARGIN);
        self.runtime
            .block_on(self.exchange.ask(Method::POST, path, Some(&request), limit))
    }

    /// The newest lines of a mount's log.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn logs(&self, name: &str, lines: usize) -> Result<LogLines, ApiError> {
        self.get(&format!("/mounts/{}/logs?lines={lines}", segment(name)))
    }

    /// The snapshots of a mount.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn snapshots(&self, mount: &str) -> Result<SnapshotList, ApiError> {
        self.get(&snapshots_of(mount))
    }

    /// One snapshot of a mount.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn snapshot(&self, mount: &str, name: &str) -> Result<SnapshotInfo, ApiError> {
        self.get(&format!("{}/{}", snapshots_of(mount), segment(name)))
    }

    /// Makes a snapshot of a mount.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn make_snapshot(
        &self,
        mount: &str,
        request: &MountSnapshotRequest,
    ) -> Result<SnapshotInfo, ApiError> {
        self.long(Method::POST, &snapshots_of(mount), Some(request))
    }

    /// Removes a snapshot of a mount.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn remove_snapshot(&self, mount: &str, name: &str) -> Result<SnapshotInfo, ApiError> {
        let path = format!("{}/{}", snapshots_of(mount), segment(name));
        self.long(Method::DELETE, &path, None::<&()>)
    }

    /// Goes back to a snapshot of a mount.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn restore(
        &self,
        mount: &str,
        name: &str,
        request: &MountRestoreRequest,
    ) -> Result<MountRestored, ApiError> {
        let path = format!("{}/{}/restore", snapshots_of(mount), segment(name));
        self.long(Method::POST, &path, Some(request))
    }

    /// What differs between a snapshot of a mount and `to`, or the present, from number `offset` on.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn diff(
        &self,
        mount: &str,
        name: &str,
        to: Option<&str>,
        path: &str,
        offset: u64,
    ) -> Result<MountDiff, ApiError> {
        let to = to.map(|to| format!("to={}&", segment(to)));
        let path = format!(
            "{}/{}/diff?{}path={}&offset={offset}&limit={LIMIT_MAX}",
            snapshots_of(mount),
            segment(name),
            to.unwrap_or_default(),
            segment(path)
        );
        self.long(Method::GET, &path, None::<&()>)
    }

    /// The branches of a mount, or of all.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn branches(&self, mount: Option<&str>) -> Result<BranchList, ApiError> {
        self.get(&match mount {
            Some(mount) => format!("/branches?mount={}", segment(mount)),
            None => "/branches".to_owned(),
        })
    }

    /// One branch.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn branch(&self, id: &str) -> Result<Branch, ApiError> {
        self.get(&format!("/branches/{}", segment(id)))
    }

    /// Makes a branch, or finds it.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn make_branch(&self, request: &BranchRequest) -> Result<BranchMade, ApiError> {
        self.long(Method::POST, "/branches", Some(request))
    }

    /// Begins to remove a branch.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn remove_branch(&self, id: &str) -> Result<Branch, ApiError> {
        let path = format!("/branches/{}", segment(id));
        self.long(Method::DELETE, &path, None::<&()>)
    }

    /// Waits until everything of a branch is in the store.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn sync_branch(
        &self,
        id: &str,
        deadline: Option<Duration>,
    ) -> Result<BranchSynced, ApiError> {
        self.wait_for_store(&format!("/branches/{}/sync", segment(id)), deadline)
    }

    fn long<A: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl serde::Serialize>,
    ) -> Result<A, ApiError> {
        let limit = SNAPSHOT_DEADLINE.saturating_add(SYNC_MARGIN);
        let asking = self.exchange.ask(method, path, body, limit);
        self.runtime.block_on(asking)
    }

    /// Hands every event that is wanted to `each`, until that says stop or the sidecar ends. Begins after event `after`, or
    /// now. Ends too when nothing comes for as long as `quiet` says.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`]; also when the sidecar breaks off.
    pub fn events(
        &self,
        after: Option<i64>,
        wanted: EventsWanted<'_>,
        quiet: Option<Duration>,
        mut each: impl FnMut(Event) -> bool,
    ) -> Result<(), ApiError> {
        let headers = after.map(|after| ("last-event-id", after.to_string()));
        let filters = [
            ("mount", wanted.mount),
            ("preview", wanted.preview),
            ("run", wanted.run),
        ];
        let filters = filters
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
        let path = format!("/events?{}", filters.collect::<Vec<_>>().join("&"));
        self.runtime.block_on(async {
            let headers: Vec<_> = headers.into_iter().collect();
            let mut lines = self
                .exchange
                .stream(&path, None::<&()>, &headers, ANSWER_TIMEOUT)
                .await?;
            loop {
                let line = match quiet {
                    None => lines.line().await?,
                    Some(quiet) => match tokio::time::timeout(quiet, lines.line()).await {
                        Ok(line) => line?,
                        Err(_) => break,
                    },
                };
                let Some(line) = line else { break };
                let Some(data) = line.strip_prefix("data:") else {
                    continue;
                };
                let event = serde_json::from_str(data.trim_start()).map_err(|error| {
                    ApiError::BadAnswer(format!("an event is not understood: {error}"))
                })?;
                if !each(event) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Begins a run of a workflow.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn trigger(&self, request: &TriggerRequest) -> Result<RunSummary, ApiError> {
        self.post("/trigger", request, ANSWER_TIMEOUT)
    }

    /// Begins a run that installs integrations.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`]; [`ApiError::FilesChanged`].
    pub fn install_integrations(&self, request: &InstallRequest) -> Result<RunSummary, ApiError> {
        self.post("/install-integrations", request, ANSWER_TIMEOUT)
    }

    /// The integrations that there are, those of a project too if one is named: its mount, and its folder.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn integrations(&self, project: Option<(&str, &str)>) -> Result<IntegrationList, ApiError> {
        self.get(&format!("/integrations{}", of_project(project)))
    }

    /// One integration.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn integration(
        &self,
        name: &str,
        project: Option<(&str, &str)>,
    ) -> Result<IntegrationDetails, ApiError> {
        let query = of_project(project);
        self.get(&format!("/integrations/{}{query}", segment(name)))
    }

    /// Runs, newest first; those before number `before`.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn runs(
        &self,
        mount: Option<&str>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<RunList, ApiError> {
        let mut path = format!("/workflows?limit={limit}");
        if let Some(mount) = mount {
            path.push_str(&format!("&mount={}", segment(mount)));
        }
        if let Some(before) = before {
            path.push_str(&format!("&before={before}"));
        }
        self.get(&path)
    }

    /// A run with its steps.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn run(&self, run: &str) -> Result<RunDetails, ApiError> {
        self.get(&format!("/workflows/{}", segment(run)))
    }

    /// What a run, or a step of it, changed.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn run_diff(&self, run: &str, step: Option<&str>) -> Result<RunDiff, ApiError> {
        let step = step.map_or_else(String::new, |step| format!("?step={}", segment(step)));
        let path = format!("/workflows/{}/diff{step}", segment(run));
        let asking = self
            .exchange
            .ask(Method::GET, &path, None::<&()>, SNAPSHOT_DEADLINE);
        self.runtime.block_on(asking)
    }

    /// Ends a run.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn cancel_run(&self, run: &str) -> Result<RunSummary, ApiError> {
        let path = format!("/workflows/{}/cancel", segment(run));
        self.post(&path, &CancelRequest {}, ANSWER_TIMEOUT)
    }

    /// Lets a run that did not succeed go on from a step or, if it `skips` that, behind it.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn run_again(
        &self,
        run: &str,
        request: &StepRequest,
        skips: bool,
    ) -> Result<RunSummary, ApiError> {
        let what = if skips { "skip" } else { "retry" };
        let path = format!("/workflows/{}/{what}", segment(run));
        self.post(&path, request, ANSWER_TIMEOUT)
    }

    /// Makes a project what it was.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn revert(&self, request: &RevertRequest) -> Result<RevertReport, ApiError> {
        self.post("/revert", request, SNAPSHOT_DEADLINE)
    }

    /// Runs a command and hands every line of the answer to `each`, the last one too. Ends the command when `each` says
    /// so, or when this process ends.
    ///
    /// # Errors
    /// As the API; [`ApiError::ShuttingDown`] when the answer breaks off.
    pub fn exec(
        &self,
        request: &ExecRequest,
        mut each: impl FnMut(ExecLine) -> bool,
    ) -> Result<(), ApiError> {
        self.runtime.block_on(async {
            let mut lines = self
                .exchange
                .stream("/exec", Some(request), &[], START_TIMEOUT)
                .await?;
            while let Some(line) = lines.line().await? {
                let line = serde_json::from_str(&line).map_err(|error| {
                    ApiError::BadAnswer(format!("a line is not understood: {error}"))
                })?;
                if !each(line) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The previews.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn previews(&self) -> Result<PreviewList, ApiError> {
        self.get("/previews")
    }

    /// One preview.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn preview(&self, id: &str) -> Result<Preview, ApiError> {
        self.get(&format!("/previews/{}", segment(id)))
    }

    /// Starts an app; it is not ready yet.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn start_preview(&self, request: &PreviewRequest) -> Result<Preview, ApiError> {
        let asking = self.exchange.ask(
            Method::POST,
            "/previews/start",
            Some(request),
            START_TIMEOUT,
        );
        self.runtime.block_on(asking)
    }

    /// Ends an app; it may take a while longer.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn stop_preview(&self, id: &str) -> Result<Preview, ApiError> {
        let request = PreviewStopRequest { id: id.to_owned() };
        let asking = self.exchange.ask(
            Method::POST,
            "/previews/stop",
            Some(&request),
            ANSWER_TIMEOUT,
        );
        self.runtime.block_on(asking)
    }

    /// The newest lines that an app wrote.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn preview_log(&self, id: &str, lines: usize) -> Result<PreviewLog, ApiError> {
        self.get(&format!("/previews/{}/logs?lines={lines}", segment(id)))
    }

    /// Hands the newest `lines` lines that an app wrote to `each`, and then those that it writes, until that says stop or the
    /// app is over.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`]; also when the sidecar breaks off.
    pub fn follow_preview_log(
        &self,
        id: &str,
        lines: usize,
        mut each: impl FnMut(PreviewLogLine) -> bool,
    ) -> Result<(), ApiError> {
        let path = format!("/previews/{}/logs?lines={lines}&follow=true", segment(id));
        self.runtime.block_on(async {
            let mut lines = self
                .exchange
                .stream(&path, None::<&()>, &[], ANSWER_TIMEOUT)
                .await?;
            while let Some(line) = lines.line().await? {
                if line.is_empty() {
                    continue;
                }
                let line = serde_json::from_str(&line).map_err(|error| {
                    ApiError::BadAnswer(format!("a line is not understood: {error}"))
                })?;
                if !each(line) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn post<A: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
        limit: Duration,
    ) -> Result<A, ApiError> {
        let asking = self.exchange.ask(Method::POST, path, Some(body), limit);
        self.runtime.block_on(asking)
    }

    fn get<A: serde::de::DeserializeOwned>(&self, path: &str) -> Result<A, ApiError> {
        let asking = self
            .exchange
            .ask(Method::GET, path, None::<&()>, ANSWER_TIMEOUT);
        self.runtime.block_on(asking)
    }
}

fn snapshots_of(mount: &str) -> String {
    format!("/mounts/{}/snapshots", segment(mount))
}

/// `text` as a part of a path or a query: what is no letter or digit is written as its bytes.
fn of_project(project: Option<(&str, &str)>) -> String {
    project.map_or_else(String::new, |(mount, path)| {
        format!("?mount={}&path={}", segment(mount), segment(path))
    })
}

fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_part_of_the_path() {
        assert_eq!(segment("a-b_c.9"), "a-b_c.9");
        assert_eq!(segment("a/../b?x#ä"), "a%2F..%2Fb%3Fx%23%C3%A4");
    }
}
