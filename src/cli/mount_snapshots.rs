//! What the command line may ask the sidecar about snapshots of its mounts.

use clap::Subcommand;

use super::common::{Json, place};
use crate::commands::mount_snapshots::{Request, What};

#[derive(Debug, Subcommand)]
pub(super) enum MountSnapshotCommand {
    /// Make a snapshot and print its name
    Create {
        /// The mount
        mount: String,
        /// What to call it (default: the time)
        name: Option<String>,
        /// Why it is made
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Let it be thinned out by age, instead of keeping it until it is removed
        #[arg(long)]
        automatic: bool,
        #[command(flatten)]
        json: Json,
    },
    /// List the snapshots, oldest first
    #[command(visible_alias = "list")]
    Ls {
        /// The mount
        mount: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show one snapshot
    Show {
        /// The mount
        mount: String,
        /// Which
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Remove a snapshot; the volume and the other snapshots stay as they are
    Rm {
        /// The mount
        mount: String,
        /// Which
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show what changed since a snapshot, or between two
    Diff {
        /// The mount, and a path there: only what is at and below it
        #[arg(value_name = "MOUNT[:PATH]")]
        place: String,
        /// The older snapshot
        a: String,
        /// The newer one (default: the present)
        b: Option<String>,
        /// Show sizes and how much changed
        #[arg(long, conflicts_with = "json")]
        stat: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Go back to a snapshot, all at once; what was there before becomes a snapshot, too
    Restore {
        /// The mount, and a path there: only what is at and below it
        #[arg(value_name = "MOUNT[:PATH]")]
        place: String,
        /// Which
        name: String,
        #[command(flatten)]
        json: Json,
    },
}

impl MountSnapshotCommand {
    /// What to ask, and how to answer.
    pub(super) fn request(self) -> (Request, Json) {
        let (at, what, json) = match self {
            Self::Create {
                mount,
                name,
                note,
                automatic,
                json,
            } => {
                let what = What::Create {
                    name,
                    note,
                    automatic,
                };
                ((mount, None), what, json)
            }
            Self::Ls { mount, json } => ((mount, None), What::List, json),
            Self::Show { mount, name, json } => ((mount, None), What::Show { name }, json),
            Self::Rm { mount, name, json } => ((mount, None), What::Remove { name }, json),
            Self::Diff {
                place: at,
                a: older,
                b: newer,
                stat,
                json,
            } => (place(at), What::Diff { older, newer, stat }, json),
            Self::Restore {
                place: at,
                name,
                json,
            } => (place(at), What::Restore { name }, json),
        };
        let (mount, path) = at;
        (Request { mount, path, what }, json)
    }
}
