//! Puts the parts together and serves them, on a Unix socket and, when asked to, on TCP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::api;
use super::auth::{Auth, Identity, kernel_random};
use super::branches::{self, Branches};
use super::events::{EventLog, kinds};
use super::exec::{self, Execs};
use super::host::{Clock, MountHost};
use super::idempotency::{self, Idempotency};
use super::kept_socket::KeptSocket;
use super::limits::Limits;
use super::metrics::{ExecMetrics, Metrics};
use super::mounts::{Mounts, Parts};
use super::previews::{self, Previews};
use super::secret_folder::SecretFolder;
use super::secrets::Secrets;
use super::settings::Settings;
use super::snapshots::Snapshots;
use super::start_error::StartError;
use super::store::Store;
use super::workflows::{self, Workflows};
use crate::error::ApiError;
use crate::sandbox::SandboxHost;
use crate::wire::{self, Caller, ConnectionLimits, RequestNames, name_request};

/// Connections of each listener.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connections: 256,
    head_bytes: 16 * 1024,
    head_lines: 64,
    head_time: Duration::from_secs(10),
    stall_time: Duration::from_secs(30),
    stop_grace: Duration::from_secs(2),
};
/// Most that listen to events at the same time.
pub(super) const STREAMS_MAX: usize = 64;
/// How long a browser may remember what a page may ask.
const CORS_AGE: Duration = Duration::from_secs(600);

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What every request may use; clones are the same.
#[derive(Clone)]
pub(super) struct App(Arc<AppParts>);

pub(super) struct AppParts {
    pub(super) mounts: Mounts,
    pub(super) snapshots: Snapshots,
    pub(super) branches: Branches,
    pub(super) execs: Execs,
    pub(super) previews: Arc<Previews>,
    pub(super) workflows: Workflows,
    pub(super) events: EventLog,
    pub(super) store: Store,
    pub(super) idempotency: Idempotency,
    pub(super) metrics: Metrics,
    pub(super) mounts_max: usize,
    pub(super) streams: Arc<Semaphore>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) auth: Auth,
    limits: Limits,
}

impl std::ops::Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}

/// Where the sidecar can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// On TCP, with the port that was chosen.
    pub tcp: Option<SocketAddr>,
}

/// Serves until `shutdown` completes. Calls `ready` once both listeners take connections. Mounts outlive it.
///
/// # Errors
/// [`StartError`]; nothing is left behind then but the folders.
pub async fn serve_control(
    settings: Settings,
    host: Arc<dyn MountHost>,
    sandboxes: Arc<dyn SandboxHost>,
    clock: Arc<dyn Clock>,
    ready: impl FnOnce(&Listening),
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let cors = cors(&settings.origins)?;
    let store = Store::open(&settings.folder)?;
    let unix = KeptSocket::listen(&settings).await?;
    let ended = serve_on(
        &unix,
        &settings,
        store,
        cors,
        (host, sandboxes, clock),
        ready,
        shutdown,
    )
    .await;
    unix.remove();
    ended
}

