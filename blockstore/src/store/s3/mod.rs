//! A store in an S3 bucket. One request per call (a delete: one per 1000 keys), each with its deadline; retries are the
//! business of [`RetryStore`](super::RetryStore).
//!
//! The only module tree that names the AWS SDK. A version is the object's ETag, as the store writes it.

mod credentials;
mod errors;
mod renewal;
#[cfg(test)]
mod request_tests;
mod settings;

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider as TlsProvider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use bytes::Bytes;

pub use credentials::S3Credentials;
pub use settings::{
    Addressing, S3_ATTEMPT_DEADLINE, S3_CONNECT_DEADLINE, S3_DEFAULT_REGION, S3Settings,
    is_bucket_name,
};

use super::key::validate_prefix;
use super::{
    ListPage, ListedObject, MAX_LIST_OBJECTS, Object, ObjectInfo, ObjectStore, PutCondition,
    StoreError, Version, check_limit, cut, validate_key,
};
use errors::Names;

/// Most keys of one delete request; the protocol's limit.
const DELETE_KEYS: usize = 1000;
/// Connections kept for reuse, and for how long.
const IDLE_CONNECTIONS: usize = 32;
const IDLE_TIME: Duration = Duration::from_secs(50);
/// Asks Tigris to answer from the region that decides. It holds for the request that has it only, so all have it.
const CONSISTENT_HEADER: &str = "X-Tigris-Consistent";

/// A store in a bucket, or below a prefix in one.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// What all keys begin with: nothing, or a prefix and a slash.
    root: String,
    names: Names,
    is_tigris: bool,
    attempt_deadline: Duration,
    place: String,
}

impl S3Store {
    /// Makes the client. Sends no request, except what finding keys of [`S3Credentials::Chain`] takes.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for settings that make no sense, with the setting's name.
    pub async fn connect(settings: &S3Settings) -> Result<Self, StoreError> {
        settings.check()?;
        // Keys may have to come from somewhere over TLS even when the store needs none.
        let http = match (settings.is_https(), &settings.credentials) {
            (false, S3Credentials::Keys { .. } | S3Credentials::File(_)) => plain_client(),
            _ => tls_client(),
        };
        Self::with_client(settings, http).await
    }

    /// The same with a given HTTP client.
    async fn with_client(
        settings: &S3Settings,
        http: SharedHttpClient,
    ) -> Result<Self, StoreError> {
        let keys = settings
            .credentials
            .provider(&http, &settings.region)
            .await?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(settings.connect_deadline)
            .read_timeout(settings.attempt_deadline)
            .build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .endpoint_url(settings.endpoint.trim_end_matches('/'))
            .region(Region::new(settings.region.clone()))
            .force_path_style(settings.path_style())
            .credentials_provider(keys)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let root = match settings.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(Self {
            client: Client::from_conf(config),
            bucket: settings.bucket.clone(),
            place: format!(
                "s3://{}/{} at {}",
                settings.bucket, settings.prefix, settings.endpoint
            ),
            root,
            names: Names::of(settings),
            is_tigris: settings.is_tigris(),
            attempt_deadline: settings.attempt_deadline,
        })
    }

    /// The first object at this place whatever its name, for telling whether it is empty. A folder's marker, as
    /// consoles make, does not count.
    ///
    /// # Errors
    /// As every request.
    pub async fn first_key(&self) -> Result<Option<String>, StoreError> {
        let page = self.list_raw("", None, None, 2).await?;
        let mut objects = page.contents.unwrap_or_default().into_iter();
        Ok(objects.find_map(|object| {
            let key = object.key?;
            (key != self.root).then_some(key)
        }))
    }

    /// Whether keys are below a prefix.
    #[must_use]
    pub fn has_prefix(&self) -> bool {
        !self.root.is_empty()
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    /// Makes a request with its deadline, body included.
    async fn ask<T, E>(
        &self,
        what: &'static str,
        key: &str,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match tokio::time::timeout(self.attempt_deadline, request).await {
            Ok(outcome) => outcome.map_err(|error| self.names.error(what, key, error)),
            Err(_) => Err(StoreError::Timeout {
                what: self.names.silence(&format!("{what} {key}")),
            }),
        }
    }

    /// The version that an answer names. Conditional writes need one, and S3 always gives one.
    fn version(&self, what: &str, key: &str, tag: Option<String>) -> Result<Version, StoreError> {
        let tag = tag.filter(|tag| !tag.is_empty());
        tag.map(Version)
            .ok_or_else(|| self.names.not_s3(&format!("{what} {key}: no ETag"), 200))
    }

    /// What is added to every request.
    fn consistent(&self) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
        let is_tigris = self.is_tigris;
        move |request| {
            if is_tigris {
                request.headers_mut().insert(CONSISTENT_HEADER, "true");
            }
        }
    }

