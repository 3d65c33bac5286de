//! What lies between client and objects: latency, bandwidth, faults, counting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::faults::{Answer, Rule, Verb};
use super::objects::Objects;
use super::{ACCESS_KEY, SECRET_KEY};

/// How often what is on the line looks whether that has changed.
const LINE_POLL: Duration = Duration::from_millis(50);

/// Requests of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VerbCounts {
    pub(crate) requests: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// Requests of all kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) get: VerbCounts,
    pub(crate) put: VerbCounts,
    pub(crate) head: VerbCounts,
    pub(crate) list: VerbCounts,
    pub(crate) delete: VerbCounts,
    /// Of the requests to get: those for packs.
    pub(crate) packs: u64,
}

impl Counts {
    fn of(&mut self, verb: Verb) -> &mut VerbCounts {
        match verb {
            Verb::Get => &mut self.get,
            Verb::Put => &mut self.put,
            Verb::Head => &mut self.head,
            Verb::List => &mut self.list,
            Verb::Delete => &mut self.delete,
        }
    }
}

/// What is right for [`ACCESS_KEY`] just now.
struct Keys {
    secret: String,
    /// Has to come with every request, if there is one.
    token: Option<String>,
}

pub(super) struct Wire {
    keys: Mutex<Keys>,
    latency: Mutex<Duration>,
    bandwidth: Mutex<Option<u64>>,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<Counts>,
    /// Puts under way, and the most there ever were.
    puts: Mutex<(usize, usize)>,
}

/// One put under way.
struct PutUnderWay<'a>(&'a Wire);

impl<'a> PutUnderWay<'a> {
    fn begin(wire: &'a Wire) -> Self {
        let mut puts = wire.puts.lock();
        puts.0 += 1;
        puts.1 = puts.1.max(puts.0);
        Self(wire)
    }
}

impl Drop for PutUnderWay<'_> {
    fn drop(&mut self) {
        self.0.puts.lock().0 -= 1;
    }
}

impl Wire {
    pub(super) fn new(latency: Duration, bandwidth: Option<u64>) -> Self {
        Self {
            keys: Mutex::new(Keys {
                secret: SECRET_KEY.into(),
                token: None,
            }),
            latency: Mutex::new(latency),
            bandwidth: Mutex::new(bandwidth),
            free_at: Mutex::new(Instant::now()),
            rules: Mutex::default(),
            counts: Mutex::default(),
            puts: Mutex::default(),
        }
    }

