//! The inputs of a run: what was asked for, made what the definition says they are.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::shape::{Definition, Input, InputKind};
use crate::error::ApiError;

/// Longest text.
const TEXT_MAX: usize = 16 * 1024;

/// The inputs of a run, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::sidecar::workflows) struct Inputs(
    pub(in crate::sidecar::workflows) BTreeMap<String, Json>,
);

impl Inputs {
    /// # Errors
    /// [`ApiError::InvalidRequest`] that names the input and what it takes.
    pub(in crate::sidecar::workflows) fn of(
        definition: &Definition,
        asked: &BTreeMap<String, Json>,
    ) -> Result<Self, ApiError> {
        let invalid = |text: String| ApiError::InvalidRequest(text);
        if let Some(unknown) = asked
            .keys()
            .find(|name| !definition.inputs.contains_key(*name))
        {
            let known: Vec<&str> = definition.inputs.keys().map(String::as_str).collect();
            return Err(invalid(format!(
                "the workflow has no input {unknown:?}; it has {}",
                match known.is_empty() {
                    true => "none".to_owned(),
                    false => known.join(", "),
                }
            )));
        }
        let mut inputs = BTreeMap::new();
        for (name, input) in &definition.inputs {
            let value = match (asked.get(name), &input.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(Json::String(default.value.0.clone())),
                (None, None) if input.required == Some(false) => None,
                (None, None) => {
                    return Err(invalid(format!(
                        "inputs.{name} is missing: {}",
                        takes(input)
                    )));
                }
            };
            if let Some(value) = value {
                let fitted = fitted(input, &value)
                    .ok_or_else(|| invalid(format!("inputs.{name}: {}", takes(input))))?;
                inputs.insert(name.clone(), fitted);
            }
        }
        Ok(Self(inputs))
    }
}

/// What an input takes.
pub(super) fn takes(input: &Input) -> String {
    match input.kind {
        InputKind::String => format!("it takes a text of {TEXT_MAX} bytes at most"),
        InputKind::Number => "it takes a number".into(),
        InputKind::Boolean => "it takes true or false".into(),
        InputKind::Choice => format!("it takes one of {}", input.choices.join(", ")),
    }
}

/// `value` as the input wants it; command lines only have texts.
pub(super) fn fitted(input: &Input, value: &Json) -> Option<Json> {
    match (input.kind, value) {
        (InputKind::String, Json::String(text)) => {
            (text.len() <= TEXT_MAX && !text.contains('\0')).then(|| value.clone())
        }
        (InputKind::String, Json::Number(number)) => Some(Json::String(number.to_string())),
        (InputKind::String, Json::Bool(value)) => Some(Json::String(value.to_string())),
        (InputKind::Number, Json::Number(_)) | (InputKind::Boolean, Json::Bool(_)) => {
            Some(value.clone())
        }
        (InputKind::Number, Json::String(text)) => {
            let number: serde_json::Number = text.trim().parse().ok()?;
            Some(Json::Number(number))
        }
        (InputKind::Boolean, Json::String(text)) => match text.as_str() {
            "true" => Some(Json::Bool(true)),
            "false" => Some(Json::Bool(false)),
            _ => None,
        },
        (InputKind::Choice, Json::String(text)) => {
            input.choices.contains(text).then(|| value.clone())
        }
        _ => None,
    }
}
