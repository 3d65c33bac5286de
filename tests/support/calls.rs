//! System calls of other processes. A test program that uses this starts itself again as a process that makes the calls
//! it is told, as the user it is told to be, and answers with what the kernel said.
//!
//! Owns the calls as values, the process and the exchange with it. Judges nothing.

#![allow(dead_code, reason = "every test program uses its own part of this")]

mod call;
mod perform;
mod perform_files;
mod perform_locks;
mod process;

pub(crate) use call::*;
pub(crate) use process::{Person, Process, ROOT_USER, serve_if_asked};
