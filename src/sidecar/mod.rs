//! The machine as the sidecar sees it: mount processes started, found, watched and taken away.

mod folders;
mod found;
mod host;
mod network;
mod project;
mod sandboxes;
mod start;
mod tail;
mod users;

pub(crate) use host::Machinery;
pub(crate) use sandboxes::Sandboxes;