/// Everything between listening and the end of it.
async fn serve_on(
    unix: &KeptSocket,
    settings: &Settings,
    store: Store,
    cors: Option<CorsLayer>,
    (host, sandboxes, clock): (Arc<dyn MountHost>, Arc<dyn SandboxHost>, Arc<dyn Clock>),
    ready: impl FnOnce(&Listening),
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let group = unix.group()?;
    let auth = Auth::new(&settings.auth, group, Arc::clone(&clock), kernel_random)?;
    let tcp = listen_tcp(settings, &auth).await?;
    let database = |error: ApiError| StartError::Database(error.to_string());
    let events = EventLog::open(store.clone(), Arc::clone(&clock))
        .await
        .map_err(database)?;
    let version = env!("CARGO_PKG_VERSION");
    events
        .add(
            kinds::SIDECAR_STARTED,
            None,
            format!("the sidecar has started, version {version}"),
        )
        .await;
    let (stop, stopping) = watch::channel(false);
    let keep = settings
        .keep_credentials
        .then_some(settings.folder.as_path());
    let parts = Parts {
        host: Arc::clone(&host),
        clock: Arc::clone(&clock),
        store: store.clone(),
        events: events.clone(),
        secrets: Secrets::new(&settings.run_dir, keep),
        workspace: settings.workspace.clone(),
        mounts_max: settings.mounts_max,
    };
    let (mounts, mut supervising) = Mounts::start(parts, stopping.clone())
        .await
        .map_err(database)?;
    let branches = Branches::new(branches::Parts {
        mounts: mounts.clone(),
        host,
        store: store.clone(),
        events: events.clone(),
        clock: Arc::clone(&clock),
    });
    branches.forget_old().await.map_err(database)?;
    tokio::spawn(branches::keep_room(branches.clone(), stopping.clone()));
    let exec_metrics = ExecMetrics::new();
    let mut sandboxing = settings.sandboxes.clone();
    sandboxing.hidden.extend(sandboxes.private());
    let execs = Execs::new(exec::Parts {
        host: Arc::clone(&sandboxes),
        mounts: mounts.clone(),
        events: events.clone(),
        clock: Arc::clone(&clock),
        metrics: exec_metrics.clone(),
        settings: sandboxing.clone(),
        secrets: SecretFolder::new(&settings.folder),
    });
    execs.clear().await;
    let previews = Previews::take_back(previews::Parts {
        host: Arc::clone(&sandboxes),
        mounts: mounts.clone(),
        events: events.clone(),
        clock: Arc::clone(&clock),
        store: store.clone(),
        settings: sandboxing.clone(),
        secrets: SecretFolder::new(&settings.folder),
        ports: settings.previews.ports,
        allowed: settings.previews.allowed.clone().into(),
        stop: stopping.clone(),
    })
    .await
    .map_err(database)?;
    let previews = Arc::new(previews);
    let workflow_parts = workflows::Parts::new(
        (store.clone(), events.clone()),
        (mounts.clone(), Arc::clone(&previews)),
        sandboxes,
        Arc::clone(&clock),
        sandboxing,
        SecretFolder::new(&settings.folder),
        Arc::new(workflows::Usual::new()),
    );
    let metrics = Metrics::new(&exec_metrics, &workflow_parts.metrics);
    let workflows = Workflows::start(workflow_parts).await.map_err(database)?;
    let app = App(Arc::new(AppParts {
        snapshots: Snapshots::new(mounts.clone(), events.clone()),
        mounts,
        branches,
        execs,
        previews,
        workflows,
        events: events.clone(),
        idempotency: Idempotency::new(store.clone(), Arc::clone(&clock)),
        store,
        metrics,
        mounts_max: settings.mounts_max,
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        stop: stopping.clone(),
        auth,
        limits: Limits::new(settings.rates),
    }));
    let router = router(app, cors, clock.now_ms());
    let listening = Listening {
        tcp: tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()),
    };
    tracing::info!(socket = %settings.socket.display(), tcp = ?listening.tcp, version, "the sidecar listens");
    ready(&listening);
    let serving = serve_both(unix.clone(), tcp, router, stopping);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => Ok(()),
        () = shutdown => {
            let text = "the sidecar ends; mounts and previews go on without it";
            events.add(kinds::SIDECAR_STOPPED, None, text.into()).await;
            stop.send_replace(true);
            serving.await;
            (&mut supervising).await.map_err(|_| StartError::BrokeDown)
        }
        _ = &mut supervising => {
            stop.send_replace(true);
            serving.await;
            Err(StartError::BrokeDown)
        }
    }
}

async fn serve_both(
    unix: KeptSocket,
    tcp: Option<TcpListener>,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        drop(stop.wait_for(|stop| *stop).await);
    };
    let over_unix = wire::serve(unix, router.clone(), LIMITS, stopped(stop.clone()));
    let over_tcp = async {
        if let Some(tcp) = tcp {
            wire::serve(tcp, router, LIMITS, stopped(stop)).await;
        }
    };
    tokio::join!(over_unix, over_tcp);
}

async fn listen_tcp(settings: &Settings, auth: &Auth) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = settings.listen else {
        return Ok(None);
    };
    if !auth.can_serve_tcp() {
        return Err(StartError::Setting(
            "--listen needs a way to tell who asks: make a token with \"weldrfs control token create\", set \
             BETTER_AUTH_SECRET, or give --jwks FILE"
                .into(),
        ));
    }
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Listen {
            place: address.to_string(),
            error,
        })?;
    Ok(Some(listener))
}

