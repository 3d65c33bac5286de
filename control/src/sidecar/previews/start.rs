//! Starting a preview: what can be refused is refused, a port and a command are found, and a keeper begins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::forward::Forward;
use super::keeper::Command;
use super::life::Life;
use super::request::{Checked, Wanted, check};
use super::types::{Preview, PreviewRequest, PreviewState};
use super::{Kept, PREFIX, PreviewPorts, Previews, detect};
use crate::error::ApiError;
use crate::sandbox::{FoundSandbox, Network};

/// Previews that are over and still listed.
const OVER_MAX: usize = 100;
/// How long the look at a project's files may take.
const DETECTION: Duration = Duration::from_secs(20);

impl Previews {
    /// Starts an app, or says that it is there already; answers before it is ready. One that is started has the mark `by`,
    /// which its row keeps.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`], [`ApiError::NotFound`], [`ApiError::NotMounted`], [`ApiError::Conflict`],
    /// [`ApiError::LimitReached`].
    pub(in crate::sidecar) async fn start(
        &self,
        request: PreviewRequest,
        by: Option<String>,
    ) -> Result<Preview, ApiError> {
        let parts = &self.parts;
        let checked = check(request, &parts.settings, &parts.secrets)?;
        let _turn = self.starting.lock().await;
        let there = self.at(&checked);
        if let Some(there) = there.as_ref().filter(|there| !there.is_over()) {
            let wanted = there.shared.wanted();
            if !checked.request.replace {
                return match checked.is(&wanted) {
                    true => Ok(self.shown(there)),
                    false => Err(ApiError::Conflict(format!(
                        "{} runs on this folder with other settings; stop it, or send \"replace\": true to restart it with \
                         these",
                        wanted.id
                    ))),
                };
            }
            if checked
                .host_port()
                .is_some_and(|port| port != wanted.host_port)
            {
                return Err(ApiError::Conflict(format!(
                    "{} has port {} and keeps it while it is replaced; stop it to give it another one",
                    wanted.id, wanted.host_port
                )));
            }
        }
        let mount = checked.request.mount.clone();
        // Held until the app's own: the mount does not go in between.
        let who = "a preview that starts".to_owned();
        let occupied = parts.mounts.occupy(&mount, &checked.folder, who).await?;
        let live = there.filter(|there| !there.is_over());
        let host_port = match &live {
            Some(there) => there.shared.wanted().host_port,
            None => self.port(&checked)?,
        };
        let port = checked.port(host_port);
        let (command, because) = self.command(&checked, occupied.path.clone(), port).await?;
        let id = match &live {
            Some(there) => there.shared.wanted().id,
            None => self.id(),
        };
        let wanted = Wanted {
            id,
            folder: checked.folder,
            request: PreviewRequest {
                replace: false,
                ..checked.request
            },
            command,
            because,
            port,
            host_port,
            state: PreviewState::Starting,
            created_ms: parts.clock.now_ms(),
            sandbox: None,
            starts: 0,
            restarts: 0,
            by,
            mount_pid: None,
            ready_after_ms: None,
            ended: None,
        };
        if let Some(there) = live {
            there.tell(Command::Replace(Box::new(wanted))).await;
            return Ok(self.shown(&there));
        }
        // Before anything is started; what it replaces goes with its log.
        let old = self.take_over(&wanted);
        parts.store.put_preview(wanted.kept()).await?;
        for old in old {
            self.remove_sandbox_of(&old).await;
        }
        let is_host = wanted.request.network == Network::Host;
        let (shared, keeper, commands) = self.keeper(&wanted, |wanted| {
            Life::new(wanted.request.restart, wanted.ready_timeout())
        });
        if !is_host {
            let address = SocketAddr::new(parts.ports.address, host_port);
            match Forward::listen(address, None) {
                Ok(forward) => shared.open_port(forward),
                // It was free a moment ago.
                Err(_) => shared.port_is_taken(),
            }
        }
        tokio::spawn(async move {
            keeper.begin(commands).await;
        });
        drop(occupied);
        self.forget_oldest().await;
        Ok(shared.view())
    }

    /// What runs or ran on the folder.
    pub(super) fn at(&self, checked: &Checked) -> Option<Kept> {
        let all = self.all.lock();
        let found = all.values().find(|kept| {
            let wanted = kept.shared.wanted();
            wanted.request.mount == checked.request.mount && wanted.folder == checked.folder
        });
        found.cloned()
    }

