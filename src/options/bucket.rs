//! Options about buckets and uploads: which store, which keys, how much at a time.

use super::known::{Known, span, switch, value};
use super::{Addressing, values};

const KEY: &str = "text without spaces";

/// The options.
pub(super) const TABLE: &[Known] = &[
    value(
        "endpoint",
        "http:// or https://, a host and maybe a port",
        |o, text| is_endpoint(text).then(|| o.s3.endpoint = Some(text.to_owned())),
        "where the buckets are (default: S3_ENDPOINT, else Tigris, https://t3.storage.dev)",
    ),
    value(
        "region",
        "a region's name, or auto",
        |o, text| word(text).map(|text| o.s3.region = Some(text)),
        "region of the bucket (default: S3_REGION, else auto)",
    ),
    value(
        "access_key_id",
        KEY,
        |o, text| word(text).map(|text| o.s3.access_key_id = Some(text)),
        "key to the bucket (better: S3_ACCESS_KEY_ID, or a file)",
    ),
    value(
        "secret_access_key",
        KEY,
        |o, text| word(text).map(|text| o.s3.secret_access_key = Some(text)),
        "its secret, which others can see in the list of processes (better: S3_SECRET_ACCESS_KEY, or a file)",
    ),
    value(
        "session_token",
        KEY,
        |o, text| word(text).map(|text| o.s3.session_token = Some(text)),
        "token of a temporary key",
    ),
    value(
        "credentials_file",
        "an absolute path",
        |o, text| super::known::absolute(text).map(|path| o.s3.credentials_file = Some(path)),
        "file with access_key_id=, secret_access_key= and maybe session_token=, readable by its owner only; read again \
         whenever the store is asked",
    ),
    value(
        "profile",
        "a profile's name",
        |o, text| word(text).map(|text| o.s3.profile = Some(text)),
        "profile of ~/.aws to take keys from",
    ),
    switch(
        "path_style",
        |o, on| {
            o.s3.addressing = if on {
                Addressing::Path
            } else {
                Addressing::VirtualHost
            }
        },
        "the bucket's name goes into the path (default: off at AWS and Tigris, else on)",
    ),
    switch(
        "virtual_host",
        |o, on| {
            o.s3.addressing = if on {
                Addressing::VirtualHost
            } else {
                Addressing::Path
            }
        },
        "the bucket's name goes into the host's; the opposite of path_style",
    ),
    switch(
        "conditional_writes",
        |o, on| o.conditional_writes = on,
        "refuse a store that ignores conditional writes (default: on)",
    ),
    value(
        "max_uploads",
        "a number from 1 to 100",
        |o, text| {
            let count = values::whole(text).filter(|count| (1..=100).contains(count))?;
            o.max_uploads = usize::try_from(count).ok()?;
            Some(())
        },
        "uploads at a time (default: 5)",
    ),
    value(
        "upload_delay",
        "seconds, or a time with a unit (ms, s, m, h), from 0 to 1h",
        |o, text| span(text, 0, 3_600_000).map(|span| o.upload_delay = span),
        "how long data rests before it is uploaded (default: 0, which is 10s at least)",
    ),
    value(
        "fsync",
        "local or remote",
        |o, text| {
            o.fsync_remote = match text {
                "local" => false,
                "remote" => true,
                _ => return None,
            };
            Some(())
        },
        "whether fsync is done when the local disk has everything, or the store (default: local)",
    ),
    switch(
        "writeback",
        |o, on| o.writeback = on,
        "off: closing a file that was written to, and fsync, wait for the store (default: on)",
    ),
];

/// Whether `text` is an address without a path.
pub(crate) fn is_endpoint(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|host| {
        let host = host.strip_suffix('/').unwrap_or(host);
        !host.is_empty()
            && !host.contains(|c: char| "/?#@".contains(c) || c.is_control() || c == ' ')
    })
}

fn word(text: &str) -> Option<String> {
    let plain = !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace());
    plain.then(|| text.to_owned())
}
