//! More snapshots, a typical turn before each, and what they cost in the database and in what is published of it.

use std::process::Command;

use super::{KEPT, Volume};
use crate::error::{Error, Result, ensure};

/// Turns that are published each by itself.
const ALONE: u64 = 5;
const KIB: f64 = 1024.0;

impl Volume<'_, '_, '_> {
    /// Makes typical turns, each with a snapshot, until `kept` snapshots are there.
    pub(super) fn grow(&mut self, kept: u64) -> Result<()> {
        let count = kept.saturating_sub(self.there);
        if count == 0 {
            return Ok(());
        }
        self.desk.doing("turn");
        self.sync()?;
        let alone = ALONE.min(count / 2);
        self.together(count - alone)?;
        self.each_alone(alone)?;
        let names = self.names()?;
        let found = names.iter().filter(|name| name.starts_with(KEPT)).count() as u64;
        ensure(found == kept && self.there == kept, || {
            format!("{found} snapshots are kept, not {kept}")
        })?;
        self.desk.check(&self.desk.tree(), false)
    }

    fn turns(&mut self, count: u64) -> Result<f64> {
        let (first, count_) = (self.there.to_string(), count.to_string());
        let (model, tree, socket) = (self.desk.model(), self.desk.tree(), self.socket());
        let said = self
            .desk
            .own("turns", &[&model, &tree, &count_, &socket, &first])?;
        self.there += count;
        Ok(said.seconds)
    }

    fn together(&mut self, count: u64) -> Result<()> {
        let (database, layers) = (self.database_bytes()?, self.layer_bytes()?);
        let seconds = self.turns(count)?;
        self.desk.note(&[seconds * 1e3 / count as f64]);
        self.sync()?;
        let each = |bytes: u64| bytes as f64 / KIB / count as f64;
        let grown = self.database_bytes()?.saturating_sub(database);
        self.desk.note_as("database_growth", &[each(grown)]);
        let grown = self.layer_bytes()?.saturating_sub(layers);
        self.desk.note_as("layers_growth", &[each(grown)]);
        Ok(())
    }

    fn each_alone(&mut self, count: u64) -> Result<()> {
        let mut grown = Vec::new();
        for _ in 0..count {
            let before = self.layer_bytes()?;
            self.turns(1)?;
            self.sync()?;
            let bytes = self.layer_bytes()?.saturating_sub(before);
            grown.push(bytes as f64 / KIB);
        }
        self.desk.note_as("layers_growth_alone", &grown);
        Ok(())
    }

    /// Pages in use of the SQLite database: its file follows only when the log is written back.
    fn database_bytes(&self) -> Result<u64> {
        let mut sqlite = Command::new("sqlite3");
        sqlite
            .arg("-readonly")
            .arg(self.folder.join("meta/meta.db"))
            .arg("PRAGMA page_count; PRAGMA freelist_count; PRAGMA page_size;");
        pages_in_use(&self.desk.run(&mut sqlite)?.stdout)
    }

    fn layer_bytes(&mut self) -> Result<u64> {
        let none = || Error::Wrong("the store does not tell what it holds".into());
        self.desk.turn.store_bytes("meta/")?.ok_or_else(none)
    }
}

/// What SQLite says: pages, those that are free, bytes of a page.
fn pages_in_use(said: &str) -> Result<u64> {
    let numbers: Vec<u64> = said
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    match numbers[..] {
        [pages, free, bytes] => Ok(pages.saturating_sub(free) * bytes),
        _ => Err(Error::Wrong(format!("sqlite3 said {said:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_pages_do_not_count() {
        assert_eq!(pages_in_use("10\n3\n4096\n").unwrap(), 7 * 4096);
        assert!(pages_in_use("10\n3\n").is_err());
        assert!(pages_in_use("Error: no such file").is_err());
    }
}
