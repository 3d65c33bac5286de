//! What the types of a definition cannot say: names that are there once, ranges, fields that belong to a kind of step.

use std::collections::{BTreeMap, BTreeSet};

use serde_saphyr::{Location, Spanned};

use super::STEPS_MAX;
use super::inputs::{fitted, takes};
use super::kinds::kind;
use super::names::{Known, scalar};
use super::planned::{HOUR, Kind, Planned};
use super::shape::{Definition, InputKind, LimitsShape, NetworkName, Step};
use super::span::Span;
use crate::sandbox::Network;
use crate::sidecar::exec::LimitsRequest;
use crate::sidecar::secret_folder::is_variable;

/// Longest name of a step.
const NAME_MAX: usize = 40;
/// Most inputs, variables, outputs, headers and choices.
pub(super) const ENTRIES_MAX: usize = 100;
/// Most attempts.
const ATTEMPTS_MAX: u32 = 100;
/// Most runs at a time that a definition may ask for.
const CONCURRENCY_MAX: u32 = 1000;
/// How long all attempts of a step may take when nothing is said.
const TOTAL_MS: u64 = 24 * HOUR;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) at: Option<Location>,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn at<T>(place: &Spanned<T>, text: impl Into<String>) -> Self {
        Self {
            at: Some(place.referenced),
            text: text.into(),
        }
    }
}

pub(super) fn check(definition: &Definition) -> Result<Vec<Planned>, Problem> {
    check_inputs(definition)?;
    if let Some(concurrency) = &definition.concurrency
        && !(1..=CONCURRENCY_MAX).contains(&concurrency.value)
    {
        let text = format!("concurrency takes 1 to {CONCURRENCY_MAX}");
        return Err(Problem::at(concurrency, text));
    }
    let count = definition.steps.len();
    if !(1..=STEPS_MAX).contains(&count) {
        return Err(Problem {
            at: definition
                .steps
                .get(STEPS_MAX)
                .map(|step| step.name.referenced),
            text: format!("steps takes 1 to {STEPS_MAX} steps, not {count}"),
        });
    }
    let mut known = Known {
        definition,
        steps: BTreeMap::new(),
    };
    let mut planned = Vec::new();
    for step in &definition.steps {
        let one = plan(step, &known)?;
        let outputs = outputs_of(&one);
        if known.steps.insert(&step.name.value, outputs).is_some() {
            let text = format!("there is a step {:?} already", step.name.value);
            return Err(Problem::at(&step.name, text));
        }
        planned.push(one);
    }
    Ok(planned)
}

pub(super) fn check_inputs(definition: &Definition) -> Result<(), Problem> {
    let anywhere = |text: String| Problem { at: None, text };
    if definition.inputs.len() > ENTRIES_MAX {
        return Err(anywhere(format!("inputs takes {ENTRIES_MAX} at most")));
    }
    for (name, input) in &definition.inputs {
        if !is_name(name) {
            return Err(anywhere(format!(
                "inputs.{name:?}: a name is a letter, then letters, digits, \"-\" and \"_\", {NAME_MAX} at most"
            )));
        }
        let is_choice = input.kind == InputKind::Choice;
        if is_choice == input.choices.is_empty() || input.choices.len() > ENTRIES_MAX {
            return Err(anywhere(format!(
                "inputs.{name}: choices takes 1 to {ENTRIES_MAX} texts, for the type choice only"
            )));
        }
        if let Some(default) = &input.default {
            let value = serde_json::Value::String(default.value.0.clone());
            if fitted(input, &value).is_none() {
                let text = format!("inputs.{name}.default: {}", takes(input));
                return Err(Problem::at(default, text));
            }
        }
    }
    Ok(())
}

/// Whether `name` can be that of a step, an input or an output.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// The names that steps of its kind set, beside those it declares.
fn outputs_of(step: &Planned) -> Vec<String> {
    let fixed: &[&str] = match &step.kind {
        Kind::Line(_) | Kind::Words(_) => &["status", "stdout"],
        Kind::Agent { .. } => &["message", "stop_reason"],
        Kind::Http { .. } => &["body", "status"],
        Kind::Snapshot { .. } => &["snapshot"],
        Kind::Preview { .. } => &["id", "port", "url"],
        Kind::WaitFor(_) | Kind::Install(_) => &[],
        Kind::WaitUntil { .. } => &["status"],
    };
    let mut names: Vec<String> = fixed.iter().map(|&name| name.to_owned()).collect();
    names.extend(step.outputs.iter().cloned());
    if let Kind::Http { outputs, .. } = &step.kind {
        names.extend(outputs.keys().cloned());
    }
    names
}

