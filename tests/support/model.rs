//! The reference: what a file system must answer, as a plain tree in memory.
//!
//! Owns the operations, the tree that answers them, the seeded generator and the comparison.
//! Must not share code with the engine: `engine` is the only file here that names it.

pub(crate) mod compare;
pub(crate) mod content;
pub(crate) mod engine;
mod files;
pub(crate) mod folder;
mod folder_files;
pub(crate) mod generate;
mod generate_files;
mod names;
pub(crate) mod ops;
mod rename;
pub(crate) mod tree;
