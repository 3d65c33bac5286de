//! Where the keys of a bucket come from, and that new ones need no remount.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::bucket::{Bucket, source};
use crate::s3_server::{ACCESS_KEY, SECRET_KEY, Settings};
use crate::support::{Answer as Said, require_fuse, until};

#[test]
fn keys_come_from_a_file_or_from_the_variables_of_aws() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let file = bucket.place.path("keys");
    let text = format!("access_key_id={ACCESS_KEY}\nsecret_access_key={SECRET_KEY}\n");
    std::fs::write(&file, &text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let option = format!("credentials_file={}", file.display());
    let mountpoint = bucket.place.text("m");
    let mount = |options: &[&str], variables: &[(&str, &str)]| {
        let mut command = bucket.command("60", &["mount", &source(), &mountpoint]);
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
    // Temporary keys are worth nothing without their token.
    bucket.server.set_keys(SECRET_KEY, Some("a-token"));
    mount(&[], &aws).refused(32, &["keys are refused", "InvalidToken"]);
    let token = ("AWS_SESSION_TOKEN", "a-token");
    mount(&[], &[aws[0], aws[1], token]).success();
    bucket.unmount();
    std::fs::write(&file, format!("{text}session_token=a-token\n")).unwrap();
    mount(&[&option], &[]).success();
    bucket.unmount();
    bucket.server.set_keys(SECRET_KEY, None);
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
fn keys_are_changed_without_a_remount() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let file = bucket.place.path("keys");
    let write = |secret: &str, more: &str| {
        let text = format!("access_key_id={ACCESS_KEY}\nsecret_access_key={secret}\n{more}");
        std::fs::write(&file, &text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(SECRET_KEY, "");
    let option = format!("credentials_file={}", file.display());
    bucket.mount(&source(), &[&option]).success();
    let (root, mountpoint) = (bucket.place.path("m"), bucket.place.text("m"));
    let sync = || bucket.run(&["sync", "--timeout", "5", &mountpoint]);
    std::fs::write(root.join("before"), "1").unwrap();
    sync().success();
    bucket.server.set_keys("another-secret", Some("a-token"));
    std::fs::write(root.join("meanwhile"), "2").unwrap();
    sync().refused(2, &["keys are refused", "credentials_file="]);
    assert_eq!(std::fs::read(root.join("meanwhile")).unwrap(), b"2");
    write("another-secret", "session_token=a-token\n");
    sync().success();
    // A file that is gone for a moment takes no keys away.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(root.join("after"), "3").unwrap();
    sync().success();
    write("another-secret", "session_token=a-token\n");
    bucket.unmount();
    std::fs::remove_dir_all(bucket.place.path("state")).unwrap();
    bucket.mount(&source(), &[&option]).success();
    for (name, text) in [("before", "1"), ("meanwhile", "2"), ("after", "3")] {
        let found = std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(found, text, "{name}");
    }
    bucket.unmount();
}

#[test]
fn keys_in_the_files_of_aws_are_changed_without_a_remount() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let file = bucket.place.path("profiles");
    let write = |secret: &str| {
        let keys = format!("aws_access_key_id={ACCESS_KEY}\naws_secret_access_key={secret}\n");
        std::fs::write(&file, format!("[default]\n{keys}[other]\n{keys}")).unwrap();
    };
    write(SECRET_KEY);
    let (first, second) = (bucket.place.text("m"), bucket.place.text("m2"));
    for (name, mountpoint, options) in [("one", &first, "profile=other"), ("two", &second, "rw")] {
        let source = format!("{}/{name}", source());
        let mut command = bucket.command("60", &["mount", &source, mountpoint, "-o", options]);
        command
            .env_remove("S3_ACCESS_KEY_ID")
            .env_remove("S3_SECRET_ACCESS_KEY")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_SHARED_CREDENTIALS_FILE", &file);
        Said::of(command.output().unwrap()).success();
    }
    write("another-secret");
    bucket.server.set_keys("another-secret", None);
    let sync = |mountpoint: &str| bucket.run(&["sync", "--timeout", "5", mountpoint]);
    for mountpoint in [&first, &second] {
        std::fs::write(format!("{mountpoint}/f"), "x").unwrap();
        sync(mountpoint).refused(2, &["keys are refused"]);
    }
    for mountpoint in [&first, &second] {
        until("the mount has the new keys", || sync(mountpoint).code == 0);
        bucket.run(&["umount", mountpoint]).success();
    }
}

/// What a machine's metadata service knows: the keys of a role.
struct Role {
    secret: Mutex<&'static str>,
    /// How long keys are good for from when they are asked for.
    life: Duration,
    /// How often they were.
    asked: AtomicUsize,
}

impl Role {
    fn keys(&self) -> String {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let end = humantime::format_rfc3339_seconds(SystemTime::now() + self.life);
        let keys = serde_json::json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": ACCESS_KEY,
            "SecretAccessKey": *self.secret.lock().unwrap(),
            "Token": "a-token",
            "LastUpdated": "2020-01-01T00:00:00Z",
            "Expiration": end.to_string(),
        });
        keys.to_string()
    }
}

