//! From a port of the machine into a sandbox: what connects there is connected to what listens inside, and bytes go both ways
//! until both sides have ended. Knows nothing of HTTP but how to say that nobody answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sandbox::SandboxNetwork;

/// Connections to one app at a time; more wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 1024;
/// Those of the kernel that wait.
const BACKLOG: u32 = 1024;
/// How long it may take to connect inside: nothing is on the way.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer to a probe is waited for; an app may put its pages together at the first request.
const ANSWER: Duration = Duration::from_secs(5);
/// How long, and how many reads, an app may take to end a connection after it has answered.
const GOODBYE: Duration = Duration::from_secs(1);
const GOODBYE_READS: usize = 256;
/// Bytes that are on the way in each direction of a connection.
const BUFFER: usize = 16 * 1024;
/// Pause after the machine had no descriptor or memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a refused client may take to hear of it.
const REFUSAL: Duration = Duration::from_secs(2);
/// The two ways to say "here". Apps listen on either.
const HERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// What listens inside: the network it is in, and its port.
#[derive(Clone)]
pub(super) struct Inside {
    pub(super) network: Arc<dyn SandboxNetwork>,
    pub(super) port: u16,
}

impl Inside {
    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
        for address in HERE {
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(&self, address: IpAddr) -> io::Result<TcpStream> {
        let network = Arc::clone(&self.network);
        let is_v6 = address.is_ipv6();
        let socket = tokio::task::spawn_blocking(move || network.socket(is_v6)).await;
        let socket: OwnedFd = socket.map_err(io::Error::other)??;
        let socket = TcpSocket::from_std_stream(socket.into());
        let connecting = socket.connect(SocketAddr::new(address, self.port));
        let stream = timeout(CONNECT, connecting).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Whether it answers a request, or at least takes connections.
    pub(super) async fn answers(&self) -> bool {
        let Ok(mut stream) = self.connect().await else {
            return false;
        };
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost:{}\r\nUser-Agent: weldrfs\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.port
        );
        let asking = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read(&mut [0; 16]).await
        };
        let answers = match timeout(ANSWER, asking).await {
            // It closed without a word, or broke: it is going down, or not up yet.
            Ok(Ok(0) | Err(_)) => false,
            // One that says nothing is no server of HTTP.
            Ok(Ok(_)) | Err(_) => true,
        };
        // A connection that breaks in the middle ends apps that do not expect it.
        let _ = timeout(GOODBYE, goodbye(&mut stream)).await;
        answers
    }
}

/// Ends a connection as one that has heard enough, and hears the rest out.
async fn goodbye(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    for _ in 0..GOODBYE_READS {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A port of the machine. Dropping it closes it, and all connections.
pub(super) struct Forward {
    accepting: JoinHandle<()>,
    inside: Arc<Mutex<Option<Inside>>>,
    slots: Arc<Semaphore>,
}

impl Forward {
    /// Takes a port of the machine; `inside` is behind it from the first connection on.
    ///
    /// # Errors
    /// What the operating system says, such as that another program has it.
    pub(super) fn listen(address: SocketAddr, inside: Option<Inside>) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Connections of the app before linger for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let inside = Arc::new(Mutex::new(inside));
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&inside), Arc::clone(&slots)));
        Ok(Self {
            accepting,
            inside,
            slots,
        })
    }

    /// What is behind it from now on.
    pub(super) fn lead_to(&self, inside: Option<Inside>) {
        *self.inside.lock() = inside;
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> u64 {
        CONNECTIONS_MAX.saturating_sub(self.slots.available_permits()) as u64
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, inside: Arc<Mutex<Option<Inside>>>, slots: Arc<Semaphore>) {
    // Connections end with the port they came through.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let inside = inside.lock().clone();
                connections.spawn(async move {
                    forward(stream, inside).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to a preview cannot be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn forward(mut outer: TcpStream, inside: Option<Inside>) {
    let connected = match &inside {
        Some(inside) => inside.connect().await,
        None => Err(io::ErrorKind::NotConnected.into()),
    };
    let mut inner = match connected {
        Ok(inner) => inner,
        Err(error) => {
            tracing::debug!(%error, "nothing answers inside");
            let _ = timeout(REFUSAL, refuse(&mut outer)).await;
            return;
        }
    };
    // Only a hint, and how a connection ends is told to both sides by its end.
    let _ = outer.set_nodelay(true);
    let _ = copy_bidirectional_with_sizes(&mut outer, &mut inner, BUFFER, BUFFER).await;
}

/// Says that nobody answers, in a way that browsers understand.
async fn refuse(outer: &mut TcpStream) -> io::Result<()> {
    const TEXT: &str = "The app does not answer; weldrfs previews ls shows how far it is.\n";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 1\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nContent-Length: {}\r\n\r\n{TEXT}",
        TEXT.len()
    );
    outer.write_all(answer.as_bytes()).await?;
    outer.shutdown().await?;
    // What is not read when a connection is closed breaks it before the answer is read.
    while outer.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sandbox whose network is the test's.
    struct Plain;

    impl SandboxNetwork for Plain {
        fn socket(&self, is_v6: bool) -> io::Result<OwnedFd> {
            use socket2::{Domain, Socket, Type};
            let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
            let socket = Socket::new(domain, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        }

        fn listen(&self, _: u16) -> io::Result<OwnedFd> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn listening(&self) -> io::Result<Vec<u16>> {
            Ok(Vec::new())
        }
    }

    fn anywhere() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn forward_to(port: u16) -> (Forward, SocketAddr) {
        // A port that was free a moment ago.
        let address = TcpListener::bind(anywhere())
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let inside = Inside {
            network: Arc::new(Plain),
            port,
        };
        let forward = Forward::listen(address, Some(inside)).unwrap();
        (forward, address)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_side_ends_for_itself() {
        for here in HERE {
            let Ok(app) = TcpListener::bind((here, 0)).await else {
                // A machine without IPv6 has only one of them.
                continue;
            };
            let (_forward, address) = forward_to(app.local_addr().unwrap().port()).await;
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"question").await.unwrap();
            // The client has said all, and still listens.
            client.shutdown().await.unwrap();
            let (mut served, _) = app.accept().await.unwrap();
            let mut asked = String::new();
            served.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            served.write_all(b"answer").await.unwrap();
            drop(served);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
        }
    }

    #[tokio::test]
    async fn a_client_is_told_when_nobody_answers() {
        let unused = TcpListener::bind(anywhere()).await.unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        let (forward, address) = forward_to(port).await;
        for inside in [true, false] {
            if !inside {
                forward.lead_to(None);
            }
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
        drop(forward);
    }

    #[tokio::test]
    async fn a_port_is_taken_once_and_free_again_when_it_is_dropped() {
        let (forward, address) = forward_to(1).await;
        assert!(Forward::listen(address, None).is_err());
        drop(forward);
        for _ in 0..100 {
            if Forward::listen(address, None).is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the port stays taken");
    }

    #[tokio::test]
    async fn what_takes_connections_or_answers_is_ready_and_what_closes_them_is_not() {
        let app = TcpListener::bind(anywhere()).await.unwrap();
        let inside = Inside {
            network: Arc::new(Plain),
            port: app.local_addr().unwrap().port(),
        };
        let (answers, ()) = tokio::join!(inside.answers(), async {
            drop(app.accept().await.unwrap());
        });
        assert!(!answers);
        let (answers, ()) = tokio::join!(inside.answers(), async {
            let (mut stream, _) = app.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 500 x\r\n\r\n").await.unwrap();
        });
        assert!(answers);
        drop(app);
        assert!(!inside.answers().await);
    }
}
