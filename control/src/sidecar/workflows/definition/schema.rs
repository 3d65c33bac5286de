//! The published schema of definitions, made from their types and kept in the repository as `docs/workflow.schema.json`.

use super::shape::Definition;

/// The JSON schema of workflow definitions.
#[must_use]
pub fn text() -> String {
    let schema = schemars::schema_for!(Definition);
    // Texts and numbers, which JSON can hold.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_schema_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/workflow.schema.json");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == text(),
            "docs/workflow.schema.json is not what the code says; if that is meant: weldrfs workflows schema > \
             docs/workflow.schema.json"
        );
    }

    #[test]
    fn the_kept_schema_of_manifests_is_the_one_that_is_served() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/integration.schema.json"
        );
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == crate::sidecar::workflows::integration_schema_text(),
            "docs/integration.schema.json is not what the code says; if that is meant: weldrfs integrations schema > \
             docs/integration.schema.json"
        );
    }
}
