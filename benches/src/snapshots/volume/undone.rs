//! Going back: many changes compared, restored and brought back again; a tree that is cloned, removed and restored.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Volume;
use crate::error::{At, Error, Result, ensure};
use crate::tree::Change;

/// The snapshot before a large turn.
const BEFORE: &str = "before";

#[derive(Debug, Deserialize)]
struct Difference {
    kind: String,
    #[serde(default)]
    directory: bool,
}

#[derive(Debug, Deserialize)]
struct Differences {
    differences: Vec<Difference>,
    left_out: u64,
}

#[derive(Debug, Deserialize)]
struct Status {
    staged_bytes: u64,
    store: Traffic,
}

#[derive(Debug, Deserialize)]
struct Traffic {
    get: Verb,
}

#[derive(Debug, Deserialize)]
struct Verb {
    bytes: u64,
}

impl Volume<'_, '_, '_> {
    /// A turn of many changes: compared, taken back, brought back, and taken back again.
    pub(super) fn many_changes(&mut self) -> Result<()> {
        self.desk.doing("diff");
        self.request_snapshot(BEFORE)?;
        self.desk.change()?;
        let found = self.snapshot("diff", BEFORE)?;
        let lines = found.stdout.lines().count() as u64;
        // And the folder of the new files.
        let wanted = self.desk.changed() + 1;
        ensure(lines == wanted, || {
            format!("{lines} differences were told, not {wanted}")
        })?;
        self.desk.note(&[found.seconds * 1e3]);
        self.diff_by_request()?;

        self.desk.doing("restore");
        let restored = self.snapshot("restore", BEFORE)?;
        self.desk.note(&[restored.seconds * 1e3]);
        self.desk.check_state("before", "after")?;
        let safety = safety_of(&restored.stdout)?.to_owned();

        self.desk.doing("undo");
        let undone = self.snapshot("restore", &safety)?;
        self.desk.note(&[undone.seconds * 1e3]);
        self.desk.check_state("after", "before")?;

        self.desk.doing("restore_request");
        let began = Instant::now();
        let body = json!({ "name": BEFORE });
        self.connection
            .post::<Value>("/v1/snapshots/restore", &body)?;
        self.desk.note(&[began.elapsed().as_secs_f64() * 1e3]);
        self.desk.check_state("before", "after")?;

        self.desk.doing("remove_changed");
        let removed = self.snapshot("rm", BEFORE)?;
        self.desk.note(&[removed.seconds * 1e3]);
        Ok(())
    }

    fn diff_by_request(&mut self) -> Result<()> {
        self.desk.doing("diff_request");
        let mut took = Vec::new();
        for _ in 0..self.desk.amounts.repeats {
            let began = Instant::now();
            let body = json!({ "older": BEFORE });
            let found: Differences = self.connection.post("/v1/snapshots/diff", &body)?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            is_as_changed(&found, Change::of(self.desk.changed()))?;
        }
        self.desk.note(&took);
        Ok(())
    }

    /// The tree is cloned; then it is removed, and comes back: from the newest snapshot, or as the clone where none is kept.
    pub(super) fn trees_come_and_go(&mut self) -> Result<()> {
        let (tree, clone) = (self.desk.tree(), self.desk.beside("clone"));
        self.desk.doing("clone");
        let before = self.moved()?;
        let mut command = self.command("clone", &[])?;
        let made = self.desk.run(command.arg(&tree).arg(&clone))?;
        self.desk.note(&[made.seconds]);
        self.sync()?;
        let after = self.moved()?;
        let moved = after.iter().zip(before).map(|(b, a)| b.saturating_sub(a));
        let moved = moved.sum::<u64>() as f64 / 1024.0;
        self.desk.note_as("clone_moved", &[moved]);
        self.desk.check(&clone, false)?;
        self.sync()?;

        self.desk.doing("rm_rf");
        let removed = self.remove(&tree)?;
        self.desk.note(&[removed]);
        self.sync()?;
        if self.there == 0 {
            std::fs::rename(&clone, &tree).at(&clone)?;
            return self.desk.check(&tree, true);
        }
        self.desk.doing("restore_tree");
        let newest = self.names()?.pop().unwrap_or_default();
        let mut command = self.command("snapshot", &["restore"])?;
        let restored = self.desk.run(command.arg(&tree).arg(newest))?;
        self.desk.note(&[restored.seconds]);
        self.desk.check(&tree, true)?;
        self.sync()?;

        self.desk.doing("rm_rf_clone");
        let removed = self.remove(&clone)?;
        self.desk.note(&[removed]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<f64> {
        let mut rm = Command::new("rm");
        let done = self.desk.run(rm.arg("-rf").arg(path))?;
        match path.exists() {
            true => Err(Error::Wrong("it is still there after rm -rf".into())),
            false => Ok(done.seconds),
        }
    }

    /// File content so far: waiting for the store, in it, and read from it.
    fn moved(&mut self) -> Result<[u64; 3]> {
        let status: Status = self.connection.get("/v1/status")?;
        let packs = self.desk.turn.store_bytes("packs/")?.unwrap_or(0);
        Ok([status.staged_bytes, packs, status.store.get.bytes])
    }
}

/// The name of the snapshot that a restore says it made: the last one that it names.
fn safety_of(said: &str) -> Result<&str> {
    let mut words = said.split([' ', ',', '\n']);
    words
        .rfind(|word| word.starts_with("before-restore-"))
        .ok_or_else(|| Error::Wrong(format!("the restore told {said:?}")))
}

/// Whether all was found that a turn changed, and nothing else.
fn is_as_changed(found: &Differences, change: Change) -> Result<()> {
    let mut kinds: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    for one in &found.differences {
        *kinds.entry((&one.kind, one.directory)).or_default() += 1;
    }
    let wanted: BTreeMap<(&str, bool), u64> = [
        (("created", false), change.added),
        (("created", true), 1),
        (("deleted", false), change.deleted),
        (("renamed", false), change.renamed),
        (("changed", false), change.edited),
    ]
    .into();
    ensure(kinds == wanted && found.left_out == 0, || {
        format!("what differs is {kinds:?}, not {wanted:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_safety_snapshot_is_the_last_that_is_named() {
        let name = "before-restore-2026-01-01T00-00-01Z";
        let said = format!(
            "/m is as it was at before-restore-2026; what was there before is the snapshot {name}"
        );
        assert_eq!(safety_of(&format!("{said}\n")).unwrap(), name);
        assert_eq!(safety_of(&format!("{said}, with more\n")).unwrap(), name);
        assert!(safety_of("nothing to do: /m is as it was at a").is_err());
    }

    #[test]
    fn a_difference_too_many_or_of_another_kind_is_noticed() {
        let change = Change {
            edited: 1,
            added: 1,
            deleted: 1,
            renamed: 1,
        };
        let text = |kind: &str| {
            format!(
                "{{\"left_out\":0,\"differences\":[{{\"kind\":\"created\"}},{{\"kind\":\"created\",\"directory\":true}},\
                 {{\"kind\":\"deleted\"}},{{\"kind\":\"renamed\"}},{{\"kind\":\"{kind}\"}}]}}"
            )
        };
        let found = |kind: &str| serde_json::from_str(&text(kind)).unwrap();
        is_as_changed(&found("changed"), change).unwrap();
        assert!(is_as_changed(&found("created"), change).is_err());
        let mut more: Differences = found("changed");
        more.left_out = 1;
        assert!(is_as_changed(&more, change).is_err());
    }
}
