//! The dashboard and the alerts of `docs/monitoring`: every figure that they name is one that the sidecar exports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::previews::{node_project, ready, sidecar, stop_all};
use crate::support::{Answer, until};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// The figures of ours that `text` names.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| word.starts_with("weldrfs_"))
        .collect()
}

/// The figures that an export holds.
fn exported(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

/// Every value of `key` in `value`, however deep.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == key => found.push(text),
                    _ => all(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| all(value, key, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_name_only_figures_that_there_are() {
    // With an app that runs, whose figures are there as long as it does.
    let sidecar = sidecar();
    node_project(&sidecar, "");
    ready(&sidecar, &json!({"mount": "project"}));
    let mut text = String::new();
    until("the mount and the app have said how they are", || {
        text = sidecar.ask("GET", "/metrics", "").body;
        text.contains("weldrfs_mount_inodes{mount=\"project\"}")
            && text.contains("weldrfs_preview_memory_bytes{mount=\"project\",path=\"\"}")
    });
    let there = exported(&text);
    let dashboard = read("weldrfs-dashboard.json");
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = Vec::new();
    all(&parsed, "expr", &mut expressions);
    assert!(expressions.len() > 20, "{expressions:?}");
    for expression in &expressions {
        assert!(!named(expression).is_empty(), "{expression} names nothing");
    }
    for name in [
        "weldrfs-dashboard.json",
        "weldrfs-alerts.yml",
        "weldrfs-alerts-test.yml",
    ] {
        let text = read(name);
        let unknown: Vec<_> = named(&text).difference(&there).copied().collect();
        assert_eq!(
            unknown, [""; 0],
            "{name} names what is not exported: {there:?}"
        );
    }
    // And everything that is exported is on the dashboard, but what only a program reads.
    let shown = named(&dashboard);
    let hidden: Vec<_> = there
        .difference(&shown)
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .collect();
    assert_eq!(hidden, [&""; 0], "these are on no panel");
    stop_all(&sidecar);
}

#[test]
fn the_alerts_are_rules_that_fire_when_they_should() {
    let promtool = tools().join("bin/promtool");
    assert!(
        promtool.exists(),
        "{} is missing: scripts/dev setup brings it",
        promtool.display()
    );
    for arguments in [
        ["check", "rules", "weldrfs-alerts.yml"],
        ["test", "rules", "weldrfs-alerts-test.yml"],
    ] {
        let mut command = Command::new(&promtool);
        command.args(arguments).current_dir(folder());
        let answer = Answer::of(command.output().unwrap());
        assert_eq!(answer.code, 0, "{answer:?}");
    }
}

/// Where `scripts/dev setup` puts programs that tests use.
pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}
