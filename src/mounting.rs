//! The one place that names the engine's crate: turns a plan into an open volume and a live mount, and the engine's
//! figures into the API's.

mod branches;
mod snapshots;
mod trash;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use weldrfs_control::{
    Behind, BudgetReport, BudgetRequest, CacheStatus, DropReport, GcAmount, GcReport, LastError,
    LsnStatus, StoreStatus, SyncReport, TrashStatus, VerbStatus, VolumeIdentity, VolumeStatus,
};

use crate::bucket::{BucketAccess, Keys};
use crate::commands::fsck::{Checked, Found};
use crate::commands::restore::Point;
use crate::commands::volumes::Listed;
use crate::failure::Failure;
use crate::options::{Access, Addressing, MountOptions, Readdirplus};
use crate::preflight::Plan;
use crate::source::{Place, Source};

/// Threads that answer the kernel unless `threads` says otherwise: one per processor, within these bounds. Two at
/// least, so that a wait for the store or the disk does not stop everything else.
const THREADS_AUTO: std::ops::RangeInclusive<usize> = 2..=8;

/// A volume whose local state this process owns.
#[derive(Clone)]
pub(crate) struct OpenVolume(Arc<weldrfs_fs::Volume>);

impl OpenVolume {
    /// Opens a volume, and creates it on first use. May replay a journal, so it may take seconds.
    pub(crate) fn open(
        source: &Source,
        access: Option<&BucketAccess>,
        options: &MountOptions,
        state_base: &Path,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, Failure> {
        let config = volume_config(source, access, options, state_base)?;
        let clock: Arc<dyn weldrfs_fs::Clock> = match options.kernel_writeback {
            // The kernel then stamps writes itself.
            true => Arc::new(
                weldrfs_fs::KernelClock::new()
                    .map_err(|error| Failure::system("cannot make a file in memory", &error))?,
            ),
            false => Arc::new(weldrfs_fs::SystemClock),
        };
        let volume = weldrfs_fs::Volume::open_with(config, runtime, clock).map_err(|error| {
            Failure::Mount(format!("cannot open the volume {}: {error}", source.text))
        })?;
        volume.care_for_snapshots(weldrfs_fs::SnapshotCare {
            interval: options.snapshot_interval,
            most: options.snapshot_most,
        });
        Ok(Self(volume))
    }

    pub(crate) fn id(&self) -> String {
        self.0.id()
    }

    pub(crate) fn state_dir(&self) -> &Path {
        self.0.state_dir()
    }

    /// The engine's part of the status; what belongs to the process and the mount is left at its default.
    pub(crate) fn status(&self) -> VolumeStatus {
        let status = self.0.status();
        VolumeStatus {
            volume: VolumeIdentity {
                id: self.id(),
                state_dir: self.state_dir().to_string_lossy().into_owned(),
                format_version: status.format_version,
                created_ms: status.created_ms,
                ..VolumeIdentity::default()
            },
            lsn: LsnStatus {
                acknowledged: status.acknowledged_lsn,
                durable: status.durable_lsn,
                checkpointed: status.checkpointed_lsn,
                in_store: status.in_store_lsn,
            },
            behind: Behind {
                records: status.behind_records,
                bytes: status.behind_bytes,
                since_ms: status.behind_since_ms,
            },
            staged_bytes: status.staged_bytes,
            staging_limit_bytes: status.staging_limit_bytes,
            journal_bytes: status.journal_bytes,
            dirty_metadata_bytes: status.dirty_metadata_bytes,
            cache: CacheStatus {
                frame_bytes: status.frame_bytes,
                frame_budget_bytes: status.frame_budget_bytes,
                frame_hits: status.frame_hits,
                frame_misses: status.frame_misses,
                pack_bytes: status.pack_bytes,
                pack_budget_bytes: status.pack_budget_bytes,
                pack_hits: status.pack_hits,
                pack_misses: status.pack_misses,
            },
            store: StoreStatus {
                put: verb(&status.store.put),
                get: verb(&status.store.get),
                head: verb(&status.store.head),
                list: verb(&status.store.list),
                delete: verb(&status.store.delete),
            },
            read_only: status.read_only,
            last_error: status.last_error.map(|error| LastError {
                at_ms: error.at_ms,
                message: error.message,
            }),
            inodes: status.inodes,
            used_bytes: status.used_bytes,
            trash: TrashStatus {
                inodes: status.trash_inodes,
                bytes: status.trash_bytes,
                keep_ms: status.trash_keep_ms,
            },
            kept_awake_ms: status.kept_awake_ms,
            epoch: status.epoch,
            lease_left_ms: status.lease_left_ms,
            ..VolumeStatus::default()
        }
    }

    /// Waits until everything acknowledged so far is in the store. The message says what is left when it does not get
    /// there before `deadline`.
    pub(crate) fn sync(&self, deadline: Duration) -> Result<SyncReport, String> {
        let report = self.0.sync(deadline).map_err(|error| error.to_string())?;
        Ok(SyncReport {
            in_store_lsn: report.in_store_lsn,
            waited_ms: report.waited_ms,
        })
    }

    /// Empties the caches of file content.
    pub(crate) fn drop_caches(&self) -> DropReport {
        DropReport {
            freed_bytes: self.0.drop_caches(),
            kept_bytes: self.0.status().staged_bytes,
        }
    }

    /// Collects garbage. The message says why it stopped.
    pub(crate) fn gc(&self, dry_run: bool) -> Result<GcReport, String> {
        let report = self.0.gc(dry_run).map_err(|error| error.to_string())?;
        let amount = |amount: weldrfs_fs::Amount| GcAmount {
            objects: amount.objects,
            bytes: amount.bytes,
        };
        Ok(GcReport {
            used: amount(report.used),
            marked: amount(report.marked),
            waiting: amount(report.waiting),
            deleted: amount(report.deleted),
            rewritten: amount(report.rewritten),
            unnamed: amount(report.unnamed),
        })
    }

    /// Changes how much the caches of file content may hold, and says what holds now.
    pub(crate) fn set_budget(&self, budget: BudgetRequest) -> BudgetReport {
        self.0
            .set_budget(budget.cache_bytes, budget.frame_cache_bytes);
        let status = self.0.status();
        BudgetReport {
            cache_bytes: status.pack_budget_bytes,
            frame_cache_bytes: status.frame_budget_bytes,
        }
    }

    /// Flushes everything locally and ends the volume's threads.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        self.0
            .close()
            .map_err(|error| Failure::system("the volume did not close cleanly", &error))
    }
}

