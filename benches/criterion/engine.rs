//! What a volume's operations cost without FUSE: the same calls that the adapter makes.
//!
//!     cargo bench -p weldrfs-benches --bench engine

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "the group's macro makes an item without documentation, and whoever runs a bench sees the panic"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weldrfs_fs::{Caller, Engine, Ino, Kind, ROOT_INO, RenameFlags, Source, Volume, VolumeConfig};

const ME: Caller = Caller { uid: 0, gid: 0 };
const BLOCK: usize = 4 << 10;
const ENTRIES: u64 = 1_000;
const SYNC_DEADLINE: Duration = Duration::from_secs(120);

struct Rig {
    volume: Arc<Volume>,
    // Dropped after the volume, in this order.
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// A new volume on a store that is a folder.
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(config(dir.path()), runtime.handle().clone()).unwrap();
        Self {
            volume,
            _runtime: runtime,
            _dir: dir,
        }
    }

    fn engine(&self) -> &Engine {
        self.volume.engine()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.volume.abandon();
    }
}

fn config(dir: &Path) -> VolumeConfig {
    let store = dir.join("store");
    std::fs::create_dir(&store).unwrap();
    VolumeConfig {
        source: Source::Directory(store),
        state_base: dir.join("state"),
        cache_dir: None,
        cache_bytes: 1 << 30,
        frame_cache_bytes: 64 << 20,
        free_floor_ratio: 0.0,
        staging_limit_bytes: None,
        checkpoint_interval: Duration::from_secs(1),
        read_deadline: Duration::from_secs(30),
        read_only: false,
        max_uploads: 5,
        upload_delay: Duration::ZERO,
        trust_store: false,
        store_wait: weldrfs_fs::StoreWait::Never,
        lease: weldrfs_fs::LeaseTerm::Auto,
        claim: weldrfs_fs::Claim::default(),
        trash: Duration::from_secs(7 * 86_400),
        divergent: None,
        at_ms: None,
    }
}

fn name(n: u64) -> Vec<u8> {
    format!("file-{n:08}").into_bytes()
}

fn directory(engine: &Engine, called: &[u8]) -> Ino {
    engine.mkdir(ROOT_INO, called, 0o755, &ME).unwrap().ino
}

fn file(engine: &Engine, parent: Ino, n: u64) -> Ino {
    let made = engine.mknod(parent, &name(n), Kind::File, 0o644, 0, &ME);
    made.unwrap().ino
}

fn mutations(c: &mut Criterion) {
    let rig = Rig::new();
    let engine = rig.engine();
    let data = vec![7; BLOCK];
    let (mut n, mut parent) = (0_u64, ROOT_INO);
    c.bench_function("create_write_4k", |b| {
        b.iter(|| {
            if n.is_multiple_of(ENTRIES) {
                parent = directory(engine, &name(n));
            }
            n += 1;
            let ino = file(engine, parent, n);
            engine.write(ino, 0, &data, false).unwrap()
        });
    });
    let place = directory(engine, b"more");
    let log = file(engine, place, 0);
    let mut at = 0;
    c.bench_function("append_100", |b| {
        b.iter(|| {
            at += engine.write(log, at, &data[..100], false).unwrap() as u64;
        });
    });
    let (mut here, mut there) = (name(0), b"other".to_vec());
    c.bench_function("rename", |b| {
        b.iter(|| {
            let flags = RenameFlags::default();
            engine.rename(place, &here, place, &there, flags).unwrap();
            std::mem::swap(&mut here, &mut there);
        });
    });
    let mut gone = 0;
    c.bench_function("create_unlink", |b| {
        b.iter(|| {
            gone += 1;
            file(engine, place, gone);
            engine.unlink(place, &name(gone)).unwrap();
        });
    });
    c.bench_function("write_4k_fsync", |b| {
        b.iter(|| {
            engine.write(log, 0, &data, false).unwrap();
            engine.fsync(log, false).unwrap();
        });
    });
}

fn reads(c: &mut Criterion) {
    let rig = Rig::new();
    let engine = rig.engine();
    let parent = directory(engine, b"dir");
    let data = vec![7; BLOCK];
    let inos: Vec<Ino> = (0..ENTRIES)
        .map(|n| {
            let ino = file(engine, parent, n);
            engine.write(ino, 0, &data, false).unwrap();
            ino
        })
        .collect();
    let mut n = 0;
    let mut next = move || {
        n = (n + 1) % ENTRIES;
        n
    };
    c.bench_function("lookup", |b| {
        b.iter(|| engine.lookup(parent, &name(next())).unwrap());
    });
    c.bench_function("getattr", |b| {
        b.iter(|| engine.getattr(inos[next() as usize]).unwrap());
    });
    let mut group = c.benchmark_group("readdir");
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("all", |b| {
        b.iter(|| engine.readdir(parent, 0, ENTRIES as usize).unwrap());
    });
    group.finish();
    let mut group = c.benchmark_group("read_4k");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    group.bench_function("from_segment", |b| {
        b.iter(|| engine.read(inos[next() as usize], 0, BLOCK).unwrap());
    });
    rig.volume.sync(SYNC_DEADLINE).unwrap();
    group.bench_function("from_pack", |b| {
        b.iter(|| engine.read(inos[next() as usize], 0, BLOCK).unwrap());
    });
    group.sample_size(10);
    group.bench_function("from_store", |b| {
        b.iter_batched(
            || rig.volume.drop_caches(),
            |_| engine.read(inos[0], 0, BLOCK).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
}

criterion_group! {
    name = benches;
    config = settings();
    targets = mutations, reads
}
criterion_main!(benches);
