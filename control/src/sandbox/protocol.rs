//! What a sandbox's shim leaves on the disk and says over its socket: lines of JSON in both directions.

use serde::{Deserialize, Serialize};

use super::order::Network;

/// Name of the order in the sandbox's folder; the shim reads it and removes it.
pub const ORDER_NAME: &str = "order.json";
/// Name of what the shim notes once the command runs.
pub const NOTE_NAME: &str = "note.json";
/// Name of what it notes at the end.
pub const ENDED_NAME: &str = "ended.json";
/// Name of its socket.
pub const SHIM_SOCKET: &str = "shim.sock";
/// Name of the pipe that is the standard input of a command whose order says so, in the sandbox's folder. The command sees
/// no end of it: whoever writes there ends the command when it is done.
pub const INPUT_NAME: &str = "stdin";
/// Fewest and most bytes of output that can be kept.
pub const OUTPUT_BYTES_MIN: u64 = 256 * 1024;
/// See [`OUTPUT_BYTES_MIN`].
pub const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A sandbox that runs, or ran: how a later sidecar finds it. Holds no variable and no argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its id.
    pub id: String,
    /// The mount it works on, by name.
    pub mount: String,
    /// The program, without arguments.
    pub program: String,
    /// The shim's process, and what tells it from a later one with its id.
    pub shim_pid: u32,
    /// See `shim_pid`.
    pub shim_mark: u64,
    /// The first process of the container, as the machine numbers it; 0 before it runs.
    pub pid: u32,
    /// The runtime that runs it.
    pub runtime: String,
    /// Whether it has a user namespace of its own.
    pub user_namespace: bool,
    /// How it is connected. What listens in it is reached through `/proc/PID/ns/net`.
    pub network: Network,
    /// Whether it goes on without anybody attached.
    pub outlives: bool,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
}

/// How a sandbox ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit status of the command, 128 and the signal's number for one that a signal ended; absent when it was never
    /// started.
    pub status: Option<i32>,
    /// Its time was over.
    #[serde(default)]
    pub timed_out: bool,
    /// A process of it was killed because it wanted more memory than it may have.
    #[serde(default)]
    pub out_of_memory: bool,
    /// It was asked to end.
    #[serde(default)]
    pub stopped: bool,
    /// Why it was never started, for the log of the sidecar.
    #[serde(default)]
    pub failure: Option<String>,
    /// It was never started because the order asks for what is not there.
    #[serde(default)]
    pub refused: bool,
    /// When, milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
    /// The most memory it had, in bytes; absent when the machine does not say.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    /// Processor time it took, in milliseconds.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// Offset of the oldest frame of output that is kept.
    #[serde(default)]
    pub first: u64,
    /// End of the output.
    #[serde(default)]
    pub written: u64,
}

/// What the shim says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The command runs.
    Started(Note),
    /// There is output from offset `first` to `written`.
    Output {
        /// See there.
        first: u64,
        /// See there.
        written: u64,
    },
    /// It has ended, and everything of it is gone but its folder. The last line.
    Ended(Ended),
}

/// What the shim is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// The output up to this offset was read; until all has been, the command waits instead of losing output.
    Read(u64),
    /// End it: TERM, and KILL after the order's grace period.
    Stop,
    /// End it at once.
    Kill,
}