fn router(app: App, cors: Option<CorsLayer>, started_ms: u64) -> Router {
    let mut router = Router::new()
        .route("/health", get(api::health))
        .route("/mounts", get(api::list).post(api::add))
        .route("/mounts/unmount", post(api::unmount))
        .route("/mounts/{name}", get(api::details))
        .route("/mounts/{name}/sync", post(api::sync))
        .route("/mounts/{name}/logs", get(api::logs))
        .route(
            "/mounts/{name}/snapshots",
            get(api::snapshots::list).post(api::snapshots::create),
        )
        .route(
            "/mounts/{name}/snapshots/{id}",
            get(api::snapshots::get).delete(api::snapshots::remove),
        )
        .route(
            "/mounts/{name}/snapshots/{id}/restore",
            post(api::snapshots::restore),
        )
        .route(
            "/mounts/{name}/snapshots/{id}/diff",
            get(api::snapshots::diff),
        )
        .route(
            "/branches",
            get(api::branches::list).post(api::branches::create),
        )
        .route(
            "/branches/{id}",
            get(api::branches::get).delete(api::branches::remove),
        )
        .route("/branches/{id}/sync", post(api::branches::sync))
        .route("/exec", post(api::exec))
        .route("/previews", get(api::list_previews))
        .route("/previews/start", post(api::start_preview))
        .route("/previews/stop", post(api::stop_preview))
        .route("/previews/{id}", get(api::get_preview))
        .route("/previews/{id}/logs", get(api::preview_logs))
        .route("/trigger", post(api::trigger))
        .route("/workflows", get(api::runs))
        .route("/workflows/{run}", get(api::show_run))
        .route("/workflows/{run}/cancel", post(api::cancel_run))
        .route("/workflows/{run}/retry", post(api::retry_run))
        .route("/workflows/{run}/skip", post(api::skip_step))
        .route("/workflows/{run}/diff", get(api::diff_run))
        .route("/revert", post(api::revert))
        .route("/workflow.schema.json", get(api::workflow_schema))
        .route("/install-integrations", post(api::install_integrations))
        .route("/integrations", get(api::list_integrations))
        .route("/integrations/{integration}", get(api::show_integration))
        .route("/integration.schema.json", get(api::integration_schema))
        .route("/events", get(api::events))
        .route("/metrics", get(api::metrics))
        .route("/", get(api::page::page))
        .route("/page.js", get(api::page::script))
        .route("/page.css", get(api::page::style))
        .route(
            "/session",
            get(api::page::get)
                .post(api::page::begin)
                .delete(api::page::end),
        )
        .route("/openapi.json", get(api::openapi))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(app.clone(), authenticate));
    if let Some(cors) = cors {
        // Outside of authentication: a browser asks first whether it may send a token.
        router = router.layer(cors);
    }
    // Names are unique over restarts of the sidecar.
    let names = RequestNames::new(format!("r-{:x}-", started_ms / 1000));
    router
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .layer(middleware::map_response(secure))
        .layer(middleware::from_fn_with_state(names, name_request))
        .with_state(app)
}

/// What pages of these origins may ask for; none for nobody.
fn cors(origins: &[String]) -> Result<Option<CorsLayer>, StartError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let origins = origins.iter().map(|origin| {
        let is_origin = origin
            .split_once("://")
            .is_some_and(|(scheme, host)| matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '*', ' ']));
        let value = HeaderValue::from_str(origin).ok().filter(|_| is_origin);
        value.ok_or_else(|| {
            StartError::Setting(format!(
                "CORS_ORIGIN takes origins like http://localhost:3000, separated by commas, not {origin:?}"
            ))
        })
    });
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.collect::<Result<Vec<_>, _>>()?))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
            idempotency::KEY,
        ])
        .expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER])
        .max_age(CORS_AGE);
    Ok(Some(layer))
}

/// Refuses what is too much, and measures the rest.
async fn count(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().as_str().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_owned();
    let response = match app.limits.request(caller) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    // Whatever a client calls its method is one label only.
    let method = match method.as_str() {
        known @ ("GET" | "POST" | "PUT" | "DELETE" | "HEAD" | "OPTIONS" | "PATCH") => known,
        _ => "other",
    };
    app.metrics.answered(
        method,
        &route,
        response.status().as_u16(),
        started.elapsed(),
    );
    response
}

/// Lets nobody in who has not said who they are, but to `/health` and the page.
async fn authenticate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let is_open = path == "/health" || api::page::OPEN.contains(&path);
    let (method, headers) = (request.method(), request.headers());
    let identity = match app.auth.identify(caller, method, headers, &app.limits) {
        // Whatever its cookie is worth, a page that is loaded can ask for a token.
        Err(_) if api::page::OPEN.contains(&path) && matches!(caller, Caller::Tcp(_)) => {
            Identity::Nobody
        }
        identified => identified?,
    };
    match &identity {
        Identity::Token { id } => app.limits.token(id)?,
        Identity::Nobody if !is_open => {
            return Err(ApiError::Unauthorized(
                "send \"Authorization: Bearer TOKEN\"; \"weldrfs control token create\" makes tokens".into(),
            ));
        }
        Identity::Local { .. } | Identity::Nobody => {}
    }
    if request.method() != Method::GET {
        tracing::info!(?identity, method = %request.method(), path = request.uri().path(), "asked for");
    }
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}

/// What browsers are told with every answer: it is no page unless it says so, nobody else may load or frame it or guess its
/// type, nothing is kept.
async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let no_page = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(no_page);
    response
}

async fn unknown_path(request: Request) -> ApiError {
    let path = request.uri().path();
    ApiError::NotFound(format!(
        "there is no {path}; GET /openapi.json describes what there is"
    ))
}

async fn unknown_method(request: Request) -> ApiError {
    ApiError::MethodNotAllowed(format!(
        "{} does not take {}; GET /openapi.json describes what it takes",
        request.uri().path(),
        request.method()
    ))
}

#[cfg(test)]
mod tests;
