//! `weldrfs gc`: deletes from the store what nothing needs any more. Asks the process that serves the volume here, or opens
//! the volume for as long as it takes: whoever deletes must be the one who may write.

use super::volumes::{Store, mounted, runtime};
use super::{api_failure, target};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::mounting::{self, OpenVolume};
use crate::options::{MountOptions, Unknown};
use crate::preflight;
use crate::registry::Registry;
use crate::report::{self, bytes};
use crate::source::Source;
use weldrfs_control::{GcAmount, GcReport};

/// Collects the garbage of the volume in `store`.
pub(crate) fn run(
    store: &Store,
    dry_run: bool,
    as_json: bool,
    registry: &Registry,
    environment: &Environment,
) -> Result<(), Failure> {
    let source = Source::parse(&store.source)?;
    let report = match mounted(&source, registry) {
        Some(record) => target::client_of(&record)?
            .gc(dry_run)
            .map_err(|error| api_failure("not all garbage was collected", &error))?,
        None => unmounted(store, &source, dry_run, environment)?,
    };
    report::print(&shown(&report, dry_run, as_json)?)
}

/// Opens the volume as a mount does, with the local state that there may be, and closes it again.
fn unmounted(
    store: &Store,
    source: &Source,
    dry_run: bool,
    environment: &Environment,
) -> Result<GcReport, Failure> {
    let options = MountOptions::parse(&store.options, Unknown::Refuse, &environment.variables)?;
    let access = store.access(source, environment)?;
    let state_base = preflight::state_base(&options, environment)?;
    let runtime = runtime()?;
    // Opening makes a volume where there is none.
    mounting::check_volume(source, access.as_ref(), &runtime)?;
    let volume = OpenVolume::open(
        source,
        access.as_ref(),
        &options,
        &state_base,
        runtime.handle().clone(),
    )?;
    let collected = volume.gc(dry_run);
    volume.close()?;
    collected.map_err(|why| Failure::System(format!("not all garbage was collected: {why}")))
}

fn shown(report: &GcReport, dry_run: bool, as_json: bool) -> Result<String, Failure> {
    if as_json {
        return report::json(report);
    }
    let of = |amount: &GcAmount, what: &str| match amount.objects {
        1 => format!("1 {what} ({})", bytes(amount.bytes)),
        n => format!("{n} {what}s ({})", bytes(amount.bytes)),
    };
    let (deleted, marked, rewritten) = match dry_run {
        false => ("deleted", "found dead", "written anew"),
        true => ("would be deleted", "are dead", "would be written anew"),
    };
    Ok(format!(
        "{}: {}, {} that nothing names\n{marked}: {}\n{rewritten}: {}\nwaiting for the end of their time: {}\nin use: {}\n",
        deleted,
        of(&report.deleted, "pack"),
        of(&report.unnamed, "object"),
        of(&report.marked, "pack"),
        of(&report.rewritten, "pack"),
        of(&report.waiting, "pack"),
        of(&report.used, "pack"),
    ))
}