    async fn list_raw(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<String>,
        limit: usize,
    ) -> Result<ListObjectsV2Output, StoreError> {
        let whole = self.full(prefix);
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix((!whole.is_empty()).then_some(whole))
            .set_start_after(after.map(|after| self.full(after)))
            .set_continuation_token(token)
            .max_keys(i32::try_from(limit.min(MAX_LIST_OBJECTS)).unwrap_or(1))
            .customize()
            .mutate_request(self.consistent());
        self.ask("list", prefix, request.send()).await
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), StoreError> {
        let built = |error: &dyn std::fmt::Display| StoreError::Invalid {
            what: format!("delete: {error}"),
        };
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.full(key)).build());
        let objects = objects
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| built(&e))?;
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(|e| built(&e))?;
        let request = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(delete)
            .customize()
            .mutate_request(self.consistent());
        let first = keys.first().map_or("", String::as_str);
        let output = self.ask("delete", first, request.send()).await?;
        let refused = output
            .errors()
            .iter()
            .find(|e| e.code() != Some("NoSuchKey"));
        let Some(refused) = refused else {
            return Ok(());
        };
        let what = format!(
            "delete {}: {}: {}",
            refused.key().unwrap_or_default(),
            refused.code().unwrap_or("no code"),
            refused.message().unwrap_or_default()
        );
        Err(match refused.code() {
            Some("AccessDenied") => StoreError::Denied {
                what: format!("{what}; give the keys the right to delete"),
            },
            Some("InternalError" | "SlowDown" | "ServiceUnavailable") => {
                StoreError::Unavailable { what }
            }
            _ => StoreError::Invalid { what },
        })
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        validate_key(key)?;
        if let Some(range) = &range
            && range.start >= range.end
        {
            cut(key, Bytes::new(), Some(range))?;
        }
        let header = range
            .as_ref()
            .map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_range(header)
            .customize()
            .mutate_request(self.consistent());
        let whole = async {
            let output = self.ask("get", key, request.send()).await?;
            let version = self.version("get", key, output.e_tag)?;
            let partial = output.content_range.is_some();
            let body = output.body.collect().await;
            let bytes = body.map_err(|error| StoreError::Unavailable {
                what: format!("get {key}: the body broke off: {error}"),
            })?;
            Ok((bytes.into_bytes(), version, partial))
        };
        let answered = tokio::time::timeout(self.attempt_deadline, whole).await;
        let (bytes, version, partial) = answered.map_err(|_| StoreError::Timeout {
            what: self.names.silence(&format!("get {key}")),
        })??;
        let bytes = match range {
            // A store may answer a range with everything.
            Some(range) if !partial => cut(key, bytes, Some(&range))?,
            Some(range) if bytes.len() as u64 > range.end - range.start => {
                return Err(StoreError::Damaged {
                    what: format!("{key}: {} bytes came for {range:?}", bytes.len()),
                });
            }
            _ => bytes,
        };
        Ok(Object { bytes, version })
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        validate_key(key)?;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .body(ByteStream::from(body));
        let request = match cond {
            PutCondition::Always => request,
            PutCondition::IfAbsent => request.if_none_match("*"),
            PutCondition::IfMatch(Version(tag)) => request.if_match(tag),
        };
        let request = request.customize().mutate_request(self.consistent());
        let output = self.ask("put", key, request.send()).await?;
        self.version("put", key, output.e_tag)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        validate_key(key)?;
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .customize()
            .mutate_request(self.consistent());
        let output = self.ask("look at", key, request.send()).await?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            len: length(output.content_length),
            version: self.version("look at", key, output.e_tag)?,
            modified_ms: millis(output.last_modified.as_ref()),
        })
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        validate_prefix(prefix)?;
        check_limit(limit)?;
        let mut token = None;
        loop {
            let page = self.list_raw(prefix, after, token, limit).await?;
            let objects: Vec<_> = page
                .contents
                .unwrap_or_default()
                .into_iter()
                .filter_map(|object| {
                    let key = object.key?.strip_prefix(&self.root)?.to_owned();
                    validate_key(&key).ok()?;
                    Some(ListedObject {
                        key,
                        len: length(object.size),
                        modified_ms: millis(object.last_modified.as_ref()),
                    })
                })
                .collect();
            token = page.next_continuation_token;
            let more = page.is_truncated == Some(true) && token.is_some();
            // A page without one object of ours would give the caller nothing to go on from.
            if !more || !objects.is_empty() {
                return Ok(ListPage { objects, more });
            }
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| validate_key(key))?;
        for batch in keys.chunks(DELETE_KEYS) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}

fn plain_client() -> SharedHttpClient {
    HttpBuilder::new()
        .pool_idle_timeout(IDLE_TIME)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build_http()
}

fn tls_client() -> SharedHttpClient {
    HttpBuilder::new()
        .tls_provider(TlsProvider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(IDLE_TIME)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build_https()
}

fn length(len: Option<i64>) -> u64 {
    len.and_then(|len| u64::try_from(len).ok()).unwrap_or(0)
}

fn millis(time: Option<&DateTime>) -> u64 {
    time.and_then(|time| time.to_millis().ok())
        .and_then(|ms| u64::try_from(ms).ok())
        .unwrap_or(0)
}
