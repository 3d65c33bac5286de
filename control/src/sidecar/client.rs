//! The client of the sidecar over its Unix socket, for the command line.

use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::exec::{ExecLine, ExecRequest};
use super::previews::{
    Preview, PreviewList, PreviewLog, PreviewLogLine, PreviewRequest, PreviewStopRequest,
};
use super::types::{
    Event, LogLines, Mount, MountDetails, MountList, MountRequest, MountSyncRequest, MountSynced,
    UnmountRequest,
};
use crate::error::ApiError;
use crate::volume::SYNC_DEADLINE_DEFAULT;
use crate::wire::Exchange;

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
        let request = MountSyncRequest {
            deadline_ms: deadline.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        };
        let limit = deadline
            .unwrap_or(SYNC_DEADLINE_DEFAULT)
            .saturating_add(SYNC_MARGIN);
        let path = format!("/mounts/{}/sync", segment(name));
        self.runtime.block_on(
            self.exchange
                .ask(Method::POST, &path, Some(&request), limit),
        )
    }

    /// The newest lines of a mount's log.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`].
    pub fn logs(&self, name: &str, lines: usize) -> Result<LogLines, ApiError> {
        self.get(&format!("/mounts/{}/logs?lines={lines}", segment(name)))
    }

    /// Hands every event to `each`, until that says stop or the sidecar ends. Begins after event `after`, or now.
    ///
    /// # Errors
    /// As [`BlockingControlClient::mounts`]; also when the sidecar breaks off.
    pub fn events(
        &self,
        after: Option<i64>,
        mount: Option<&str>,
        mut each: impl FnMut(Event) -> bool,
    ) -> Result<(), ApiError> {
        let headers = after.map(|after| ("last-event-id", after.to_string()));
        let path = match mount {
            Some(mount) => format!("/events?mount={}", segment(mount)),
            None => "/events".to_owned(),
        };
        self.runtime.block_on(async {
            let headers: Vec<_> = headers.into_iter().collect();
            let mut lines = self
                .exchange
                .stream(&path, None::<&()>, &headers, ANSWER_TIMEOUT)
                .await?;
            while let Some(line) = lines.line().await? {
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

    fn get<A: serde::de::DeserializeOwned>(&self, path: &str) -> Result<A, ApiError> {
        let asking = self
            .exchange
            .ask(Method::GET, path, None::<&()>, ANSWER_TIMEOUT);
        self.runtime.block_on(asking)
    }
}

/// `text` as a part of a path or a query: what is no letter or digit is written as its bytes.
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
