//! What is asked about integrations: which there are, what one is, and that some be installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::dotenv;
use super::folder::{Folder, Found, Place};
use super::library;
use super::plan::{Packager, Plan, ordered, plan};
use super::state::{State, sha256};
use super::types::{
    InstallIntegration, InstallRequest, Integration, IntegrationDetails, IntegrationList,
    IntegrationSource,
};
use crate::error::ApiError;
use crate::sandbox::SandboxHost;
use crate::sidecar::at_rest::at_rest;
use crate::sidecar::idempotency::Attempt;
use crate::sidecar::mounts::Occupied;
use crate::sidecar::names;
use crate::sidecar::previews::package_manager;
use crate::sidecar::workflows::{Asked, FILE_MAX, Given, Manifest, RunSummary, Workflows, doubled};

/// Most that are installed at once.
const AT_ONCE: usize = 20;
/// Most bytes of a `.env` that is looked at.
const DOTENV_MAX: usize = 256 * 1024;

/// Begins the run that installs them; returns once it is written down. The same attempt of a request again is the same run.
///
/// # Errors
/// [`ApiError::InvalidRequest`], [`ApiError::NotFound`], [`ApiError::FilesChanged`]: nothing has begun then.
pub(in crate::sidecar) async fn install(
    workflows: &Workflows,
    request: InstallRequest,
    attempt: Option<Attempt>,
) -> Result<RunSummary, ApiError> {
    let origin = attempt.map(|attempt| attempt.id);
    if let Some(begun) = workflows.begun(origin.as_deref()).await? {
        return Ok(begun);
    }
    let asked = request.integrations;
    if !(1..=AT_ONCE).contains(&asked.len()) {
        return Err(ApiError::InvalidRequest(format!(
            "integrations takes 1 to {AT_ONCE}"
        )));
    }
    if let Some(twice) = doubled(asked.iter().map(|one| one.name.as_str())) {
        return Err(ApiError::InvalidRequest(format!(
            "integrations: {twice} is there twice"
        )));
    }
    let below = names::below_mount(request.path.as_deref().unwrap_or_default())?;
    let (place, occupied) = place(workflows, &request.mount, below.clone()).await?;
    let sandboxes = workflows.sandboxes();
    // One that fails is undone, which a database that runs would be in the way of.
    drop(at_rest(&occupied, &below).await?);
    let working = place.clone().work(move |folder| {
        let packager = packager(&*sandboxes, &place)?;
        prepared(folder, asked, &packager)
    });
    let plan = working.await?;
    workflows.has_secrets(&plan.secrets)?;
    let run = Asked {
        name: plan.name,
        text: plan.definition,
        inputs: plan.inputs,
        mount: request.mount,
        below,
        origin,
    };
    let begun = workflows.begin(run).await;
    drop(occupied);
    begun
}

