//! Conditions and `${{ }}` in texts of a definition. Computes only; there are no loops, no functions but those that ask how
//! the run goes, and nothing that reaches the machine.

use std::fmt;

/// Longest expression, and most operators and parentheses in it.
const LENGTH_MAX: usize = 1024;
const DEPTH_MAX: usize = 32;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(f64),
    Bool(bool),
    /// Something that has no value, such as an output of a step that was skipped.
    Nothing,
}

impl Value {
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0.0,
            Self::Bool(value) => *value,
            Self::Nothing => false,
        }
    }

    /// Equal as texts, so that the output `"1"` is the number 1.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Nothing, _) | (_, Self::Nothing) => false,
            _ => self.to_string() == other.to_string(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Nothing => Ok(()),
        }
    }
}

/// What an expression may name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// `inputs.NAME`
    Input(String),
    /// `steps.NAME.outputs.KEY`
    Output(String, String),
    /// `steps.NAME.state`
    State(String),
    /// `secrets.NAME`
    Secret(String),
    /// `run.id`, `run.mount`, `run.path`, `run.workflow`
    Run(String),
}

/// How the run goes, for conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    Success,
    Failure,
    Always,
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Value(Value),
    Name(Name),
    Goes(Goes),
    Not(Box<Self>),
    Equal(Box<Self>, Box<Self>),
    Unequal(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// Where values come from.
pub(super) trait Scope {
    fn value(&self, name: &Name) -> Value;
    /// Whether no step has failed.
    fn goes_well(&self) -> bool;
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LENGTH_MAX {
            return Err(format!("an expression has {LENGTH_MAX} bytes at most"));
        }
        let mut parser = Parser {
            tokens: tokens(text)?,
            at: 0,
            depth: 0,
        };
        let expression = parser.either()?;
        match parser.next() {
            None => Ok(expression),
            Some(token) => Err(format!("{token} was not expected here")),
        }
    }

    pub(super) fn evaluate(&self, scope: &dyn Scope) -> Value {
        let holds = |one: &Self| one.evaluate(scope).is_true();
        let same = |a: &Self, b: &Self| a.evaluate(scope).is_like(&b.evaluate(scope));
        match self {
            Self::Value(value) => value.clone(),
            Self::Name(name) => scope.value(name),
            Self::Goes(Goes::Always) => Value::Bool(true),
            Self::Goes(Goes::Success) => Value::Bool(scope.goes_well()),
            Self::Goes(Goes::Failure) => Value::Bool(!scope.goes_well()),
            Self::Not(one) => Value::Bool(!holds(one)),
            Self::Equal(a, b) => Value::Bool(same(a, b)),
            Self::Unequal(a, b) => Value::Bool(!same(a, b)),
            Self::And(a, b) => Value::Bool(holds(a) && holds(b)),
            Self::Or(a, b) => Value::Bool(holds(a) || holds(b)),
        }
    }

    /// Whether it says itself what is to be done after a failure.
    pub(super) fn asks_how_it_goes(&self) -> bool {
        match self {
            Self::Goes(_) => true,
            Self::Value(_) | Self::Name(_) => false,
            Self::Not(one) => one.asks_how_it_goes(),
            Self::Equal(a, b) | Self::Unequal(a, b) | Self::And(a, b) | Self::Or(a, b) => {
                a.asks_how_it_goes() || b.asks_how_it_goes()
            }
        }
    }

    /// Everything it names.
    pub(super) fn names(&self) -> Vec<&Name> {
        match self {
            Self::Name(name) => vec![name],
            Self::Goes(_) | Self::Value(_) => Vec::new(),
            Self::Not(one) => one.names(),
            Self::Equal(a, b) | Self::Unequal(a, b) | Self::And(a, b) | Self::Or(a, b) => {
                let mut names = a.names();
                names.extend(b.names());
                names
            }
        }
    }
}

/// The expression `text` with other words for those that `rename` has one for. Texts in quotes stay.
pub(super) fn renamed(text: &str, rename: &dyn Fn(&str) -> Option<String>) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut done = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => match rest.get(1..).and_then(|inside| inside.find('\'')) {
                Some(end) => end + 2,
                None => rest.len(),
            },
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (piece, behind) = rest.split_at(length);
        match rename(piece) {
            Some(other) => done.push_str(&other),
            None => done.push_str(piece),
        }
        rest = behind;
    }
    done
}

