//! The ports of a preview: the one of the machine, what it leads to inside, the way out, and whether something listens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::super::forward::{Forward, Inside};
use super::super::life::Input;
use super::super::proxy::{self, Proxy};
use super::super::types::PreviewState;
use super::Keeper;
use crate::sandbox::Network;

/// How often a port is probed: soon at first, then less and less often.
const PROBE_FIRST: Duration = Duration::from_millis(50);
const PROBE_MAX: Duration = Duration::from_millis(500);
/// How long an app is given to listen on the port that it was told before another one is taken.
const OTHER_PORT: Duration = Duration::from_secs(2);
/// Ports that are no app's: the way out, and the debugger of Node.
const NOT_APPS: [u16; 2] = [proxy::PORT, 9229];
/// Looks in a row that find nothing on the port of an app that was ready, until it is said not to be.
const SILENT_LOOKS: u32 = 3;

impl Keeper {
    pub(super) async fn listens(&mut self, port: u16) {
        if self.life.state() != PreviewState::Probing {
            return;
        }
        self.wanted.port = port;
        self.lead();
        if self.wanted.ready_after_ms.is_none() {
            let since = self.runs.since.map(|since| since.elapsed());
            self.wanted.ready_after_ms =
                since.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        self.tell(Input::Listens).await;
    }

    /// Looks whether something still listens on the port of an app that was ready. Asks the kernel and not the app, whose
    /// log and debugger that is no business of.
    pub(super) async fn look_at_port(&mut self) {
        if self.life.state() != PreviewState::Ready {
            return;
        }
        let Some(Inside { network, port }) = self.inside() else {
            return;
        };
        let listening = tokio::task::spawn_blocking(move || network.listening()).await;
        let Ok(Ok(ports)) = listening else {
            return;
        };
        self.runs.silent = match ports.contains(&port) {
            true => 0,
            false => self.runs.silent.saturating_add(1),
        };
        if self.runs.silent >= SILENT_LOOKS {
            self.runs.silent = 0;
            self.tell(Input::Silent).await;
        }
    }

    /// Takes the port of the machine, unless it has it. Nobody gets through to it before it leads into the sandbox, if
    /// there is one.
    pub(in crate::sidecar::previews) fn listen(&self) {
        if self.wanted.request.network == Network::Host || self.shared.has_port() {
            return;
        }
        let address = SocketAddr::new(self.parts.ports.address, self.wanted.host_port);
        let inside = self.inside();
        if let Some(inside) = &inside {
            self.lead_out(inside);
        }
        match Forward::listen(address, inside) {
            Ok(forward) => self.shared.open_port(forward),
            Err(error) => {
                tracing::warn!(%error, id = self.wanted.id, "its port cannot be taken");
                self.shared.port_is_taken();
            }
        }
    }

    /// Leads the port of the machine into the sandbox.
    pub(super) fn lead(&self) {
        let inside = self.inside();
        if let Some(inside) = &inside {
            self.lead_out(inside);
        }
        self.shared.lead_to(inside);
    }

    /// Opens the way out of the sandbox, if there is one.
    pub(super) fn lead_out(&self, inside: &Inside) {
        let parts = &self.parts;
        let has_one = self.wanted.request.network == Network::Isolated && !parts.allowed.is_empty();
        if !has_one || self.shared.has_proxy() {
            return;
        }
        let listening = inside
            .network
            .listen(proxy::PORT)
            .and_then(|listener| TcpListener::from_std(std::net::TcpListener::from(listener)));
        match listening {
            Ok(listener) => {
                let (allowed, log) = (Arc::clone(&parts.allowed), self.shared.log.clone());
                self.shared.open_proxy(Proxy::serve(listener, allowed, log));
            }
            Err(error) => {
                tracing::warn!(%error, id = self.wanted.id, "its way out cannot be opened");
            }
        }
    }

    pub(super) fn inside(&self) -> Option<Inside> {
        let note = self.runs.note.as_ref()?;
        let known = self.shared.network(&note.id);
        let network = match known {
            Some(network) => network,
            None => match self.parts.host.network(note) {
                Ok(network) => self.shared.set_network(&note.id, network),
                Err(error) => {
                    tracing::warn!(%error, id = note.id, "its network cannot be reached");
                    return None;
                }
            },
        };
        Some(Inside {
            network,
            port: self.wanted.port,
        })
    }

    /// Looks until its port answers.
    pub(super) fn probe(&mut self) {
        self.stop_probing();
        let Some(inside) = self.inside() else { return };
        let says_port = self.wanted.request.port.is_some();
        let finds_port = !says_port && self.wanted.request.network != Network::Host;
        let tell = self.answered.0.clone();
        self.probing = Some(tokio::spawn(async move {
            let mut pause = PROBE_FIRST;
            let began = Instant::now();
            loop {
                // What listens first may be a debugger, or what tells pages to reload.
                let finds_port = finds_port && began.elapsed() >= OTHER_PORT;
                if let Some(port) = answers(&inside, finds_port).await {
                    // Nobody who listens needs no answer.
                    let _ = tell.send(port).await;
                    return;
                }
                sleep(pause).await;
                pause = (pause * 5 / 4).min(PROBE_MAX);
            }
        }));
    }

    pub(super) fn stop_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
        while self.answered.1.try_recv().is_ok() {}
    }
}

/// The port that answers: the one that was meant, or the only other one that something listens on.
async fn answers(inside: &Inside, finds_port: bool) -> Option<u16> {
    if inside.answers().await {
        return Some(inside.port);
    }
    if !finds_port {
        return None;
    }
    let network = Arc::clone(&inside.network);
    let listening = tokio::task::spawn_blocking(move || network.listening()).await;
    let ports = listening.ok()?.ok()?;
    if ports.contains(&inside.port) {
        return None;
    }
    let mut others = ports.into_iter().filter(|port| !NOT_APPS.contains(port));
    let port = others.next()?;
    let other = Inside {
        port,
        ..inside.clone()
    };
    other.answers().await.then_some(port)
}
