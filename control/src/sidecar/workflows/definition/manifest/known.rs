//! Expressions in the texts of a manifest: they may name inputs, and nothing else.

use serde_saphyr::Spanned;

use super::check::check_path;
use super::shape::FileShape;
use super::{FILE_MAX, File};
use crate::error::ApiError;
use crate::sidecar::workflows::definition::check::Problem;
use crate::sidecar::workflows::definition::invalid;
use crate::sidecar::workflows::definition::shape::{Definition, Scalar};
use crate::sidecar::workflows::expression::{Expression, Name, Template};

/// What expressions of files, variables and secrets may name: inputs.
pub(super) struct Known<'d>(pub(super) &'d Definition);

impl Known<'_> {
    pub(super) fn file(
        &self,
        what: &str,
        file: &FileShape,
        beside: &dyn Fn(&str) -> Result<String, ApiError>,
    ) -> Result<File, ApiError> {
        let at = |place: &Spanned<String>, text: String| invalid(what, Problem::at(place, text));
        let path = &file.path;
        check_path(&path.value).map_err(|text| at(path, text.to_owned()))?;
        let (place, text) = match (&file.text, &file.from) {
            (Some(text), None) => (text, text.value.clone()),
            (None, Some(from)) => {
                let read = beside(&from.value);
                let read = read.map_err(|error| at(from, format!("{:?}: {error}", from.value)));
                (from, read?)
            }
            _ => return Err(at(path, "a file has exactly one of text and from".into())),
        };
        if text.len() > FILE_MAX || text.contains('\0') {
            let text = format!("a file has {FILE_MAX} bytes of text at most");
            return Err(at(place, text));
        }
        let template = self
            .template(&text)
            .map_err(|problem| at(place, format!("{}: {problem}", path.value)))?;
        let condition = self.condition(file.condition.as_ref());
        Ok(File {
            path: path.value.clone(),
            text: template,
            executable: file.executable,
            condition: condition.map_err(|problem| invalid(what, problem))?,
        })
    }

    fn check<'n>(&self, names: impl IntoIterator<Item = &'n Name>) -> Result<(), String> {
        for name in names {
            match name {
                Name::Input(input) if self.0.inputs.contains_key(input) => {}
                Name::Input(input) => return Err(format!("there is no input {input:?}")),
                Name::Secret(_) => {
                    return Err(
                        "secrets are never written down: the app gets them as variables".into(),
                    );
                }
                _ => return Err("only inputs.NAME can be named here".into()),
            }
        }
        Ok(())
    }

    pub(super) fn template(&self, text: &str) -> Result<Template, String> {
        let whole = Template::parse(text);
        match whole.and_then(|template| self.check(template.names()).map(|()| template)) {
            Ok(template) => Ok(template),
            Err(problem) => Err(self.placed(text, problem)),
        }
    }

    /// Where in a text the first expression is that is at fault.
    fn placed(&self, text: &str, problem: String) -> String {
        let mut from = 0;
        while let Some(found) = text.get(from..).and_then(|rest| rest.find("${{")) {
            let begin = from + found;
            let rest = text.get(begin..).unwrap_or_default();
            let length = rest.find("}}").map_or(rest.len(), |end| end + 2);
            let one = Template::parse(rest.get(..length).unwrap_or(rest));
            if one.and_then(|one| self.check(one.names())).is_err() {
                let before = text.get(..begin).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
                return format!("line {line}, column {column} of the text: {problem}");
            }
            from = begin + length;
        }
        problem
    }

    /// A condition on inputs.
    pub(super) fn condition(
        &self,
        text: Option<&Spanned<Scalar>>,
    ) -> Result<Option<Expression>, Problem> {
        let Some(text) = text else {
            return Ok(None);
        };
        let bare = text.value.0.trim();
        let bare = bare
            .strip_prefix("${{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .unwrap_or(bare);
        let read = Expression::parse(bare).and_then(|expression| {
            self.check(expression.names())?;
            match expression.asks_how_it_goes() {
                true => Err("only inputs.NAME can be named here".into()),
                false => Ok(Some(expression)),
            }
        });
        read.map_err(|problem| Problem::at(text, problem))
    }
}
