//! The page that lists the guarantees, and the tests that it names.

use crate::support::scripts::in_repository;
use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = "docs/semantics.md";
/// Where tests that it names may be.
const FOLDERS: [&str; 3] = ["tests", "fs/src", "meta/src"];

/// The names in backquotes behind "Test:" or "Tests:", to the end of the paragraph, and in the last column of the table.
fn named(page: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for paragraph in page.split("\n\n") {
        for part in paragraph.split("Test").skip(1) {
            let Some(list) = part.strip_prefix(':').or(part.strip_prefix("s:")) else {
                continue;
            };
            names.extend(list.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    for row in rows(page) {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next();
        let cell: Vec<&str> = cell.unwrap_or("").split('`').skip(1).step_by(2).collect();
        assert!(!cell.is_empty(), "no test is named in {row}");
        names.extend(cell.into_iter().map(str::to_owned));
    }
    names
}

/// The differences: rows of the table without its head.
fn rows(page: &str) -> impl Iterator<Item = &str> {
    let table = page.lines().filter(|line| line.starts_with('|'));
    table.skip(2)
}

/// All Rust sources of the tests.
fn sources(folder: &Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).expect("the sources can be listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push_str(&std::fs::read_to_string(&path).expect("a source can be read"));
        }
    }
}

pub(crate) fn every_test_the_page_names_exists() {
    let page = std::fs::read_to_string(in_repository(PAGE)).expect("the page is there");
    let names = named(&page);
    assert!(names.len() > 40, "only {} tests are named", names.len());
    assert!(rows(&page).count() > 10, "the table is not found");
    let mut all = String::new();
    for folder in FOLDERS {
        sources(&in_repository(folder), &mut all);
    }
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| {
            !all.contains(&format!("fn {name}(")) && !all.contains(&format!("\"{name}\""))
        })
        .collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:?}");
    // And the other way round: whoever adds a guarantee says so on the page.
    let here = crate::tests::names();
    let unsaid: Vec<&&str> = here
        .iter()
        .filter(|name| !names.contains(**name) && **name != "every_test_the_page_names_exists")
        .collect();
    assert!(unsaid.is_empty(), "the page does not name {unsaid:?}");
}
