//! Snapshots without bytes. `model` has random histories; here are the cases that have a name.

mod cases;
mod late;
pub(crate) mod model;
pub(crate) mod tree;

use super::NewSnapshot;

/// A snapshot with nothing special about it.
pub(crate) fn called(name: &str) -> NewSnapshot {
    NewSnapshot {
        name: name.into(),
        ..NewSnapshot::default()
    }
}
