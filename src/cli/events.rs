//! What the command line may say about events.

use clap::Args;

use super::Invocation;
use super::common::{Json, Socket};
use crate::commands::events;

/// Following what happens.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    socket: Socket,
    /// Only what is about this mount
    #[arg(long, value_name = "NAME")]
    mount: Option<String>,
    /// Only what is about the preview with this id
    #[arg(long, value_name = "ID")]
    preview: Option<String>,
    /// Only what is about this run of a workflow
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Begin after the event with this number; 0 for the oldest that is kept (default: with what happens from now on)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
    #[command(flatten)]
    json: Json,
}

impl From<EventsArgs> for Invocation {
    fn from(args: EventsArgs) -> Self {
        Self::Events {
            request: events::Request {
                mount: args.mount,
                preview: args.preview,
                run: args.run,
                after: args.after,
                as_json: args.json.json,
            },
            socket: args.socket.socket,
        }
    }
}
