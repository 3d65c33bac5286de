//! The way to a bucket: what is wrong with it is named at the mount and while it is mounted, and where trust may come from.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use crate::bucket::{Bucket, SOON, source};
use crate::s3_server::{Answer, BUCKET, Rule, Settings, Verb};
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

/// Reads a file of the mount that the kernel has forgotten; the errno when that fails.
fn read_uncached(path: &Path) -> Result<Vec<u8>, Option<i32>> {
    let mut file = std::fs::File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content)
        .map_err(|error| error.raw_os_error())?;
    Ok(content)
}

/// An outage of any kind is not one of the mount: what is local goes on, what is not fails in time, `sync` says why, and
/// all is well once the store is.
#[test]
fn whatever_goes_wrong_with_a_bucket_that_is_mounted_is_named_and_heals_by_itself() {
    require_fuse();
    let bucket = Bucket::new(Settings::default());
    bucket.mount(&source(), &["read_deadline=2"]).success();
    let (root, mountpoint) = (bucket.place.path("m"), bucket.place.text("m"));
    let sync = |seconds: &str| bucket.run(&["sync", "--timeout", seconds, &mountpoint]);
    std::fs::write(root.join("cold"), vec![7; 300_000]).unwrap();
    sync("60").success();
    let denied = || Answer::Code(403, "AccessDenied");
    let troubles = [
        (Answer::Code(503, "SlowDown"), "SlowDown"),
        (Answer::Code(500, "InternalError"), "InternalError"),
        (Answer::Page(200), "not in the way of S3"),
        (Answer::Page(404), "not in the way of S3"),
        (Answer::Page(502), "502"),
        (denied(), "may not"),
        (
            Answer::Code(403, "SignatureDoesNotMatch"),
            "keys are refused",
        ),
        (Answer::Code(400, "ExpiredToken"), "keys are refused"),
        (Answer::Code(403, "RequestTimeTooSkewed"), "clock is wrong"),
        (Answer::Code(404, "NoSuchBucket"), "no bucket"),
        (Answer::OtherRegion("eu-west-1"), "\"eu-west-1\""),
        // Last: what is asked for while there is silence goes on being asked for, and is in the cache then.
        (Answer::Silence(Duration::from_secs(8)), "in time"),
    ];
    for (n, (answer, part)) in troubles.iter().enumerate() {
        bucket.run(&["drop-caches", &mountpoint]).success();
        bucket.server.add(Rule::always(answer.clone()));
        let file = root.join(format!("f{n}"));
        std::fs::write(&file, part).unwrap();
        assert_eq!(read_uncached(&file).unwrap(), part.as_bytes());
        let refused = read_uncached(&root.join("cold")).unwrap_err();
        assert!(
            matches!(refused, Some(libc::EIO | libc::ETIMEDOUT)),
            "{answer:?}: {refused:?}"
        );
        // Silence can outlast the one before, and then there is a sync that this one would have to wait for.
        let asked = sync("3");
        let before = "another sync is still under way";
        let waits = asked.stderr.contains(before);
        asked.refused(2, &[if waits { before } else { part }]);
        bucket.server.clear();
        sync("60").success();
    }
    assert_eq!(read_uncached(&root.join("cold")), Ok(vec![7; 300_000]));
    bucket.unmount();
    std::fs::remove_dir_all(bucket.place.path("state")).unwrap();
    bucket.mount(&source(), &[]).success();
    for (n, (_, part)) in troubles.iter().enumerate() {
        let found = std::fs::read_to_string(root.join(format!("f{n}"))).unwrap();
        assert_eq!(found, *part);
    }
    bucket.unmount();
}
