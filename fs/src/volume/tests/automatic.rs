//! Automatic snapshots with a clock that is moved by hand.

use super::snapshots::{named, write};
use super::*;
use crate::engine::SnapshotNames;

const MINUTE_NS: i64 = 60 * 1_000_000_000;

fn names(volume: &Volume) -> Vec<String> {
    let all = volume.engine().snapshots();
    all.into_iter().map(|s| s.name).collect()
}

#[test]
fn snapshots_are_made_of_what_changed_and_thinned_out_unless_they_are_kept() {
    let machine = Machine::new();
    let clock = Arc::new(ManualClock::at(1_700_000_000 * 1_000_000_000));
    let config = VolumeConfig {
        lease: LeaseTerm::Manual,
        ..machine.config("here")
    };
    let handle = machine.runtime.handle().clone();
    let volume = Volume::open_with(config, handle, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    write(&volume, "f", b"one");
    // Whoever opens a volume says what is to be done; without that nothing is.
    volume.tend_snapshots();
    clock.advance(60 * MINUTE_NS);
    volume.tend_snapshots();
    assert_eq!(names(&volume).len(), 0);

    volume.care_for_snapshots(SnapshotCare {
        interval: Some(Duration::from_secs(600)),
        ..SnapshotCare::default()
    });
    volume.tend_snapshots();
    assert_eq!(names(&volume).len(), 0);
    clock.advance(10 * MINUTE_NS);
    volume.tend_snapshots();
    volume.tend_snapshots();
    assert_eq!(names(&volume), ["auto-2023-11-14T23-23-20Z"]);
    // Nothing has changed.
    clock.advance(10 * MINUTE_NS);
    volume.tend_snapshots();
    assert_eq!(names(&volume).len(), 1);
    write(&volume, "f", b"two");
    clock.advance(10 * MINUTE_NS);
    volume.tend_snapshots();
    assert_eq!(names(&volume).len(), 2);

    let engine = volume.engine();
    let kept = SnapshotNames {
        kept: true,
        ..named("mine")
    };
    engine.create_snapshot(kept).unwrap();
    engine.create_snapshot(named("a tool's")).unwrap();
    write(&volume, "f", b"three");
    let restored = engine.restore("mine", b"").unwrap();
    let safety = restored.safety.unwrap().name;
    assert!(names(&volume).contains(&safety));
    clock.advance(8 * 24 * 60 * MINUTE_NS);
    volume.tend_snapshots();
    // One of what has changed, and those that stay.
    let left = names(&volume);
    assert_eq!((left.len(), left[0].as_str()), (2, "mine"));
    assert!(left[1].starts_with("auto-"), "{left:?}");
    // To remove them was no change that has to be kept.
    clock.advance(11 * MINUTE_NS);
    volume.tend_snapshots();
    assert_eq!(names(&volume), left);
    volume.care_for_snapshots(SnapshotCare {
        interval: None,
        most: 0,
    });
    volume.tend_snapshots();
    assert_eq!(names(&volume), ["mine"]);
    assert!(volume.status().last_error.is_none());
    volume.close().unwrap();
}

/// However much has changed, a diff leaves nothing behind and says the same.
#[test]
fn a_long_diff_of_the_present_is_that_of_a_short_one() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    engine.create_snapshot(named("s")).unwrap();
    for n in 0..6000 {
        file(&volume, &format!("f{n}"));
    }
    let found = engine.diff("s", None, b"").unwrap();
    // The root has more entries, which is no difference.
    assert_eq!(found.len(), 6000);
    assert!(found.iter().all(|one| one.before.is_none()));
    assert_eq!(names(&volume), ["s"]);
    volume.close().unwrap();
}
