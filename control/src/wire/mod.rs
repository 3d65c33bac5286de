//! What every HTTP server and client here shares: connections with their bounds, bodies, names of requests, and one
//! exchange over a Unix socket. Knows no path and no type of any API.

mod body;
mod connections;
mod exchange;
mod naming;

pub(crate) use body::{BodyLimits, read_json};
pub(crate) use connections::{Accept, Caller, ConnectionLimits, UnixCaller, serve};
pub(crate) use exchange::Exchange;
pub(crate) use naming::{RequestNames, name_request};
