//! Accepts connections and drives them until the server is told to stop. Everything a client can make this side hold is
//! bounded here.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

/// How long to wait after a failed accept (out of descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the other machine of a TCP connection may leave what was sent to it unconfirmed: one that is gone sends no
/// word of it.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);

/// What the connections of one listener may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Connections served at once; more wait in the socket's backlog.
    pub(crate) connections: usize,
    /// Most bytes of a request's head.
    pub(crate) head_bytes: usize,
    /// Most header lines of a request.
    pub(crate) head_lines: usize,
    /// How long the head of a request may take, the time between two requests of one connection included.
    pub(crate) head_time: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub(crate) stall_time: Duration,
    /// How long open connections may finish their request once the server is told to stop.
    pub(crate) stop_grace: Duration,
}

/// Who is at the other end of a connection; put into every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this machine; `None` when the kernel does not say which.
    Unix(Option<UnixCaller>),
    /// Anybody who can reach the port.
    Tcp(SocketAddr),
}

/// What the kernel says of the process that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnixCaller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<i32>,
}

/// Something that connections come from.
pub(crate) trait Accept: Send + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and whose it is.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Caller)>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = self.accept().await?;
        let caller = stream.peer_cred().ok().map(|cred| UnixCaller {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid(),
        });
        Ok((stream, Caller::Unix(caller)))
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Caller)> {
        let (stream, address) = self.accept().await?;
        // Answers are small and written whole; waiting for more to send only delays them.
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(CONFIRMED_WITHIN))?;
        Ok((stream, Caller::Tcp(address)))
    }
}

/// Serves `router` on `listener` until `shutdown` completes; then open connections get a moment to finish.
pub(crate) async fn serve(
    listener: impl Accept,
    router: Router,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            (stream, caller, slot) = accept(&listener, &slots) => {
                let router = router.clone();
                connections.spawn(serve_connection(stream, caller, slot, router, limits, stopping.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stop.send_replace(true);
    let finished = tokio::time::timeout(limits.stop_grace, async {
        while connections.join_next().await.is_some() {}
    });
    if finished.await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "control connections were cut off at shutdown"
        );
        connections.shutdown().await;
    }
}

/// The next connection, once there is room for it. Failures are logged and survived: the socket outlives them.
async fn accept<L: Accept>(
    listener: &L,
    slots: &Arc<Semaphore>,
) -> (L::Stream, Caller, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match listener.next().await {
            Ok((stream, caller)) => return (stream, caller, slot),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    _slot: OwnedSemaphorePermit,
    router: Router,
    limits: ConnectionLimits,
    mut stopping: watch::Receiver<bool>,
) {
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        service.call(request)
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.stall_time));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_headers(limits.head_lines)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
}

#[cfg(test)]
mod tests;
