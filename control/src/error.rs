//! Errors of both APIs, that of a volume and that of the sidecar, and the one place that maps them to HTTP and back.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the receiver of an error should do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The same request may succeed later.
    Retry,
    /// Something has to be changed first: the request, or the machine.
    Fix,
    /// Nobody can help from outside; the log says more.
    GiveUp,
}

/// Why the API did not do what it was asked. Every message is written for the person who reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The request makes no sense. Fix it.
    #[error("{0}")]
    InvalidRequest(String),
    /// No such path in this version of the API. Fix it.
    #[error("{0}")]
    NotFound(String),
    /// The path exists, the method does not. Fix it.
    #[error("{0}")]
    MethodNotAllowed(String),
    /// The body is larger than the API takes. Fix it.
    #[error("{0}")]
    TooLarge(String),
    /// The body is not JSON. Fix it.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// The volume takes no writes, so there is nothing to wait for. Fix what the message names.
    #[error("{0}")]
    ReadOnly(String),
    /// The deadline passed; what was under way goes on. Retry.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The object store does not answer. Retry.
    #[error("{0}")]
    StoreUnavailable(String),
    /// The volume is being unmounted. Retry after the next mount.
    #[error("{0}")]
    ShuttingDown(String),
    /// No volume answers on the socket. Fix: mount it.
    #[error("{0}")]
    Unreachable(String),
    /// The volume's answer could not be understood. Give up: another version, or damage.
    #[error("{0}")]
    BadAnswer(String),
    /// Nobody knows who asks. Fix: send a token.
    #[error("{0}")]
    Unauthorized(String),
    /// It is known who asks, and they may not. Fix.
    #[error("{0}")]
    Forbidden(String),
    /// What is asked for contradicts what is there. Fix the request, or what is there.
    #[error("{0}")]
    Conflict(String),
    /// Files that somebody changed would be overwritten. Fix: what the message lists.
    #[error("{0}")]
    FilesChanged(String),
    /// Somebody uses it. Fix: end that first.
    #[error("{0}")]
    InUse(String),
    /// As many as there may be are there. Fix: remove one, or raise the setting.
    #[error("{0}")]
    LimitReached(String),
    /// It is known and does not run at the moment. Retry, or fix what its state says.
    #[error("{0}")]
    NotMounted(String),
    /// The mount did not come. Fix what the message names.
    #[error("{0}")]
    MountFailed(String),
    /// The request's `Idempotency-Key` belongs to another request. Fix: send another key.
    #[error("{0}")]
    KeyReused(String),
    /// The sandbox of a command did not come. Fix what the message names.
    #[error("{0}")]
    SandboxFailed(String),
    /// Too many requests. Retry after so many seconds.
    #[error("{message}")]
    RateLimited {
        /// What to do.
        message: String,
        /// Seconds to wait, at least 1.
        retry_after_s: u64,
    },
    /// The sidecar's database cannot be read or written. Retry; its log says more.
    #[error("{0}")]
    DatabaseUnavailable(String),
    /// A fault of the program's own. Give up; its log says more.
    #[error("{0}")]
    Internal(String),
}

/// The JSON that every error is sent as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable name of the kind of error.
    pub code: String,
    /// What happened and what to do about it.
    pub message: String,
    /// Names this request in the log of whoever answered.
    pub request_id: String,
}

