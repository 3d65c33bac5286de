//! What the types of a definition cannot say: names that are there once, expressions that name what there is, one kind for
//! each step, ranges. Also reads the texts with expressions, so that a run meets none it cannot fill.

use std::collections::{BTreeMap, BTreeSet};

use serde_saphyr::{Location, Spanned};

use super::STEPS_MAX;
use super::inputs::{fitted, takes};
use super::shape::{
    Agent, Definition, Files, Http, InputKind, LimitsShape, Method, NetworkName, Permissions,
    Preview, Restart, Retry, Scalar, SnapshotStep, Step, Wait,
};
use super::span::Span;
use crate::sandbox::Network;
use crate::sidecar::exec::LimitsRequest;
use crate::sidecar::integrations::Work;
use crate::sidecar::secret_folder::is_variable;
use crate::sidecar::workflows::expression::{Expression, Name, Template};

/// Longest name of a step.
const NAME_MAX: usize = 40;
/// Most inputs, variables, outputs, headers and choices.
const ENTRIES_MAX: usize = 100;
/// Most attempts.
const ATTEMPTS_MAX: u32 = 100;
/// Most runs at a time that a definition may ask for.
const CONCURRENCY_MAX: u32 = 1000;
/// How long one attempt may take of what runs in a sandbox: an app until it answers, all else.
const APP_MAX: u64 = HOUR;
const COMMAND_MAX: u64 = 24 * HOUR;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// How long all attempts of a step may take when nothing is said.
const TOTAL: u64 = 24 * HOUR;

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

/// A step that can be followed.
#[derive(Debug, Clone)]
pub(in crate::sidecar::workflows) struct Planned {
    pub(in crate::sidecar::workflows) name: String,
    pub(in crate::sidecar::workflows) kind: Kind,
    /// When it is done; as long as no step has failed when absent.
    pub(in crate::sidecar::workflows) condition: Option<Expression>,
    pub(in crate::sidecar::workflows) env: BTreeMap<String, Template>,
    pub(in crate::sidecar::workflows) secrets: Vec<String>,
    pub(in crate::sidecar::workflows) outputs: Vec<String>,
    pub(in crate::sidecar::workflows) network: Network,
    pub(in crate::sidecar::workflows) limits: LimitsRequest,
    /// For one attempt, and for all of them.
    pub(in crate::sidecar::workflows) timeout_ms: u64,
    pub(in crate::sidecar::workflows) total_ms: u64,
    pub(in crate::sidecar::workflows) attempts: u32,
    pub(in crate::sidecar::workflows) retry: Option<Retry>,
    pub(in crate::sidecar::workflows) idempotent: bool,
}

/// What a step does.
#[derive(Debug, Clone)]
pub(in crate::sidecar::workflows) enum Kind {
    /// A line for the shell of a sandbox, as it is written.
    Line(String),
    /// A program and its arguments.
    Words(Vec<Template>),
    Agent {
        command: Vec<Template>,
        prompt: Template,
        permissions: Permissions,
        files: Files,
    },
    Http {
        method: Method,
        url: Template,
        headers: BTreeMap<String, Template>,
        body: Option<Template>,
        expect: Vec<u16>,
        /// Names and places in an answer that is JSON.
        outputs: BTreeMap<String, String>,
    },
    Snapshot {
        name: Template,
        note: Option<Template>,
    },
    Preview {
        command: Option<Vec<Template>>,
        port: Option<u16>,
        host_port: Option<u16>,
        restart: Restart,
        replace: bool,
    },
    WaitFor(Span),
    /// Of a run that installs integrations.
    Install(Work),
    WaitUntil {
        url: Template,
        every: Span,
        expect: Vec<u16>,
    },
}

impl Kind {
    /// As definitions have it.
    pub(in crate::sidecar::workflows) fn name(&self) -> &'static str {
        match self {
            Self::Line(_) | Self::Words(_) => "run",
            Self::Agent { .. } => "agent",
            Self::Http { .. } => "http",
            Self::Snapshot { .. } => "snapshot",
            Self::Preview { .. } => "preview",
            Self::WaitFor(_) | Self::WaitUntil { .. } => "wait",
            Self::Install(_) => "install",
        }
    }

    /// The most that its sandbox takes.
    fn timeout_max_ms(&self) -> u64 {
        match self {
            Self::Line(_) | Self::Words(_) | Self::Agent { .. } => COMMAND_MAX,
            Self::Preview { .. } => APP_MAX,
            _ => u64::MAX,
        }
    }

    fn timeout_ms(&self) -> u64 {
        match self {
            Self::Line(_) | Self::Words(_) => 10 * MINUTE,
            Self::Agent { .. } => HOUR,
            Self::Http { .. } => 30 * SECOND,
            Self::Snapshot { .. } | Self::Preview { .. } | Self::Install(_) => 5 * MINUTE,
            Self::WaitFor(span) => span.ms().saturating_add(MINUTE),
            Self::WaitUntil { .. } => HOUR,
        }
    }
}

