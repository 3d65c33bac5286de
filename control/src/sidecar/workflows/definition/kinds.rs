//! What a step does: exactly one kind, with the fields of that kind.

use std::collections::{BTreeMap, BTreeSet};

use serde_saphyr::Spanned;

use super::check::{ENTRIES_MAX, Problem, is_name};
use super::names::{Known, scalar};
use super::planned::Kind;
use super::shape::{Agent, Http, NetworkName, Preview, SnapshotStep, Step, Wait};
use super::span::Span;
use crate::sidecar::workflows::expression::{Name, Template};

pub(super) fn kind(step: &Step, known: &Known<'_>) -> Result<Kind, Problem> {
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
