//! Restore points: looking at one beside the mount, and going back to one.

use super::*;
use crate::volume::{restore_points, restore_to};
use weldrfs_meta::ROOT_INO;

const SECOND_NS: i64 = 1_000_000_000;
/// Restoring asks the system's clock what is retained, so the states have to be of now.
fn clock_of_now() -> Arc<ManualClock> {
    use crate::clock::SystemClock;
    Arc::new(ManualClock::at(SystemClock.now_ns() - 7_200 * SECOND_NS))
}

fn source(store: &Arc<FaultStore>) -> Source {
    Source::Own(Arc::clone(store) as Arc<dyn ObjectStore>)
}

fn open_with(machine: &Machine, config: VolumeConfig, clock: &Arc<ManualClock>) -> Arc<Volume> {
    let handle = machine.runtime.handle().clone();
    Volume::open_with(config, handle, Arc::clone(clock) as Arc<dyn Clock>).unwrap()
}

fn read(volume: &Volume, name: &str) -> Option<Vec<u8>> {
    let attr = volume.engine().lookup(ROOT_INO, name.as_bytes()).ok()?;
    Some(volume.engine().read(attr.ino, 0, 1 << 20).unwrap().to_vec())
}

/// Publishes 150 states, 20 s apart, of a file and of what was made and removed beside it. Returns when each was made.
fn history(machine: &Machine, store: &Arc<FaultStore>, clock: &Arc<ManualClock>) -> Vec<u64> {
    let config = VolumeConfig {
        source: source(store),
        ..machine.config("here")
    };
    let volume = open_with(machine, config, clock);
    for i in 0..500 {
        file(&volume, &format!("many{i}"));
    }
    let ino = file(&volume, "f");
    let mut times = Vec::new();
    for n in 0..150_u64 {
        volume
            .engine()
            .write(ino, 0, &content(n, 3_000), false)
            .unwrap();
        file(&volume, &format!("at{n}"));
        if n > 0 {
            let before = format!("at{}", n - 1);
            volume.engine().unlink(ROOT_INO, before.as_bytes()).unwrap();
        }
        volume.sync(LONG).unwrap();
        times.push(newest_head(machine, store).created_ms);
        clock.advance(20 * SECOND_NS);
    }
    volume.close().unwrap();
    times
}

fn is_state(volume: &Volume, n: u64) {
    assert_eq!(read(volume, "f"), Some(content(n, 3_000)), "state {n}");
    assert!(read(volume, &format!("at{n}")).is_some());
    for other in [n.wrapping_sub(1), n + 1] {
        assert!(read(volume, &format!("at{other}")).is_none());
    }
    healthy(volume);
}

#[test]
fn every_state_of_the_last_hours_can_be_looked_at_while_the_volume_is_written() {
    let (machine, store, clock) = (Machine::new(), faulty(), clock_of_now());
    let times = history(&machine, &store, &clock);
    let points = restore_points(&source(&store), machine.runtime.handle()).unwrap();
    let listed: Vec<u64> = points.iter().map(|point| point.at_ms).collect();
    assert_eq!(listed, times);
    assert!(
        newest_head(&machine, &store).chains.len() > 1,
        "over several chains"
    );

    let writing = VolumeConfig {
        source: source(&store),
        ..machine.config("here")
    };
    let writer = open_with(&machine, writing, &clock);
    for n in [0, 1, 63, 64, 65, 77, 148, 149] {
        let looking = VolumeConfig {
            source: source(&store),
            // Between this state and the next one.
            at_ms: Some(times[n] + 5_000),
            ..machine.config("here")
        };
        let view = open_with(&machine, looking, &clock);
        is_state(&view, n as u64);
        file(&writer, &format!("meanwhile{n}"));
        writer.sync(LONG).unwrap();
        is_state(&view, n as u64);
        view.close().unwrap();
    }
    writer.close().unwrap();
    let views = std::fs::read_dir(machine.path("here").join(writer.id())).unwrap();
    let left = views
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("at-")
        })
        .count();
    assert!(left <= 1, "{left} views are left");
}

#[test]
fn who_only_reads_beside_the_writer_sees_what_was_published() {
    let (machine, store, clock) = (Machine::new(), faulty(), clock_of_now());
    let config = |read_only| VolumeConfig {
        source: source(&store),
        read_only,
        ..machine.config("here")
    };
    let writer = open_with(&machine, config(false), &clock);
    let handle = machine.runtime.handle();
    let nothing = Volume::open(config(true), handle.clone()).unwrap_err();
    assert!(matches!(nothing, OpenError::NoVolume(_)), "{nothing}");
    file(&writer, "published");
    writer.sync(LONG).unwrap();
    file(&writer, "not published");
    let reader = open_with(&machine, config(true), &clock);
    assert_eq!(read(&reader, "published"), Some(Vec::new()));
    assert_eq!(read(&reader, "not published"), None);
    writer.sync(LONG).unwrap();
    // It does not follow; whoever mounts later sees more.
    assert_eq!(read(&reader, "not published"), None);
    let later = open_with(&machine, config(true), &clock);
    assert_eq!(read(&later, "not published"), Some(Vec::new()));
    for volume in [later, reader, writer] {
        healthy(&volume);
        volume.close().unwrap();
    }
}

#[test]
fn going_back_takes_every_state_with_it_and_can_be_undone() {
    let (machine, store, clock) = (Machine::new(), faulty(), clock_of_now());
    let times = history(&machine, &store, &clock);
    let scratch = machine.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let back = |at_ms: u64| {
        restore_to(
            &source(&store),
            at_ms,
            false,
            &scratch,
            machine.runtime.handle(),
        )
    };
    for n in [100_usize, 20, 149, 149, 0] {
        back(times[n]).unwrap();
        // The state that wrote it all has nothing of its own, and follows.
        let config = VolumeConfig {
            source: source(&store),
            ..machine.config("here")
        };
        let volume = open_with(&machine, config, &clock);
        is_state(&volume, n as u64);
        file(&volume, "after");
        volume.sync(LONG).unwrap();
        volume.close().unwrap();
    }
    let error = back(times[0] - 1).unwrap_err();
    assert!(matches!(error, OpenError::NoPoint { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn nobody_goes_back_under_a_writer() {
    let (machine, store, clock) = (Machine::new(), faulty(), clock_of_now());
    let times = history(&machine, &store, &clock);
    let config = VolumeConfig {
        source: source(&store),
        ..machine.config("here")
    };
    let volume = open_with(&machine, config, &clock);
    let scratch = machine.path("");
    let back = |take_over| {
        restore_to(
            &source(&store),
            times[3],
            take_over,
            &scratch,
            machine.runtime.handle(),
        )
    };
    let error = back(false).unwrap_err();
    assert!(matches!(error, OpenError::Held { .. }), "{error}");
    back(true).unwrap();
    file(&volume, "late");
    let error = volume.sync(LONG).unwrap_err();
    assert!(matches!(error, FsError::Foreign), "{error}");
    volume.close().unwrap();
}
