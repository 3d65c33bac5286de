//! Volumes in a bucket, from outside: they survive the machine, and outages of the store.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::s3_server::{ACCESS_KEY, Answer, BUCKET, Rule, S3Server, SECRET_KEY, Settings};
use crate::support::{Answer as Said, PROGRAM, Place, require_fuse, until};

/// Seconds within which a mount has to say what is wrong.
pub(crate) const SOON: &str = "10";

/// A bucket behind a server, and a place to mount it.
pub(crate) struct Bucket {
    pub(crate) server: S3Server,
    pub(crate) place: Place,
}

impl Bucket {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            server: S3Server::start(settings),
            place: Place::new(),
        }
    }

    /// The program with the right keys and endpoint, and arguments.
    pub(crate) fn command(&self, seconds: &str, arguments: &[&str]) -> Command {
        let mut command = self.place.command("timeout");
        command
            .args([seconds, PROGRAM])
            .args(arguments)
            .env("S3_ENDPOINT", self.server.endpoint())
            .env("S3_ACCESS_KEY_ID", ACCESS_KEY)
            .env("S3_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command("60", arguments).output().unwrap())
    }

    pub(crate) fn mount(&self, source: &str, options: &[&str]) -> Said {
        let mountpoint = self.place.text("m");
        let mut arguments = vec!["mount", source, &mountpoint];
        arguments.extend(options.iter().flat_map(|option| ["-o", option]));
        self.run(&arguments)
    }

    /// A mount that must fail soon and leave nothing behind.
    #[track_caller]
    pub(crate) fn refused(&self, source: &str, options: &[&str], parts: &[&str]) {
        let mountpoint = self.place.text("m");
        let mut arguments = vec!["mount", source, &mountpoint];
        arguments.extend(options.iter().flat_map(|option| ["-o", option]));
        let said = Said::of(self.command(SOON, &arguments).output().unwrap());
        said.refused(32, parts);
        assert!(self.place.mounts().is_empty());
    }

    pub(crate) fn unmount(&self) {
        self.run(&["umount", &self.place.text("m")]).success();
    }
}

pub(crate) fn source() -> String {
    format!("s3://{BUCKET}")
}

#[test]
fn a_bucket_that_holds_something_else_is_refused_with_the_way_out() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    bucket.server.plant(BUCKET, "photos/one.jpg", b"x");
    bucket.refused(
        &source(),
        &[],
        &["\"photos/one.jpg\"", "s3://BUCKET/PREFIX"],
    );
    bucket.refused(
        &format!("{}/photos", source()),
        &[],
        &["\"photos/one.jpg\""],
    );
    let below = format!("{}/vol/one", source());
    bucket.mount(&below, &[]).success();
    std::fs::write(bucket.place.path("m/f"), b"hello").unwrap();
    bucket.unmount();
    let keys = bucket.server.keys(BUCKET);
    assert!(
        keys.contains(&"vol/one/weldrfs.json".to_owned()),
        "{keys:?}"
    );
    assert!(
        keys.iter()
            .all(|key| key.starts_with("vol/one/") || key == "photos/one.jpg"),
        "{keys:?}"
    );
}

/// Every name below `root` with its type, permissions and content.
pub(crate) fn tree(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let info = std::fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let mode = info.permissions().mode();
            let holds = if info.is_dir() {
                folders.push(path);
                String::new()
            } else if info.is_symlink() {
                std::fs::read_link(&path).unwrap().display().to_string()
            } else {
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
            };
            found.push((name, format!("{mode:o} {holds}")));
        }
    }
    found.sort_unstable();
    found
}

/// A few thousand files in folders, with links and one large file.
pub(crate) fn make_tree(root: &Path) {
    for folder in 0..40 {
        let dir = root.join(format!("d{folder}/sub"));
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..60 {
            let text = format!("{folder} {file} ").repeat(1 + file * 7);
            std::fs::write(dir.join(format!("f{file}")), text).unwrap();
        }
        std::os::unix::fs::symlink("sub/f1", root.join(format!("d{folder}/link"))).unwrap();
    }
    let large: Vec<u8> = (0..24_u32 << 20)
        .map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 28) as u8)
        .collect();
    std::fs::write(root.join("large"), large).unwrap();
}