    pub(super) fn most_puts_at_once(&self) -> usize {
        self.puts.lock().1
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    pub(super) fn set_keys(&self, secret: &str, token: Option<&str>) {
        *self.keys.lock() = Keys {
            secret: secret.into(),
            token: token.map(str::to_owned),
        };
    }

    /// The answer to a request without the token that is right.
    fn without_token(&self, request: &Request<Incoming>) -> Option<HttpResponse> {
        let keys = self.keys.lock();
        let right = keys.token.as_ref()?;
        let given = request.headers().get("x-amz-security-token");
        let fits = given.is_some_and(|given| given.as_bytes() == right.as_bytes());
        (!fits).then(|| refusal(403, "InvalidToken"))
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        *self.latency.lock() = latency;
    }

    pub(super) fn set_bandwidth(&self, bandwidth: Option<u64>) {
        *self.bandwidth.lock() = bandwidth;
        *self.free_at.lock() = Instant::now();
    }

    pub(super) fn add(&self, rule: Rule) {
        self.rules.lock().push(rule);
    }

    pub(super) fn clear(&self) {
        self.rules.lock().clear();
    }

    fn rule(&self, verb: Verb, path: &str) -> Option<Answer> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| rule.fits(verb, path))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.answer.clone())
    }

    /// Waits as long as `bytes` take on a line that all requests share.
    async fn carry(&self, bytes: u64) {
        let Some(bandwidth) = *self.bandwidth.lock() else {
            return;
        };
        let until = {
            let mut free_at = self.free_at.lock();
            let begin = (*free_at).max(Instant::now());
            *free_at = begin + Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
            *free_at
        };
        // The line may become faster while something is on its way.
        while Instant::now() < until && self.bandwidth.lock().is_some() {
            let soon = Instant::now() + LINE_POLL;
            tokio::time::sleep_until(until.min(soon).into()).await;
        }
    }

    async fn handle(
        &self,
        service: &S3Service,
        request: Request<Incoming>,
    ) -> Result<HttpResponse, s3s::HttpError> {
        let verb = verb_of(&request);
        let _put = (verb == Verb::Put).then(|| PutUnderWay::begin(self));
        let received = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|len| len.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        {
            let mut counts = self.counts.lock();
            let of = counts.of(verb);
            of.requests += 1;
            of.received_bytes += received;
            let is_pack = request.uri().path().contains("/packs/");
            counts.packs += u64::from(verb == Verb::Get && is_pack);
        }
        let latency = *self.latency.lock();
        tokio::time::sleep(latency).await;
        self.carry(received).await;
        let answer = match self.rule(verb, request.uri().path()) {
            None => match self.without_token(&request) {
                Some(refused) => refused,
                None => service.call(request.map(Body::from)).await?,
            },
            Some(Answer::LostAfter(status, code)) => {
                service.call(request.map(Body::from)).await?;
                refusal(status, code)
            }
            Some(Answer::Code(status, code)) => refusal(status, code),
            Some(Answer::OtherRegion(region)) => {
                let mut response = refusal(301, "PermanentRedirect");
                response
                    .headers_mut()
                    .insert("x-amz-bucket-region", region.parse().unwrap());
                response
            }
            Some(Answer::Page(status)) => {
                let mut response =
                    HttpResponse::new(Body::from("<html><body>hello</body></html>".to_owned()));
                *response.status_mut() = status.try_into().unwrap();
                response
            }
            Some(Answer::Silence(span)) => {
                tokio::time::sleep(span).await;
                refusal(500, "InternalError")
            }
        };
        let sent = answer.body().size_hint().lower();
        self.carry(sent).await;
        self.counts.lock().of(verb).sent_bytes += sent;
        Ok(answer)
    }
}

/// Signatures are right that are made with the keys of the moment.
struct Signatures(Arc<Wire>);

#[async_trait::async_trait]
impl S3Auth for Signatures {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key {
            ACCESS_KEY => Ok(SecretKey::from(self.0.keys.lock().secret.as_str())),
            _ => Err(s3_error!(NotSignedUp, "nobody knows this key")),
        }
    }
}

pub(super) async fn serve(
    listener: TcpListener,
    objects: Arc<Objects>,
    wire: Arc<Wire>,
    tls: Option<TlsAcceptor>,
) {
    let mut builder = S3ServiceBuilder::new(objects.service());
    builder.set_auth(Signatures(Arc::clone(&wire)));
    let service = builder.build();
    while let Ok((stream, _)) = listener.accept().await {
        let (service, wire, tls) = (service.clone(), Arc::clone(&wire), tls.clone());
        drop(stream.set_nodelay(true));
        tokio::spawn(async move {
            let handler = service_fn(|request| wire.handle(&service, request));
            let http = hyper::server::conn::http1::Builder::new();
            // The client may close whenever it likes.
            match tls {
                None => drop(http.serve_connection(TokioIo::new(stream), handler).await),
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    drop(http.serve_connection(TokioIo::new(stream), handler).await);
                }
            }
        });
    }
}

fn verb_of(request: &Request<Incoming>) -> Verb {
    let query = request.uri().query().unwrap_or_default();
    match *request.method() {
        Method::PUT => Verb::Put,
        Method::HEAD => Verb::Head,
        Method::POST | Method::DELETE => Verb::Delete,
        _ if query.contains("list-type") => Verb::List,
        _ => Verb::Get,
    }
}

fn refusal(status: u16, code: &str) -> HttpResponse {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>planted</Message></Error>"
    );
    let mut response = HttpResponse::new(Body::from(body));
    *response.status_mut() = status.try_into().unwrap();
    response
        .headers_mut()
        .insert("content-type", "application/xml".parse().unwrap());
    response
}
