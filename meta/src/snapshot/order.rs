//! Somebody's order of a large change, which can be taken back until the change begins, and not after.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{MetaError, Result};

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// An order. Whoever gave it and whoever carries it out share it, so that both know whether it happens.
#[derive(Debug, Default)]
pub struct Order(AtomicU8);

impl Order {
    fn becomes(&self, state: u8) -> bool {
        let swapped = self
            .0
            .compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire);
        swapped.is_ok() || swapped == Err(state)
    }

    /// Takes it back. Returns false when it has begun: then it happens, or fails for reasons of its own.
    pub fn take_back(&self) -> bool {
        self.becomes(TAKEN_BACK)
    }

    /// From here on it cannot be taken back.
    ///
    /// # Errors
    /// `TakenBack`: nothing may happen.
    pub(crate) fn begin(&self) -> Result<()> {
        match self.becomes(BEGUN) {
            true => Ok(()),
            false => Err(MetaError::TakenBack),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_taken_back_or_carried_out() {
        let order = Order::default();
        assert!(order.take_back() && order.take_back());
        assert!(matches!(order.begin(), Err(MetaError::TakenBack)));
        let order = Order::default();
        order.begin().unwrap();
        assert!(!order.take_back());
        order.begin().unwrap();
    }
}
