//! What there is in the moment in which it is asked for: mounts, by what they said last, previews, branches and runs.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::work::RunInState;
use crate::sidecar::mounts::View;
use crate::sidecar::previews::Preview;
use crate::sidecar::store::BranchRow;
use crate::sidecar::types::MountState;
use crate::sidecar::workflows::RunState;
use crate::volume::VolumeStatus;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfMount {
    mount: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    mount: String,
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfVerb {
    mount: String,
    verb: &'static str,
}

/// The states that runs which are not over have.
const LIVE_STATES: [RunState; 3] = [RunState::Queued, RunState::Running, RunState::Waiting];

/// The runs that are not over.
pub(super) fn of_workflows(runs: &[(RunState, u64)]) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let of = Family::<RunInState, Gauge>::default();
    for state in LIVE_STATES {
        let count = runs.iter().find(|(one, _)| *one == state);
        let count = count.map_or(0, |(_, count)| *count);
        let state = state.name();
        of.get_or_create(&RunInState { state })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "workflow_runs",
        "Runs of workflows that are not over, by state",
        of,
    );
    registry
}

/// One figure of a volume's status.
type Figure = (&'static str, &'static str, fn(&VolumeStatus) -> u64);

const FIGURES: [Figure; 19] = [
    (
        "memory_resident_bytes",
        "Resident memory of the mount process",
        |s| s.memory_resident_bytes,
    ),
    (
        "behind_records",
        "Acknowledged operations that the store does not have",
        |s| s.behind.records,
    ),
    (
        "behind_bytes",
        "Bytes of content that the store does not have",
        |s| s.behind.bytes,
    ),
    ("behind_milliseconds", "Age of the oldest of them", |s| {
        s.behind.since_ms
    }),
    ("staged_bytes", "Bytes in local segments", |s| {
        s.staged_bytes
    }),
    (
        "staging_limit_bytes",
        "Where writers are made to wait",
        |s| s.staging_limit_bytes,
    ),
    ("journal_bytes", "Bytes of the local journal", |s| {
        s.journal_bytes
    }),
    (
        "pack_cache_bytes",
        "Bytes of packs on the local disk",
        |s| s.cache.pack_bytes,
    ),
    (
        "pack_cache_budget_bytes",
        "Most bytes of packs on the local disk",
        |s| s.cache.pack_budget_bytes,
    ),
    ("pack_cache_hits", "Frames decoded from a local pack", |s| {
        s.cache.pack_hits
    }),
    ("pack_cache_misses", "Packs fetched from the store", |s| {
        s.cache.pack_misses
    }),
    (
        "frame_cache_bytes",
        "Bytes of decoded content in memory",
        |s| s.cache.frame_bytes,
    ),
    ("frame_cache_hits", "Reads answered from memory", |s| {
        s.cache.frame_hits
    }),
    ("frame_cache_misses", "Reads that had to decode", |s| {
        s.cache.frame_misses
    }),
    ("inodes", "Inodes in use", |s| s.inodes),
    ("used_bytes", "Bytes of content in use", |s| s.used_bytes),
    ("trash_inodes", "Inodes that are only in the trash", |s| {
        s.trash.inodes
    }),
    ("trash_bytes", "Bytes of content in the trash", |s| {
        s.trash.bytes
    }),
    ("read_only", "1 when the volume takes no writes", |s| {
        u64::from(s.read_only.is_some())
    }),
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPreview {
    mount: String,
    path: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PreviewInState {
    mount: String,
    path: String,
    state: String,
}

/// One figure of a preview.
type PreviewFigure = (&'static str, &'static str, fn(&Preview) -> Option<u64>);

const PREVIEW_FIGURES: [PreviewFigure; 5] = [
    (
        "preview_restarts",
        "Started again after the app had ended by itself",
        |p| Some(u64::from(p.restarts)),
    ),
    ("preview_memory_bytes", "Memory of a preview", |p| {
        p.usage.map(|used| used.memory_bytes)
    }),
    (
        "preview_cpu_milliseconds",
        "Processor time of a preview since it was started",
        |p| p.usage.map(|used| used.cpu_ms),
    ),
    (
        "preview_processes",
        "Processes and threads of a preview",
        |p| p.usage.map(|used| used.processes),
    ),
    (
        "preview_connections",
        "Open connections to the port of a preview",
        |p| p.usage.map(|used| used.connections),
    ),
];

/// The figures of the previews that live, and the state of those that failed.
pub(super) fn of_previews(previews: &[Preview]) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let states = Family::<PreviewInState, Gauge>::default();
    for preview in previews {
        let labels = PreviewInState {
            mount: preview.mount.clone(),
            path: preview.path.clone(),
            state: preview.state.to_string(),
        };
        states.get_or_create(&labels).set(1);
    }
    registry.register(
        "preview_state",
        "1 for the state that a preview is in",
        states,
    );
    for (name, help, figure) in PREVIEW_FIGURES {
        let of = Family::<OfPreview, Gauge>::default();
        for preview in previews.iter().filter(|preview| !preview.state.is_over()) {
            if let Some(value) = figure(preview) {
                let labels = OfPreview {
                    mount: preview.mount.clone(),
                    path: preview.path.clone(),
                };
                of.get_or_create(&labels)
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        registry.register(name, help, of);
    }
    registry
}

/// The branches of each mount, as they are written down: nothing is asked of the mounts.
pub(super) fn of_branches(views: &[View], rows: &[BranchRow]) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let (all, dropped) = (
        Family::<OfMount, Gauge>::default(),
        Family::<OfMount, Gauge>::default(),
    );
    for view in views {
        let mount = &view.mount.name;
        let of_mount = || rows.iter().filter(|row| row.mount == *mount);
        let count = |rows: usize| i64::try_from(rows).unwrap_or(i64::MAX);
        let labels = OfMount {
            mount: mount.clone(),
        };
        all.get_or_create(&labels).set(count(of_mount().count()));
        let gone = of_mount().filter(|row| row.dropped_ms.is_some()).count();
        dropped.get_or_create(&labels).set(count(gone));
    }
    registry.register("branches", "Branches of a mount", all);
    registry.register(
        "branches_dropped",
        "Branches that gave their local copies back for want of space",
        dropped,
    );
    registry
}

/// The figures of all mounts, as they were last seen.
pub(super) fn of_mounts(views: &[View], mounts_max: usize) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let limit = Gauge::<i64>::default();
    limit.set(i64::try_from(mounts_max).unwrap_or(i64::MAX));
    registry.register("mounts_limit", "As many mounts as there may be", limit);
    let states = Family::<InState, Gauge>::default();
    let restarts = Family::<OfMount, Gauge>::default();
    for view in views {
        let mount = view.mount.name.clone();
        let state = view.mount.state.to_string();
        states
            .get_or_create(&InState {
                mount: mount.clone(),
                state,
            })
            .set(1);
        restarts
            .get_or_create(&OfMount { mount })
            .set(i64::from(view.mount.restarts));
    }
    registry.register("mount_state", "1 for the state that a mount is in", states);
    registry.register(
        "mount_restarts",
        "Mounted again after its process died",
        restarts,
    );
    let statuses: Vec<(String, &VolumeStatus)> = views
        .iter()
        .filter(|view| view.mount.state == MountState::Mounted)
        .filter_map(|view| {
            Some((
                view.mount.name.clone(),
                view.status.as_ref()?.as_ref().ok()?,
            ))
        })
        .collect();
    for (name, help, figure) in FIGURES {
        let of = Family::<OfMount, Gauge>::default();
        for (mount, status) in &statuses {
            let labels = OfMount {
                mount: mount.clone(),
            };
            of.get_or_create(&labels)
                .set(i64::try_from(figure(status)).unwrap_or(i64::MAX));
        }
        registry.register(format!("mount_{name}"), help, of);
    }
    registry.register(
        "mount_store_requests",
        "Requests to the object store",
        by_verb(&statuses, |v| v.requests),
    );
    registry.register(
        "mount_store_errors",
        "Requests to the object store that failed",
        by_verb(&statuses, |v| v.errors),
    );
    registry
}

fn by_verb(
    statuses: &[(String, &VolumeStatus)],
    count: fn(&crate::volume::VerbStatus) -> u64,
) -> Family<OfVerb, Gauge> {
    let of = Family::<OfVerb, Gauge>::default();
    for (mount, status) in statuses {
        let store = &status.store;
        for (verb, counts) in [
            ("put", &store.put),
            ("get", &store.get),
            ("head", &store.head),
            ("list", &store.list),
            ("delete", &store.delete),
        ] {
            let labels = OfVerb {
                mount: mount.clone(),
                verb,
            };
            of.get_or_create(&labels)
                .set(i64::try_from(count(counts)).unwrap_or(i64::MAX));
        }
    }
    of
}
