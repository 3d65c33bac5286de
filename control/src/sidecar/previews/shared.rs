//! What of a preview others see: written by its keeper, read by the endpoints.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::forward::{Forward, Inside};
use super::log::Log;
use super::proxy::Proxy;
use super::request::Wanted;
use super::types::{Preview, PreviewState};
use crate::sandbox::{Network, SandboxNetwork};
use crate::sidecar::exec;

/// What of a preview is seen.
pub(super) struct Shared {
    pub(super) log: Log,
    view: watch::Sender<Preview>,
    /// As it was asked for last.
    wanted: Mutex<Wanted>,
    port: Mutex<Port>,
    network: Mutex<Option<(String, Arc<dyn SandboxNetwork>)>>,
    proxy: Mutex<Option<Proxy>>,
}

#[derive(Default)]
struct Port {
    forward: Option<Forward>,
    is_taken: bool,
}

impl Shared {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            log: Log::new(),
            view: watch::Sender::new(shown(&wanted)),
            wanted: Mutex::new(wanted),
            port: Mutex::default(),
            network: Mutex::default(),
            proxy: Mutex::default(),
        }
    }

    /// As it is now.
    pub(super) fn view(&self) -> Preview {
        self.view.borrow().clone()
    }

    /// Tells whenever that changes.
    pub(super) fn watch(&self) -> watch::Receiver<Preview> {
        self.view.subscribe()
    }

    /// As it was asked for last.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted.lock().clone()
    }

    pub(super) fn publish(
        &self,
        wanted: &Wanted,
        state: PreviewState,
        restarts: u32,
        ready_by_ms: Option<u64>,
    ) {
        *self.wanted.lock() = wanted.clone();
        let is_taken = self.port.lock().is_taken && !state.is_over();
        let view = Preview {
            state,
            restarts,
            ready_by_ms,
            trouble: is_taken.then(|| {
                format!(
                    "another program has port {}; it is taken back once that is gone",
                    wanted.host_port
                )
            }),
            ..shown(wanted)
        };
        self.view.send_if_modified(|now| {
            let is_new = *now != view;
            *now = view;
            is_new
        });
    }

    pub(super) fn has_port(&self) -> bool {
        self.port.lock().forward.is_some()
    }

    pub(super) fn open_port(&self, forward: Forward) {
        *self.port.lock() = Port {
            forward: Some(forward),
            is_taken: false,
        };
    }

    pub(super) fn port_is_taken(&self) {
        self.port.lock().is_taken = true;
    }

    pub(super) fn close_port(&self) {
        *self.port.lock() = Port::default();
        self.leave_network();
    }

    /// Lets go of the sandbox's network.
    pub(super) fn leave_network(&self) {
        *self.network.lock() = None;
        *self.proxy.lock() = None;
    }

    pub(super) fn has_proxy(&self) -> bool {
        self.proxy.lock().is_some()
    }

    pub(super) fn open_proxy(&self, proxy: Proxy) {
        *self.proxy.lock() = Some(proxy);
    }

    /// What is behind the port from now on.
    pub(super) fn lead_to(&self, inside: Option<Inside>) {
        if let Some(forward) = &self.port.lock().forward {
            forward.lead_to(inside);
        }
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> u64 {
        let port = self.port.lock();
        port.forward.as_ref().map_or(0, Forward::connections)
    }

    /// The network of a sandbox that was entered before.
    pub(super) fn network(&self, sandbox: &str) -> Option<Arc<dyn SandboxNetwork>> {
        let known = self.network.lock();
        let (id, network) = known.as_ref()?;
        (id == sandbox).then(|| Arc::clone(network))
    }

    pub(super) fn set_network(
        &self,
        sandbox: &str,
        network: Arc<dyn SandboxNetwork>,
    ) -> Arc<dyn SandboxNetwork> {
        *self.network.lock() = Some((sandbox.to_owned(), Arc::clone(&network)));
        network
    }
}

fn shown(wanted: &Wanted) -> Preview {
    let request = &wanted.request;
    let command = match &wanted.because {
        // What was found in the project is no secret of the request's.
        Some(_) => wanted.command.join(" "),
        None => exec::shown(&wanted.command),
    };
    Preview {
        id: wanted.id.clone(),
        mount: request.mount.clone(),
        path: wanted.folder.to_string_lossy().into_owned(),
        state: wanted.state,
        host_port: wanted.host_port,
        url: format!("http://localhost:{}", wanted.host_port),
        port: match request.network {
            Network::Host => wanted.host_port,
            Network::Isolated | Network::None => wanted.port,
        },
        command,
        network: request.network,
        secrets: request.secrets.clone(),
        restarts: wanted.restarts,
        created_ms: wanted.created_ms,
        ready_by_ms: None,
        ready_after_ms: wanted.ready_after_ms,
        trouble: None,
        ended: wanted.ended.clone(),
        usage: None,
    }
}
