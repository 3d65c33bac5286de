//! Snapshots without bytes. `model` has random histories; here are the cases that have a name.

mod cases;
mod late;
mod model;
mod tree;

use super::NewSnapshot;

/// A snapshot with nothing special about it.
fn called(name: &str) -> NewSnapshot {
    NewSnapshot {
        name: name.into(),
        ..NewSnapshot::default()
    }
}
