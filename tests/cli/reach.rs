//! The way to a bucket: what is wrong with it is named at the mount, and where keys and trust may come from.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::bucket::{Bucket, SOON, source};
use crate::s3_server::{ACCESS_KEY, Answer, BUCKET, Rule, SECRET_KEY, Settings, Verb};
use crate::support::{Answer as Said, require_fuse};

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
fn a_certificate_is_trusted_when_the_machine_says_so_and_else_refused_by_name() {
    require_fuse();
    let bucket = Bucket::new(Settings {
        tls: true,
        ..Settings::default()
    });
    assert!(bucket.server.endpoint().starts_with("https://"));
    let parts = ["TLS", "certificate", "SSL_CERT_FILE", "endpoint="];
    bucket.refused(&source(), &[], &parts);
    let trusted = bucket.place.path("ca.pem");
    std::fs::write(&trusted, bucket.server.certificate()).unwrap();
    let mountpoint = bucket.place.text("m");
    let mut mount = bucket.command(SOON, &["mount", &source(), &mountpoint]);
    Said::of(mount.env("SSL_CERT_FILE", &trusted).output().unwrap()).success();
    std::fs::write(bucket.place.path("m/f"), b"over TLS").unwrap();
    bucket.unmount();
    let keys = bucket.server.keys(BUCKET);
    assert!(keys.contains(&"head.json".to_owned()), "{keys:?}");
    // Its name has to be right too.
    let other = bucket.server.endpoint().replace("127.0.0.1", "localhost");
    let mut mount = bucket.command(SOON, &["mount", &source(), &mountpoint]);
    mount
        .env("SSL_CERT_FILE", &trusted)
        .env("S3_ENDPOINT", other);
    Said::of(mount.output().unwrap()).refused(32, &["TLS", "certificate"]);
}

/// The metadata service of a cloud's machines, with the keys of a role. Counts how often these are asked for.
fn metadata_service() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Ends with the test program.
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || metadata_answers(&stream, &count));
        }
    });
    (endpoint, asked)
}

fn metadata_answers(stream: &TcpStream, asked: &AtomicUsize) {
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
            _ if !has_token => ("401 Unauthorized", String::new()),
            "/latest/meta-data/iam/security-credentials/" => ("200 OK", "role".to_owned()),
            "/latest/meta-data/iam/security-credentials/role" => {
                asked.fetch_add(1, Ordering::Relaxed);
                let keys = serde_json::json!({
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": ACCESS_KEY,
                    "SecretAccessKey": SECRET_KEY,
                    "Token": "a-token",
                    "LastUpdated": "2020-01-01T00:00:00Z",
                    "Expiration": "2099-01-01T00:00:00Z",
                });
                ("200 OK", keys.to_string())
            }
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

#[test]
fn keys_come_from_the_metadata_service_of_the_machine() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    let (service, asked) = metadata_service();
    let (mountpoint, home) = (bucket.place.text("m"), bucket.place.path("home"));
    let mount = |disabled: &str| {
        let mut command = bucket.command(SOON, &["mount", &source(), &mountpoint]);
        command
            .env_remove("S3_ACCESS_KEY_ID")
            .env_remove("S3_SECRET_ACCESS_KEY")
            .env("HOME", &home)
            .env("AWS_EC2_METADATA_DISABLED", disabled)
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service);
        Said::of(command.output().unwrap())
    };
    mount("true").refused(32, &["no keys", "S3_ACCESS_KEY_ID", "credentials_file="]);
    mount("false").success();
    std::fs::write(bucket.place.path("m/f"), b"with keys of a role").unwrap();
    bucket.unmount();
    assert_eq!(
        asked.load(Ordering::Relaxed),
        1,
        "the keys are kept as long as they last"
    );
}
