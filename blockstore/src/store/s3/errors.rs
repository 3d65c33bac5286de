//! From what an S3 store answers, or does not, to the store's errors. Every message names the cause and the setting.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::settings::S3Settings;
use crate::store::StoreError;

/// Header in which a store names the bucket's region when the request went to another.
const REGION_HEADER: &str = "x-amz-bucket-region";
/// Longest text of somebody else's in a message.
const SHOWN_BYTES: usize = 200;

/// Names that messages need.
#[derive(Debug, Clone)]
pub(super) struct Names {
    bucket: String,
    endpoint: String,
    region: String,
    keys_hint: String,
}

/// An answer that is an error.
struct Refusal<'a> {
    status: u16,
    code: Option<&'a str>,
    message: Option<&'a str>,
    region: Option<&'a str>,
}

impl Names {
    pub(super) fn of(settings: &S3Settings) -> Self {
        Self {
            bucket: settings.bucket.clone(),
            endpoint: settings.endpoint.clone(),
            region: settings.region.clone(),
            keys_hint: settings.credentials.hint(),
        }
    }

    /// The error of a request that did `what` (`get`, ...) to `key`.
    pub(super) fn error<E>(&self, what: &str, key: &str, error: SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let doing = format!("{what} {key}");
        match &error {
            SdkError::TimeoutError(_) => StoreError::Timeout {
                what: self.silence(&doing),
            },
            SdkError::ServiceError(service) => {
                let raw = service.raw();
                let meta = service.err();
                let refusal = Refusal {
                    status: raw.status().as_u16(),
                    code: meta.code(),
                    message: meta.message(),
                    region: raw.headers().get(REGION_HEADER),
                };
                self.refused(what, key, &refusal)
            }
            SdkError::ResponseError(response) => {
                self.unreadable(&doing, response.raw(), &context(&error))
            }
            _ => self.not_sent(&doing, &error),
        }
    }

    /// No answer in time.
    pub(super) fn silence(&self, doing: &str) -> String {
        format!(
            "{doing}: {} is silent; check the network and -o endpoint= (S3_ENDPOINT)",
            self.endpoint
        )
    }

    /// The request did not reach a store: no keys, no name, no connection, no TLS.
    fn not_sent<E>(&self, doing: &str, error: &SdkError<E>) -> StoreError
    where
        E: StdError + Send + Sync + 'static,
    {
        let text = context(error);
        if let Some(keys) = find::<CredentialsError>(error) {
            let what = format!(
                "{doing}: there are no keys to sign with ({}); {}",
                context(keys),
                self.keys_hint
            );
            return match keys {
                CredentialsError::ProviderTimedOut(_) => StoreError::Timeout { what },
                _ => StoreError::Denied { what },
            };
        }
        if is_tls(&text) {
            return StoreError::Invalid {
                what: format!(
                    "{doing}: TLS with {} fails ({text}); check -o endpoint= (http:// or https://), the machine's clock and \
                     the certificates it trusts (SSL_CERT_FILE)",
                    self.endpoint
                ),
            };
        }
        if let SdkError::DispatchFailure(failure) = error
            && failure.is_timeout()
        {
            return StoreError::Timeout {
                what: self.silence(doing),
            };
        }
        if matches!(error, SdkError::ConstructionFailure(_)) {
            return StoreError::Invalid {
                what: format!("{doing}: {text}"),
            };
        }
        StoreError::Unavailable {
            what: format!(
                "{doing}: {} cannot be reached ({text}); check the network and -o endpoint= (S3_ENDPOINT)",
                self.endpoint
            ),
        }
    }

    /// An answer came that the client cannot read.
    fn unreadable(&self, doing: &str, raw: &HttpResponse, text: &str) -> StoreError {
        let status = raw.status().as_u16();
        let broken_off = ["connection", "incomplete", "IncompleteMessage", "body"]
            .iter()
            .any(|part| text.contains(part));
        if status >= 500 || status == 429 || broken_off {
            return StoreError::Unavailable {
                what: format!("{doing}: the answer broke off (status {status}, {text})"),
            };
        }
        self.not_s3(doing, status)
    }

    pub(super) fn not_s3(&self, doing: &str, status: u16) -> StoreError {
        StoreError::Invalid {
            what: format!(
                "{doing}: {} answers with status {status} and not in the way of S3; check -o endpoint= (S3_ENDPOINT)",
                self.endpoint
            ),
        }
    }