/// What the engine opens a volume with.
fn volume_config(
    source: &Source,
    access: Option<&BucketAccess>,
    options: &MountOptions,
    state_base: &Path,
) -> Result<weldrfs_fs::VolumeConfig, Failure> {
    Ok(weldrfs_fs::VolumeConfig {
        source: engine_source(source, access)?,
        state_base: state_base.to_owned(),
        cache_dir: options.cache_dir.clone(),
        cache_bytes: options.cache_bytes,
        frame_cache_bytes: options.frame_cache_bytes,
        free_floor_ratio: options.free_space_ratio,
        staging_limit_bytes: options.staging_limit_bytes,
        checkpoint_interval: options.checkpoint_interval,
        read_deadline: options.read_deadline,
        read_only: options.read_only,
        max_uploads: options.max_uploads,
        upload_delay: options.upload_delay,
        trust_store: !options.conditional_writes,
        store_wait: match (options.writeback, options.fsync_remote) {
            (false, _) => weldrfs_fs::StoreWait::FsyncAndClose,
            (true, true) => weldrfs_fs::StoreWait::Fsync,
            (true, false) => weldrfs_fs::StoreWait::Never,
        },
        lease: match options.lease_ends {
            true => weldrfs_fs::LeaseTerm::Auto,
            false => weldrfs_fs::LeaseTerm::Manual,
        },
        claim: weldrfs_fs::Claim {
            take_over: options.take_over,
            set_aside: options.keep_diverged,
        },
        trash: options.trash,
        divergent: options.divergent.clone(),
        at_ms: options.at_ms,
    })
}

/// A store, as the engine wants it.
fn engine_source(
    source: &Source,
    access: Option<&BucketAccess>,
) -> Result<weldrfs_fs::Source, Failure> {
    match (&source.place, access) {
        (Place::Directory(dir), _) => Ok(weldrfs_fs::Source::Directory(dir.clone())),
        (Place::Bucket { .. }, Some(access)) => Ok(weldrfs_fs::Source::S3(s3_settings(access))),
        (Place::Bucket { .. }, None) => Err(Failure::System(
            "the way to the bucket was not looked up; this is a fault of weldrfs".into(),
        )),
    }
}

