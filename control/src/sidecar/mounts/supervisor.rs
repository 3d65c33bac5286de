//! The one loop that owns the mounts. Requests, results of work, and time arrive as messages; nothing in here waits for
//! a mount, and what is wanted is in the database before anything is done about it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::life::{Effect, Input, Life, Phase};
use super::orders::Order;
use super::work::{Asked, Work};
use crate::error::ApiError;
use crate::sidecar::budget::{self, Budget, Fixed};
use crate::sidecar::events::{EventLog, kinds};
use crate::sidecar::host::{CheckedOrder, Clock, Ending, FoundMount, MountHost, MountOrder};
use crate::sidecar::names;
use crate::sidecar::secrets::Secrets;
use crate::sidecar::store::{Store, WantedMount};
use crate::sidecar::types::{Mount, MountBudget, MountRequest, MountState};
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

/// A mount as everybody else sees it.
#[derive(Debug, Clone)]
pub(in crate::sidecar) struct View {
    pub(in crate::sidecar) mount: Mount,
    pub(super) retry_at: Option<Instant>,
    pub(super) found: Option<FoundMount>,
    pub(super) last: Option<FoundMount>,
    pub(in crate::sidecar) status: Option<Result<VolumeStatus, String>>,
}

/// A mount as the supervisor knows it.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) order: MountOrder,
    pub(super) place: String,
    pub(super) is_view: bool,
    pub(super) life: Life,
    fixed: Fixed,
    created_ms: u64,
    /// Whether it was ever mounted: whoever asked for it first is told when it cannot be, and it is forgotten.
    confirmed: bool,
    budget: Option<MountBudget>,
    status: Option<Result<VolumeStatus, String>>,
    /// Its newest process, which may have ended: its log is still there.
    last: Option<FoundMount>,
    /// Those who wait for it to be mounted, or to be gone.
    waiting: Vec<Reply<Mount>>,
    /// Sync before it is taken away.
    sync: bool,
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
            refreshing: Vec::new(),
            scanning: false,
            probing: false,
            balance_due: false,
            balancing: false,
        }
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

    // Requests.

    async fn add(&mut self, request: MountRequest, reply: Reply<Mount>) {
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
        }
        stored.map(|()| name)
    }

    /// A mount of which nothing is there yet.
    fn unmounted(&self, name: String, order: MountOrder, checked: CheckedOrder) -> Entry {
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

    async fn remove(&mut self, name: &str, sync: bool, reply: Reply<Mount>) {
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
        entry.sync = sync;
        if entry.life.managed {
            let row = row(entry, true, None);
            self.parts.store.put_mount(row).await?;
        }
        Ok(())
    }

    // Results.

    async fn came(&mut self, name: &str, came: Result<FoundMount, ApiError>) {
        let told = came.as_ref().map(Clone::clone).map_err(ToString::to_string);
        self.tell(name, Input::Came(told)).await;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let waiting = std::mem::take(&mut entry.waiting);
        let answer = match came {
            Ok(_) => {
                entry.confirmed = true;
                Ok(shown(entry))
            }
            Err(error) => Err(error),
        };
        if answer.is_err() && !entry.confirmed {
            self.forget(name).await;
        }
        for reply in waiting {
            drop(reply.send(answer.clone()));
        }
    }

    async fn left(&mut self, name: &str, left: Result<(), ApiError>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let waiting = std::mem::take(&mut entry.waiting);
        let answer = match &left {
            Ok(()) => Ok(Mount {
                state: MountState::Unmounted,
                pid: None,
                started_ms: None,
                budget: None,
                ..shown(entry)
            }),
            Err(error) => Err(error.clone()),
        };
        if left.is_err() && entry.life.managed {
            let row = row(entry, false, None);
            // If that fails it goes at the next start of the sidecar, as it was asked to.
            drop(self.parts.store.put_mount(row).await);
        }
        let told = left.map_err(|error| error.to_string());
        self.tell(name, Input::Left(told)).await;
        for reply in waiting {
            drop(reply.send(answer.clone()));
        }
    }

    async fn scanned(&mut self, found: io::Result<Vec<FoundMount>>) {
        self.scanning = false;
        match found {
            Ok(found) => self.seen(found).await,
            Err(error) => tracing::error!(%error, "the mounts that run cannot be found"),
        }
        self.publish();
        for reply in self.refreshing.drain(..) {
            // Whoever asked has given up waiting.
            let _ = reply.send(());
        }
    }

    /// Takes in what runs.
    async fn seen(&mut self, found: Vec<FoundMount>) {
        for found in found {
            // It was looked for a while ago, and may have ended since.
            if !self.parts.host.is_running(&found) {
                continue;
            }
            let at_path = self
                .entries
                .values()
                .find(|entry| entry.order.path == found.path);
            let name = match at_path {
                // An older mount may not have noted what serves its bucket.
                Some(entry) if entry.place == found.place || entry.order.source == found.source => {
                    entry.name.clone()
                }
                Some(entry) => {
                    tracing::debug!(mount = entry.name, "another volume is mounted on its path");
                    continue;
                }
                None => self.watch_only(&found),
            };
            self.tell(&name, Input::Seen(found)).await;
        }
    }

    /// Begins to watch a mount that nobody asked the sidecar for.
    fn watch_only(&mut self, found: &FoundMount) -> String {
        let last = found.path.file_name().unwrap_or_default().to_string_lossy();
        let wanted = names::fitted(&last).unwrap_or_else(|| "mount".into());
        let name = names::unused(&wanted, |name| self.entries.contains_key(name));
        let order = MountOrder {
            source: found.source.clone(),
            path: found.path.clone(),
            options: Vec::new(),
        };
        let checked = CheckedOrder {
            path: found.path.clone(),
            place: found.place.clone(),
            is_view: found.is_view,
            fixed: Fixed::default(),
        };
        let entry = self.unmounted(name.clone(), order, checked);
        self.entries.insert(name.clone(), entry);
        name
    }

    fn probed(&mut self, answers: Vec<(Asked, Result<VolumeStatus, String>)>) {
        self.probing = false;
        for (asked, answer) in answers {
            if let Some(entry) = self.entries.get_mut(&asked.name)
                && entry
                    .life
                    .found()
                    .is_some_and(|found| found.pid_mark == asked.pid_mark)
            {
                entry.status = Some(answer);
            }
        }
        self.balance();
    }

    async fn budgeted(
        &mut self,
        name: &str,
        pid_mark: u64,
        budget: Budget,
        applied: Result<(), ApiError>,
    ) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let is_same = entry
            .life
            .found()
            .is_some_and(|found| found.pid_mark == pid_mark);
        let Some(known) = entry.budget.as_mut().filter(|_| is_same) else {
            return;
        };
        if (known.cache_bytes, known.buffer_bytes) != (budget.cache_bytes, budget.buffer_bytes) {
            return;
        }
        let before = known.reason.take();
        known.applied = applied.is_ok();
        known.reason = applied.err().map(|error| match error {
            ApiError::NotFound(_) => TOO_OLD.to_owned(),
            other => super::work::without_places(other).to_string(),
        });
        let text = match &known.reason {
            None => format!(
                "its caches may hold {} MiB on the disk and {} MiB in memory",
                budget.cache_bytes >> 20,
                budget.buffer_bytes >> 20
            ),
            // Tried again with every look at it; once is enough to say so.
            Some(_) if known.reason == before => return,
            Some(reason) => format!("its share of the caches could not be changed: {reason}"),
        };
        self.parts.events.add(kinds::BUDGET, Some(name), text).await;
    }

    // Work.

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

    /// The shares of all that run or are to run, by name.
    fn shares(&self) -> BTreeMap<String, Budget> {
        let is_there =
            |entry: &&Entry| !matches!(entry.life.phase, Phase::Stopped | Phase::Unmounting { .. });
        let there: Vec<&Entry> = self.entries.values().filter(is_there).collect();
        let cached = there
            .iter()
            .filter_map(|entry| entry.status.as_ref()?.as_ref().ok())
            .map(|status| status.cache.pack_bytes)
            .fold(0, u64::saturating_add);
        let wishes: Vec<Fixed> = there.iter().map(|entry| entry.fixed).collect();
        let shares = budget::split(self.parts.host.machine(), cached, &wishes);
        let names = there.iter().map(|entry| entry.name.clone());
        names.zip(shares).collect()
    }

    /// Tells every mount its share: all of them after one has come or gone, else those that could not be told before.
    fn balance(&mut self) {
        let changed = std::mem::take(&mut self.balancing);
        let shares = self.shares();
        for entry in self.entries.values_mut() {
            let Some(share) = shares.get(&entry.name) else {
                continue;
            };
            let budget = match &entry.budget {
                Some(known) if known.applied || known.reason.as_deref() == Some(TOO_OLD) => {
                    let same = (known.cache_bytes, known.buffer_bytes)
                        == (share.cache_bytes, share.buffer_bytes);
                    if same || !changed {
                        continue;
                    }
                    *share
                }
                Some(known) if !changed => Budget {
                    cache_bytes: known.cache_bytes,
                    buffer_bytes: known.buffer_bytes,
                },
                _ => *share,
            };
            let Some(asked) =
                asked(entry).filter(|_| matches!(entry.life.phase, Phase::Mounted { .. }))
            else {
                continue;
            };
            entry.budget = Some(MountBudget {
                cache_bytes: budget.cache_bytes,
                buffer_bytes: budget.buffer_bytes,
                applied: false,
                reason: entry.budget.take().and_then(|known| known.reason),
            });
            self.work.set_budget(asked, budget);
        }
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

/// What is said of a mount whose program does not know budgets.
const TOO_OLD: &str = "its version cannot be told while it runs; it keeps what it was mounted with";

pub(super) fn no_such_mount(name: &str) -> ApiError {
    ApiError::NotFound(format!(
        "there is no mount {name:?}; GET /mounts lists those there are"
    ))
}

fn asked(entry: &Entry) -> Option<Asked> {
    let found = entry.life.found()?;
    Some(Asked {
        name: entry.name.clone(),
        pid_mark: found.pid_mark,
        socket: found.socket.clone(),
    })
}

fn row(entry: &Entry, leaving: bool, stopped_boot: Option<String>) -> WantedMount {
    WantedMount {
        name: entry.name.clone(),
        source: entry.order.source.clone(),
        place: entry.place.clone(),
        path: entry.order.path.to_string_lossy().into_owned(),
        options: entry.order.options.clone(),
        leaving,
        stopped_boot,
        created_ms: entry.created_ms,
    }
}

fn shown(entry: &Entry) -> Mount {
    let found = entry.life.found();
    Mount {
        name: entry.name.clone(),
        source: entry.order.source.clone(),
        path: entry.order.path.to_string_lossy().into_owned(),
        state: entry.life.state(),
        managed: entry.life.managed,
        options: entry.order.options.clone(),
        pid: found.map(|found| found.pid),
        started_ms: found.map(|found| found.started_ms),
        restarts: entry.life.restarts,
        error: match &entry.life.phase {
            Phase::Waiting { reason, .. } => Some(reason.clone()),
            _ => None,
        },
        retry_in_ms: None,
        budget: entry.budget.clone(),
    }
}