    /// An answer that says no.
    fn refused(&self, what: &str, key: &str, refusal: &Refusal<'_>) -> StoreError {
        let doing = format!("{what} {key}");
        let code = refusal.code.unwrap_or_default();
        let invalid = |text: String| StoreError::Invalid {
            what: format!("{doing}: {text}"),
        };
        let shown = shown(refusal);
        match (code, refusal.status) {
            ("NoSuchBucket", _) => invalid(format!(
                "there is no bucket {:?} at {}; make it, or check SOURCE and -o endpoint=",
                self.bucket, self.endpoint
            )),
            ("NoSuchKey" | "NotFound", _) => self.missing(what, key),
            ("PreconditionFailed", _) | (_, 412) => StoreError::precondition(key),
            ("RequestTimeTooSkewed", _) => invalid(
                "the machine's clock is wrong, so signatures are refused (RequestTimeTooSkewed); set it, for example with \
                 chronyc makestep"
                    .into(),
            ),
            (
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "TemporaryRedirect"
                | "IllegalLocationConstraintException"
                | "InvalidRegion",
                _,
            )
            | (_, 301 | 307 | 308) => {
                let right = match refusal.region {
                    Some(region) => format!("the bucket is in region {region:?}"),
                    None => "the bucket is in another region".into(),
                };
                invalid(format!(
                    "{right}, asked was {:?} at {}; check -o region= and endpoint= (S3_REGION, S3_ENDPOINT) ({shown})",
                    self.region, self.endpoint
                ))
            }
            (
                // Another conditional put of the same key is under way; whether it wins is not decided.
                "ConditionalRequestConflict"
                | "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout"
                | "Throttling" | "TooManyRequests" | "RequestLimitExceeded",
                _,
            )
            | (_, 429 | 500..) => StoreError::Unavailable {
                what: format!("{doing}: {shown}"),
            },
            ("InvalidRange", _) | (_, 416) => invalid("the range begins beyond the end".into()),
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" | "InvalidToken"
            | "ExpiredToken" | "TokenRefreshRequired" | "InvalidSecurity", _)
            | (_, 401) => StoreError::Denied {
                what: format!("{doing}: the keys are refused ({shown}); {}", self.keys_hint),
            },
            (_, 403) => StoreError::Denied {
                what: format!(
                    "{doing}: these keys may not {what} in the bucket {:?} ({shown}); give them the right to get, put, list \
                     and delete there, or {}",
                    self.bucket, self.keys_hint
                ),
            },
            // A look has no body, so there is no code either.
            ("", 404) if what == "look at" => StoreError::not_found(key),
            ("", status) => self.not_s3(&doing, status),
            (_, 409) => StoreError::precondition(key),
            _ => invalid(shown),
        }
    }

    /// A put can miss only the object that its condition names.
    fn missing(&self, what: &str, key: &str) -> StoreError {
        match what {
            "put" => StoreError::precondition(key),
            _ => StoreError::not_found(key),
        }
    }
}

fn shown(refusal: &Refusal<'_>) -> String {
    let code = refusal.code.unwrap_or("no code");
    let message: String = refusal
        .message
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_BYTES)
        .collect();
    format!("status {}, {code}: {message}", refusal.status)
}

/// An error with all its causes, on one line and not endless.
fn context(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let said = current.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = current.source();
    }
    text.chars()
        .filter(|c| !c.is_control())
        .take(2 * SHOWN_BYTES)
        .collect()
}

fn is_tls(text: &str) -> bool {
    [
        "certificate",
        "InvalidContentType",
        "corrupt message",
        "handshake",
        "tls",
    ]
    .iter()
    .any(|part| text.contains(part))
}

/// The first cause of a kind.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref() {
            return Some(found);
        }
        cause = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::credentials::S3Credentials;
    use super::*;

    fn refused(what: &str, status: u16, code: &str) -> StoreError {
        let settings = S3Settings::new("bucket", "https://host", S3Credentials::Chain);
        Names::of(&settings).refused(
            what,
            "key",
            &Refusal {
                status,
                code: (!code.is_empty()).then_some(code),
                message: Some("words"),
                region: Some("eu-west-1"),
            },
        )
    }

    #[test]
    fn answers_become_errors_that_name_the_setting() {
        for (what, status, code, kind, part) in [
            ("get", 404, "NoSuchKey", "not found", "key"),
            ("look at", 404, "", "not found", "key"),
            (
                "get",
                404,
                "NoSuchBucket",
                "invalid",
                "no bucket \"bucket\"",
            ),
            ("get", 404, "", "invalid", "not in the way of S3"),
            ("put", 404, "NoSuchKey", "precondition", "key"),
            ("put", 412, "PreconditionFailed", "precondition", "key"),
            ("put", 412, "", "precondition", "key"),
            (
                "put",
                409,
                "ConditionalRequestConflict",
                "unavailable",
                "ConditionalRequestConflict",
            ),
            ("put", 503, "SlowDown", "unavailable", "SlowDown"),
            ("put", 500, "", "unavailable", "500"),
            ("put", 429, "", "unavailable", "429"),
            (
                "get",
                400,
                "RequestTimeout",
                "unavailable",
                "RequestTimeout",
            ),
            (
                "get",
                403,
                "InvalidAccessKeyId",
                "denied",
                "S3_ACCESS_KEY_ID",
            ),
            (
                "get",
                403,
                "SignatureDoesNotMatch",
                "denied",
                "S3_SECRET_ACCESS_KEY",
            ),
            (
                "list",
                403,
                "AccessDenied",
                "denied",
                "may not list in the bucket",
            ),
            ("put", 403, "", "denied", "may not put"),
            ("get", 403, "RequestTimeTooSkewed", "invalid", "clock"),
            ("get", 301, "PermanentRedirect", "invalid", "\"eu-west-1\""),
            ("get", 301, "", "invalid", "region="),
            (
                "get",
                400,
                "AuthorizationHeaderMalformed",
                "invalid",
                "region=",
            ),
            ("get", 416, "InvalidRange", "invalid", "range"),
            ("get", 400, "InvalidArgument", "invalid", "InvalidArgument"),
            ("get", 405, "", "invalid", "endpoint="),
        ] {
            let error = refused(what, status, code);
            let found = match &error {
                StoreError::NotFound { .. } => "not found",
                StoreError::PreconditionFailed { .. } => "precondition",
                StoreError::Unavailable { .. } => "unavailable",
                StoreError::Denied { .. } => "denied",
                StoreError::Invalid { .. } => "invalid",
                _ => "other",
            };
            assert_eq!(found, kind, "{what} {status} {code}: {error}");
            assert!(
                error.to_string().contains(part),
                "{what} {status} {code}: {error}"
            );
        }
    }
}