/// What expressions at some place may name.
struct Known<'d> {
    definition: &'d Definition,
    /// Steps before this one, with their outputs; `None` for any.
    steps: BTreeMap<&'d str, Vec<String>>,
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
            .map_or_else(|| TOTAL.max(timeout_ms), Span::ms),
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

fn scalar(value: &Spanned<Scalar>) -> Spanned<String> {
    Spanned {
        value: value.value.0.clone(),
        referenced: value.referenced,
        defined: value.defined,
    }
}

fn kind(step: &Step, known: &Known<'_>) -> Result<Kind, Problem> {
    let mut kinds = Vec::new();
    if let Some(line) = &step.run {
        kinds.push(line_of(line));
    }
    if let Some(words) = &step.command {
        kinds.push(known.words(words, &step.name).map(Kind::Words));
    }
    if let Some(agent) = &step.agent {
        kinds.push(agent_of(agent, step, known));
    }
    if let Some(http) = &step.http {
        kinds.push(http_of(http, step, known));
    }
    if let Some(SnapshotStep { name, note }) = &step.snapshot {
        kinds.push(known.template(name, false).and_then(|name| {
            let note = note.as_ref().map(|note| known.template(note, false));
            Ok(Kind::Snapshot {
                name,
                note: note.transpose()?,
            })
        }));
    }
    if let Some(preview) = &step.preview {
        kinds.push(preview_of(preview, step, known));
    }
    if let Some(wait) = &step.wait {
        kinds.push(wait_of(wait, step, known));
    }
    if let Some(work) = &step.install {
        kinds.push(Ok(Kind::Install(work.clone())));
    }
    let count = kinds.len();
    match (kinds.pop(), count) {
        (Some(kind), 1) => kind,
        (_, count) => Err(Problem::at(
            &step.name,
            format!(
                "a step has exactly one of run, command, agent, http, snapshot, preview and wait; {:?} has {}",
                step.name.value,
                if count == 0 { "none" } else { "several" }
            ),
        )),
    }
}

fn line_of(line: &Spanned<String>) -> Result<Kind, Problem> {
    if line.value.trim().is_empty() {
        return Err(Problem::at(line, "run takes a line for the shell"));
    }
    if line.value.contains("${{") {
        return Err(Problem::at(
            line,
            "run has no ${{ }}, because a value could be taken for a command; give it to the line as a variable: env: \
             {NAME: \"${{ ... }}\"} and \"$NAME\"",
        ));
    }
    Ok(Kind::Line(line.value.clone()))
}

fn preview_of(preview: &Preview, step: &Step, known: &Known<'_>) -> Result<Kind, Problem> {
    let (port, host_port) = (preview.port.as_ref(), preview.host_port.as_ref());
    for given in [port, host_port].into_iter().flatten() {
        if given.value == 0 {
            return Err(Problem::at(given, "a port is one of 1 to 65535"));
        }
    }
    if let (Some(NetworkName::Host), Some(port), Some(host_port)) = (step.network, port, host_port)
        && port.value != host_port.value
    {
        let text = "with the machine's network port and host_port are the same; give one of them";
        return Err(Problem::at(port, text));
    }
    let words = preview.command.as_ref();
    let command = words.map(|words| known.words(words, &step.name));
    Ok(Kind::Preview {
        command: command.transpose()?,
        port: port.map(|port| port.value),
        host_port: host_port.map(|port| port.value),
        restart: preview.restart,
        replace: preview.replace,
    })
}

fn agent_of(agent: &Agent, step: &Step, known: &Known<'_>) -> Result<Kind, Problem> {
    if agent.prompt.value.trim().is_empty() {
        return Err(Problem::at(&agent.prompt, "prompt takes a text"));
    }
    Ok(Kind::Agent {
        command: known.words(&agent.command, &step.name)?,
        prompt: known.template(&agent.prompt, false)?,
        permissions: agent.permissions.clone(),
        files: agent.files,
    })
}

