//! Sandboxes: one command in a container of its own, on a project of a mount. What commands, previews and steps of
//! workflows run in.
//!
//! This module owns what a sandbox is asked for ([`SandboxOrder`]), what that is as an OCI bundle ([`oci_config`]), and
//! how one talks with the shim that keeps it ([`Sandbox`]). It starts no process: [`SandboxHost`] does.

mod attachment;
mod folder;
mod host;
mod oci;
mod order;
mod output;
mod protocol;
mod seccomp;

pub use attachment::{Attachment, Sandbox, Seen};
pub(crate) use folder::INSIDE;
pub use folder::open_folder;
pub use host::{FoundSandbox, ProjectFolder, SandboxHost, SandboxNetwork, SandboxUse};
pub use oci::{
    Ground, Identity, SANDBOX_INIT, SANDBOX_OWNER, SANDBOX_ROOT, cgroup_path, oci_config,
};
pub use order::{
    HIDDEN_DIRECTORIES, HIDDEN_FILES, Limits, Network, PATH_VARIABLE, SANDBOX_HOME, SANDBOX_USER,
    SandboxOrder, Secrets,
};
pub(crate) use output::newest_chunks;
pub use output::{Chunk, FRAME_MAX, OUTPUT_NAME, OutputStream, read_chunk, write_head};
pub use protocol::{
    Asked, ENDED_NAME, Ended, INPUT_NAME, NOTE_NAME, Note, ORDER_NAME, OUTPUT_BYTES_MAX,
    OUTPUT_BYTES_MIN, SHIM_SOCKET, Told,
};

/// Whether `text` can name a sandbox, like `exec-19ab3f-1`: its folder and its control group are called so too.
#[must_use]
pub fn is_sandbox_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=48).contains(&text.len()) && text.bytes().all(is_plain) && !text.starts_with('-')
}
