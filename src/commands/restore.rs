//! `weldrfs restore`: the states of a volume that can be gone back to, and going back to one. Asks the store, not a mount.

use serde::Serialize;

use super::volumes::{Store, refuse_mounted, runtime};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::registry::Registry;
use crate::source::Source;
use crate::{moment, mounting, report};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    List {
        as_json: bool,
    },
    /// Go back to the newest point that is not younger than this, milliseconds since 1970.
    To {
        at_ms: u64,
        take_over: bool,
    },
}

/// A restore point in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Point {
    pub(crate) at_ms: u64,
    pub(crate) lsn: u64,
    pub(crate) newest: bool,
}

/// Does what `request` says.
pub(crate) fn run(
    store: &Store,
    request: &Request,
    registry: &Registry,
    environment: &Environment,
) -> Result<(), Failure> {
    let source = Source::parse(&store.source)?;
    let access = store.access(&source, environment)?;
    let runtime = runtime()?;
    match request {
        Request::List { as_json } => {
            let points = mounting::restore_points(&source, access.as_ref(), &runtime)?;
            report::print(&listing(&points, *as_json)?)
        }
        Request::To { at_ms, take_over } => {
            refuse_mounted(&source, registry)?;
            let point =
                mounting::restore_to(&source, access.as_ref(), *at_ms, *take_over, &runtime)?;
            let at = moment::shown(point.at_ms);
            report::print(&match point.newest {
                true => format!("nothing to do: the volume holds the state of {at}\n"),
                false => format!("the volume holds the state of {at} again\n"),
            })
        }
    }
}

fn listing(points: &[Point], as_json: bool) -> Result<String, Failure> {
    if as_json {
        return report::json(points);
    }
    if points.is_empty() {
        return Ok("nothing was published yet\n".into());
    }
    let line = |point: &Point| {
        let newest = if point.newest { "  newest" } else { "" };
        let at = moment::shown(point.at_ms);
        format!("{at}  operation {}{newest}\n", point.lsn)
    };
    Ok(points.iter().map(line).collect())
}
