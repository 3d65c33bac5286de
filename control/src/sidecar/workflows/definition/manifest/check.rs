//! What the types of a manifest cannot say: names, ranges, and where files may be written.

use std::path::{Component, Path};

use serde_saphyr::Spanned;

use super::shape::Shape;
use crate::sidecar::secret_folder::is_variable;
use crate::sidecar::workflows::definition::check::{Problem, check, check_inputs, is_name};
use crate::sidecar::workflows::definition::shape::Definition;

/// Longest name of an integration: names of its steps and inputs begin with it in a run.
const NAME_MAX: usize = 20;
/// Longest version and range.
const VERSION_MAX: usize = 64;
/// Longest path.
const PATH_MAX: usize = 512;
/// Longest part of one.
const PART_MAX: usize = 255;
/// Most files, packages, secrets, variables and requirements of one integration.
const ENTRIES_MAX: usize = 100;
/// Where git keeps what it runs by itself, on the machine of whoever uses it.
const GIT: &str = ".git";

/// Whether `name` can be that of an integration.
pub(in crate::sidecar) fn is_integration(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
}

pub(super) fn check_head(shape: &Shape) -> Result<(), Problem> {
    if !is_integration(&shape.name.value) {
        let text = format!(
            "name takes a lower-case letter, then those, digits and \"-\", {NAME_MAX} at most"
        );
        return Err(Problem::at(&shape.name, text));
    }
    let version = &shape.version.value.0;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
    if !(1..=VERSION_MAX).contains(&version.len()) || !version.bytes().all(is_plain) {
        return Err(Problem::at(&shape.version, "version takes one like 1.2.0"));
    }
    for (count, field) in [
        (shape.requires.len(), "requires"),
        (shape.secrets.len(), "secrets"),
        (shape.packages.len(), "packages"),
        (shape.files.len(), "files"),
        (shape.env.len(), "env"),
    ] {
        if count > ENTRIES_MAX {
            let text = format!("{field} takes {ENTRIES_MAX} at most");
            return Err(Problem::at(&shape.name, text));
        }
    }
    for required in &shape.requires {
        if !is_integration(&required.value) || required.value == shape.name.value {
            return Err(Problem::at(required, "requires takes names of others"));
        }
    }
    for (name, range) in &shape.packages {
        if !is_package(name) || !is_range(&range.value) {
            let text = format!(
                "packages: {name:?} takes the name of a package, and ^1.2.3, ~1.2.3 or 1.2.3"
            );
            return Err(Problem::at(range, text));
        }
    }
    for (variable, text) in &shape.env {
        if !is_variable(variable) {
            let problem = format!("env: {variable:?} is no name of a variable");
            return Err(Problem::at(text, problem));
        }
    }
    if let Some(name) = shape.secrets.keys().find(|name| !is_variable(name)) {
        let text = format!("secrets: {name:?} is no name of a variable");
        return Err(Problem::at(&shape.name, text));
    }
    Ok(())
}

/// The steps as a workflow has them, with names that are not too long with that of the integration.
pub(super) fn check_steps(shape: &Shape, definition: &Definition) -> Result<(), Problem> {
    check_inputs(definition)?;
    if !shape.steps.is_empty() {
        check(definition)?;
    }
    let long = |name: &str| format!("{}_{name}", shape.name.value);
    if let Some(input) = shape.inputs.keys().find(|name| !is_name(&long(name))) {
        let text = format!("inputs.{input}: the name is too long");
        return Err(Problem::at(&shape.name, text));
    }
    for step in &shape.steps {
        if !is_name(&long(&step.name.value)) {
            return Err(Problem::at(&step.name, "the name is too long"));
        }
        if step.install.is_some() {
            return Err(Problem::at(&step.name, "unknown field `install`"));
        }
        let known = |name: &&Spanned<String>| shape.secrets.contains_key(&name.value);
        if let Some(secret) = step.secrets.iter().find(|name| !known(name)) {
            let text = format!("the integration has no secret {}", secret.value);
            return Err(Problem::at(secret, text));
        }
    }
    Ok(())
}

fn is_package(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        (1..=100).contains(&part.len())
            && part.bytes().all(is_plain)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    match name.strip_prefix('@').map(|rest| rest.split_once('/')) {
        None => is_part(name),
        Some(Some((scope, name))) => is_part(scope) && is_part(name),
        Some(None) => false,
    }
}

fn is_range(range: &str) -> bool {
    let bare = range.strip_prefix(['^', '~']).unwrap_or(range);
    let (numbers, rest) = bare.split_once('-').unwrap_or((bare, "0"));
    let numbers: Vec<&str> = numbers.split('.').collect();
    let is_number =
        |part: &&str| (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    range.len() <= VERSION_MAX
        && numbers.len() == 3
        && numbers.iter().all(is_number)
        && !rest.is_empty()
        && rest.bytes().all(is_plain)
}

/// Whether a file of the project can be written there.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    let is_normal = |part: &Component<'_>| matches!(part, Component::Normal(_));
    // What components leave out, such as "./", is not what is written.
    let is_whole = path.split('/').count() == parts.len();
    if !(1..=PATH_MAX).contains(&path.len())
        || !is_whole
        || !parts.iter().all(is_normal)
        || path.chars().any(char::is_control)
        || path.split('/').any(|part| part.len() > PART_MAX)
    {
        return Err("path takes one in the project: no \"..\", no \"/\" first");
    }
    if path.split('/').any(|part| part.eq_ignore_ascii_case(GIT)) {
        return Err("nothing is written to .git");
    }
    if matches!(path, ".env" | crate::sidecar::integrations::STATE) {
        return Err("env is for .env, and the note of what is installed is not for templates");
    }
    Ok(())
}
