//! Why the sidecar does not start, or go on. Every text says what to do.

use std::io;

/// Why the sidecar does not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another sidecar has the folder. Fix.
    #[error("another \"weldrfs control\" uses the folder {0}; stop that, or give --state-dir")]
    FolderInUse(String),
    /// The database is some other program's, or of another line of migrations. Fix.
    #[error(
        "control.db is not a database of this sidecar; move it away and start again: mounts that run are found by \
         themselves"
    )]
    ForeignDatabase,
    /// Its migrations are not those of this program. Fix.
    #[error(
        "control.db says that it has version {0}, and its tables are others than this program's of that version: it \
         comes from another line of migrations; start the weldrfs that made it, or move it away and start again: mounts \
         that run are found by themselves"
    )]
    OtherLine(i64),
    /// What is in the file is no longer a database, or contradicts itself. Fix.
    #[error(
        "control.db is damaged: {0}; move it away and start again: mounts that run are found by themselves, others have \
         to be asked for again"
    )]
    Damaged(String),
    /// A later version wrote the database. Fix.
    #[error(
        "control.db has version {found}, and this program knows up to {known}; start the newer weldrfs"
    )]
    NewerDatabase {
        /// Its version.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// What SQLite says. Give up, or fix the disk.
    #[error(
        "control.db cannot be used: {0}; mend its disk, or move it away: mounts that run are found by themselves"
    )]
    Database(String),
    /// What the operating system says. Fix.
    #[error("the sidecar's folder cannot be used: {0}")]
    Folder(#[from] io::Error),
    /// Nothing can be heard there. Fix.
    #[error("cannot listen on {place}: {error}")]
    Listen {
        /// Path or address.
        place: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// It ran, and cannot go on. Start it again.
    #[error(
        "mounts are not supervised any more, so the sidecar ends; start it again, mounts go on meanwhile"
    )]
    BrokeDown,
    /// A setting makes no sense. Fix.
    #[error("{0}")]
    Setting(String),
}
