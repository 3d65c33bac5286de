//! `weldrfs workflows`: asks the sidecar about runs of workflows.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use weldrfs_control::{
    ApiError, BlockingControlClient, DifferenceKind, Event, EventsWanted, RevertReport,
    RevertRequest, RunDetails, RunState, RunSummary, StepReport, StepRequest, TriggerRequest,
};

use super::{api_failure, control, patch};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::moment;
use crate::report;

/// Status of a command that follows a run which did not succeed.
const NOT_SUCCEEDED: u8 = 1;
/// How long events are waited for that are there already.
const QUIET: Duration = Duration::from_secs(2);
/// Largest definition that is read from a file.
const DEFINITION_MAX: u64 = 256 * 1024;

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Trigger {
        mount: String,
        path: Option<String>,
        workflow: String,
        inputs: Vec<(String, String)>,
        follow: bool,
    },
    List {
        mount: Option<String>,
        limit: u32,
    },
    Show {
        run: String,
    },
    Follow {
        run: String,
    },
    Diff {
        run: String,
        step: Option<String>,
        as_patch: bool,
    },
    Cancel {
        run: String,
    },
    Again {
        run: String,
        step: Option<String>,
        skips: bool,
    },
    Revert {
        run: String,
        step: Option<String>,
        undo: bool,
    },
    Schema,
}

/// Asks, and shows the answer; the status to end with.
pub(crate) fn run(
    request: Request,
    socket: Option<PathBuf>,
    as_json: bool,
    environment: &Environment,
) -> Result<u8, Failure> {
    if matches!(request, Request::Schema) {
        return report::print(&weldrfs_control::workflow_schema_text()).map(|()| 0);
    }
    let client = control::client(socket, environment)?;
    let refused = |error: ApiError| api_failure("not done", &error);
    match request {
        Request::Trigger {
            mount,
            path,
            workflow,
            inputs,
            follow: is_followed,
        } => {
            let request = TriggerRequest {
                mount,
                path,
                workflow: definition(workflow)?,
                inputs: inputs
                    .into_iter()
                    .map(|(name, value)| (name, Value::String(value)))
                    .collect::<BTreeMap<_, _>>(),
            };
            let begun = client.trigger(&request).map_err(refused)?;
            match is_followed {
                true => follow(&client, &begun.run, as_json),
                false => answer(&begun, as_json, format!("{}\n", begun.run)),
            }
        }
        Request::List { mount, limit } => {
            let list = client
                .runs(mount.as_deref(), None, limit)
                .map_err(refused)?;
            let rows: Vec<Vec<String>> = list.runs.iter().map(row).collect();
            let names = ["RUN", "WORKFLOW", "MOUNT", "STATE", "CREATED", ""];
            answer(&list, as_json, report::table(&names, &rows, "no runs"))
        }
        Request::Show { run } => {
            let details = client.run(&run).map_err(refused)?;
            answer(&details, as_json, text(&details))
        }
        Request::Follow { run } => follow(&client, &run, as_json),
        Request::Diff {
            run,
            step,
            as_patch,
        } => diff(&client, &run, step.as_deref(), (as_patch, as_json)),
        Request::Cancel { run } => {
            let summary = client.cancel_run(&run).map_err(refused)?;
            answer(&summary, as_json, line(&summary))
        }
        Request::Again { run, step, skips } => {
            let request = StepRequest { step };
            let summary = client.run_again(&run, &request, skips).map_err(refused)?;
            answer(&summary, as_json, line(&summary))
        }
        Request::Revert { run, step, undo } => {
            let request = RevertRequest { run, step, undo };
            let report = client.revert(&request).map_err(refused)?;
            answer(&report, as_json, reverted(&report))
        }
        Request::Schema => Ok(0),
    }
}

/// A file is sent as it is; anything else is the name of a workflow of the project.
fn definition(workflow: String) -> Result<Value, Failure> {
    let path = Path::new(&workflow);
    let is_file =
        workflow.contains('/') || workflow.ends_with(".yaml") || workflow.ends_with(".yml");
    if !is_file {
        return Ok(Value::String(workflow));
    }
    let cannot = |error: std::io::Error| Failure::Invocation(format!("{workflow}: {error}"));
    let length = std::fs::metadata(path).map_err(cannot)?.len();
    if length > DEFINITION_MAX {
        return Err(Failure::Invocation(format!(
            "{workflow} is too large for a workflow"
        )));
    }
    let mut text = std::fs::read_to_string(path).map_err(cannot)?;
    // A text with a line break is a definition.
    text.push('\n');
    Ok(Value::String(text))
}

