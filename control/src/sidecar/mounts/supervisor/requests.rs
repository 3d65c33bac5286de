//! Requests: what is wanted is written down before anything is done about it.

use std::path::Path;

use tokio::time::Instant;

use super::super::does_not_run;
use super::super::entry::{Entry, row, shown};
use super::super::life::{Input, Life, Phase};
use super::super::occupants::Occupied;
use super::super::orders::Order;
use super::{Reply, Supervisor, no_such_mount};
use crate::error::ApiError;
use crate::sidecar::host::{CheckedOrder, MountOrder};
use crate::sidecar::types::{Mount, MountRequest};

impl Supervisor {
    pub(super) async fn add(&mut self, request: MountRequest, reply: Reply<Mount>) {
        // Who does not hear the answer any more does not need one.
        match self.accept(request).await {
            Err(error) => drop(reply.send(Err(error))),
            Ok(name) => {
                let Some(entry) = self.entries.get_mut(&name) else {
                    return;
                };
                if matches!(entry.life.phase, Phase::Mounted { .. }) {
                    let mount = shown(entry);
                    drop(reply.send(Ok(mount)));
                } else {
                    entry.waiting.push(reply);
                    self.tell(&name, Input::Asked).await;
                }
            }
        }
    }

    /// Writes down that a mount is wanted, and returns its name; nothing is started yet.
    async fn accept(&mut self, request: MountRequest) -> Result<String, ApiError> {
        let mut order = Order::of(&request, &self.parts.workspace, &*self.parts.host)?;
        if !order.is_named
            && let Some(same) = self.entries.values().find(|entry| order.is(entry))
        {
            order.name.clone_from(&same.name);
        }
        for entry in self.entries.values() {
            match entry.name == order.name {
                true => order.agrees_with(entry)?,
                false => order.is_free_of(entry)?,
            }
        }
        let known = self.entries.get(&order.name);
        if known.is_some_and(|entry| matches!(entry.life.phase, Phase::Unmounting { .. })) {
            return Err(ApiError::Conflict(format!(
                "the mount {} is being unmounted; ask again once it is gone",
                order.name
            )));
        }
        let most = self.parts.mounts_max;
        if known.is_none() && self.entries.len() >= most {
            return Err(ApiError::LimitReached(format!(
                "there are {most} mounts, as many as there may be; unmount one, or start the sidecar with --max-mounts"
            )));
        }
        if let Some(credentials) = &request.credentials {
            self.parts
                .secrets
                .put(&order.name, credentials)
                .map_err(|error| {
                    tracing::error!(%error, "the keys of a mount cannot be kept");
                    ApiError::Internal("the keys cannot be kept; the sidecar's log says why".into())
                })?;
        }
        self.want(order).await
    }

    async fn want(&mut self, order: Order) -> Result<String, ApiError> {
        let name = order.name.clone();
        let known = self.entries.remove(&name);
        let has_row = known
            .as_ref()
            .is_some_and(|entry| entry.life.managed && entry.life.phase != Phase::Stopped);
        let mut entry = match known {
            Some(entry) if entry.life.managed => entry,
            // From now on it is kept mounted, as the request says.
            Some(watched) => Entry {
                order: order.order.clone(),
                fixed: order.checked.fixed,
                ..watched
            },
            None => Entry {
                confirmed: false,
                ..self.unmounted(name.clone(), order.order, order.checked)
            },
        };
        let stored = match has_row {
            true => Ok(()),
            false => self.parts.store.put_mount(row(&entry, false, None)).await,
        };
        if stored.is_ok() {
            entry.life.managed = true;
        }
        if stored.is_ok() || entry.confirmed {
            self.entries.insert(name.clone(), entry);
        } else {
            self.parts.secrets.remove(&name);
        }
        stored.map(|()| name)
    }

    /// A mount of which nothing is there yet.
    pub(super) fn unmounted(
        &self,
        name: String,
        order: MountOrder,
        checked: CheckedOrder,
    ) -> Entry {
        Entry {
            name,
            order,
            place: checked.place,
            is_view: checked.is_view,
            life: Life::new(false, Instant::now()),
            fixed: checked.fixed,
            created_ms: self.parts.clock.now_ms(),
            confirmed: true,
            budget: None,
            status: None,
            last: None,
            waiting: Vec::new(),
            sync: false,
        }
    }

    pub(super) async fn remove(&mut self, name: &str, sync: bool, reply: Reply<Mount>) {
        match self.unwant(name, sync).await {
            Err(error) => drop(reply.send(Err(error))),
            Ok(()) => {
                if let Some(entry) = self.entries.get_mut(name) {
                    entry.waiting.push(reply);
                    self.tell(name, Input::Unwanted).await;
                }
            }
        }
    }

    /// Lets `who` run in a folder of a mount that runs itself.
    pub(super) fn occupy(
        &self,
        name: &str,
        folder: &Path,
        who: String,
    ) -> Result<Occupied, ApiError> {
        let entry = self.entries.get(name).ok_or_else(|| no_such_mount(name))?;
        match &entry.life.phase {
            Phase::Mounted { .. } => {
                let path = entry.order.path.clone();
                self.occupants.enter(name, folder, who, path)
            }
            _ => Err(does_not_run(name, entry.life.state())),
        }
    }

    async fn unwant(&mut self, name: &str, sync: bool) -> Result<(), ApiError> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Err(no_such_mount(name));
        };
        match &entry.life.phase {
            // Whoever asks again waits for the same end.
            Phase::Unmounting { .. } => return Ok(()),
            Phase::Mounting => {
                return Err(ApiError::Conflict(format!(
                    "{name} is being mounted; ask again once it is"
                )));
            }
            Phase::Waiting { .. } | Phase::Stopped if sync => {
                return Err(ApiError::NotMounted(format!(
                    "{name} does not run, so nothing can be synced; unmount it without sync: what it had acknowledged \
                     is kept on this machine and goes up at its next mount"
                )));
            }
            _ => {}
        }
        self.occupants.none_on(name)?;
        entry.sync = sync;
        if entry.life.managed {
            let row = row(entry, true, None);
            self.parts.store.put_mount(row).await?;
        }
        Ok(())
    }
}