    /// Forgets what was on the folder before; its ids.
    pub(super) fn take_over(&self, wanted: &Wanted) -> Vec<Wanted> {
        let mut old = Vec::new();
        self.all.lock().retain(|_, kept| {
            let there = kept.shared.wanted();
            let is_same =
                there.request.mount == wanted.request.mount && there.folder == wanted.folder;
            if is_same {
                old.push(there);
            }
            !is_same
        });
        old
    }

    /// Removes the folder of a preview that is over.
    pub(super) async fn remove_sandbox_of(&self, old: &Wanted) {
        let mut found = self.found().await;
        if let Some(
            FoundSandbox::Running(sandbox, _)
            | FoundSandbox::Ended(sandbox, ..)
            | FoundSandbox::Lost(sandbox, _),
        ) = old.sandbox.as_ref().and_then(|id| found.remove(id))
        {
            self.parts.host.remove(&sandbox).await;
        }
    }

    /// Keeps the list of what is over short.
    pub(super) async fn forget_oldest(&self) {
        let mut over: Vec<Wanted> = {
            let all = self.all.lock();
            let over = all.values().filter(|kept| kept.is_over());
            over.map(|kept| kept.shared.wanted()).collect()
        };
        over.sort_by_key(|wanted| std::cmp::Reverse(wanted.created_ms));
        for old in over.into_iter().skip(OVER_MAX) {
            self.all.lock().remove(&old.id);
            // What is left of it is listed again by the next sidecar.
            drop(self.parts.store.remove_preview(&old.id).await);
            self.remove_sandbox_of(&old).await;
        }
    }

    pub(super) fn id(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{PREFIX}{:x}-{number}", self.run)
    }

    /// A port of the machine that nobody has.
    pub(super) fn port(&self, checked: &Checked) -> Result<u16, ApiError> {
        let PreviewPorts {
            address,
            first,
            last,
        } = self.parts.ports;
        let taken: BTreeMap<u16, String> = {
            let all = self.all.lock();
            let live = all.values().filter(|kept| !kept.is_over());
            live.map(|kept| kept.shared.wanted())
                .map(|wanted| (wanted.host_port, wanted.id))
                .collect()
        };
        let is_free =
            |port: u16| std::net::TcpListener::bind(SocketAddr::new(address, port)).is_ok();
        if let Some(port) = checked.host_port() {
            if !(first..=last).contains(&port) {
                return Err(ApiError::InvalidRequest(format!(
                    "previews have the ports {first} to {last} of this machine, not {port}"
                )));
            }
            if let Some(id) = taken.get(&port) {
                return Err(ApiError::Conflict(format!(
                    "port {port} is taken by {id}; stop that, or leave the port to be chosen"
                )));
            }
            if !is_free(port) {
                return Err(ApiError::Conflict(format!(
                    "port {port} of this machine is taken by another program; end that, or leave the port to be chosen"
                )));
            }
            return Ok(port);
        }
        let mut ports = (first..=last).filter(|port| !taken.contains_key(port));
        if let Some(port) = ports.find(|port| is_free(*port)) {
            return Ok(port);
        }
        let count = usize::from(last - first) + 1;
        let others = count.saturating_sub(taken.len());
        Err(ApiError::LimitReached(match others {
            0 => format!(
                "{count} previews run, as many as there are ports ({first} to {last}); stop one"
            ),
            others => format!(
                "no port from {first} to {last} is free: {} previews run, and other programs have {others}; stop one of either",
                taken.len()
            ),
        }))
    }

    /// What to run, and how it was found.
    pub(super) async fn command(
        &self,
        checked: &Checked,
        mountpoint: std::path::PathBuf,
        port: u16,
    ) -> Result<(Vec<String>, Option<String>), ApiError> {
        let host = Arc::clone(&self.parts.host);
        let folder = checked.folder.clone();
        let given = checked.command.clone();
        let looking = tokio::task::spawn_blocking(move || {
            // Also where nothing has to be found: a folder that is not there is refused at once.
            let project = host.project(&mountpoint, &folder)?;
            if let Some(command) = given {
                return Ok((command, None));
            }
            detect::detect(project.as_ref(), port)
                .map(|found| (found.command, Some(found.because)))
                .ok_or_else(|| {
                    ApiError::InvalidRequest(
                        "it does not show how the app is started: give command, or add a package.json with a script called \
                         dev or start, or an executable run.sh"
                            .into(),
                    )
                })
        });
        match timeout(DETECTION, looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "the look at a project broke down");
                Err(ApiError::Internal(
                    "the look at the project broke down; the sidecar's log says why".into(),
                ))
            }
            Err(_) => Err(ApiError::DeadlineExceeded(
                "the mount did not answer in time".into(),
            )),
        }
    }
}