pub(super) fn answer(
    value: &impl serde::Serialize,
    as_json: bool,
    text: String,
) -> Result<u8, Failure> {
    match as_json {
        true => report::print(&report::json(value)?),
        false => report::print(&text),
    }
    .map(|()| 0)
}

fn why(error: Option<&weldrfs_control::Fault>) -> String {
    error.map_or_else(String::new, |error| error.message.clone())
}

fn row(run: &RunSummary) -> Vec<String> {
    let mut notes = vec![why(run.error.as_ref())];
    notes.extend(run.step.as_ref().map(|step| format!("step {step}")));
    if run.stuck {
        notes.push("stuck".into());
    }
    notes.retain(|note| !note.is_empty());
    let place = match run.path.is_empty() {
        true => run.mount.clone(),
        false => format!("{}:{}", run.mount, run.path),
    };
    vec![
        run.run.clone(),
        run.workflow.clone(),
        place,
        run.state.to_string(),
        moment::shown(run.created),
        notes.join("; "),
    ]
}

fn line(run: &RunSummary) -> String {
    let why = why(run.error.as_ref());
    let why = if why.is_empty() {
        why
    } else {
        format!(": {why}")
    };
    format!(
        "run {} of {} is {}{why}\n",
        run.run, run.workflow, run.state
    )
}

fn reverted(report: &RevertReport) -> String {
    format!(
        "the project is what {} has ({} names changed)\nwhat was there is in {}; --undo goes back to it\n",
        report.restored, report.names, report.kept
    )
}

fn text(details: &RunDetails) -> String {
    let mut text = line(&details.run);
    for step in &details.steps {
        text.push_str(&step_text(step));
    }
    for revert in details.reverts.iter().filter(|revert| revert.done) {
        text.push_str(&format!(
            "reverted to {}; kept: {}\n",
            revert.restored, revert.kept
        ));
    }
    text
}

fn step_text(step: &StepReport) -> String {
    let stuck = if step.stuck { ", stuck" } else { "" };
    let mut text = format!("  {:<20} {:<9} {}{stuck}", step.name, step.kind, step.state);
    if step.attempt > 1 {
        text.push_str(&format!(", attempt {}", step.attempt));
    }
    if let Some(doing) = &step.doing {
        text.push_str(&format!(": {doing}"));
    }
    if let Some(times_out) = step.times_out {
        text.push_str(&format!(" (until {} at most)", moment::shown(times_out)));
    }
    if let Some(error) = &step.error {
        text.push_str(&format!(": {}", error.message));
    }
    text.push('\n');
    for attempt in step.attempts.iter().filter(|one| one.error.is_some()) {
        let took = attempt.ended_ms.saturating_sub(attempt.started_ms);
        let error = why(attempt.error.as_ref());
        let at = moment::shown(attempt.started_ms);
        text.push_str(&format!(
            "    attempt {} at {at}, {}: {error}\n",
            attempt.attempt,
            report::span(took)
        ));
    }
    if step.error.is_some()
        && let Some(log) = &step.log
    {
        for line in log.lines() {
            text.push_str(&format!("    | {line}\n"));
        }
    }
    text
}

