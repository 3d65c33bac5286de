//! The way to a bucket: what is wrong with it is named at the mount, and where trust may come from.

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
