//! Texts with expressions, read so that they name only what there is at their place: a run meets none that it cannot fill.

use std::collections::BTreeMap;

use serde_saphyr::Spanned;

use super::check::Problem;
use super::shape::{Definition, Scalar};
use crate::sidecar::workflows::expression::{Expression, Name, Template};

/// What expressions at some place may name.
pub(super) struct Known<'d> {
    pub(super) definition: &'d Definition,
    /// Steps before this one, with their outputs; `None` for any.
    pub(super) steps: BTreeMap<&'d str, Vec<String>>,
}

impl Known<'_> {
    pub(super) fn words(
        &self,
        words: &[Spanned<Scalar>],
        step: &Spanned<String>,
    ) -> Result<Vec<Template>, Problem> {
        if words.first().is_none_or(|word| word.value.0.is_empty()) {
            return Err(Problem::at(
                step,
                "command takes a program and its arguments",
            ));
        }
        words
            .iter()
            .map(|word| self.template(&scalar(word), false))
            .collect()
    }

    pub(super) fn template(
        &self,
        text: &Spanned<String>,
        with_secrets: bool,
    ) -> Result<Template, Problem> {
        let template =
            Template::parse(&text.value).map_err(|problem| Problem::at(text, problem))?;
        for name in template.names() {
            self.check(name, with_secrets)
                .map_err(|problem| Problem::at(text, problem))?;
        }
        Ok(template)
    }

    /// A condition, with or without `${{ }}` around it.
    pub(super) fn condition(&self, text: &Spanned<Scalar>) -> Result<Expression, Problem> {
        let bare = text.value.0.trim();
        let bare = bare
            .strip_prefix("${{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .unwrap_or(bare);
        let expression = Expression::parse(bare).map_err(|problem| Problem::at(text, problem))?;
        for name in expression.names() {
            self.check(name, false)
                .map_err(|problem| Problem::at(text, problem))?;
        }
        Ok(expression)
    }

    fn check(&self, name: &Name, with_secrets: bool) -> Result<(), String> {
        let step_of = |step: &String| {
            self.steps
                .get(step.as_str())
                .ok_or_else(|| format!("there is no step {step:?} before this one"))
        };
        match name {
            Name::Input(input) if !self.definition.inputs.contains_key(input) => {
                Err(format!("there is no input {input:?}"))
            }
            Name::Output(step, key) if !step_of(step)?.contains(key) => Err(format!(
                "the step {step:?} has no output {key:?}; it has {}",
                match step_of(step)?.join(", ") {
                    none if none.is_empty() => "none".to_owned(),
                    some => some,
                }
            )),
            Name::State(step) => step_of(step).map(drop),
            Name::Secret(_) if !with_secrets => Err(
                "secrets.NAME is for http steps only; commands and agents get what they name under secrets as variables"
                    .into(),
            ),
            _ => Ok(()),
        }
    }
}

pub(super) fn scalar(value: &Spanned<Scalar>) -> Spanned<String> {
    Spanned {
        value: value.value.0.clone(),
        referenced: value.referenced,
        defined: value.defined,
    }
}