/// The same for the expressions in a text.
pub(super) fn renamed_in(text: &str, rename: &dyn Fn(&str) -> Option<String>) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (inside, behind) = after.split_once("}}").unwrap_or((after, ""));
        done.push_str(before);
        done.push_str("${{");
        done.push_str(&renamed(inside, rename));
        done.push_str("}}");
        rest = behind;
    }
    done.push_str(rest);
    done
}

/// A text with expressions in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Expression(Expression),
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${{") {
            let Some((inside, behind)) = after.split_once("}}") else {
                return Err("\"${{\" has no \"}}\"".into());
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Expression(Expression::parse(inside)?));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    pub(super) fn fill(&self, scope: &dyn Scope) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Expression(expression) => {
                    text.push_str(&expression.evaluate(scope).to_string());
                }
            }
        }
        text
    }

    /// Everything it names.
    pub(super) fn names(&self) -> Vec<&Name> {
        let expressions = self.0.iter().filter_map(|part| match part {
            Part::Expression(expression) => Some(expression.names()),
            Part::Text(_) => None,
        });
        expressions.flatten().collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Sign(sign) => write!(f, "\"{sign}\""),
        }
    }
}

const SIGNS: [&str; 7] = ["==", "!=", "&&", "||", "!", "(", ")"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length;
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token::Sign(sign));
            length = sign.len();
        } else if first == '\'' {
            let inside = rest.get(1..).unwrap_or_default();
            let end = inside.find('\'').ok_or("a text has no closing \"'\"")?;
            tokens.push(Token::Text(inside.get(..end).unwrap_or_default().into()));
            length = end + 2;
        } else {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = rest.get(..length).unwrap_or_default();
            if word.is_empty() {
                return Err(format!(
                    "{first:?} is nothing an expression has; texts are in single quotes"
                ));
            }
            let is_number = first.is_ascii_digit() || first == '-';
            match word.parse::<f64>() {
                Ok(number) if is_number && number.is_finite() => tokens.push(Token::Number(number)),
                _ if is_number => return Err(format!("{word:?} is no number")),
                _ => tokens.push(Token::Word(word.to_owned())),
            }
        }
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        let is_it = self.tokens.get(self.at) == Some(&Token::Sign(sign));
        self.at += usize::from(is_it);
        is_it
    }

    fn either(&mut self) -> Result<Expression, String> {
        let mut left = self.both()?;
        while self.takes("||") {
            left = Expression::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Expression, String> {
        let mut left = self.comparison()?;
        while self.takes("&&") {
            left = Expression::And(Box::new(left), Box::new(self.comparison()?));
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let left = self.single()?;
        if self.takes("==") {
            return Ok(Expression::Equal(Box::new(left), Box::new(self.single()?)));
        }
        if self.takes("!=") {
            return Ok(Expression::Unequal(
                Box::new(left),
                Box::new(self.single()?),
            ));
        }
        Ok(left)
    }

    fn single(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("an expression has {DEPTH_MAX} parts at most"));
        }
        match self.next() {
            None => Err("an expression was expected".into()),
            Some(Token::Text(text)) => Ok(Expression::Value(Value::Text(text))),
            Some(Token::Number(number)) => Ok(Expression::Value(Value::Number(number))),
            Some(Token::Sign("!")) => Ok(Expression::Not(Box::new(self.single()?))),
            Some(Token::Sign("(")) => {
                let inside = self.either()?;
                match self.takes(")") {
                    true => Ok(inside),
                    false => Err("\")\" was expected".into()),
                }
            }
            Some(Token::Word(word)) => self.word(&word),
            Some(token) => Err(format!("{token} was not expected here")),
        }
    }

    fn word(&mut self, word: &str) -> Result<Expression, String> {
        let goes = match word {
            "true" => return Ok(Expression::Value(Value::Bool(true))),
            "false" => return Ok(Expression::Value(Value::Bool(false))),
            "success" => Goes::Success,
            "failure" => Goes::Failure,
            "always" => Goes::Always,
            _ => return name(word).map(Expression::Name),
        };
        match self.takes("(") && self.takes(")") {
            true => Ok(Expression::Goes(goes)),
            false => Err(format!("it is written {word}()")),
        }
    }
}