fn plan(step: &Step, known: &Known<'_>) -> Result<Planned, Problem> {
    let name = &step.name;
    if !is_name(&name.value) {
        return Err(Problem::at(
            name,
            format!(
                "name takes a letter, then letters, digits, \"-\" and \"_\", {NAME_MAX} at most"
            ),
        ));
    }
    let kind = kind(step, known)?;
    check_fields(step, &kind)?;
    let in_sandbox = matches!(
        kind,
        Kind::Line(_) | Kind::Words(_) | Kind::Agent { .. } | Kind::Preview { .. }
    );
    let mut env = BTreeMap::new();
    if in_sandbox {
        for (variable, value) in known.definition.env.iter().chain(&step.env) {
            if !is_variable(variable) {
                let text = format!("env: {variable:?} is no name of a variable");
                return Err(Problem::at(value, text));
            }
            env.insert(variable.clone(), known.template(&scalar(value), false)?);
        }
        if env.len() > ENTRIES_MAX {
            return Err(Problem::at(
                name,
                format!("env takes {ENTRIES_MAX} at most"),
            ));
        }
    }
    let attempts = step.retry.as_ref().map_or(1, |retry| retry.attempts.value);
    if let Some(retry) = &step.retry {
        if !(1..=ATTEMPTS_MAX).contains(&attempts) {
            let text = format!("retry.attempts takes 1 to {ATTEMPTS_MAX}");
            return Err(Problem::at(&retry.attempts, text));
        }
        if !step.idempotent && attempts > 1 {
            let text = "a step with \"idempotent: false\" is tried once; leave out retry";
            return Err(Problem::at(&retry.attempts, text));
        }
    }
    let condition = match &step.condition {
        None => None,
        Some(text) => Some(known.condition(text)?),
    };
    let timeout_ms = match &step.timeout {
        None => kind.timeout_ms(),
        Some(timeout) => {
            let most = kind.timeout_max_ms();
            if timeout.value.ms() > most {
                let text = format!(
                    "timeout of a {} step takes {}h at most",
                    kind.name(),
                    most / HOUR
                );
                return Err(Problem::at(timeout, text));
            }
            timeout.value.ms()
        }
    };
    Ok(Planned {
        name: name.value.clone(),
        condition,
        env,
        secrets: step.secrets.iter().map(|name| name.value.clone()).collect(),
        outputs: step.outputs.iter().map(|name| name.value.clone()).collect(),
        network: match step.network {
            None | Some(NetworkName::Isolated) => Network::Isolated,
            Some(NetworkName::None) => Network::None,
            Some(NetworkName::Host) => Network::Host,
        },
        limits: step.limits.map_or_else(LimitsRequest::default, limits),
        timeout_ms,
        total_ms: step
            .total_timeout
            .map_or_else(|| TOTAL_MS.max(timeout_ms), Span::ms),
        attempts,
        retry: step.retry.clone(),
        idempotent: step.idempotent,
        kind,
    })
}

fn limits(shape: LimitsShape) -> LimitsRequest {
    LimitsRequest {
        memory_mb: shape.memory_mb,
        cpus: shape.cpus,
        processes: shape.processes,
        tmp_mb: shape.tmp_mb,
    }
}

/// Fields that the kind has no use for are a mistake.
fn check_fields(step: &Step, kind: &Kind) -> Result<(), Problem> {
    let runs = matches!(kind, Kind::Line(_) | Kind::Words(_));
    let in_sandbox = runs || matches!(kind, Kind::Agent { .. } | Kind::Preview { .. });
    let has_secrets = in_sandbox || matches!(kind, Kind::Http { .. });
    for (is_there, is_known, field) in [
        (!step.env.is_empty(), in_sandbox, "env"),
        (!step.secrets.is_empty(), has_secrets, "secrets"),
        (step.network.is_some(), in_sandbox, "network"),
        (step.limits.is_some(), in_sandbox, "limits"),
        (!step.outputs.is_empty(), runs, "outputs"),
    ] {
        if is_there && !is_known {
            let text = format!("a step of kind {} has no {field}", kind.name());
            return Err(Problem::at(&step.name, text));
        }
    }
    let mut seen = BTreeSet::new();
    for output in &step.outputs {
        if !is_name(&output.value)
            || !seen.insert(&output.value)
            || output.value == "status"
            || output.value == "stdout"
        {
            let text = "outputs takes names of letters, digits, \"-\" and \"_\", each once, and not status or stdout";
            return Err(Problem::at(output, text));
        }
    }
    for secret in &step.secrets {
        if !is_variable(&secret.value) {
            return Err(Problem::at(secret, "secrets takes names of variables"));
        }
    }
    Ok(())
}