/// The metadata service of a cloud's machines, and of its containers below `/container`; returns where it is.
fn metadata_service(life: Duration) -> (String, Arc<Role>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let role = Arc::new(Role {
        secret: Mutex::new(SECRET_KEY),
        life,
        asked: AtomicUsize::new(0),
    });
    let served = Arc::clone(&role);
    // Ends with the test program.
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let role = Arc::clone(&served);
            std::thread::spawn(move || metadata_answers(&stream, &role));
        }
    });
    (endpoint, role)
}

fn metadata_answers(stream: &TcpStream, role: &Role) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        let headers: Vec<String> = lines
            .by_ref()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        let has_token = headers.iter().any(|h| h.ends_with("the-token"));
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match path {
            "/latest/api/token" => ("200 OK", "the-token".to_owned()),
            "/container" => ("200 OK", role.keys()),
            _ if !has_token => ("401 Unauthorized", String::new()),
            "/latest/meta-data/iam/security-credentials/" => ("200 OK", "role".to_owned()),
            "/latest/meta-data/iam/security-credentials/role" => ("200 OK", role.keys()),
            _ => ("404 Not Found", String::new()),
        };
        let len = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\ncontent-length: {len}\r\n\r\n{body}"
        );
        if (&*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A mount without keys of its own on a machine with a metadata service.
fn mount_with_role(bucket: &Bucket, service: &str) -> Said {
    mount_without_keys(bucket, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", service)])
}

fn mount_without_keys(bucket: &Bucket, variables: &[(&str, &str)]) -> Said {
    let (mountpoint, home) = (bucket.place.text("m"), bucket.place.path("home"));
    let mut command = bucket.command("60", &["mount", &source(), &mountpoint]);
    command
        .env_remove("S3_ACCESS_KEY_ID")
        .env_remove("S3_SECRET_ACCESS_KEY")
        .env("HOME", &home)
        .envs(variables.iter().copied());
    Said::of(command.output().unwrap())
}

#[test]
fn keys_come_from_the_metadata_service_of_the_machine() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    // They are of no use without their token.
    bucket.server.set_keys(SECRET_KEY, Some("a-token"));
    let (service, role) = metadata_service(Duration::from_secs(3_600));
    let without_service = ("AWS_EC2_METADATA_DISABLED", "true");
    mount_without_keys(&bucket, &[without_service])
        .refused(32, &["no keys", "S3_ACCESS_KEY_ID", "credentials_file="]);
    mount_with_role(&bucket, &service).success();
    std::fs::write(bucket.place.path("m/f"), b"with keys of a role").unwrap();
    bucket.unmount();
    assert_eq!(
        role.asked.load(Ordering::Relaxed),
        1,
        "the keys are kept as long as they last"
    );
    let container = format!("{service}/container");
    let address = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str());
    mount_without_keys(&bucket, &[without_service, address]).success();
    assert!(bucket.place.path("m/f").exists());
    bucket.unmount();
}

#[test]
fn keys_of_a_role_are_renewed_before_they_end() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    bucket.server.set_keys(SECRET_KEY, Some("a-token"));
    // New ones are asked for some seconds before the end.
    let (service, role) = metadata_service(Duration::from_secs(12));
    mount_with_role(&bucket, &service).success();
    *role.secret.lock().unwrap() = "another-secret";
    bucket.server.set_keys("another-secret", Some("a-token"));
    std::fs::write(bucket.place.path("m/f"), b"with the next keys").unwrap();
    let mountpoint = bucket.place.text("m");
    until("the mount has the new keys", || {
        bucket.run(&["sync", "--timeout", "5", &mountpoint]).code == 0
    });
    assert!(role.asked.load(Ordering::Relaxed) > 1);
    bucket.unmount();
}
