//! The one loop that owns the mounts. Requests, results of work, and time arrive as messages; nothing in here waits for
//! a mount, and what is wanted is in the database before anything is done about it.

mod requests;
mod results;
mod shares;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::entry::{Entry, View, asked, row, shown};
use super::life::{Effect, Input, Phase};
use super::occupants::{Occupants, Occupied};
use super::work::{Asked, Work};
use crate::error::ApiError;
use crate::sidecar::budget::Budget;
use crate::sidecar::events::EventLog;
use crate::sidecar::host::{CheckedOrder, Clock, Ending, FoundMount, MountHost, MountOrder};
use crate::sidecar::secrets::Secrets;
use crate::sidecar::store::{Store, WantedMount};
use crate::sidecar::types::{Mount, MountBudget, MountRequest};
use crate::volume::VolumeStatus;

/// How often mounts that were made beside the sidecar are looked for.
const SCAN_EVERY: Duration = Duration::from_secs(5);
/// How often mounts are asked how they are.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// When nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// What the supervisor is told.
pub(super) enum Message {
    /// A request to mount.
    Add(MountRequest, Reply<Mount>),
    /// A request to unmount.
    Remove {
        name: String,
        sync: bool,
        reply: Reply<Mount>,
    },
    /// Something wants to run on a mount.
    Occupy {
        name: String,
        folder: PathBuf,
        who: String,
        reply: Reply<Occupied>,
    },
    /// Look at the machine, then answer.
    Refresh(oneshot::Sender<()>),
    Came {
        name: String,
        came: Result<FoundMount, ApiError>,
    },
    Left {
        name: String,
        left: Result<(), ApiError>,
    },
    Ended {
        name: String,
        pid_mark: u64,
        ending: Ending,
    },
    Scanned(io::Result<Vec<FoundMount>>),
    Probed(Vec<(Asked, Result<VolumeStatus, String>)>),
    Budgeted {
        name: String,
        pid_mark: u64,
        budget: Budget,
        applied: Result<(), ApiError>,
    },
}

/// What the supervisor works with.
pub(in crate::sidecar) struct Parts {
    pub(in crate::sidecar) host: Arc<dyn MountHost>,
    pub(in crate::sidecar) clock: Arc<dyn Clock>,
    pub(in crate::sidecar) store: Store,
    pub(in crate::sidecar) events: EventLog,
    pub(in crate::sidecar) secrets: Secrets,
    /// Where mounts go that do not say where.
    pub(in crate::sidecar) workspace: PathBuf,
    pub(in crate::sidecar) mounts_max: usize,
}

/// The loop's state.
pub(super) struct Supervisor {
    parts: Parts,
    work: Work,
    inbox: mpsc::Receiver<Message>,
    views: watch::Sender<Arc<Vec<View>>>,
    entries: BTreeMap<String, Entry>,
    occupants: Occupants,
    refreshing: Vec<oneshot::Sender<()>>,
    scanning: bool,
    probing: bool,
    /// Something came or went since the mounts were last asked how they are.
    balance_due: bool,
    /// Something had when the ones under way were asked.
    balancing: bool,
    boot_id: String,
}

impl Supervisor {
    pub(super) fn new(
        parts: Parts,
        results: mpsc::Sender<Message>,
        inbox: mpsc::Receiver<Message>,
        views: watch::Sender<Arc<Vec<View>>>,
    ) -> Self {
        Self {
            work: Work::new(Arc::clone(&parts.host), results),
            boot_id: parts.host.boot_id(),
            parts,
            inbox,
            views,
            entries: BTreeMap::new(),
            occupants: Occupants::default(),
            refreshing: Vec::new(),
            scanning: false,
            probing: false,
            balance_due: false,
            balancing: false,
        }
    }

    pub(super) fn occupants(&self) -> Occupants {
        self.occupants.clone()
    }

    /// Knows everything that is wanted and everything that runs.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`]; without it, what is wanted is not known.
    pub(super) async fn restore(&mut self) -> Result<(), ApiError> {
        let wanted = self.parts.store.mounts().await?;
        let mut leaving = Vec::new();
        for row in wanted {
            let mut entry = self.entry_of(&row);
            if row.leaving {
                leaving.push(row.name.clone());
            } else if row.stopped_boot.as_ref() == Some(&self.boot_id) {
                entry.life.phase = Phase::Stopped;
            }
            self.entries.insert(row.name, entry);
        }
        match self.parts.host.discover().await {
            Ok(found) => self.seen(found).await,
            Err(error) => tracing::error!(%error, "the mounts that run cannot be found"),
        }
        for name in leaving {
            self.tell(&name, Input::Unwanted).await;
        }
        self.publish();
        Ok(())
    }

