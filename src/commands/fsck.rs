//! `weldrfs fsck`: whether a volume is whole, in its store or in its local state. Asks no mount, and repairs nothing.

use serde::Serialize;

use super::volumes::{Store, runtime};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::options::{MountOptions, Unknown};
use crate::source::Source;
use crate::{mounting, preflight, report};

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// The state on this machine instead of what the store holds.
    pub(crate) local: bool,
    /// Everything.
    pub(crate) deep: bool,
    pub(crate) as_json: bool,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    pub(crate) inodes: u64,
    pub(crate) extents: u64,
    pub(crate) packs: u64,
    pub(crate) restore_points: u64,
    pub(crate) read_bytes: u64,
    pub(crate) unnamed_objects: u64,
    pub(crate) findings: Vec<Found>,
}

/// One violation of an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    pub(crate) invariant: &'static str,
    pub(crate) detail: String,
}

/// Checks, and fails with [`Failure::Damage`] when something is wrong.
pub(crate) fn run(
    store: &Store,
    request: Request,
    environment: &Environment,
) -> Result<(), Failure> {
    let source = Source::parse(&store.source)?;
    let access = store.access(&source, environment)?;
    let Request {
        local,
        deep,
        as_json,
    } = request;
    let checked = if local {
        let options = MountOptions::parse(&store.options, Unknown::Refuse, &environment.variables)?;
        let state_base = preflight::state_base(&options, environment)?;
        let access = access.as_ref();
        mounting::fsck_local(&source, access, &options, &state_base, deep, &runtime()?)?
    } else {
        mounting::fsck(&source, access.as_ref(), deep, &runtime()?)?
    };
    report::print(&shown(&checked, deep, as_json)?)?;
    match checked.findings.len() {
        0 => Ok(()),
        found => Err(Failure::Damage(format!(
            "{} is damaged: {found} findings",
            source.text
        ))),
    }
}

fn shown(checked: &Checked, deep: bool, as_json: bool) -> Result<String, Failure> {
    if as_json {
        return report::json(checked);
    }
    let line = |found: &Found| format!("{}: {}\n", found.invariant, found.detail);
    let findings: String = checked.findings.iter().map(line).collect();
    let read = match deep {
        true => format!(
            ", all of which were read ({})",
            report::bytes(checked.read_bytes)
        ),
        false => String::new(),
    };
    let unnamed = match checked.unnamed_objects {
        0 => String::new(),
        n => format!("{n} objects that nothing names; they do no harm\n"),
    };
    Ok(format!(
        "{findings}{unnamed}{} inodes, {} runs of files, {} restore points, {} packs{read}\n",
        checked.inodes, checked.extents, checked.restore_points, checked.packs
    ))
}