#[test]
fn buckets_of_one_name_on_two_servers_are_two_volumes() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let other = S3Server::start(Settings::default());
    let second = bucket.place.text("m2");
    let mount_again = |endpoint: String| {
        let option = format!("endpoint={endpoint}");
        bucket.run(&["mount", &source(), &second, "-o", &option])
    };
    bucket.mount(&source(), &[]).success();
    mount_again(bucket.server.endpoint()).refused(32, &["is already mounted"]);
    mount_again(other.endpoint()).success();
    std::fs::write(bucket.place.path("m/f"), b"first").unwrap();
    std::fs::write(bucket.place.path("m2/f"), b"second").unwrap();
    bucket.run(&["umount", &second]).success();
    assert_eq!(std::fs::read(bucket.place.path("m/f")).unwrap(), b"first");
    bucket.unmount();
}

#[test]
fn a_tree_survives_the_machine_on_a_store_with_latency() {
    require_fuse();
    let bucket = Bucket::new(Settings {
        latency: Duration::from_millis(20),
        bandwidth: Some(100_000_000),
        ..Settings::default()
    });
    let (root, mountpoint) = (bucket.place.path("m"), bucket.place.text("m"));
    bucket.mount(&source(), &[]).success();
    make_tree(&root);
    let wanted = tree(&root);
    assert!(wanted.len() > 2400);
    bucket.run(&["sync", &mountpoint]).success();
    let puts = bucket.server.counts().put;
    assert!(puts.requests < 40, "small files share their puts: {puts:?}");
    bucket.run(&["drop-caches", &mountpoint]).success();
    assert!(tree(&root) == wanted, "read back from the store");
    bucket.unmount();
    // Another machine: nothing local is left.
    std::fs::remove_dir_all(bucket.place.path("state")).unwrap();
    let before = bucket.server.counts().get.requests;
    bucket.mount(&source(), &[]).success();
    assert!(tree(&root) == wanted, "read by another machine");
    let gets = bucket.server.counts().get.requests - before;
    assert!(gets < 60, "whole packs are fetched: {gets} requests");
    bucket.unmount();
}

#[test]
fn packs_go_up_side_by_side_and_no_more_than_allowed() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    bucket.mount(&source(), &["max_uploads=3"]).success();
    // Six packs, each far quicker to make than to send.
    for n in 0..12_u8 {
        let name = bucket.place.path(&format!("m/f{n}"));
        std::fs::write(name, vec![n; 8 << 20]).unwrap();
    }
    bucket.server.set_latency(Duration::from_secs(2));
    bucket.run(&["sync", &bucket.place.text("m")]).success();
    assert_eq!(bucket.server.most_puts_at_once(), 3);
    bucket.server.set_latency(Duration::ZERO);
    bucket.unmount();
}

#[test]
fn volumes_are_listed_and_one_is_destroyed_and_nothing_else() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (one, two) = (
        format!("{}/one", source()),
        format!("{}/deep/two", source()),
    );
    for volume in [&one, &two] {
        bucket.mount(volume, &[]).success();
        std::fs::write(bucket.place.path("m/f"), volume.repeat(100)).unwrap();
        bucket.unmount();
    }
    for key in ["photo.jpg", "one/photo.jpg", "one/packs/notes"] {
        bucket.server.plant(BUCKET, key, b"x");
    }
    let listed = bucket
        .run(&["volumes", "ls", "--json", &source()])
        .success()
        .stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let listed = listed.as_array().unwrap();
    let id_of = |source: &str| {
        let found = listed.iter().find(|volume| volume["source"] == *source);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(listed.len(), 2, "{listed:?}");
    let (id, other) = (id_of(&one), id_of(&two));
    let before = bucket.server.keys(BUCKET);
    let destroy = |source: &str, id: &str| bucket.run(&["volumes", "destroy", source, "--id", id]);
    destroy(&one, &other).refused(1, &["nothing was deleted"]);
    destroy(&source(), &id).refused(1, &["there is no volume"]);
    // Its name is asked for, and nobody answers.
    bucket
        .run(&["volumes", "destroy", &one])
        .refused(1, &["no id was given"]);
    bucket.mount(&one, &[]).success();
    destroy(&one, &id).refused(1, &["is mounted on", "weldrfs umount"]);
    bucket.unmount();
    assert_eq!(bucket.server.keys(BUCKET), before);
    let said = destroy(&one, &id).success().stdout;
    assert!(said.contains("2 objects that are no part of it"), "{said}");
    let wanted: Vec<_> = before
        .into_iter()
        .filter(|key| {
            !key.starts_with("one/") || key == "one/photo.jpg" || key == "one/packs/notes"
        })
        .collect();
    assert_eq!(bucket.server.keys(BUCKET), wanted);
    destroy(&one, &id).refused(1, &["there is no volume"]);
    bucket.mount(&two, &[]).success();
    assert_eq!(
        std::fs::read_to_string(bucket.place.path("m/f")).unwrap(),
        two.repeat(100)
    );
    bucket.unmount();
    // A directory can be used again afterwards.
    let file = bucket.place.source();
    bucket.mount(&file, &[]).success();
    std::fs::write(bucket.place.path("m/f"), b"x").unwrap();
    bucket.unmount();
    let text = bucket.run(&["volumes", "ls", &file]).success().stdout;
    let id = text.split(' ').next().unwrap();
    destroy(&file, id).success();
    bucket.mount(&file, &[]).success();
    assert_eq!(
        std::fs::read_dir(bucket.place.path("m")).unwrap().count(),
        0
    );
    bucket.unmount();
}

