//! What removing a tree costs with a trash and without one: the operations alone, and with the checkpoint behind them. And
//! what ending it later costs.
//!
//!     cargo bench -p weldrfs-benches --bench trash

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
    DataBarrier, Ino, Location, MetaSettings, Namespace, NewNode, PurgeLimits, ROOT_INO, WriteAt,
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
/// Files of the tree, each with content.
const FILES: u64 = 2_000;
const NEVER: Duration = Duration::from_secs(3_600);

/// There are no bytes to flush.
struct NoBytes;

impl DataBarrier for NoBytes {
    fn is_flushed(&self) -> bool {
        true
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn verify(&self, _: &Location, _: u64) -> bool {
        true
    }
}

/// A checkpoint happens only when it is asked for.
fn open(dir: &Path, trash: bool) -> Arc<Namespace> {
    let settings = MetaSettings {
        dir: dir.to_owned(),
        checkpoint_interval: NEVER,
        checkpoint_records: usize::MAX,
        trash,
        ..MetaSettings::default()
    };
    Namespace::open(settings, Arc::new(NoBytes), (0, 0), 1).unwrap()
}

fn name(n: u64) -> Vec<u8> {
    format!("file-{n:08}").into_bytes()
}

/// A tree that was published.
fn make(namespace: &Namespace) -> Ino {
    let top = namespace.create(ROOT_INO, b"tree", &DIRECTORY, 1).unwrap();
    for n in 0..FILES {
        let file = namespace.create(top.ino, &name(n), &FILE, 1).unwrap().ino;
        let extend = |_: &[u32], _: u64| (0, vec![1]);
        let write = WriteAt {
            ino: file,
            offset: 0,
            len: 100,
            segment: 1,
            // Apart, so that no extent grows into another.
            segment_offset: 4096 + n * 8192,
            sums: vec![1],
            extend: &extend,
            kill_priv: false,
        };
        namespace.write(write, 1).unwrap();
    }
    namespace.cut(|_| ()).unwrap();
    top.ino
}

/// As the engine does, and nobody holds anything.
fn end(namespace: &Namespace, orphan: Option<Ino>) {
    if let Some(orphan) = orphan {
        namespace.reclaim(&[orphan], 2).unwrap();
    }
}

fn remove(namespace: &Namespace, top: Ino) {
    for n in 0..FILES {
        end(namespace, namespace.unlink(top, &name(n), 2).unwrap());
    }
    end(namespace, namespace.rmdir(ROOT_INO, b"tree", 2).unwrap());
}

fn empty(namespace: &Namespace) {
    loop {
        let limits = PurgeLimits::until(u64::MAX);
        let purged = namespace.purge_trash(limits, 3).unwrap();
        namespace.reclaim(&purged.orphans, 3).unwrap();
        if !purged.more || purged.names == 0 {
            break;
        }
    }
    namespace.checkpoint(namespace.acknowledged()).unwrap();
}

fn removing(c: &mut Criterion) {
    for (what, with_checkpoint) in [("remove", false), ("remove_and_checkpoint", true)] {
        let mut group = c.benchmark_group(what);
        group.throughput(Throughput::Elements(FILES));
        for (called, trash) in [("with_trash", true), ("without", false)] {
            let dir = tempfile::tempdir().unwrap();
            let namespace = open(dir.path(), trash);
            group.bench_function(called, |b| {
                b.iter_batched(
                    || {
                        empty(&namespace);
                        make(&namespace)
                    },
                    |top| {
                        remove(&namespace, top);
                        if with_checkpoint {
                            namespace.checkpoint(namespace.acknowledged()).unwrap();
                        }
                    },
                    BatchSize::PerIteration,
                );
            });
            let journal = {
                empty(&namespace);
                let top = make(&namespace);
                let before = namespace.acknowledged().0;
                remove(&namespace, top);
                namespace.acknowledged().0 - before
            };
            println!("{what}/{called}: {journal} records for {FILES} files");
            namespace.close().unwrap();
        }
        group.finish();
    }
}

fn ending(c: &mut Criterion) {
    let mut group = c.benchmark_group("empty");
    group.throughput(Throughput::Elements(FILES));
    let dir = tempfile::tempdir().unwrap();
    let namespace = open(dir.path(), true);
    group.bench_function("with_checkpoint", |b| {
        b.iter_batched(
            || {
                let top = make(&namespace);
                remove(&namespace, top);
            },
            |()| empty(&namespace),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    namespace.close().unwrap();
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
    targets = removing, ending
}
criterion_main!(benches);
