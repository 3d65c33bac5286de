//! The only way out of an isolated app: a proxy that listens on the loopback of its sandbox, and connects to the hosts that the
//! sidecar was told to allow. Knows CONNECT and nothing else; what goes through is the app's own affair, and encrypted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::log::Log;

/// Where it listens in every sandbox.
pub(super) const PORT: u16 = 3128;
/// Connections of one app at a time; more wait.
const CONNECTIONS_MAX: usize = 128;
/// Longest head of a request.
const HEAD_MAX: usize = 8 * 1024;
/// How long the head may take, and then each of asking for the name's addresses and connecting.
const STEP: Duration = Duration::from_secs(15);
/// The port of hosts that are allowed without one.
const HTTPS: u16 = 443;
/// Pause after the machine had no descriptor or memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A host that apps may reach: `NAME`, `*.NAME` for all below it, or an address, and `:PORT` for another one than 443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case.
    name: String,
    is_below: bool,
    port: u16,
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = split(text, HTTPS).ok_or("it takes NAME[:PORT] or *.NAME[:PORT]")?;
        let (name, is_below) = match name.strip_prefix("*.") {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        match !name.is_empty() && name.bytes().all(is_plain) {
            true => Ok(Self {
                name,
                is_below,
                port,
            }),
            false => Err("it takes NAME[:PORT] or *.NAME[:PORT]".into()),
        }
    }
}

impl AllowedHost {
    fn allows(&self, name: &str, port: u16) -> bool {
        let is_name = match self.is_below {
            false => name == self.name,
            true => name
                .strip_suffix(&self.name)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        };
        is_name && port == self.port
    }
}

/// Name and port of `NAME[:PORT]`, in lower case and without brackets and a last dot.
fn split(text: &str, usual: u16) -> Option<(String, u16)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']')?;
            match port.strip_prefix(':') {
                Some(port) => (name, Some(port)),
                None => (name, port.is_empty().then_some(None)?),
            }
        }
        None => match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(usual), |port| port.parse().ok())?;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some((name, port))
}

/// The proxy of one sandbox; dropping it closes it.
pub(super) struct Proxy(JoinHandle<()>);

impl Proxy {
    /// Serves those who connect to `listener`, which is in the sandbox.
    pub(super) fn serve(listener: TcpListener, allowed: Arc<[AllowedHost]>, log: Log) -> Self {
        Self(tokio::spawn(accept(listener, allowed, log)))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, allowed: Arc<[AllowedHost]>, log: Log) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (allowed, log) = (Arc::clone(&allowed), log.clone());
        connections.spawn(async move {
            if let Err(error) = serve(stream, &allowed, &log).await {
                tracing::debug!(%error, "a connection of an app has broken");
            }
            drop(slot);
        });
    }
}

async fn serve(mut app: TcpStream, allowed: &[AllowedHost], log: &Log) -> io::Result<()> {
    let Some((head, rest)) = timeout(STEP, read_head(&mut app)).await?? else {
        return refuse(&mut app, "400 Bad Request", "that is no request").await;
    };
    let Some((name, port)) = target(&head) else {
        let text = "this proxy knows CONNECT only, which is for https";
        return refuse(&mut app, "405 Method Not Allowed", text).await;
    };
    if !allowed.iter().any(|host| host.allows(&name, port)) {
        let text = format!("{name}:{port} is not among the hosts that apps may reach");
        log.say(&text);
        return refuse(&mut app, "403 Forbidden", &text).await;
    }
    let mut outside = match connect(&name, port).await {
        Ok(outside) => outside,
        Err(error) => {
            tracing::info!(%error, name, port, "an app cannot be connected");
            let text = format!("{name}:{port} cannot be reached");
            return refuse(&mut app, "502 Bad Gateway", &text).await;
        }
    };
    app.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    outside.write_all(&rest).await?;
    copy_bidirectional(&mut app, &mut outside).await.map(drop)
}

/// The head, and what came behind it.
async fn read_head(app: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), rest)));
        }
        let length = app.read(&mut part).await?;
        if length == 0 || bytes.len() + length > HEAD_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(part.get(..length).unwrap_or_default());
    }
}

/// What is to be connected to; `None` for other requests.
fn target(head: &str) -> Option<(String, u16)> {
    let mut words = head.lines().next()?.split(' ');
    (words.next() == Some("CONNECT")).then_some(())?;
    split(words.next()?, HTTPS)
}

