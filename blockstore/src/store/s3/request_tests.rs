//! What requests look like: seen by a client that sends nothing.

use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use parking_lot::Mutex;

use super::*;

const LISTING: &str =
    "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
const OBJECT: &str = "0123456789";
const DELETED: &str = "<DeleteResult></DeleteResult>";

/// A request as it would have been sent.
#[derive(Debug, Clone)]
struct Sent {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
}

impl Sent {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Keeps every request, and answers each in the way of S3.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Sent>>>);

impl HttpConnector for Recorder {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = match (request.method(), request.uri().contains("list-type")) {
            ("POST", _) => DELETED,
            (_, true) => LISTING,
            _ => OBJECT,
        };
        let headers = request.headers().iter();
        self.0.lock().push(Sent {
            method: request.method().to_owned(),
            uri: request.uri().to_owned(),
            headers: headers.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        });
        let mut answer = HttpResponse::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body));
        answer.headers_mut().insert("etag", "\"tag\"");
        HttpConnectorFuture::ready(Ok(answer))
    }
}

/// One request of each kind, and the second put.
async fn requests(settings: &S3Settings) -> Vec<Sent> {
    let recorder = Recorder::default();
    let connector = recorder.clone();
    let http = http_client_fn(move |_, _| SharedHttpConnector::new(connector.clone()));
    let store = S3Store::with_client(settings, http).await.unwrap();
    let body = || Bytes::from_static(b"body");
    let tag = store
        .put("a/b", body(), PutCondition::IfAbsent)
        .await
        .unwrap();
    store
        .put("a/b", body(), PutCondition::IfMatch(tag))
        .await
        .unwrap();
    store.get("a/b", Some(2..5)).await.unwrap();
    store.head("a/b").await.unwrap();
    store.list("a/", None, 10).await.unwrap();
    store.delete(&["a/b".into()]).await.unwrap();
    let sent = recorder.0.lock().clone();
    let methods: Vec<_> = sent.iter().map(|sent| sent.method.as_str()).collect();
    assert_eq!(methods, ["PUT", "PUT", "GET", "HEAD", "GET", "POST"]);
    sent
}

fn at(endpoint: &str) -> S3Settings {
    let keys = S3Credentials::Keys {
        access_key_id: "key".into(),
        secret_access_key: "secret".into(),
        session_token: Some("a-token".into()),
    };
    S3Settings {
        prefix: "below".into(),
        ..S3Settings::new("bucket", endpoint, keys)
    }
}

#[tokio::test]
async fn tigris_is_asked_for_consistency_with_every_request_and_nobody_else_is() {
    for sent in requests(&at("https://t3.storage.dev")).await {
        assert_eq!(sent.header("x-tigris-consistent"), Some("true"), "{sent:?}");
        let signed = sent.header("authorization").unwrap();
        assert!(signed.contains("x-tigris-consistent"), "{signed}");
        assert!(
            sent.uri.starts_with("https://bucket.t3.storage.dev/"),
            "{}",
            sent.uri
        );
    }
    for sent in requests(&at("http://127.0.0.1:9000")).await {
        assert_eq!(sent.header("x-tigris-consistent"), None, "{sent:?}");
        assert!(
            sent.uri.starts_with("http://127.0.0.1:9000/bucket"),
            "{}",
            sent.uri
        );
    }
}

#[tokio::test]
async fn requests_carry_token_region_conditions_and_ranges() {
    let settings = S3Settings {
        region: "eu-west-1".into(),
        ..at("https://s3.example.org")
    };
    let sent = requests(&settings).await;
    for request in &sent {
        assert_eq!(request.header("x-amz-security-token"), Some("a-token"));
        let signed = request.header("authorization").unwrap();
        assert!(signed.contains("Credential=key/"), "{signed}");
        assert!(signed.contains("/eu-west-1/s3/aws4_request"), "{signed}");
    }
    assert_eq!(sent[0].header("if-none-match"), Some("*"));
    assert_eq!(sent[0].header("if-match"), None);
    assert_eq!(sent[1].header("if-match"), Some("\"tag\""));
    assert_eq!(sent[1].header("if-none-match"), None);
    assert_eq!(sent[2].header("range"), Some("bytes=2-4"));
    assert!(sent[0].uri.contains("/bucket/below/a/b"), "{}", sent[0].uri);
    assert!(
        sent[4].uri.contains("prefix=below%2Fa%2F"),
        "{}",
        sent[4].uri
    );
}

/// Many stores that are not AWS refuse the checksums that newer SDKs add to every put.
#[tokio::test]
async fn puts_and_reads_have_no_checksums_that_other_stores_refuse() {
    for sent in requests(&at("https://s3.example.org")).await {
        // A deletion of many keys must have one.
        if sent.method == "POST" {
            continue;
        }
        let added = |name: &str| {
            name.starts_with("x-amz-checksum")
                || name.starts_with("x-amz-sdk-checksum")
                || name == "x-amz-trailer"
                || name == "content-encoding"
        };
        let found = sent.headers.iter().find(|(name, _)| added(name));
        assert!(found.is_none(), "{sent:?}");
    }
}
