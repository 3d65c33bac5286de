//! Requests over HTTP that steps make. It is this machine that asks, as with a command whose network is the machine's.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::types::Fault;

/// Most bytes of an answer that are kept.
pub(super) const ANSWER_MAX: usize = 64 * 1024;
/// How long a connection may take to come.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// The header that tells a server that it has done this already.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

type Connector = HttpsConnector<HttpConnector>;

/// Asks over HTTP and HTTPS. Redirects are not followed.
#[derive(Default)]
pub(super) struct Web(OnceLock<Result<Client<Connector, Full<Bytes>>, String>>);

/// What is asked.
pub(super) struct Ask {
    pub(super) method: hyper::Method,
    pub(super) url: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    /// The same for every attempt of the same step.
    pub(super) key: Option<String>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// At most [`ANSWER_MAX`] bytes.
    pub(super) body: Vec<u8>,
    pub(super) is_cut: bool,
}

impl Web {
    /// Asks, and reads what is kept of the answer. The caller has the deadline.
    ///
    /// # Errors
    /// `invalid_request` for what cannot be asked, `http_failed` for what was not answered.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answered, Fault> {
        let invalid = |message: String| Fault {
            code: "invalid_request".into(),
            message,
        };
        let url: Uri = ask
            .url
            .parse()
            .map_err(|_| invalid("its url is none".into()))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            return Err(invalid("its url is none of http or https".into()));
        }
        let host = url.host().unwrap_or_default().to_owned();
        let mut headers = HeaderMap::new();
        for (name, value) in &ask.headers {
            let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) else {
                return Err(invalid(format!("the header {name} cannot have its value")));
            };
            headers.insert(name, value);
        }
        if let Some(key) = &ask.key
            && let Ok(value) = HeaderValue::from_str(key)
        {
            headers.insert(KEY, value);
        }
        let mut request = Request::new(Full::new(Bytes::from(ask.body.unwrap_or_default())));
        *request.method_mut() = ask.method;
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        let client = self.client()?;
        let failed = |what: String| Fault {
            code: "http_failed".into(),
            message: what,
        };
        let response = client.request(request).await.map_err(|error| {
            let cause = cause(&error);
            failed(match error.is_connect() {
                true => format!("{host} cannot be reached: {cause}"),
                false => format!("{host} did not answer: {cause}"),
            })
        })?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let (mut kept, mut is_cut) = (Vec::new(), false);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| failed(format!("{host} broke off: {}", cause(&error))))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let room = ANSWER_MAX - kept.len();
            kept.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
            if data.len() > room {
                is_cut = true;
                break;
            }
        }
        Ok(Answered {
            status,
            body: kept,
            is_cut,
        })
    }

    fn client(&self) -> Result<&Client<Connector, Full<Bytes>>, Fault> {
        let made = self.0.get_or_init(|| {
            let mut plain = HttpConnector::new();
            plain.enforce_http(false);
            plain.set_connect_timeout(Some(CONNECT_DEADLINE));
            let tls = HttpsConnectorBuilder::new()
                .with_native_roots()
                .map_err(|error| error.to_string())?;
            let connector = tls.https_or_http().enable_http1().wrap_connector(plain);
            let mut builder = Client::builder(TokioExecutor::new());
            builder
                .pool_idle_timeout(IDLE)
                .retry_canceled_requests(false);
            Ok(builder.build(connector))
        });
        made.as_ref().map_err(|error| Fault {
            code: "http_failed".into(),
            message: format!("this machine has no certificates of authorities: {error}"),
        })
    }
}

/// The innermost reason, which is the one that helps.
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