async fn connect(name: &str, port: u16) -> io::Result<TcpStream> {
    let is_address = name.parse::<IpAddr>().is_ok();
    let addresses: Vec<SocketAddr> = timeout(STEP, lookup_host((name, port))).await??.collect();
    // A name that is allowed may lead to anywhere; an address was meant.
    let public = addresses
        .into_iter()
        .filter(|address| is_address || is_public(address.ip()));
    let mut last = io::Error::other("it has no public address");
    for address in public {
        match timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn refuse(app: &mut TcpStream, status: &str, text: &str) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}\n",
        text.len() + 1
    );
    app.write_all(answer.as_bytes()).await?;
    app.shutdown().await
}

/// Whether an address is of the internet, and not of this machine or of the networks around it.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (b == 18 || b == 19));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    // Only what is given out to the internet at all, without what wraps or stands for other addresses.
    let [first, second, ..] = address.segments();
    let is_global = first & 0xE000 == 0x2000;
    let is_special = (first == 0x2001 && (second < 0x0200 || second == 0x0DB8)) || first == 0x2002;
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> AllowedHost {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_are_allowed_by_name_and_port() {
        let exact = allowed("Registry.npmjs.org");
        assert!(exact.allows("registry.npmjs.org", 443));
        assert!(!exact.allows("registry.npmjs.org", 80));
        assert!(!exact.allows("evil-registry.npmjs.org", 443));
        assert!(!exact.allows("registry.npmjs.org.evil.com", 443));
        let below = allowed("*.example.com:8443");
        assert!(below.allows("a.b.example.com", 8443));
        for name in [
            "example.com",
            "badexample.com",
            ".example.com",
            "x.example.org",
        ] {
            assert!(!below.allows(name, 8443), "{name}");
        }
        for bad in ["", "*.", ":443", "a b", "x:y", "http://x", "[::1"] {
            assert!(bad.parse::<AllowedHost>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_connect_is_understood() {
        let host = |head: &str| target(head);
        assert_eq!(
            host("CONNECT Example.com.:8443 HTTP/1.1\r\nHost: x"),
            Some(("example.com".into(), 8443))
        );
        assert_eq!(
            host("CONNECT [2001:db8::1]:1 HTTP/1.1"),
            Some(("2001:db8::1".into(), 1))
        );
        for bad in [
            "",
            "GET http://example.com/ HTTP/1.1",
            "CONNECT",
            "CONNECT  HTTP/1.1",
            "CONNECT x:99999 HTTP/1.1",
            "connect x:1",
        ] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_lead_to_the_internet_only() {
        for inner in [
            "127.0.0.1",
            "10.1.2.3",
            "172.20.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "ff02::1",
        ] {
            assert!(!is_public(inner.parse().unwrap()), "{inner}");
        }
        for outer in ["1.1.1.1", "104.16.0.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(is_public(outer.parse().unwrap()), "{outer}");
        }
    }

    #[tokio::test]
    async fn an_app_is_connected_to_what_is_allowed_and_told_of_what_is_not() {
        let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = outside.local_addr().unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = proxy.local_addr().unwrap();
        let log = Log::new();
        let _proxy = Proxy::serve(proxy, Arc::new([allowed(&there.to_string())]), log.clone());
        let mut app = TcpStream::connect(at).await.unwrap();
        let request = format!("CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\nearly");
        app.write_all(request.as_bytes()).await.unwrap();
        let (mut served, _) = outside.accept().await.unwrap();
        served.write_all(b"hello").await.unwrap();
        let mut said = [0; 5];
        served.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"early");
        drop(served);
        let mut answer = String::new();
        app.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nhello");
        for (request, status) in [
            ("CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", "403"),
            ("CONNECT localhost:443 HTTP/1.1\r\n\r\n", "403"),
            ("GET http://x/ HTTP/1.1\r\n\r\n", "405"),
        ] {
            let mut app = TcpStream::connect(at).await.unwrap();
            app.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            app.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        }
        let said: Vec<String> = log.last(9).into_iter().map(|line| line.text).collect();
        assert!(
            said.iter()
                .any(|text| text.contains("127.0.0.1:1 is not among")),
            "{said:?}"
        );
    }
}