/// What is to be done in a project, if nothing that somebody changed is in its way.
fn prepared(
    folder: &Folder,
    asked: Vec<InstallIntegration>,
    packager: &Packager,
) -> Result<Plan, ApiError> {
    let state = State::read(folder)?;
    let mut inputs: BTreeMap<String, BTreeMap<String, Json>> = BTreeMap::new();
    let mut manifests = Vec::new();
    for one in asked {
        manifests.push(library::get(Some(folder), &one.name)?.0);
        inputs.insert(one.name, one.inputs);
    }
    let manifests = ordered(manifests, &state)?;
    let none = BTreeMap::new();
    let given = manifests.iter().map(|manifest| {
        let inputs = inputs.get(&manifest.name).unwrap_or(&none);
        Ok((manifest, manifest.given(inputs)?))
    });
    let given: Vec<(&Manifest, Given<'_>)> = given.collect::<Result<_, ApiError>>()?;
    let plan = plan(&given, &state, packager)?;
    plan.work.check(folder)?;
    Ok(plan)
}

fn packager(sandboxes: &dyn SandboxHost, place: &Place) -> Result<Packager, ApiError> {
    let folder = sandboxes.project(&place.mountpoint, &place.folder)?;
    let (name, program) = package_manager(&*folder);
    Ok(Packager { name, program })
}

async fn place(
    workflows: &Workflows,
    mount: &str,
    folder: PathBuf,
) -> Result<(Place, Occupied), ApiError> {
    let who = "integrations that are looked at".to_owned();
    let occupied = workflows.mounts().occupy(mount, &folder, who).await?;
    let mountpoint = occupied.path.clone();
    Ok((Place { mountpoint, folder }, occupied))
}

/// A project that is asked about: a mount and a folder below it.
pub(in crate::sidecar) type Where = Option<(String, PathBuf)>;

/// The integrations that there are.
///
/// # Errors
/// [`ApiError::NotFound`], [`ApiError::NotMounted`], [`ApiError::InvalidRequest`].
pub(in crate::sidecar) async fn list(
    workflows: &Workflows,
    project: Where,
) -> Result<IntegrationList, ApiError> {
    let Some((mount, folder)) = project else {
        return listed(None);
    };
    let (place, occupied) = place(workflows, &mount, folder).await?;
    let list = place.work(|folder| listed(Some(folder))).await;
    drop(occupied);
    list
}

fn listed(folder: Option<&Folder>) -> Result<IntegrationList, ApiError> {
    let state = folder.map_or_else(|| Ok(State::default()), State::read)?;
    let mut integrations = Vec::new();
    for (name, source) in library::names(folder)? {
        let manifest = match source {
            IntegrationSource::BuiltIn => library::get(None, &name).map(|(manifest, _)| manifest),
            IntegrationSource::Project => library::own(folder, &name),
        };
        integrations.push(summary(&name, source, &state, manifest.as_ref()));
    }
    Ok(IntegrationList { integrations })
}

fn summary(
    name: &str,
    source: IntegrationSource,
    state: &State,
    manifest: Result<&Manifest, &ApiError>,
) -> Integration {
    let installed = state.integrations.get(name);
    Integration {
        name: name.to_owned(),
        version: manifest.map_or_else(|_| String::new(), |one| one.version.clone()),
        description: manifest.map_or_else(|_| String::new(), |one| one.description.clone()),
        source,
        installed: installed.map(|installed| installed.version.clone()),
        error: manifest.err().map(ToString::to_string),
    }
}

/// One integration.
///
/// # Errors
/// [`ApiError::NotFound`], [`ApiError::NotMounted`]; [`ApiError::InvalidRequest`] when its manifest cannot be followed.
pub(in crate::sidecar) async fn show(
    workflows: &Workflows,
    name: String,
    project: Where,
) -> Result<IntegrationDetails, ApiError> {
    let Some((mount, folder)) = project else {
        return shown(None, &name);
    };
    let (place, occupied) = place(workflows, &mount, folder).await?;
    let details = place.work(move |folder| shown(Some(folder), &name)).await;
    drop(occupied);
    details
}

fn shown(folder: Option<&Folder>, name: &str) -> Result<IntegrationDetails, ApiError> {
    let state = folder.map_or_else(|| Ok(State::default()), State::read)?;
    let (manifest, source) = library::get(folder, name)?;
    let inputs = manifest.inputs().iter();
    Ok(IntegrationDetails {
        integration: summary(name, source, &state, Ok(&manifest)),
        inputs: inputs
            .map(|(name, shape)| (name.clone(), shape.clone()))
            .collect(),
        secrets: manifest.secrets(),
        files: manifest.paths(),
        variables: manifest.variables(),
        changed: folder.map_or_else(Vec::new, |folder| changed(folder, &state, name)),
        requires: manifest.requires,
        packages: manifest.packages,
    })
}

/// What an integration wrote and is not as it was written.
fn changed(folder: &Folder, state: &State, name: &str) -> Vec<String> {
    let Some(installed) = state.integrations.get(name) else {
        return Vec::new();
    };
    let is_as = |path: &str, hash: &String| matches!(folder.read(path, FILE_MAX), Ok(Found::Text(text)) if sha256(&text) == *hash);
    let files = installed.files.iter();
    let files = files.filter(|(path, hash)| Path::new(path).is_relative() && !is_as(path, hash));
    let mut changed: Vec<String> = files.map(|(path, _)| path.clone()).collect();
    let dotenv = match folder.read(dotenv::NAME, DOTENV_MAX) {
        Ok(Found::Text(text)) => String::from_utf8(text).unwrap_or_default(),
        _ => String::new(),
    };
    let variables = installed.variables.iter().filter(|(name, hash)| {
        dotenv::get(&dotenv, name).is_none_or(|value| sha256(value.as_bytes()) != **hash)
    });
    changed.extend(variables.map(|(name, _)| format!("{name} of {}", dotenv::NAME)));
    changed
}