/// The volumes at a place and below it.
pub(crate) fn find_volumes(
    source: &Source,
    access: Option<&BucketAccess>,
    runtime: &Runtime,
) -> Result<Vec<Listed>, Failure> {
    let engine = engine_source(source, access)?;
    let found = weldrfs_fs::find_volumes(&engine, runtime.handle())
        .map_err(|error| Failure::system("cannot list the volumes", &error))?;
    let listed = |volume: weldrfs_fs::VolumeFound| Listed {
        source: match volume.below.trim_end_matches('/') {
            "" => source.text.clone(),
            below => format!("{}/{below}", source.text.trim_end_matches('/')),
        },
        id: volume.id,
        created_ms: volume.created_ms,
        objects: volume.objects,
        bytes: volume.bytes,
    };
    Ok(found.into_iter().map(listed).collect())
}

/// Fails unless there is a volume.
pub(crate) fn check_volume(
    source: &Source,
    access: Option<&BucketAccess>,
    runtime: &Runtime,
) -> Result<(), Failure> {
    let engine = engine_source(source, access)?;
    weldrfs_fs::restore_points(&engine, runtime.handle())
        .map(drop)
        .map_err(|error| Failure::system("cannot use the volume", &error))
}

/// The states that a volume can go back to, oldest first.
pub(crate) fn restore_points(
    source: &Source,
    access: Option<&BucketAccess>,
    runtime: &Runtime,
) -> Result<Vec<Point>, Failure> {
    let engine = engine_source(source, access)?;
    let points = weldrfs_fs::restore_points(&engine, runtime.handle())
        .map_err(|error| Failure::system("cannot list the restore points", &error))?;
    Ok(points.into_iter().map(shown).collect())
}

/// Makes a former state of a volume its newest one, and says which it was.
pub(crate) fn restore_to(
    source: &Source,
    access: Option<&BucketAccess>,
    at_ms: u64,
    take_over: bool,
    runtime: &Runtime,
) -> Result<Point, Failure> {
    let engine = engine_source(source, access)?;
    let scratch = std::env::temp_dir();
    weldrfs_fs::restore_to(&engine, at_ms, take_over, &scratch, runtime.handle())
        .map(shown)
        .map_err(|error| Failure::system("cannot restore the volume", &error))
}

/// Whether the local state of a volume is whole.
pub(crate) fn fsck_local(
    source: &Source,
    access: Option<&BucketAccess>,
    options: &MountOptions,
    state_base: &Path,
    deep: bool,
    runtime: &Runtime,
) -> Result<Checked, Failure> {
    let config = volume_config(source, access, options, state_base)?;
    weldrfs_fs::fsck_local(&config, deep, runtime.handle())
        .map(checked)
        .map_err(|error| Failure::system("cannot check the local state", &error))
}

/// Whether a volume in a store is whole.
pub(crate) fn fsck(
    source: &Source,
    access: Option<&BucketAccess>,
    deep: bool,
    runtime: &Runtime,
) -> Result<Checked, Failure> {
    let engine = engine_source(source, access)?;
    weldrfs_fs::fsck(&engine, deep, &std::env::temp_dir(), runtime.handle())
        .map(checked)
        .map_err(|error| Failure::system("cannot check the volume", &error))
}

fn checked(report: weldrfs_fs::FsckReport) -> Checked {
    Checked {
        inodes: report.inodes,
        extents: report.extents,
        packs: report.packs,
        restore_points: report.points,
        read_bytes: report.read_bytes,
        unnamed_objects: report.unnamed,
        findings: report
            .findings
            .into_iter()
            .map(|found| Found {
                invariant: found.invariant,
                detail: found.detail,
            })
            .collect(),
    }
}

fn shown(point: weldrfs_fs::RestorePoint) -> Point {
    Point {
        at_ms: point.at_ms,
        lsn: point.lsn,
        newest: point.newest,
    }
}

/// Destroys the volume at a place, and says what that was.
pub(crate) fn destroy_volume(
    source: &Source,
    access: Option<&BucketAccess>,
    id: &str,
    runtime: &Runtime,
) -> Result<String, Failure> {
    let engine = engine_source(source, access)?;
    let done = weldrfs_fs::destroy_volume(&engine, id, runtime.handle()).map_err(|error| {
        let text = format!("cannot destroy the volume: {error}");
        match error {
            weldrfs_fs::OpenError::Store(_) => Failure::System(text),
            _ => Failure::Invocation(text),
        }
    })?;
    let left = match done.left {
        0 => String::new(),
        left => format!("; {left} objects that are no part of it were left"),
    };
    Ok(format!(
        "destroyed {id}: {} objects, {}{left}\n",
        done.objects,
        crate::report::bytes(done.bytes)
    ))
}

