//! `weldrfs gc` and `weldrfs fsck --local`, on a volume that is mounted and on one that is not.

use std::fs;

use serde_json::Value;

use super::support::{Place, require_fuse};

fn collected(place: &Place, more: &[&str]) -> Value {
    let source = place.source();
    let mut arguments = vec!["gc", &source, "--json"];
    arguments.extend(more);
    let answer = place.run(&arguments).success();
    serde_json::from_str(&answer.stdout).unwrap()
}

fn objects(report: &Value, what: &str) -> u64 {
    report[what]["objects"].as_u64().unwrap()
}

#[test]
fn garbage_is_collected_with_and_without_a_mount() {
    require_fuse();
    let place = Place::new();
    place.mount();
    let mountpoint = place.text("m");
    let noise: Vec<u8> = (0..200_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(place.path("m/dies"), &noise).unwrap();
    place.run(&["sync", &mountpoint]).success();
    fs::write(place.path("m/lives"), &noise).unwrap();
    place.run(&["sync", &mountpoint]).success();
    fs::remove_file(place.path("m/dies")).unwrap();
    // In the trash it would be used for another week.
    place.run(&["trash", "empty", &mountpoint]).success();

    let planned = collected(&place, &["--dry-run"]);
    assert_eq!(
        (objects(&planned, "marked"), objects(&planned, "used")),
        (1, 2)
    );
    let said = place.run(&["gc", &place.source()]).success();
    assert!(
        said.stdout.contains("found dead: 1 pack ("),
        "{}",
        said.stdout
    );
    // Somebody may still go back to it.
    let after = collected(&place, &[]);
    assert_eq!(
        ["marked", "waiting", "deleted", "used"].map(|what| objects(&after, what)),
        [0, 1, 0, 1]
    );
    let source = place.source();
    place
        .run(&["fsck", &source, "--local"])
        .refused(2, &["already mounted"]);
    place.run(&["umount", &mountpoint]).success();

    let unmounted = collected(&place, &[]);
    assert_eq!(
        (objects(&unmounted, "waiting"), objects(&unmounted, "used")),
        (1, 1)
    );
    place.run(&["fsck", &source, "--deep"]).success();
    place.run(&["fsck", &source, "--local", "--deep"]).success();
    place.mount();
    assert_eq!(fs::read(place.path("m/lives")).unwrap(), noise);
    place.run(&["umount", &mountpoint]).success();
}

#[test]
fn there_is_no_garbage_where_there_is_no_volume() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let empty = format!("file://{}", place.text("empty"));
    place
        .run(&["gc", &empty])
        .refused(2, &["there is no volume"]);
    assert_eq!(fs::read_dir(place.path("empty")).unwrap().count(), 0);
    place.run(&["fsck", &empty, "--local"]).refused(2, &[]);
}
