//! What the namespace costs without bytes and without FUSE: lookups, mutations, listing, checkpoint, replay.
//!
//!     cargo bench -p weldrfs-benches --bench meta

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "the group's macro makes an item without documentation, and whoever runs a bench sees the panic"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weldrfs_meta::{
    Cookie, DataBarrier, Ino, Location, MetaSettings, Namespace, NewNode, ROOT_INO, RenameFlags,
};

const FILE: NewNode<'static> = NewNode {
    mode: 0o100_644,
    uid: 0,
    gid: 0,
    rdev: 0,
    target: None,
};
const DIRECTORY: NewNode<'static> = NewNode {
    mode: 0o040_755,
    ..FILE
};
const ENTRIES: u64 = 1_000;
/// Records that a checkpoint or a replay takes.
const RECORDS: u64 = 5_000;
const NEVER: Duration = Duration::from_secs(3_600);

/// There are no bytes to flush.
struct NoBytes;

impl DataBarrier for NoBytes {
    fn is_flushed(&self) -> bool {
        false
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn verify(&self, _: &Location, _: u64) -> bool {
        true
    }
}

fn open(dir: &Path, change: impl FnOnce(&mut MetaSettings)) -> Arc<Namespace> {
    let mut settings = MetaSettings {
        dir: dir.to_owned(),
        ..MetaSettings::default()
    };
    change(&mut settings);
    Namespace::open(settings, Arc::new(NoBytes), (0, 0), 1).unwrap()
}

/// A checkpoint happens only when it is asked for.
fn by_hand(settings: &mut MetaSettings) {
    settings.checkpoint_interval = NEVER;
    settings.checkpoint_records = usize::MAX;
}

fn name(n: u64) -> Vec<u8> {
    format!("file-{n:08}").into_bytes()
}

fn fill(namespace: &Namespace, parent: Ino, files: u64) {
    for n in 0..files {
        namespace.create(parent, &name(n), &FILE, 1).unwrap();
    }
}

fn directory(namespace: &Namespace, called: &[u8]) -> Ino {
    namespace
        .create(ROOT_INO, called, &DIRECTORY, 1)
        .unwrap()
        .ino
}

fn reading(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let namespace = open(dir.path(), |_| ());
    let parent = directory(&namespace, b"dir");
    fill(&namespace, parent, ENTRIES);
    let mut n = 0;
    c.bench_function("lookup", |b| {
        b.iter(|| {
            n = (n + 1) % ENTRIES;
            namespace.lookup(parent, &name(n)).unwrap()
        });
    });
    c.bench_function("lookup_missing", |b| {
        b.iter(|| namespace.lookup(parent, b"nothing").is_err());
    });
    let mut group = c.benchmark_group("readdir");
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("warm", |b| {
        b.iter(|| {
            namespace
                .readdir(parent, Cookie(0), ENTRIES as usize)
                .unwrap()
        });
    });
    namespace.checkpoint(namespace.acknowledged()).unwrap();
    group.bench_function("from_sqlite", |b| {
        b.iter_batched(
            || namespace.drop_caches(),
            |()| {
                namespace
                    .readdir(parent, Cookie(0), ENTRIES as usize)
                    .unwrap()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    namespace.close().unwrap();
}

fn mutating(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let namespace = open(dir.path(), |_| ());
    let mut n = 0_u64;
    let mut parent = ROOT_INO;
    c.bench_function("create", |b| {
        b.iter(|| {
            // As trees are: no directory grows without end.
            if n.is_multiple_of(ENTRIES) {
                parent = directory(&namespace, &name(n));
            }
            n += 1;
            namespace.create(parent, &name(n), &FILE, 1).unwrap()
        });
    });
    let parent = directory(&namespace, b"renames");
    fill(&namespace, parent, 1);
    let (mut here, mut there) = (name(0), b"other".to_vec());
    c.bench_function("rename", |b| {
        b.iter(|| {
            let flags = RenameFlags::default();
            namespace
                .rename(parent, &here, parent, &there, flags, 1)
                .unwrap();
            std::mem::swap(&mut here, &mut there);
        });
    });
    namespace.close().unwrap();
}

fn background(c: &mut Criterion) {
    let mut group = c.benchmark_group("records");
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(10);
    let dir = tempfile::tempdir().unwrap();
    let namespace = open(dir.path(), by_hand);
    let mut made = 0;
    group.bench_function("checkpoint", |b| {
        b.iter_batched(
            || {
                made += 1;
                let parent = directory(&namespace, &name(made));
                fill(&namespace, parent, RECORDS - 1);
            },
            |()| namespace.checkpoint(namespace.acknowledged()).unwrap(),
            BatchSize::PerIteration,
        );
    });
    namespace.close().unwrap();

    let crashed = tempfile::tempdir().unwrap();
    let namespace = open(crashed.path(), by_hand);
    fill(&namespace, ROOT_INO, RECORDS);
    namespace.abandon();
    drop(namespace);
    group.bench_function("replay", |b| {
        b.iter_batched(
            || copy_of(crashed.path()),
            |dir| {
                let namespace = open(dir.path(), by_hand);
                assert!(namespace.acknowledged().0 >= RECORDS);
                namespace.abandon();
                dir
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
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
    targets = reading, mutating, background
}
criterion_main!(benches);