fn s3_settings(access: &BucketAccess) -> weldrfs_fs::S3Settings {
    let credentials = match access.keys.clone() {
        Keys::Given {
            access_key_id,
            secret_access_key,
            session_token,
        } => weldrfs_fs::S3Credentials::Keys {
            access_key_id,
            secret_access_key,
            session_token,
        },
        Keys::File(path) => weldrfs_fs::S3Credentials::File(path),
        Keys::Profile(name) => weldrfs_fs::S3Credentials::Profile(name),
        Keys::Chain => weldrfs_fs::S3Credentials::Chain,
    };
    weldrfs_fs::S3Settings {
        prefix: access.prefix.clone(),
        region: access.region.clone(),
        addressing: match access.addressing {
            Addressing::Auto => weldrfs_fs::Addressing::Auto,
            Addressing::Path => weldrfs_fs::Addressing::Path,
            Addressing::VirtualHost => weldrfs_fs::Addressing::VirtualHost,
        },
        ..weldrfs_fs::S3Settings::new(&access.bucket, &access.endpoint, credentials)
    }
}

fn verb(counts: &weldrfs_fs::VerbCounts) -> VerbStatus {
    VerbStatus {
        requests: counts.requests,
        bytes: counts.bytes,
        errors: counts.errors,
    }
}

/// A mount that the kernel knows.
pub(crate) struct LiveMount(weldrfs_fs::FuseMount);

/// Takes a live mount away, from any thread.
#[derive(Clone)]
pub(crate) struct Unmounter(weldrfs_fs::Unmounter);

impl LiveMount {
    /// Mounts `volume` as `plan` asks.
    pub(crate) fn mount(volume: &OpenVolume, plan: &Plan) -> Result<Self, Failure> {
        let mount = weldrfs_fs::FuseMount::mount(Arc::clone(&volume.0), settings(plan));
        let shown = plan.mountpoint.display();
        Ok(Self(mount.map_err(|error| {
            Failure::Mount(format!("cannot mount on {shown}: {error}"))
        })?))
    }

    pub(crate) fn unmounter(&self) -> Unmounter {
        Unmounter(self.0.unmounter())
    }

    /// Returns when the mount was taken away, by whomever.
    pub(crate) fn wait(self) -> Result<(), String> {
        self.0.wait().map_err(|error| error.to_string())
    }
}

impl Unmounter {
    /// Takes the mount away; a `lazy` one stays usable for files that are open.
    pub(crate) fn unmount(&self, lazy: bool) -> io::Result<()> {
        self.0.unmount(lazy).map_err(io::Error::other)
    }
}

fn settings(plan: &Plan) -> weldrfs_fs::FuseSettings {
    let options: &MountOptions = &plan.options;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    weldrfs_fs::FuseSettings {
        mountpoint: plan.mountpoint.clone(),
        source_name: options
            .fsname
            .clone()
            .unwrap_or_else(|| plan.source.text.clone()),
        allow_other: options.access == Access::Everybody,
        allow_root: options.access == Access::Root,
        read_only: options.read_only,
        kernel_options: options.kernel.iter().map(|&name| name.to_owned()).collect(),
        attr_timeout: options.attr_timeout,
        entry_timeout: options.entry_timeout,
        negative_timeout: options.negative_timeout,
        threads: options
            .threads
            .unwrap_or(processors.clamp(*THREADS_AUTO.start(), *THREADS_AUTO.end())),
        no_open: options.no_open,
        no_opendir: options.no_opendir,
        readdirplus: match options.readdirplus {
            Readdirplus::Auto => weldrfs_fs::Readdirplus::Auto,
            Readdirplus::On => weldrfs_fs::Readdirplus::On,
            Readdirplus::Off => weldrfs_fs::Readdirplus::Off,
        },
        kernel_writeback: options.kernel_writeback,
        max_write: options.max_write,
        max_readahead: options.max_readahead,
        low_latency: options.low_latency,
        show_snapshots: options.show_snapshots,
    }
}
