//! The description of the API, made from the code and kept in the repository as `control/openapi.json`.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
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
        api::add, api::list, api::details, api::unmount, api::sync, api::logs, api::exec, api::events, api::health, api::metrics,
    ),
    tags(
        (name = "mounts", description = "Volumes mounted on this machine"),
        (name = "exec", description = "Commands in sandboxes, on a mount"),
        (name = "events", description = "What happens"),
        (name = "sidecar", description = "The sidecar itself"),
    ),
    modifiers(&Token),
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
