//! The description of the API, made from the code and kept in the repository as `control/openapi.json`.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder, Type};
use utoipa::{Modify, OpenApi};

use super::api;

/// Name of the way to say who one is over TCP.
const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "WeldrFS control",
        description = "The sidecar of one machine: it mounts volumes, keeps them mounted, runs commands on them in \
                       sandboxes, and tells what happens. \
                       Served over a Unix socket to root and the members of its group, and on TCP to those who have a \
                       token. Every error is an ErrorBody with a stable code; requests refuse fields they do not know.",
        license(name = "Apache-2.0"),
    ),
    paths(
        api::add, api::list, api::details, api::unmount, api::sync, api::logs, api::exec, api::start_preview, api::stop_preview,
        api::list_previews, api::get_preview, api::preview_logs, api::events, api::health, api::metrics,
    ),
    tags(
        (name = "mounts", description = "Volumes mounted on this machine"),
        (name = "exec", description = "Commands in sandboxes, on a mount"),
        (name = "previews", description = "Apps that run on mounts and are reached at ports of the machine"),
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
        for path in description.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
                add(
                    operation,
                    "400",
                    "`invalid_request`: the message names what is wrong",
                );
                add(
                    operation,
                    "401",
                    "`unauthorized`: over TCP, no token or a wrong one",
                );
                add(
                    operation,
                    "403",
                    "`forbidden`: over the socket, not in its group",
                );
                add(
                    operation,
                    "429",
                    "`rate_limited`: wait as long as `Retry-After` says",
                );
                add(
                    operation,
                    "500",
                    "`internal`: a fault of the sidecar, whose log says more",
                );
                add(
                    operation,
                    "503",
                    "`database_unavailable`, `store_unavailable`, `shutting_down`: try again",
                );
                add(
                    operation,
                    "504",
                    "`deadline_exceeded`: what was under way goes on",
                );
                if let Some(body) = &mut operation.request_body {
                    // Where every field may be left out, so may the body.
                    if operation.operation_id.as_deref() == Some("sync_mount") {
                        body.required = Some(Required::False);
                    }
                    add(operation, "413", "`too_large`");
                    add(operation, "415", "`unsupported_media_type`");
                }
            }
        }
    }
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
