use std::net::SocketAddr;

use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);
/// Short, so that the tests need not wait for what clients never do.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connections: 4,
    head_bytes: 8 * 1024,
    head_lines: 16,
    head_time: Duration::from_millis(300),
    stall_time: Duration::from_secs(1),
    stop_grace: Duration::from_millis(50),
};

struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn start() -> Server {
    let endless = || async {
        let parts = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
        Body::from_stream(parts)
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/endless", get(endless));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve(listener, router, LIMITS, async {
        drop(stopped.await)
    }));
    Server {
        address,
        _stop: stop,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What is answered until the server hangs up; `None` when it does not.
    async fn rest(mut stream: TcpStream) -> Option<String> {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        // Reset or closed: both are the end.
        read.ok()?.ok();
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// One request is answered.
    async fn works(&self) {
        let mut stream = self.connect().await;
        let request = b"GET / HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let answer = Self::rest(stream).await.expect("it is answered");
        assert!(answer.ends_with("hello"), "{answer}");
    }
}

#[tokio::test]
async fn clients_that_are_slow_on_purpose_hold_their_places_only_for_a_while() {
    let server = start().await;
    let mut slow = Vec::new();
    // Four times as many as there are places; each sends a little of a head, and more of it now and then.
    for n in 0..LIMITS.connections * 4 {
        let mut stream = server.connect().await;
        slow.push(tokio::spawn(async move {
            if n % 2 == 0 {
                drop(stream.write_all(b"GET / HTTP/1.1\r\nhost: s\r\n").await);
            }
            while stream.write_all(b"x: y\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    server.works().await;
    for one in slow {
        tokio::time::timeout(PATIENCE, one)
            .await
            .expect("each of them is let go")
            .unwrap();
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_let_go_and_its_place_is_free() {
    let server = start().await;
    let mut deaf = Vec::new();
    for _ in 0..LIMITS.connections {
        let mut stream = server.connect().await;
        let request = b"GET /endless HTTP/1.1\r\nhost: s\r\n\r\n";
        stream.write_all(request).await.unwrap();
        deaf.push(stream);
    }
    server.works().await;
    // What was on its way comes, and then the end.
    for stream in deaf {
        assert!(Server::rest(stream).await.is_some(), "it goes on for ever");
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_kept() {
    let server = start().await;
    let mut stream = server.connect().await;
    let request = b"GET /endless HTTP/1.1\r\nhost: s\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut part = vec![0; 8 * 1024 * 1024];
    // Several times as long as nothing may be taken.
    for _ in 0..15 {
        tokio::time::sleep(LIMITS.stall_time / 5).await;
        stream.read_exact(&mut part).await.expect("it is kept");
    }
}

#[tokio::test]
async fn a_connection_that_is_kept_open_without_a_word_is_closed() {
    let server = start().await;
    let mut stream = server.connect().await;
    let request = b"GET / HTTP/1.1\r\nhost: s\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = Server::rest(stream).await.expect("it is closed");
    assert!(answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn heads_that_are_too_long_are_refused() {
    let server = start().await;
    let many = "a: b\r\n".repeat(LIMITS.head_lines + 1);
    let long = format!("a: {}\r\n", "b".repeat(LIMITS.head_bytes));
    let path = "p".repeat(LIMITS.head_bytes);
    for request in [
        format!("GET / HTTP/1.1\r\nhost: s\r\n{many}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: s\r\n{long}\r\n"),
        format!("GET /{path} HTTP/1.1\r\nhost: s\r\n\r\n"),
    ] {
        let mut stream = server.connect().await;
        drop(stream.write_all(request.as_bytes()).await);
        let answer = Server::rest(stream).await.expect("it is let go");
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 431")
                || answer.starts_with("HTTP/1.1 414"),
            "{answer}"
        );
    }
    server.works().await;
}
