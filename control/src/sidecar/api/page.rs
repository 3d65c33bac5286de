//! The page at `/`, and its sessions.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::server::App;
use crate::sidecar::types::Session;

/// What the page may load: its own script and style and the answers of this sidecar. Nothing in the page itself is run.
const PAGE_MAY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Paths that are open to everybody: the page as it is before anything is known.
pub(in crate::sidecar) const OPEN: [&str; 3] = ["/", "/page.js", "/page.css"];

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    let may = HeaderValue::from_static(PAGE_MAY);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, may);
    response
}

pub(in crate::sidecar) async fn page() -> Response {
    file(
        "text/html; charset=utf-8",
        include_str!("../page/index.html"),
    )
}

pub(in crate::sidecar) async fn script() -> Response {
    file(
        "text/javascript; charset=utf-8",
        include_str!("../page/page.js"),
    )
}

pub(in crate::sidecar) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("../page/page.css"))
}

/// Begin a session of the page
///
/// The answer sets a cookie that is good for GET only. Requests that change something need, beside the cookie, the header
/// `X-CSRF-Token` with the secret of this answer. Over the Unix socket there is nothing to begin.
#[utoipa::path(
    post, path = "/session", tag = "sidecar", operation_id = "begin_session",
    responses((status = 200, description = "It has begun, for 12 hours and as long as the token holds", body = Session))
)]
pub(in crate::sidecar) async fn begin(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Identity::Local { .. } = identity {
        return Ok(Json(Session::local()).into_response());
    }
    let begun = app.auth.begin_session(&headers)?;
    let session = Session {
        is_local: false,
        csrf: Some(begun.csrf),
        ends_ms: Some(begun.ends_ms),
    };
    Ok(([(header::SET_COOKIE, begun.cookie)], Json(session)).into_response())
}

/// Whether there is a session
#[utoipa::path(
    get, path = "/session", tag = "sidecar", operation_id = "get_session",
    responses((status = 200, description = "There is; its secret is not told again", body = Session))
)]
pub(in crate::sidecar) async fn get(Extension(identity): Extension<Identity>) -> Json<Session> {
    Json(match identity {
        Identity::Local { .. } => Session::local(),
        _ => Session {
            is_local: false,
            csrf: None,
            ends_ms: None,
        },
    })
}

/// End a session of the page
#[utoipa::path(
    delete, path = "/session", tag = "sidecar", operation_id = "end_session",
    responses(
        (status = 200, description = "There is none any more", body = Session),
        (status = 403, description = "`forbidden`: by the cookie alone", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn end(State(app): State<App>, headers: HeaderMap) -> Response {
    let forget = app.auth.end_session(&headers);
    let session = Session {
        is_local: false,
        csrf: None,
        ends_ms: None,
    };
    ([(header::SET_COOKIE, forget)], Json(session)).into_response()
}
