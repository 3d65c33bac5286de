//! `weldrfs integrations`: asks the sidecar what can be put into a project, and that it be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use weldrfs_control::{
    ApiError, InstallIntegration, InstallRequest, Integration, IntegrationDetails,
};

use super::workflows::{answer, follow};
use super::{api_failure, control};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::report;

/// A mount, and a folder below it.
type Place = (String, Option<String>);

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    List {
        place: Option<Place>,
    },
    Show {
        name: String,
        place: Option<Place>,
    },
    Install {
        place: Place,
        names: Vec<String>,
        /// Integration, input, value.
        inputs: Vec<(String, String, String)>,
        follow: bool,
    },
    Schema,
}

/// Asks, and shows the answer; the status to end with.
pub(crate) fn run(
    request: Request,
    socket: Option<PathBuf>,
    as_json: bool,
    environment: &Environment,
) -> Result<u8, Failure> {
    if matches!(request, Request::Schema) {
        return report::print(&weldrfs_control::integration_schema_text()).map(|()| 0);
    }
    let client = control::client(socket, environment)?;
    let refused = |error: ApiError| api_failure("not done", &error);
    let shown = |place: &Option<Place>| {
        let place = place.as_ref();
        place.map(|(mount, path)| (mount.clone(), path.clone().unwrap_or_default()))
    };
    match request {
        Request::List { place } => {
            let place = shown(&place);
            let place = place
                .as_ref()
                .map(|(mount, path)| (mount.as_str(), path.as_str()));
            let list = client.integrations(place).map_err(refused)?;
            let rows: Vec<Vec<String>> = list.integrations.iter().map(row).collect();
            let names = ["NAME", "VERSION", "INSTALLED", "FROM", ""];
            let text = report::table(&names, &rows, "no integrations");
            answer(&list, as_json, text)
        }
        Request::Show { name, place } => {
            let place = shown(&place);
            let place = place
                .as_ref()
                .map(|(mount, path)| (mount.as_str(), path.as_str()));
            let details = client.integration(&name, place).map_err(refused)?;
            answer(&details, as_json, text(&details))
        }
        Request::Install {
            place: (mount, path),
            names,
            inputs,
            follow: is_followed,
        } => {
            let request = InstallRequest {
                mount,
                path,
                integrations: integrations(names, inputs)?,
            };
            let begun = client.install_integrations(&request).map_err(refused)?;
            match is_followed {
                true => follow(&client, &begun.run, as_json),
                false => answer(&begun, as_json, format!("{}\n", begun.run)),
            }
        }
        Request::Schema => Ok(0),
    }
}

fn integrations(
    names: Vec<String>,
    inputs: Vec<(String, String, String)>,
) -> Result<Vec<InstallIntegration>, Failure> {
    let mut all: Vec<InstallIntegration> = Vec::new();
    for name in names {
        all.push(InstallIntegration {
            name,
            inputs: BTreeMap::new(),
        });
    }
    for (name, input, value) in inputs {
        let Some(one) = all.iter_mut().find(|one| one.name == name) else {
            return Err(Failure::Invocation(format!(
                "{name}.{input} is for {name}, which is not installed here"
            )));
        };
        one.inputs.insert(input, Value::String(value));
    }
    Ok(all)
}

fn row(one: &Integration) -> Vec<String> {
    let source = serde_json::to_value(one.source).unwrap_or_default();
    vec![
        one.name.clone(),
        one.version.clone(),
        one.installed.clone().unwrap_or_default(),
        source.as_str().unwrap_or_default().replace('_', " "),
        one.error.clone().unwrap_or_else(|| one.description.clone()),
    ]
}

fn text(details: &IntegrationDetails) -> String {
    let one = &details.integration;
    let mut text = format!("{} {}: {}\n", one.name, one.version, one.description);
    if let Some(installed) = &one.installed {
        text.push_str(&format!("installed: {installed}\n"));
    }
    let mut list = |title: &str, all: Vec<String>| {
        if !all.is_empty() {
            text.push_str(&format!("{title}:\n"));
            for line in all {
                text.push_str(&format!("  {line}\n"));
            }
        }
    };
    list("requires", details.requires.clone());
    let inputs = details
        .inputs
        .iter()
        .map(|(name, shape)| input(name, shape));
    list("inputs", inputs.collect());
    let secrets = details.secrets.iter();
    let secrets = secrets.map(|(name, what)| format!("{name}: {what}"));
    list("secrets", secrets.collect());
    let packages = details.packages.iter();
    let packages = packages.map(|(name, range)| format!("{name} {range}"));
    list("packages", packages.collect());
    list("files", details.files.clone());
    list("variables of .env", details.variables.clone());
    list("changed since it was installed", details.changed.clone());
    text
}

fn input(name: &str, shape: &Value) -> String {
    let said = |field: &str| match shape.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let mut text = format!(
        "{name} ({})",
        said("type").unwrap_or_else(|| "string".into())
    );
    if let Some(choices) = shape.get("choices").and_then(Value::as_array) {
        let choices = choices.iter().filter_map(Value::as_str);
        text.push_str(&format!(
            ", one of {}",
            choices.collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(default) = said("default") {
        text.push_str(&format!(", {default} when it is not given"));
    }
    if let Some(description) = said("description") {
        text.push_str(&format!(": {description}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_belong_to_what_is_installed() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let given = |name: &str| vec![(name.to_owned(), "x".to_owned(), "1".to_owned())];
        let all = integrations(names(), given("b")).unwrap();
        assert_eq!(all[1].inputs["x"], "1");
        assert!(all[0].inputs.is_empty());
        assert!(integrations(names(), given("c")).is_err());
    }
}
