//! Integrations: manifests that put something into a project, several at once. Installing them is one run of a workflow
//! that is put together here; what is certain about runs is certain about it, and the project is put back when it does not
//! come to its end. Nothing here starts anything or writes a row.

mod dotenv;
mod folder;
mod install;
mod library;
mod plan;
mod state;
mod types;
mod work;

pub(super) use folder::Place;
pub(super) use install::{install, list, show};
pub(super) use state::STATE;
pub use types::{
    InstallIntegration, InstallRequest, Integration, IntegrationDetails, IntegrationList,
    IntegrationSource,
};
pub(super) use work::Work;

#[cfg(test)]
mod tests;