/// Shows everything of a run, from its beginning to its end, also over restarts of the sidecar; its state is the status.
pub(super) fn follow(
    client: &BlockingControlClient,
    run: &str,
    as_json: bool,
) -> Result<u8, Failure> {
    let failed = |error: ApiError| api_failure("cannot be followed", &error);
    // A run that is not there has no events either.
    let shown = client.run(run).map_err(failed)?.run;
    let before = shown.state;
    // One that was let go on has been over before.
    let since = shown.started.unwrap_or_else(now_ms);
    // The events of one that is over are there already, or not kept any more.
    let quiet = before.is_over().then_some(QUIET);
    let wanted = EventsWanted {
        run: Some(run),
        ..EventsWanted::default()
    };
    let mut end = None;
    let mut reader_is_gone = false;
    client
        .events(Some(0), wanted, quiet, |event| {
            let shown = match as_json {
                // Text and numbers, which JSON can hold.
                true => serde_json::to_string(&event).unwrap_or_default() + "\n",
                false => event_text(&event),
            };
            let mut stdout = std::io::stdout().lock();
            let written = stdout
                .write_all(shown.as_bytes())
                .and_then(|()| stdout.flush());
            reader_is_gone = written.is_err();
            let is_end = !before.is_over() && event.at_ms >= since;
            end = state_of(&event).filter(|state| is_end && state.is_over());
            end.is_none() && !reader_is_gone
        })
        .map_err(failed)?;
    match end.or(before.is_over().then_some(before)) {
        _ if reader_is_gone => Ok(0),
        Some(RunState::Succeeded) => Ok(0),
        Some(_) => Ok(NOT_SUCCEEDED),
        None => Err(Failure::System(
            "the sidecar has ended; the run goes on with the next one, and so does \"weldrfs workflows follow\"".into(),
        )),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn state_of(event: &Event) -> Option<RunState> {
    if event.kind != "workflow.run" {
        return None;
    }
    let state = event.data.as_ref()?.get("state")?;
    serde_json::from_value(state.clone()).ok()
}

fn event_text(event: &Event) -> String {
    let step = event.step.as_deref().unwrap_or_default();
    match event.kind.as_str() {
        "workflow.output" => event
            .message
            .lines()
            .map(|line| format!("{step} | {line}\n"))
            .collect(),
        _ => format!("{}  {}\n", moment::shown(event.at_ms), event.message),
    }
}

fn diff(
    client: &BlockingControlClient,
    run: &str,
    step: Option<&str>,
    (as_patch, as_json): (bool, bool),
) -> Result<u8, Failure> {
    let failed = |error: ApiError| api_failure("no differences", &error);
    let found = client.run_diff(run, step).map_err(failed)?;
    if !as_patch {
        let shown = found.differences.iter().map(|one| {
            let what = match one.kind {
                DifferenceKind::Created => "created",
                DifferenceKind::Deleted => "deleted",
                DifferenceKind::Renamed => "renamed",
                DifferenceKind::Changed => "changed",
            };
            let from = one
                .from
                .as_ref()
                .map_or_else(String::new, |from| format!(" (was {from})"));
            format!(
                "{what}  {}{}{from}\n",
                one.path,
                if one.directory { "/" } else { "" }
            )
        });
        let mut text: String = shown.collect();
        if found.left_out > 0 {
            text.push_str(&format!("and {} more\n", found.left_out));
        }
        return answer(&found, as_json, text);
    }
    if found.left_out > 0 {
        let all = found.differences.len() as u64 + found.left_out;
        return Err(Failure::Invocation(format!(
            "{all} paths differ, more than a patch is made of; name a step"
        )));
    }
    let mount = client.mount(&found.mount).map_err(failed)?;
    let top = PathBuf::from(mount.mount.path);
    let snapshots = top.join(".snapshots");
    let newer = found
        .newer
        .as_ref()
        .map_or(top, |newer| snapshots.join(newer));
    let older = snapshots.join(&found.older);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written =
        patch::write(&found.differences, &older, &newer, &mut out).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::system("cannot write the patch", &error))
        }
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sent_and_a_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.yaml");
        std::fs::write(&path, "steps: []").unwrap();
        let sent = definition(path.to_str().unwrap().to_owned()).unwrap();
        assert_eq!(sent, "steps: []\n");
        assert_eq!(definition("build".into()).unwrap(), "build");
        assert!(definition("no/such/file".into()).is_err());
    }

    #[test]
    fn output_is_shown_with_the_name_of_its_step() {
        let event = |kind: &str, data: Value| Event {
            id: 1,
            at_ms: 86_401_000,
            kind: kind.into(),
            mount: Some("m".into()),
            message: "one\ntwo\n".into(),
            run: Some("r".into()),
            step: Some("build".into()),
            data: Some(data),
        };
        let output = event("workflow.output", Value::Null);
        assert_eq!(event_text(&output), "build | one\nbuild | two\n");
        assert_eq!(state_of(&output), None);
        let over = event("workflow.run", serde_json::json!({"state": "failed"}));
        assert_eq!(state_of(&over), Some(RunState::Failed));
    }
}