    fn entry_of(&self, row: &WantedMount) -> Entry {
        let order = MountOrder {
            source: row.source.clone(),
            path: PathBuf::from(&row.path),
            options: row.options.clone(),
        };
        // What an earlier version took and this one does not is said when it is mounted.
        let checked = self.parts.host.check(&order, false).ok();
        let checked = CheckedOrder {
            path: order.path.clone(),
            place: row.place.clone(),
            is_view: checked.as_ref().is_some_and(|checked| checked.is_view),
            fixed: checked.map(|checked| checked.fixed).unwrap_or_default(),
        };
        let mut entry = self.unmounted(row.name.clone(), order, checked);
        entry.life.managed = true;
        entry.created_ms = row.created_ms;
        entry
    }

    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut scan = interval(SCAN_EVERY);
        let mut probe = interval(PROBE_EVERY);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self
                .entries
                .values()
                .filter_map(|entry| entry.life.due())
                .min();
            let due = due.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message).await,
                    None => return,
                },
                () = sleep_until(due) => self.tick().await,
                _ = scan.tick() => self.scan(),
                _ = probe.tick() => self.probe(),
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            }
            if self.balance_due && !self.probing {
                self.probe();
            }
            self.publish();
        }
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Add(request, reply) => self.add(request, reply).await,
            Message::Remove { name, sync, reply } => self.remove(&name, sync, reply).await,
            Message::Occupy {
                name,
                folder,
                who,
                reply,
            } => {
                // Who has given up asking does not run, and lets go by that.
                drop(reply.send(self.occupy(&name, &folder, who)));
            }
            Message::Refresh(reply) => {
                self.refreshing.push(reply);
                self.scan();
            }
            Message::Came { name, came } => self.came(&name, came).await,
            Message::Left { name, left } => self.left(&name, left).await,
            Message::Ended {
                name,
                pid_mark,
                ending,
            } => self.tell(&name, Input::Ended { pid_mark, ending }).await,
            Message::Scanned(found) => self.scanned(found).await,
            Message::Probed(answers) => self.probed(answers),
            Message::Budgeted {
                name,
                pid_mark,
                budget,
                applied,
            } => self.budgeted(&name, pid_mark, budget, applied).await,
        }
    }

    async fn tick(&mut self) {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        for name in names {
            self.tell(&name, Input::Tick).await;
        }
    }

    fn scan(&mut self) {
        if !self.scanning {
            self.scanning = true;
            self.work.scan();
        }
    }

    fn probe(&mut self) {
        if self.probing {
            return;
        }
        self.probing = true;
        self.balancing |= std::mem::take(&mut self.balance_due);
        let asked = self.entries.values().filter_map(asked).collect();
        self.work.probe(asked);
    }

    /// Tells a mount something, and does what follows.
    async fn tell(&mut self, name: &str, input: Input) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        for effect in entry.life.step(input, Instant::now()) {
            self.act(name, effect).await;
        }
    }

    async fn act(&mut self, name: &str, effect: Effect) {
        match effect {
            Effect::Event(kind, text) => self.parts.events.add(kind, Some(name), text).await,
            Effect::Watch(found) => {
                if let Some(entry) = self.entries.get_mut(name) {
                    entry.last = Some(found.clone());
                }
                self.work.watch(name.to_owned(), found);
            }
            Effect::Rebalance => self.balance_due = true,
            Effect::Gone => self.forget(name).await,
            Effect::Mount => self.start(name),
            Effect::Unmount(found) => {
                if let Some(entry) = self.entries.get(name) {
                    self.work
                        .unmount(name.to_owned(), entry.order.path.clone(), found, entry.sync);
                }
            }
            Effect::NoteStopped => {
                if let Some(entry) = self.entries.get(name) {
                    let row = row(entry, false, Some(self.boot_id.clone()));
                    // Without the note it is mounted again when the sidecar starts.
                    drop(self.parts.store.put_mount(row).await);
                }
            }
        }
    }

    fn start(&mut self, name: &str) {
        let share = self.shares().get(name).copied();
        let Some((entry, budget)) = self.entries.get_mut(name).zip(share) else {
            return;
        };
        entry.status = None;
        entry.budget = Some(MountBudget {
            cache_bytes: budget.cache_bytes,
            buffer_bytes: budget.buffer_bytes,
            applied: true,
            reason: None,
        });
        let credentials = self.parts.secrets.file(name).unwrap_or_else(|error| {
            tracing::error!(%error, mount = name, "the file with its keys cannot be read");
            None
        });
        self.work
            .mount(name.to_owned(), entry.order.clone(), credentials, budget);
    }

    async fn forget(&mut self, name: &str) {
        self.entries.remove(name);
        self.parts.secrets.remove(name);
        // A row that stays is tried again at the next start of the sidecar, and can be taken away then.
        drop(self.parts.store.remove_mount(name).await);
        self.balance_due = true;
    }

    fn publish(&self) {
        let view = |entry: &Entry| View {
            mount: shown(entry),
            retry_at: entry.life.due(),
            found: entry.life.found().cloned(),
            last: entry.last.clone(),
            status: entry.status.clone(),
        };
        self.views
            .send_replace(Arc::new(self.entries.values().map(view).collect()));
    }
}

pub(in crate::sidecar) fn no_such_mount(name: &str) -> ApiError {
    ApiError::NotFound(format!(
        "there is no mount {name:?}; GET /mounts lists those there are"
    ))
}
