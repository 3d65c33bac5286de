//! The description of the API, made from the code and kept in the repository as `control/openapi.json`.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder, Type};
use utoipa::{Modify, OpenApi};

use super::api;

/// Operations that take an `Idempotency-Key`.
const KEYED: [&str; 7] = [
    "mount",
    "create_snapshot",
    "restore_snapshot",
    "create_branch",
    "trigger_workflow",
    "revert_run",
    "install_integrations",
];
/// Operations of whose bodies every field may be left out, and so the body too.
const WITHOUT_BODY: [&str; 7] = [
    "sync_mount",
    "create_snapshot",
    "restore_snapshot",
    "sync_branch",
    "cancel_run",
    "retry_run",
    "skip_step",
];
/// What the names in paths are: beginning of the path, name, meaning, longest, pattern, example.
const NAMES: [(&str, &str, &str, usize, &str, &str); 5] = [
    (
        "/mounts/{name}",
        "name",
        "The mount's name",
        63,
        "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        "project",
    ),
    (
        "/mounts/{name}/snapshots/{id}",
        "id",
        "The snapshot's name",
        255,
        "^[^/]+$",
        "before-agent",
    ),
    (
        "/branches/{id}",
        "id",
        "The branch: MOUNT:NAME",
        127,
        "^[A-Za-z0-9][A-Za-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*$",
        "project:fix-login",
    ),
    (
        "/workflows/{run}",
        "run",
        "The run's id",
        64,
        "^[0-9a-f]+-[0-9a-f]+$",
        "19ab3f0c1d2-1a",
    ),
    (
        "/integrations/{integration}",
        "integration",
        "The integration's name",
        20,
        "^[a-z][a-z0-9-]*$",
        "postgresql",
    ),
];

/// Name of the way to say who one is over TCP.
const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "WeldrFS control",
        description = "The sidecar of one machine: it mounts volumes, keeps them mounted, runs commands and workflows on them in \
                       sandboxes, and tells what happens. \
                       Served over a Unix socket to root and the members of its group, and on TCP to those who have a \
                       token. Every error is an ErrorBody with a stable code; requests refuse fields they do not know.",
        license(name = "Apache-2.0"),
    ),
    paths(
        api::add, api::list, api::details, api::unmount, api::sync, api::logs,
        api::snapshots::list, api::snapshots::create, api::snapshots::get, api::snapshots::remove,
        api::snapshots::restore, api::snapshots::diff,
        api::branches::create, api::branches::list, api::branches::get, api::branches::remove, api::branches::sync,
        api::exec,
        api::start_preview, api::stop_preview, api::list_previews, api::get_preview, api::preview_logs,
        api::events, api::health, api::metrics,
        api::page::begin, api::page::get, api::page::end,
        api::trigger, api::runs, api::show_run, api::cancel_run, api::retry_run, api::skip_step, api::diff_run, api::revert,
        api::workflow_schema,
        api::install_integrations, api::list_integrations, api::show_integration, api::integration_schema,
    ),
    tags(
        (name = "mounts", description = "Volumes mounted on this machine"),
        (name = "snapshots", description = "States of a mount that can be gone back to"),
        (name = "branches", description = "Copies of directories of a mount that share its content"),
        (name = "exec", description = "Commands in sandboxes, on a mount"),
        (name = "previews", description = "Apps that run on mounts and are reached at ports of the machine"),
        (name = "workflows", description = "Steps on a project, with snapshots around them, that survive the sidecar"),
        (name = "integrations", description = "What can be put into a project, several at once and all or nothing"),
        (name = "events", description = "What happens"),
        (name = "sidecar", description = "The sidecar itself"),
    ),
    modifiers(&Token, &Common),
    security(("token" = [])),
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "Over TCP only: a token of `weldrfs control token create`, or a signed session",
            ))
            .build();
        let components = description.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    }
}

/// What any request may be answered, whatever it asks for.
struct Common;

impl Modify for Common {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut description.paths.paths {
            let operations = [&mut item.get, &mut item.post, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                name_parts(operation, path);
                answer_as_all(operation);
                let is_one_of = |names: &[&str]| {
                    let id = operation.operation_id.as_deref();
                    id.is_some_and(|id| names.contains(&id))
                };
                let (is_keyed, is_bare) = (is_one_of(&KEYED), is_one_of(&WITHOUT_BODY));
                if is_keyed {
                    take_key(operation);
                }
                if let Some(body) = &mut operation.request_body {
                    if is_bare {
                        body.required = Some(Required::False);
                    }
                    add(operation, "413", "`too_large`");
                    add(operation, "415", "`unsupported_media_type`");
                }
            }
        }
    }
}

/// What any operation may be answered.
fn answer_as_all(operation: &mut Operation) {
    for (status, text) in [
        ("400", "`invalid_request`: the message names what is wrong"),
        ("401", "`unauthorized`: over TCP, no token or a wrong one"),
        (
            "403",
            "`forbidden`: over the socket, not in its group; over TCP, a cookie without its secret",
        ),
        ("429", "`rate_limited`: wait as long as `Retry-After` says"),
        (
            "500",
            "`internal`: a fault of the sidecar, whose log says more",
        ),
        (
            "503",
            "`database_unavailable`, `store_unavailable`, `shutting_down`: try again",
        ),
        ("504", "`deadline_exceeded`: what was under way goes on"),
    ] {
        add(operation, status, text);
    }
}

/// Describes the names in `path`, each of which may be of nothing.
fn name_parts(operation: &mut Operation, path: &str) {
    for (begins, name, meaning, longest, pattern, example) in NAMES {
        let rest = path.strip_prefix(begins);
        if rest.is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            continue;
        }
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(longest))
            .pattern(Some(pattern));
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(meaning))
            .schema(Some(schema.build()))
            .example(Some(example.into()));
        take(operation, parameter.build());
        add(operation, "404", "`not_found`");
    }
}

fn take_key(operation: &mut Operation) {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .pattern(Some("^[!-~]+$"));
    let parameter = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 255 visible characters: the same request with the same key is done once and answered the same for \
             a day, with `idempotency-replayed: true`",
        ))
        .schema(Some(schema.build()));
    take(operation, parameter.build());
    add(
        operation,
        "422",
        "`key_reused`: the key came with another request before",
    );
}

fn take(operation: &mut Operation, parameter: Parameter) {
    operation.parameters.get_or_insert_default().push(parameter);
}

/// Describes the answer `status` of `operation`, unless it says more about it itself.
fn add(operation: &mut Operation, status: &str, text: &str) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody")));
    let mut response = ResponseBuilder::new()
        .description(text)
        .content("application/json", body.build());
    if status == "429" {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
        let header = HeaderBuilder::new().schema(seconds);
        let header = header.description(Some("Seconds to wait, at least 1"));
        response = response.header("Retry-After", header.build());
    }
    let responses = &mut operation.responses.responses;
    responses
        .entry(status.to_owned())
        .or_insert_with(|| RefOr::T(response.build()));
}

/// The description as JSON.
#[must_use]
pub fn text() -> String {
    let description = Description::openapi().to_pretty_json();
    let mut text = description.expect("it is made of text and numbers, which JSON can hold");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_description_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == text(),
            "control/openapi.json is not what the code says; if that is meant: \
             weldrfs control openapi > control/openapi.json"
        );
    }
}
