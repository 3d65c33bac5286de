//! An S3 server for tests: real HTTP, real signatures, conditional writes under a lock, and settable slowness and
//! faults. Holds every object in memory and, if told so, in a folder too.
//!
//! Not a server for anything else: it keeps no versions and knows one pair of keys.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "every test program uses its own part of this, and a helper's failure fails the test"
)]

mod faults;
mod objects;
mod tls;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use faults::{Answer, Rule, Verb};
pub(crate) use wire::{Counts, VerbCounts};

/// The keys that are right unless told otherwise.
pub(crate) const ACCESS_KEY: &str = "test-key";
pub(crate) const SECRET_KEY: &str = "test-secret";
/// The bucket that is there.
pub(crate) const BUCKET: &str = "test-bucket";

/// How a server behaves.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// 0 for any.
    pub(crate) port: u16,
    pub(crate) buckets: Vec<String>,
    /// Waited before every answer.
    pub(crate) latency: Duration,
    /// Bytes per second of all bodies together; `None` for no limit.
    pub(crate) bandwidth: Option<u64>,
    /// Where objects are kept beside the memory.
    pub(crate) dir: Option<PathBuf>,
    /// Speaks TLS, with a certificate of its own making.
    pub(crate) tls: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 0,
            buckets: vec![BUCKET.into()],
            latency: Duration::ZERO,
            bandwidth: None,
            dir: None,
            tls: false,
        }
    }
}

/// A running server; dropping it ends it.
pub(crate) struct S3Server {
    address: SocketAddr,
    certificate: Option<String>,
    wire: Arc<wire::Wire>,
    objects: Arc<objects::Objects>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl S3Server {
    pub(crate) fn start(settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let objects = Arc::new(objects::Objects::load(settings.buckets, settings.dir));
        let wire = Arc::new(wire::Wire::new(settings.latency, settings.bandwidth));
        let listener = std::net::TcpListener::bind(("127.0.0.1", settings.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (served, line) = (Arc::clone(&objects), Arc::clone(&wire));
        let (certificate, acceptor) = settings.tls.then(tls::certified).unzip();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            wire::serve(listener, served, line, acceptor).await;
        });
        Self {
            address,
            certificate,
            wire,
            objects,
            runtime: Some(runtime),
        }
    }

    /// What `-o endpoint=` takes.
    pub(crate) fn endpoint(&self) -> String {
        match self.certificate {
            Some(_) => format!("https://{}", self.address),
            None => format!("http://{}", self.address),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Time passes for the server: what is put from now on is so much younger than what is there.
    pub(crate) fn pass(&self, time: Duration) {
        self.objects.pass(time);
    }

    /// The certificate that clients have to trust, as PEM.
    pub(crate) fn certificate(&self) -> &str {
        self.certificate.as_deref().unwrap()
    }

    /// Requests and bytes so far.
    pub(crate) fn counts(&self) -> Counts {
        self.wire.counts()
    }

    /// The most puts that were ever under way together.
    pub(crate) fn most_puts_at_once(&self) -> usize {
        self.wire.most_puts_at_once()
    }

    /// From now on, for [`ACCESS_KEY`], only this secret is right, and only with this session token.
    pub(crate) fn set_keys(&self, secret: &str, token: Option<&str>) {
        self.wire.set_keys(secret, token);
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        self.wire.set_latency(latency);
    }

    /// What goes over the line after this moves at the new speed.
    pub(crate) fn set_bandwidth(&self, bandwidth: Option<u64>) {
        self.wire.set_bandwidth(bandwidth);
    }

    /// Adds a rule; the first that fits a request decides it.
    pub(crate) fn add(&self, rule: Rule) {
        self.wire.add(rule);
    }

    /// Takes all rules away.
    pub(crate) fn clear(&self) {
        self.wire.clear();
    }

    /// All keys of a bucket, in order.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        self.objects.keys(bucket)
    }

    /// Puts an object behind everybody's back.
    pub(crate) fn plant(&self, bucket: &str, key: &str, body: &[u8]) {
        self.objects.plant(bucket, key, body);
    }

    /// Bytes of all objects of a bucket.
    pub(crate) fn bytes_of(&self, bucket: &str, prefix: &str) -> u64 {
        self.objects.bytes_of(bucket, prefix)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
