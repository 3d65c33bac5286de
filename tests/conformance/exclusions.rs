//! What pjdfstest said of each case, held against the list of exclusions. Runs nothing.

use serde::Deserialize;
use std::collections::BTreeMap;

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    Failed,
    Skipped,
}

/// A case that may end otherwise than well. Reason and proof must be given; nothing reads them but people.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exclusion {
    case: String,
    outcome: Outcome,
    reason: String,
    proof: String,
    #[serde(default)]
    #[allow(dead_code, reason = "it is for people")]
    instead: String,
}

/// The file of exclusions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exclusions {
    cases_at_least: usize,
    #[serde(default)]
    exclusion: Vec<Exclusion>,
}

/// Cases with their outcome and what was said about it.
pub(crate) type Outcomes = BTreeMap<String, (Outcome, String)>;

impl Exclusions {
    pub(crate) fn parse(text: &str) -> Self {
        let all: Self = toml::from_str(text).expect("the file of exclusions can be read");
        for Exclusion {
            case,
            reason,
            proof,
            ..
        } in &all.exclusion
        {
            assert!(
                !reason.is_empty() && !proof.is_empty(),
                "{case} is excluded without a reason or a proof"
            );
        }
        all
    }

    /// Everything that is not as it has to be, in words.
    pub(crate) fn complaints(&self, outcomes: &Outcomes) -> Vec<String> {
        let mut found = Vec::new();
        let run = |outcome: &Outcome| *outcome != Outcome::Skipped;
        let ran = outcomes.values().filter(|(end, _)| run(end)).count();
        if ran < self.cases_at_least {
            found.push(format!(
                "{ran} cases ran, at least {} have to",
                self.cases_at_least
            ));
        }
        for (case, (outcome, said)) in outcomes {
            let known = self.exclusion.iter().find(|known| known.case == *case);
            match known {
                None if *outcome == Outcome::Ok => {}
                None => found.push(format!("{case}: {outcome:?}: {said}")),
                Some(known) if known.outcome == *outcome => {}
                Some(known) => found.push(format!(
                    "{case} is excluded as {:?} but ended {outcome:?}: mend the list; {said}",
                    known.outcome
                )),
            }
        }
        for known in &self.exclusion {
            if !outcomes.contains_key(&known.case) {
                found.push(format!(
                    "{} is excluded but there is no such case",
                    known.case
                ));
            }
        }
        found
    }
}

/// The outcomes in what pjdfstest printed, which must be whole: as many as it counts itself.
pub(crate) fn outcomes(printed: &str) -> Outcomes {
    let mut found = Outcomes::new();
    let mut last = String::new();
    for line in printed.lines() {
        let mut words = line.split_whitespace();
        let (case, word) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let outcome = match word {
            "ok" => Some(Outcome::Ok),
            "FAILED" => Some(Outcome::Failed),
            "skipped" => Some(Outcome::Skipped),
            _ => None,
        };
        match outcome {
            Some(outcome) if case.contains("::") && words.next().is_none() => {
                last = case.to_owned();
                found.insert(last.clone(), (outcome, String::new()));
            }
            // What is said about a case is indented and follows it.
            _ if line.starts_with('\t') => {
                if let Some((_, said)) = found.get_mut(&last) {
                    said.push_str(line.trim());
                    said.push(' ');
                }
            }
            _ => {}
        }
    }
    let total = format!(" {} total", found.len());
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("Summary: ") && line.ends_with(&total)),
        "pjdfstest's summary does not count {} cases:\n{printed}",
        found.len()
    );
    found
}

const LIST: &str = "cases_at_least = 2\n[[exclusion]]\ncase = \"link::most\"\noutcome = \"failed\"\nreason = \"r\"\nproof = \"p\"\n";

fn complaints_about(printed: &str) -> Vec<String> {
    Exclusions::parse(LIST).complaints(&outcomes(printed))
}

#[test]
fn what_is_as_it_has_to_be_raises_no_complaint() {
    let printed = "open::a  ok\nlink::most FAILED\n\tleft: 1\nSummary: 1 failed, 2 total\n";
    assert_eq!(complaints_about(printed), [""; 0]);
}

#[test]
fn everything_else_raises_one() {
    for (printed, part) in [
        (
            "open::a FAILED\n\tleft: 1\nlink::most FAILED\nSummary: 2 total\n",
            "open::a: Failed: left: 1",
        ),
        (
            "open::a ok\nopen::b skipped\nlink::most FAILED\nSummary: 3 total\n",
            "open::b: Skipped",
        ),
        (
            "open::a ok\nlink::most ok\nSummary: 2 total\n",
            "mend the list",
        ),
        ("open::a ok\nopen::b ok\nSummary: 2 total\n", "no such case"),
        ("link::most FAILED\nSummary: 1 total\n", "1 cases ran"),
    ] {
        let complaints = complaints_about(printed);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains(part), "{complaints:?}");
    }
}

#[test]
#[should_panic(expected = "does not count 1 cases")]
fn a_run_that_broke_off_is_no_run() {
    outcomes("open::a ok\n");
}