impl ApiError {
    /// The stable name and the HTTP status of this error.
    fn wire(&self) -> (&'static str, StatusCode) {
        match self {
            Self::InvalidRequest(_) => ("invalid_request", StatusCode::BAD_REQUEST),
            Self::NotFound(_) => ("not_found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed(_) => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::TooLarge(_) => ("too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::UnsupportedMediaType(_) => {
                ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::ReadOnly(_) => ("read_only", StatusCode::CONFLICT),
            Self::DeadlineExceeded(_) => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
            Self::StoreUnavailable(_) => ("store_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::ShuttingDown(_) => ("shutting_down", StatusCode::SERVICE_UNAVAILABLE),
            Self::Unreachable(_) => ("unreachable", StatusCode::BAD_GATEWAY),
            Self::BadAnswer(_) => ("bad_answer", StatusCode::BAD_GATEWAY),
            Self::Unauthorized(_) => ("unauthorized", StatusCode::UNAUTHORIZED),
            Self::Forbidden(_) => ("forbidden", StatusCode::FORBIDDEN),
            Self::Conflict(_) => ("conflict", StatusCode::CONFLICT),
            Self::FilesChanged(_) => ("files_changed", StatusCode::CONFLICT),
            Self::InUse(_) => ("in_use", StatusCode::CONFLICT),
            Self::LimitReached(_) => ("limit_reached", StatusCode::CONFLICT),
            Self::NotMounted(_) => ("not_mounted", StatusCode::CONFLICT),
            Self::MountFailed(_) => ("mount_failed", StatusCode::UNPROCESSABLE_ENTITY),
            Self::KeyReused(_) => ("key_reused", StatusCode::UNPROCESSABLE_ENTITY),
            Self::SandboxFailed(_) => ("sandbox_failed", StatusCode::UNPROCESSABLE_ENTITY),
            Self::RateLimited { .. } => ("rate_limited", StatusCode::TOO_MANY_REQUESTS),
            Self::DatabaseUnavailable(_) => {
                ("database_unavailable", StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Internal(_) => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// The stable name of this error, as sent in [`ErrorBody::code`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.wire().0
    }

    /// The HTTP status this error is sent with.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.wire().1.as_u16()
    }

    /// What the receiver should do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::DeadlineExceeded(_)
            | Self::StoreUnavailable(_)
            | Self::ShuttingDown(_)
            | Self::NotMounted(_)
            | Self::RateLimited { .. }
            | Self::DatabaseUnavailable(_) => Advice::Retry,
            Self::InvalidRequest(_)
            | Self::NotFound(_)
            | Self::MethodNotAllowed(_)
            | Self::TooLarge(_)
            | Self::UnsupportedMediaType(_)
            | Self::ReadOnly(_)
            | Self::Unreachable(_)
            | Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::Conflict(_)
            | Self::FilesChanged(_)
            | Self::InUse(_)
            | Self::LimitReached(_)
            | Self::MountFailed(_)
            | Self::KeyReused(_)
            | Self::SandboxFailed(_) => Advice::Fix,
            Self::BadAnswer(_) | Self::Internal(_) => Advice::GiveUp,
        }
    }

    /// This error as JSON for the request named `request_id`.
    #[must_use]
    pub fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            code: self.code().to_owned(),
            message: self.to_string(),
            request_id: request_id.to_owned(),
        }
    }

    /// The error that `body` was made from. A code from a newer version becomes [`ApiError::BadAnswer`].
    #[must_use]
    pub fn from_body(body: ErrorBody) -> Self {
        let ErrorBody {
            code,
            message,
            request_id,
        } = body;
        match code.as_str() {
            "invalid_request" => Self::InvalidRequest(message),
            "not_found" => Self::NotFound(message),
            "method_not_allowed" => Self::MethodNotAllowed(message),
            "too_large" => Self::TooLarge(message),
            "unsupported_media_type" => Self::UnsupportedMediaType(message),
            "read_only" => Self::ReadOnly(message),
            "deadline_exceeded" => Self::DeadlineExceeded(message),
            "store_unavailable" => Self::StoreUnavailable(message),
            "shutting_down" => Self::ShuttingDown(message),
            "unreachable" => Self::Unreachable(message),
            "bad_answer" => Self::BadAnswer(message),
            "unauthorized" => Self::Unauthorized(message),
            "forbidden" => Self::Forbidden(message),
            "conflict" => Self::Conflict(message),
            "files_changed" => Self::FilesChanged(message),
            "in_use" => Self::InUse(message),
            "limit_reached" => Self::LimitReached(message),
            "not_mounted" => Self::NotMounted(message),
            "mount_failed" => Self::MountFailed(message),
            "key_reused" => Self::KeyReused(message),
            "sandbox_failed" => Self::SandboxFailed(message),
            "rate_limited" => Self::RateLimited {
                message,
                // The time itself is in a header, which only the client that was told it needs.
                retry_after_s: 1,
            },
            "database_unavailable" => Self::DatabaseUnavailable(message),
            "internal" => Self::Internal(format!("{message} (request {request_id})")),
            _ => Self::BadAnswer(format!("{message} ({code}, request {request_id})")),
        }
    }
}

/// The status only: the server's outermost layer writes the body, because it knows the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.wire().1.into_response();
        let headers = response.headers_mut();
        match &self {
            Self::RateLimited { retry_after_s, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Self::Unauthorized(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<ApiError> {
        let text = || "text".to_owned();
        vec![
            ApiError::InvalidRequest(text()),
            ApiError::NotFound(text()),
            ApiError::MethodNotAllowed(text()),
            ApiError::TooLarge(text()),
            ApiError::UnsupportedMediaType(text()),
            ApiError::ReadOnly(text()),
            ApiError::DeadlineExceeded(text()),
            ApiError::StoreUnavailable(text()),
            ApiError::ShuttingDown(text()),
            ApiError::Unreachable(text()),
            ApiError::BadAnswer(text()),
            ApiError::Unauthorized(text()),
            ApiError::Forbidden(text()),
            ApiError::Conflict(text()),
            ApiError::FilesChanged(text()),
            ApiError::InUse(text()),
            ApiError::LimitReached(text()),
            ApiError::NotMounted(text()),
            ApiError::MountFailed(text()),
            ApiError::KeyReused(text()),
            ApiError::SandboxFailed(text()),
            ApiError::RateLimited {
                message: text(),
                retry_after_s: 1,
            },
            ApiError::DatabaseUnavailable(text()),
        ]
    }

    #[test]
    fn every_error_survives_the_wire() {
        for error in all() {
            assert!(error.status() >= 400);
            assert_eq!(ApiError::from_body(error.body("r-1")), error);
        }
    }

    #[test]
    fn codes_are_told_apart() {
        let mut codes: Vec<_> = all().iter().map(ApiError::code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all().len());
    }

    #[test]
    fn whoever_has_to_wait_or_to_say_who_they_are_is_told_in_the_head() {
        let limited = ApiError::RateLimited {
            message: "slow down".into(),
            retry_after_s: 7,
        };
        assert_eq!(limited.into_response().headers()["retry-after"], "7");
        let unknown = ApiError::Unauthorized("who?".into());
        assert_eq!(
            unknown.into_response().headers()["www-authenticate"],
            "Bearer"
        );
    }

    #[test]
    fn a_fault_of_the_volume_keeps_the_request_id_for_its_log() {
        let error = ApiError::from_body(ApiError::Internal("broke".into()).body("r-7"));
        assert_eq!(error, ApiError::Internal("broke (request r-7)".into()));
        assert_eq!(error.advice(), Advice::GiveUp);
    }

    #[test]
    fn an_unknown_code_is_a_bad_answer_that_names_it() {
        let body = ErrorBody {
            code: "teapot".into(),
            message: "no".into(),
            request_id: "r-2".into(),
        };
        assert_eq!(
            ApiError::from_body(body),
            ApiError::BadAnswer("no (teapot, request r-2)".into())
        );
    }
}
