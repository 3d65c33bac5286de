//! Where manifests are from: those that come with the sidecar, and those of a project.

use std::path::{Component, Path};

use super::folder::{Folder, Found, failed};
use super::types::IntegrationSource;
use crate::error::ApiError;
use crate::sidecar::workflows::{FILE_MAX, Manifest, is_integration};

/// Where a project has its own, each in a folder of its name.
pub(super) const FOLDER: &str = ".weldr/integrations";
/// What the manifest is called there.
const MANIFEST: &str = "manifest.yaml";
/// Most that are listed of a project.
const OWN_MAX: usize = 100;

/// One that comes with the sidecar.
struct BuiltIn {
    name: &'static str,
    manifest: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        name: "better-auth",
        manifest: include_str!("builtin/better-auth/manifest.yaml"),
        files: &[
            ("auth.mjs", include_str!("builtin/better-auth/auth.mjs")),
            (
                "handler.mjs",
                include_str!("builtin/better-auth/handler.mjs"),
            ),
            (
                "migrate.mjs",
                include_str!("builtin/better-auth/migrate.mjs"),
            ),
        ],
    },
    BuiltIn {
        name: "postgresql",
        manifest: include_str!("builtin/postgresql/manifest.yaml"),
        files: &[(
            "with-postgres",
            include_str!("builtin/postgresql/with-postgres"),
        )],
    },
];

/// The names of those that there are, with where they are from.
///
/// # Errors
/// [`ApiError::Conflict`] when the project's folder cannot be read.
pub(super) fn names(folder: Option<&Folder>) -> Result<Vec<(String, IntegrationSource)>, ApiError> {
    let built_in = BUILT_IN.iter();
    let mut names: Vec<_> = built_in
        .map(|one| (one.name.to_owned(), IntegrationSource::BuiltIn))
        .collect();
    let own = match folder {
        None => Vec::new(),
        Some(folder) => folder
            .names(FOLDER)
            .map_err(|error| failed(&format!("{FOLDER} cannot be read"), &error))?,
    };
    let own = own.into_iter().filter(|name| is_integration(name));
    names.extend(
        own.take(OWN_MAX)
            .map(|name| (name, IntegrationSource::Project)),
    );
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// The manifest of an integration. One that comes with the sidecar is what it says it is: a project has none of its name.
///
/// # Errors
/// [`ApiError::NotFound`]; [`ApiError::InvalidRequest`] when it cannot be followed.
pub(super) fn get(
    folder: Option<&Folder>,
    name: &str,
) -> Result<(Manifest, IntegrationSource), ApiError> {
    match BUILT_IN.iter().find(|one| one.name == name) {
        Some(one) => Ok((built_in(one)?, IntegrationSource::BuiltIn)),
        None => Ok((own(folder, name)?, IntegrationSource::Project)),
    }
}

fn built_in(one: &BuiltIn) -> Result<Manifest, ApiError> {
    let beside = |file: &str| {
        let found = one.files.iter().find(|(name, _)| *name == file);
        let text = found.map(|(_, text)| (*text).to_owned());
        text.ok_or_else(|| ApiError::NotFound("there is no such file beside the manifest".into()))
    };
    Manifest::read(&format!("integration {}", one.name), one.manifest, &beside)
}

/// The manifest of a project's own integration.
pub(super) fn own(folder: Option<&Folder>, name: &str) -> Result<Manifest, ApiError> {
    let missing = || {
        let known: Vec<&str> = BUILT_IN.iter().map(|one| one.name).collect();
        ApiError::NotFound(format!(
            "there is no integration {name:?}: not among those that come with the sidecar ({}), and no \
             {FOLDER}/{name}/{MANIFEST} in the project",
            known.join(", ")
        ))
    };
    let Some(folder) = folder.filter(|_| is_integration(name)) else {
        return Err(missing());
    };
    if BUILT_IN.iter().any(|one| one.name == name) {
        return Err(ApiError::Conflict(format!(
            "{name} comes with the sidecar; give that of the project another name"
        )));
    }
    let place = format!("{FOLDER}/{name}");
    let text = text(folder, &format!("{place}/{MANIFEST}"))?.ok_or_else(missing)?;
    let beside = |file: &str| {
        let mut parts = Path::new(file).components();
        if !parts.all(|part| matches!(part, Component::Normal(_))) || file.is_empty() {
            return Err(ApiError::InvalidRequest(
                "from takes a file beside the manifest".into(),
            ));
        }
        let found = self::text(folder, &format!("{place}/{file}"))?;
        found.ok_or_else(|| ApiError::NotFound("there is no such file beside the manifest".into()))
    };
    let manifest = Manifest::read(&format!("integration {name}"), &text, &beside)?;
    match manifest.name == name {
        true => Ok(manifest),
        false => Err(ApiError::InvalidRequest(format!(
            "{place}/{MANIFEST} is of the name {}; its folder has to have that name, too",
            manifest.name
        ))),
    }
}

/// The text of a file of a project.
fn text(folder: &Folder, path: &str) -> Result<Option<String>, ApiError> {
    let unusable = || {
        ApiError::InvalidRequest(format!(
            "{path} is no file that can be read: it must be a regular one of {FILE_MAX} bytes at most, in UTF-8, and no \
             symbolic link may lead to it"
        ))
    };
    match folder.read(path, FILE_MAX) {
        Ok(Found::Nothing) => Ok(None),
        Ok(Found::Text(text)) => String::from_utf8(text).map(Some).map_err(|_| unusable()),
        Ok(Found::Other) => Err(unusable()),
        Err(error) => Err(failed(&format!("{path} cannot be read"), &error)),
    }
}
