//! Seeds and sizes of random tests, from the environment.

use std::time::{SystemTime, UNIX_EPOCH};

/// A number from the environment, or the one given. Nonsense stops the test.
pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {text:?}, a number was expected")),
        Err(_) => otherwise,
    }
}

/// `WELDRFS_TEST_SEED`, or another one each time.
pub(crate) fn base() -> u64 {
    let of_now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |d| d.as_nanos() as u64 % 1_000_000_000);
    number("WELDRFS_TEST_SEED", of_now)
}