fn name(word: &str) -> Result<Name, String> {
    let parts: Vec<&str> = word.split('.').collect();
    match parts.as_slice() {
        ["inputs", name] => Ok(Name::Input((*name).to_owned())),
        ["secrets", name] => Ok(Name::Secret((*name).to_owned())),
        ["steps", step, "outputs", key] => Ok(Name::Output((*step).to_owned(), (*key).to_owned())),
        ["steps", step, "state"] => Ok(Name::State((*step).to_owned())),
        ["run", what @ ("id" | "mount" | "path" | "workflow")] => Ok(Name::Run((*what).to_owned())),
        _ => Err(format!(
            "{word:?} is no name; there are inputs.NAME, steps.NAME.outputs.KEY, steps.NAME.state, secrets.NAME, and id, \
             mount, path and workflow of run"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Example(bool);

    impl Scope for Example {
        fn value(&self, name: &Name) -> Value {
            match name {
                Name::Input(name) if name == "count" => Value::Number(3.0),
                Name::Input(name) => Value::Text(name.clone()),
                Name::Output(_, key) if key == "none" => Value::Nothing,
                Name::Output(step, key) => Value::Text(format!("{step}/{key}")),
                Name::State(_) => Value::Text("succeeded".into()),
                Name::Secret(_) | Name::Run(_) => Value::Text("x".into()),
            }
        }

        fn goes_well(&self) -> bool {
            self.0
        }
    }

    fn holds(text: &str) -> bool {
        Expression::parse(text)
            .unwrap()
            .evaluate(&Example(true))
            .is_true()
    }

    #[test]
    fn conditions_compare_and_join() {
        for text in [
            "inputs.a == 'a'",
            "inputs.count == 3 && inputs.count != 4",
            "!(inputs.a == 'b') && (false || true)",
            "steps.build-it.outputs.x_1 == 'build-it/x_1'",
            "steps.a.state == 'succeeded'",
            "success() && !failure() && always()",
            "false || false || true",
            "steps.a.outputs.none != 'a'",
            "!steps.a.outputs.none",
            "inputs.count == '3'",
            "-1.5 == '-1.5'",
        ] {
            assert!(holds(text), "{text}");
        }
        assert!(!holds("true && false || false"));
        assert!(!holds("''"));
        let failure = Expression::parse("failure()").unwrap();
        assert!(failure.evaluate(&Example(false)).is_true() && failure.asks_how_it_goes());
        assert!(!Expression::parse("inputs.a").unwrap().asks_how_it_goes());
    }

    #[test]
    fn texts_are_filled_once() {
        let filled = |text: &str| Template::parse(text).unwrap().fill(&Example(true));
        assert_eq!(
            filled("a ${{ inputs.b }}${{steps.c.outputs.d}} $e {{f}} ${{ steps.c.outputs.none }}."),
            "a bc/d $e {{f}} ."
        );
        assert_eq!(filled("${{ '${' }}{ inputs.b }}"), "${{ inputs.b }}");
        assert_eq!(filled(""), "");
    }

    #[test]
    fn what_is_no_expression_is_told_apart() {
        for (text, part) in [
            ("", "expected"),
            ("inputs", "no name"),
            ("inputs.a.b", "no name"),
            ("env.PATH", "no name"),
            ("run.secret", "no name"),
            ("inputs.a ==", "expected"),
            ("inputs.a inputs.b", "not expected"),
            ("(true", "\")\""),
            ("'a", "closing"),
            ("\"a\"", "single quotes"),
            ("success", "success()"),
            ("a(b)", "no name"),
            ("1x", "no number"),
            ("`id`", "nothing an expression has"),
            (&"!".repeat(40), "at most"),
            (&"x".repeat(LENGTH_MAX + 1), "at most"),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Template::parse("${{ inputs.a").is_err());
    }

    /// A decoder of what strangers send is total.
    #[test]
    fn no_text_breaks_the_parser() {
        let pieces = [
            "inputs.",
            "steps.a",
            ".outputs.",
            "==",
            "!",
            "(",
            ")",
            "'",
            "&&",
            "||",
            "$",
            "{{",
            "}}",
            "ä",
            "1",
            "-",
            ".",
            " ",
            "always()",
            "\0",
        ];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..(state % 12) {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if let Ok(expression) = Expression::parse(&text) {
                expression.evaluate(&Example(false));
            }
            if let Ok(template) = Template::parse(&text) {
                template.fill(&Example(true));
            }
        }
    }
}
