//! From a request to what a sandbox is asked for: everything that can be refused without starting anything is refused here.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::types::{PreviewEnd, PreviewRequest, PreviewState};
use crate::error::ApiError;
use crate::sandbox::{Network, SandboxOrder};
use crate::sidecar::exec::request::{check_variables, command, limits};
use crate::sidecar::names::below_mount;
use crate::sidecar::sandboxing::SandboxSettings;
use crate::sidecar::secret_folder::SecretFolder;
use crate::sidecar::store::KeptPreview;

/// The port that an app is told to listen on unless the request says otherwise.
const PORT: u16 = 3000;
/// How long it may take until the port answers, in milliseconds: usually, at least and at most.
const READY: u64 = 2 * 60 * 1000;
const READY_MIN: u64 = 1000;
const READY_MAX: u64 = 60 * 60 * 1000;
/// Between TERM and KILL, in milliseconds.
const GRACE: u64 = 5000;
/// Output that is kept on the disk of each app.
const OUTPUT: u64 = 4 * 1024 * 1024;

/// How programs learn of the proxy. Those that look at none of these reach nothing.
const PROXY: [(&str, &str); 7] = [
    ("HTTPS_PROXY", "http://127.0.0.1:3128"),
    ("https_proxy", "http://127.0.0.1:3128"),
    ("HTTP_PROXY", "http://127.0.0.1:3128"),
    ("http_proxy", "http://127.0.0.1:3128"),
    ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ("no_proxy", "localhost,127.0.0.1,::1"),
    // Node looks at the others only then.
    ("NODE_USE_ENV_PROXY", "1"),
];

/// A preview as it is kept, and all that is needed to start it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) id: String,
    pub(super) request: PreviewRequest,
    /// In its plain form.
    pub(super) folder: PathBuf,
    pub(super) command: Vec<String>,
    /// How the command was found; absent when the request gave it.
    #[serde(default)]
    pub(super) because: Option<String>,
    /// The port inside.
    pub(super) port: u16,
    pub(super) host_port: u16,
    pub(super) state: PreviewState,
    pub(super) created_ms: u64,
    /// The sandbox that runs it, or is about to.
    #[serde(default)]
    pub(super) sandbox: Option<String>,
    /// How often a sandbox was made for it.
    #[serde(default)]
    pub(super) starts: u32,
    #[serde(default)]
    pub(super) restarts: u32,
    /// What asked for it, as that calls itself; absent when a request did.
    #[serde(default)]
    pub(super) by: Option<String>,
    /// The process of its mount, when it was started.
    #[serde(default)]
    pub(super) mount_pid: Option<u32>,
    #[serde(default)]
    pub(super) ready_after_ms: Option<u64>,
    #[serde(default)]
    pub(super) ended: Option<PreviewEnd>,
}

impl Wanted {
    pub(super) fn kept(&self) -> KeptPreview {
        KeptPreview {
            id: self.id.clone(),
            mount: self.request.mount.clone(),
            folder: self.folder.to_string_lossy().into_owned(),
            sandbox: self.sandbox.clone(),
            // Text, numbers and maps of text, which JSON can hold.
            data: serde_json::to_string(self).unwrap_or_default(),
        }
    }

    pub(super) fn ready_timeout(&self) -> Duration {
        Duration::from_millis(self.request.ready_timeout_ms.unwrap_or(READY))
    }

    /// The order for its next sandbox; the mountpoint is still missing.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when a secret is not there any more.
    pub(super) fn order(
        &self,
        sandbox: String,
        settings: &SandboxSettings,
        secrets: &SecretFolder,
        has_proxy: bool,
    ) -> Result<SandboxOrder, ApiError> {
        let mut variables = self.request.env.clone();
        if has_proxy && self.request.network == Network::Isolated {
            for (name, value) in PROXY {
                let variable = variables.entry(name.to_owned());
                variable.or_insert_with(|| value.to_owned());
            }
        }
        variables.insert("PORT".to_owned(), self.port.to_string());
        Ok(SandboxOrder {
            id: sandbox,
            mount: self.request.mount.clone(),
            mountpoint: PathBuf::new(),
            folder: self.folder.clone(),
            command: self.command.clone(),
            variables,
            secrets: secrets.read(&self.request.secrets)?,
            limits: limits(&self.request.limits, settings.limits)?,
            network: self.request.network,
            timeout_ms: None,
            grace_ms: GRACE,
            output_bytes: OUTPUT,
            outlives: true,
            hidden: settings.hidden.clone(),
            runtimes: settings.runtimes.clone(),
            input: None,
            takes_input: false,
        })
    }
}

