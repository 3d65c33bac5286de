//! What bytes cost without names: appends, packing, reading from memory, from the local disk and from a store, and the
//! frame cache while somebody scans.
//!
//!     cargo bench -p weldrfs-benches --bench blockstore

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "the group's macro makes an item without documentation, and whoever runs a bench sees the panic"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use weldrfs_blockstore::{
    BuiltPack, FRAME_BYTES, MemoryStore, ObjectStore, PACK_BYTES, PackBuilder, PackId,
    PackSettings, Packs, PacksConfig, SegmentSettings, SegmentStore,
};

const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;
/// Segments are thrown away, off the clock, when so much was appended.
const STAGED_BYTES: u64 = 256 << 20;
/// Frames that somebody reads again and again.
const HOT_FRAMES: u64 = 16;
/// A frame cache that holds them and a little more.
const SMALL_CACHE: u64 = 64 * FRAME_BYTES as u64;
const SCANNED_PACKS: u64 = 2;

/// Text that compresses about as source code does.
fn text(rng: &mut SmallRng, len: usize) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "const ", "return ", "import ", "value", "(", ") => ", "{\n", "}\n", "index", " = ",
        "await ", ";\n",
    ];
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        match rng.random_range(0..4) {
            0 => out.extend(format!("name{} ", rng.random_range(0..10_000)).bytes()),
            _ => out.extend(WORDS[rng.random_range(0..WORDS.len())].bytes()),
        }
    }
    out.truncate(len);
    out
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for (called, len) in [("4k", SMALL), ("1m", LARGE)] {
        let dir = tempfile::tempdir().unwrap();
        let store = SegmentStore::open(dir.path(), SegmentSettings::default(), 0, 1).unwrap();
        let data = text(&mut SmallRng::seed_from_u64(1), len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(called, |b| {
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    let began = Instant::now();
                    drop(black_box(store.append(&data).unwrap()));
                    spent += began.elapsed();
                    if store.staged_bytes() > STAGED_BYTES {
                        store.seal_active();
                        for segment in store.sealed() {
                            store.release(segment.id).unwrap();
                        }
                    }
                }
                spent
            });
        });
    }
    group.finish();
}

fn built(rng: &mut SmallRng) -> BuiltPack {
    let mut builder = PackBuilder::new(PackId::random(rng), &PackSettings::default());
    let mut extent = 0;
    while builder.has_room(SMALL as u64) {
        builder.push(extent, &text(rng, SMALL));
        extent += 1;
    }
    builder.finish()
}

fn pack(c: &mut Criterion) {
    let mut rng = SmallRng::seed_from_u64(2);
    let files: Vec<Vec<u8>> = (0..PACK_BYTES / SMALL as u64)
        .map(|_| text(&mut rng, SMALL))
        .collect();
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Bytes(PACK_BYTES));
    group.sample_size(10);
    group.bench_function("16m_of_4k", |b| {
        b.iter(|| {
            let mut builder = PackBuilder::new(PackId([1; 16]), &PackSettings::default());
            for (extent, file) in (0..).zip(&files) {
                builder.push(extent, file);
            }
            builder.finish()
        });
    });
    group.finish();
}

struct Rig {
    packs: Packs,
    ids: Vec<PackId>,
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

/// Packs that are in a store, which is memory.
fn rig(count: u64, frame_cache_bytes: u64) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = PacksConfig {
        free_floor_ratio: 0.0,
        frame_cache_bytes,
        ..PacksConfig::new(dir.path())
    };
    let store = Arc::new(MemoryStore::new()) as Arc<dyn ObjectStore>;
    let packs = Packs::open(config, store, runtime.handle().clone(), vec![]).unwrap();
    let mut rng = SmallRng::seed_from_u64(3);
    let ids = (0..count)
        .map(|_| {
            let pack = built(&mut rng);
            runtime.block_on(packs.upload_built(&pack)).unwrap();
            pack.id
        })
        .collect();
    Rig {
        packs,
        ids,
        _runtime: runtime,
        _dir: dir,
    }
}

fn read(c: &mut Criterion) {
    let rig = rig(1, 64 << 20);
    let (packs, id) = (&rig.packs, rig.ids[0]);
    let mut group = c.benchmark_group("read_4k");
    let mut at = 0;
    group.bench_function("warm", |b| {
        b.iter(|| {
            at = (at + SMALL as u64 * 7) % PACK_BYTES;
            packs.read(id, at, SMALL).unwrap()
        });
    });
    group.sample_size(10);
    group.bench_function("from_the_store", |b| {
        b.iter_batched(
            || packs.evict_all(),
            |_| packs.read(id, 0, SMALL).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One step of a scan and a read of something hot: fast as long as the scan does not push the hot frames out.
fn scan(c: &mut Criterion) {
    let rig = rig(SCANNED_PACKS, SMALL_CACHE);
    let frames = PACK_BYTES / FRAME_BYTES as u64;
    let (mut step, mut hot) = (0, 0);
    let mut group = c.benchmark_group("under_scan");
    group.bench_function("hot_read", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                // The scan goes through all but the hot frames, off the clock.
                step = (step + 1) % (frames * SCANNED_PACKS - HOT_FRAMES);
                let frame = step + HOT_FRAMES;
                let pack = rig.ids[(frame / frames) as usize];
                let offset = frame % frames * FRAME_BYTES as u64;
                black_box(rig.packs.read(pack, offset, SMALL).unwrap());
                hot = (hot + 1) % HOT_FRAMES;
                let began = Instant::now();
                let offset = hot * FRAME_BYTES as u64;
                black_box(rig.packs.read(rig.ids[0], offset, SMALL).unwrap());
                spent += began.elapsed();
            }
            spent
        });
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
    targets = append, pack, read, scan
}
criterion_main!(benches);