fn http_of(http: &Http, step: &Step, known: &Known<'_>) -> Result<Kind, Problem> {
    let declared: BTreeSet<&str> = step
        .secrets
        .iter()
        .map(|name| name.value.as_str())
        .collect();
    let fill = |text: &Spanned<String>| {
        let template = known.template(text, true)?;
        for name in template.names() {
            if let Name::Secret(secret) = name
                && !declared.contains(secret.as_str())
            {
                let problem = format!("the step does not name {secret} among its secrets");
                return Err(Problem::at(text, problem));
            }
        }
        Ok(template)
    };
    let url = url_of(&http.url, fill)?;
    let mut headers = BTreeMap::new();
    for (name, value) in &http.headers {
        let is_header = hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok();
        let ours = [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "idempotency-key",
        ];
        if !is_header || ours.contains(&name.to_ascii_lowercase().as_str()) {
            let text = format!("headers: {name:?} is no header that can be set");
            return Err(Problem::at(value, text));
        }
        headers.insert(name.to_ascii_lowercase(), fill(&scalar(value))?);
    }
    check_expect(&http.expect, step)?;
    let mut outputs = BTreeMap::new();
    for (name, pointer) in &http.outputs {
        let is_pointer = pointer.value.is_empty() || pointer.value.starts_with('/');
        if !is_name(name) || !is_pointer || matches!(name.as_str(), "status" | "body") {
            let text = "outputs takes names, and places in JSON like /data/id; not status and body";
            return Err(Problem::at(pointer, text));
        }
        outputs.insert(name.clone(), pointer.value.clone());
    }
    if outputs.len() > ENTRIES_MAX || headers.len() > ENTRIES_MAX {
        let text = format!("headers and outputs take {ENTRIES_MAX} at most");
        return Err(Problem::at(&step.name, text));
    }
    Ok(Kind::Http {
        method: http.method,
        url,
        headers,
        body: http.body.as_ref().map(fill).transpose()?,
        expect: http.expect.clone(),
        outputs,
    })
}

fn url_of(
    url: &Spanned<String>,
    fill: impl FnOnce(&Spanned<String>) -> Result<Template, Problem>,
) -> Result<Template, Problem> {
    let has_scheme = url.value.starts_with("http://") || url.value.starts_with("https://");
    if !has_scheme && !url.value.starts_with("${{") {
        return Err(Problem::at(
            url,
            "it takes a URL that begins with http:// or https://",
        ));
    }
    fill(url)
}

fn check_expect(expect: &[u16], step: &Step) -> Result<(), Problem> {
    match expect.iter().all(|status| (100..=599).contains(status)) {
        true => Ok(()),
        false => Err(Problem::at(
            &step.name,
            "expect takes statuses from 100 to 599",
        )),
    }
}

fn wait_of(wait: &Wait, step: &Step, known: &Known<'_>) -> Result<Kind, Problem> {
    check_expect(&wait.expect, step)?;
    match (wait.time, &wait.http) {
        (Some(_), None) if wait.every.is_some() || !wait.expect.is_empty() => Err(Problem::at(
            &step.name,
            "every and expect of wait belong to http",
        )),
        (Some(span), None) => Ok(Kind::WaitFor(span)),
        (None, Some(url)) => Ok(Kind::WaitUntil {
            url: url_of(url, |url| known.template(url, false))?,
            every: wait
                .every
                .unwrap_or(Span(std::time::Duration::from_secs(1))),
            expect: wait.expect.clone(),
        }),
        _ => Err(Problem::at(
            &step.name,
            "wait takes exactly one of for and http",
        )),
    }
}

impl Known<'_> {
    fn words(
        &self,
        words: &[Spanned<Scalar>],
        step: &Spanned<String>,
    ) -> Result<Vec<Template>, Problem> {
        if words.first().is_none_or(|word| word.value.0.is_empty()) {
            return Err(Problem::at(
                step,
                "command takes a program and its arguments",
            ));
        }
        words
            .iter()
            .map(|word| self.template(&scalar(word), false))
            .collect()
    }

    fn template(&self, text: &Spanned<String>, with_secrets: bool) -> Result<Template, Problem> {
        let template =
            Template::parse(&text.value).map_err(|problem| Problem::at(text, problem))?;
        for name in template.names() {
            self.check(name, with_secrets)
                .map_err(|problem| Problem::at(text, problem))?;
        }
        Ok(template)
    }

    /// A condition, with or without `${{ }}` around it.
    fn condition(&self, text: &Spanned<Scalar>) -> Result<Expression, Problem> {
        let bare = text.value.0.trim();
        let bare = bare
            .strip_prefix("${{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .unwrap_or(bare);
        let expression = Expression::parse(bare).map_err(|problem| Problem::at(text, problem))?;
        for name in expression.names() {
            self.check(name, false)
                .map_err(|problem| Problem::at(text, problem))?;
        }
        Ok(expression)
    }

    fn check(&self, name: &Name, with_secrets: bool) -> Result<(), String> {
        let step_of = |step: &String| {
            self.steps
                .get(step.as_str())
                .ok_or_else(|| format!("there is no step {step:?} before this one"))
        };
        match name {
            Name::Input(input) if !self.definition.inputs.contains_key(input) => {
                Err(format!("there is no input {input:?}"))
            }
            Name::Output(step, key) if !step_of(step)?.contains(key) => Err(format!(
                "the step {step:?} has no output {key:?}; it has {}",
                match step_of(step)?.join(", ") {
                    none if none.is_empty() => "none".to_owned(),
                    some => some,
                }
            )),
            Name::State(step) => step_of(step).map(drop),
            Name::Secret(_) if !with_secrets => Err(
                "secrets.NAME is for http steps only; commands and agents get what they name under secrets as variables"
                    .into(),
            ),
            _ => Ok(()),
        }
    }
}