/// What of a request needs no look at the machine.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checked {
    pub(super) request: PreviewRequest,
    pub(super) folder: PathBuf,
    /// As the request gave it.
    pub(super) command: Option<Vec<String>>,
}

/// Refuses what makes no sense.
///
/// # Errors
/// [`ApiError::InvalidRequest`] that names the field.
pub(super) fn check(
    request: PreviewRequest,
    settings: &SandboxSettings,
    secrets: &SecretFolder,
) -> Result<Checked, ApiError> {
    let invalid = |text: String| Err(ApiError::InvalidRequest(text));
    let folder = below_mount(request.path.as_deref().unwrap_or_default())?;
    let command = request.command.as_ref().map(command).transpose()?;
    check_variables(&request.env, &request.secrets)?;
    secrets.read(&request.secrets)?;
    limits(&request.limits, settings.limits)?;
    if request.port == Some(0) {
        return invalid("port takes 1 to 65535".into());
    }
    if let Some(ready) = request.ready_timeout_ms
        && !(READY_MIN..=READY_MAX).contains(&ready)
    {
        return invalid(format!("ready_timeout_ms takes {READY_MIN} to {READY_MAX}"));
    }
    let is_host = request.network == Network::Host;
    if let (true, Some(port), Some(host_port)) = (is_host, request.port, request.host_port)
        && port != host_port
    {
        return invalid(
            "with the machine's network port and host_port are the same; give one of them".into(),
        );
    }
    Ok(Checked {
        request,
        folder,
        command,
    })
}

impl Checked {
    /// The port inside, when the machine's is `host_port`.
    pub(super) fn port(&self, host_port: u16) -> u16 {
        match self.request.network {
            Network::Host => host_port,
            Network::Isolated | Network::None => self.request.port.unwrap_or(PORT),
        }
    }

    /// The port of the machine that was asked for.
    pub(super) fn host_port(&self) -> Option<u16> {
        let is_host = self.request.network == Network::Host;
        let port = self.request.port.filter(|_| is_host);
        self.request.host_port.or(port)
    }

    /// Whether it asks for what `wanted` is already.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        let plain = |request: &PreviewRequest| PreviewRequest {
            path: None,
            replace: false,
            ..request.clone()
        };
        plain(&self.request) == plain(&wanted.request) && self.folder == wanted.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Checked, ApiError> {
        let dir = tempfile::tempdir().unwrap();
        let request: PreviewRequest = serde_json::from_str(text).unwrap();
        check(
            request,
            &SandboxSettings::example(),
            &SecretFolder::new(dir.path()),
        )
    }

    #[test]
    fn the_port_inside_is_the_apps_own_but_with_the_machines_network() {
        let usual = checked(r#"{"mount":"m"}"#).unwrap();
        assert_eq!((usual.port(3007), usual.host_port()), (3000, None));
        let given = checked(r#"{"mount":"m","port":5173,"host_port":3001}"#).unwrap();
        assert_eq!((given.port(3001), given.host_port()), (5173, Some(3001)));
        let host = checked(r#"{"mount":"m","network":"host","port":3002}"#).unwrap();
        assert_eq!((host.port(3002), host.host_port()), (3002, Some(3002)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, part) in [
            (r#"{"mount":"m","path":"../x"}"#, "path"),
            (r#"{"mount":"m","command":[]}"#, "command"),
            (r#"{"mount":"m","port":0}"#, "port"),
            (r#"{"mount":"m","secrets":["NOT_THERE"]}"#, "NOT_THERE"),
            (r#"{"mount":"m","env":{"A B":"c"}}"#, "env"),
            (r#"{"mount":"m","ready_timeout_ms":1}"#, "ready_timeout_ms"),
            (
                r#"{"mount":"m","network":"host","port":3000,"host_port":3001}"#,
                "host_port",
            ),
        ] {
            let error = checked(text).unwrap_err();
            assert_eq!(error.code(), "invalid_request", "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
