//! What an S3 store is opened with. Values only; nothing here talks to anybody.

use std::time::Duration;

use super::credentials::S3Credentials;
use crate::store::StoreError;
use crate::store::key::validate_key;

/// Region where nothing else is said; Tigris and most stores that are no AWS take it.
pub const S3_DEFAULT_REGION: &str = "auto";
/// How long one request may take, body included.
pub const S3_ATTEMPT_DEADLINE: Duration = Duration::from_secs(30);
/// How long connecting may take, TLS included.
pub const S3_CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Hosts of Tigris, and those whose names end with one of them after a dot.
const TIGRIS_HOSTS: [&str; 3] = ["t3.storage.dev", "fly.storage.tigris.dev", "tigris.dev"];
/// Hosts of AWS end with these.
const AWS_HOSTS: [&str; 2] = [".amazonaws.com", ".amazonaws.com.cn"];

/// Where the bucket's name goes in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// Virtual host at AWS and Tigris, path elsewhere and for names with dots.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    VirtualHost,
}

/// Where an S3 store is and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// What every key begins with, without slashes at its ends; empty for none.
    pub prefix: String,
    /// `http://` or `https://`, host and port.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Where the bucket's name goes.
    pub addressing: Addressing,
    /// Where keys come from.
    pub credentials: S3Credentials,
    /// How long one request may take, body included.
    pub attempt_deadline: Duration,
    /// How long connecting may take.
    pub connect_deadline: Duration,
}

impl S3Settings {
    /// A bucket at an endpoint, with the other settings at their defaults.
    #[must_use]
    pub fn new(
        bucket: impl Into<String>,
        endpoint: impl Into<String>,
        credentials: S3Credentials,
    ) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint: endpoint.into(),
            region: S3_DEFAULT_REGION.into(),
            addressing: Addressing::Auto,
            credentials,
            attempt_deadline: S3_ATTEMPT_DEADLINE,
            connect_deadline: S3_CONNECT_DEADLINE,
        }
    }

    /// Checks what can be checked without asking anybody.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let invalid = |what: String| Err(StoreError::Invalid { what });
        if !is_bucket_name(&self.bucket) {
            return invalid(format!(
                "{:?} is no bucket name: it takes 3 to 63 of a-z, 0-9, . and -, a letter or digit at both ends",
                self.bucket
            ));
        }
        if !self.prefix.is_empty() {
            validate_key(&self.prefix)?;
        }
        if host_of(&self.endpoint).is_none() {
            return invalid(format!(
                "endpoint {:?} is no address: it takes http:// or https://, a host and maybe a port (-o endpoint=, S3_ENDPOINT)",
                self.endpoint
            ));
        }
        if self.region.is_empty() || self.region.contains(|c: char| c.is_control() || c == ' ') {
            return invalid(format!(
                "region {:?} is no region (-o region=, S3_REGION)",
                self.region
            ));
        }
        Ok(())
    }

    /// Whether the bucket's name goes into the path.
    pub(super) fn path_style(&self) -> bool {
        let host = host_of(&self.endpoint).unwrap_or_default();
        match self.addressing {
            Addressing::Path => true,
            Addressing::VirtualHost => false,
            Addressing::Auto => {
                let by_name = is_tigris(host) || AWS_HOSTS.iter().any(|end| host.ends_with(end));
                !by_name || self.bucket.contains('.')
            }
        }
    }

    pub(super) fn is_tigris(&self) -> bool {
        host_of(&self.endpoint).is_some_and(is_tigris)
    }

    pub(super) fn is_https(&self) -> bool {
        self.endpoint.starts_with("https://")
    }
}

/// Whether text can be a bucket's name.
#[must_use]
pub fn is_bucket_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| allowed(*b))
        && ends(bytes.first())
        && ends(bytes.last())
        && !text.contains("..")
}

/// The host of an endpoint, without the port; `None` when it is no endpoint.
fn host_of(endpoint: &str) -> Option<&str> {
    let rest = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@', ' ']) {
        return None;
    }
    if rest.starts_with('[') {
        return rest.split_inclusive(']').next();
    }
    let (host, port) = rest.split_once(':').unwrap_or((rest, "0"));
    (!host.is_empty() && port.parse::<u16>().is_ok()).then_some(host)
}

fn is_tigris(host: &str) -> bool {
    TIGRIS_HOSTS.iter().any(|known| {
        host == *known
            || host
                .strip_suffix(known)
                .is_some_and(|rest| rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str) -> S3Settings {
        S3Settings::new("bucket", endpoint, S3Credentials::Chain)
    }

    #[test]
    fn tigris_is_known_by_its_host() {
        for yes in [
            "https://t3.storage.dev",
            "https://fly.storage.tigris.dev/",
            "https://x.tigris.dev:443",
        ] {
            assert!(at(yes).is_tigris(), "{yes}");
            assert!(!at(yes).path_style(), "{yes}");
        }
        for no in [
            "https://nott3.storage.dev",
            "http://127.0.0.1:9000",
            "https://tigris.dev.example.org",
        ] {
            assert!(!at(no).is_tigris(), "{no}");
            assert!(at(no).path_style(), "{no}");
        }
        let aws = at("https://s3.eu-west-1.amazonaws.com");
        assert!(!aws.path_style() && !aws.is_tigris());
        let dotted = S3Settings {
            bucket: "a.b".into(),
            ..aws.clone()
        };
        assert!(dotted.path_style(), "no certificate covers such a host");
        let told = S3Settings {
            addressing: Addressing::Path,
            ..aws
        };
        assert!(told.path_style());
    }

    #[test]
    fn senseless_settings_are_refused_by_name() {
        for good in ["http://h", "https://h:9000/", "http://[::1]:80"] {
            assert_eq!(at(good).check(), Ok(()), "{good}");
        }
        for bad in [
            "",
            "h",
            "ftp://h",
            "http://",
            "http://h/path",
            "http://h:port",
            "http://u@h",
        ] {
            let error = at(bad).check().unwrap_err();
            assert!(error.to_string().contains("endpoint"), "{bad}: {error}");
        }
        for bad in ["ab", "Bucket", "a_b", "-ab", "a..b", "b/c"] {
            assert!(!is_bucket_name(bad), "{bad}");
        }
        let prefixed = S3Settings {
            prefix: "a//b".into(),
            ..at("http://h")
        };
        assert!(prefixed.check().is_err());
    }
}