#[test]
fn an_outage_of_the_store_is_not_one_of_the_mount() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let mountpoint = bucket.place.text("m");
    bucket.mount(&source(), &[]).success();
    let root = bucket.place.path("m");
    std::fs::write(root.join("before"), b"1").unwrap();
    bucket
        .server
        .add(Rule::always(Answer::Code(503, "SlowDown")));
    std::fs::write(root.join("during"), b"2").unwrap();
    assert_eq!(std::fs::read(root.join("before")).unwrap(), b"1");
    bucket
        .run(&["sync", "--timeout", "1", &mountpoint])
        .refused(2, &["SlowDown"]);
    std::fs::write(root.join("after"), b"3").unwrap();
    bucket.server.clear();
    bucket.run(&["sync", &mountpoint]).success();
    bucket.unmount();
    std::fs::remove_dir_all(bucket.place.path("state")).unwrap();
    bucket.mount(&source(), &[]).success();
    for (name, text) in [("before", b"1"), ("during", b"2"), ("after", b"3")] {
        assert_eq!(std::fs::read(root.join(name)).unwrap(), text, "{name}");
    }
    bucket.unmount();
}

#[test]
fn the_store_is_waited_for_or_not_as_variables_and_options_say() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (root, mountpoint) = (bucket.place.path("m"), bucket.place.text("m"));
    let behind = || {
        let status = bucket.run(&["status", "--json", &mountpoint]).success();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        status["behind"]["records"].as_u64().unwrap()
    };
    let mount = |variables: &[(&str, &str)], options: &str| {
        let source = source();
        let mut command = bucket.command("60", &["mount", &source, &mountpoint, "-o", options]);
        Said::of(command.envs(variables.iter().copied()).output().unwrap()).success();
    };
    let delay = ("UPLOAD_DELAY", "1h");
    // Nothing goes up by itself, however much there is.
    mount(&[delay], "rw");
    std::fs::write(root.join("large"), vec![1; 70 << 20]).unwrap();
    let before = bucket.server.counts().put.requests;
    std::thread::sleep(Duration::from_secs(25));
    assert_eq!(bucket.server.counts().put.requests, before);
    assert!(behind() > 0);
    bucket.run(&["sync", &mountpoint]).success();
    assert_eq!(behind(), 0);
    bucket.unmount();
    // Without it, everything does.
    mount(&[], "rw");
    std::fs::write(root.join("small"), "x").unwrap();
    until("it is in the store", || behind() == 0);
    bucket.unmount();
    // Closing waits, and fsync waits.
    mount(&[delay, ("WRITEBACK_ENABLED", "0")], "rw");
    std::fs::write(root.join("closed"), "x").unwrap();
    assert_eq!(behind(), 0);
    bucket.unmount();
    mount(&[delay], "fsync=remote");
    let file = std::fs::File::create(root.join("synced")).unwrap();
    assert!(behind() > 0);
    file.sync_all().unwrap();
    assert_eq!(behind(), 0);
    drop(file);
    bucket.unmount();
}
