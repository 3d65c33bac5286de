//! A little arithmetic, so that the build has a library, a binary and a test.

/// Sum of the numbers 1 to `n`.
pub fn sum_to(n: u64) -> u64 {
    (1..=n).sum()
}

/// The decimal digits of a number.
pub fn digits(n: u64) -> String {
    itoa::Buffer::new().format(n).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_like_the_formula() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let n = random.u64(0..10_000);
            assert_eq!(sum_to(n), n * (n + 1) / 2);
            assert_eq!(digits(n), n.to_string());
        }
    }
}
