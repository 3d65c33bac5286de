//! Snapshots of a volume of WeldrFS: with none kept, then with more and more of them. Each measurement is of a command, as
//! people run it, and where that says more, of the request alone that the command makes.

mod growth;
mod kept;
mod undone;

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Desk;
use crate::error::{At, Error, Result, ensure};
use crate::process;
use crate::request::Connection;
use crate::target::weldrfs_command;

/// Snapshots that stay are called so, and a number; all others are removed again.
const KEPT: &str = "kept-";
const SOCKET: &str = "volume.sock";

#[derive(Debug, Deserialize)]
struct List {
    snapshots: Vec<Snapshot>,
}

#[derive(Debug, Deserialize)]
struct Snapshot {
    name: String,
}

/// Measures all of it.
pub(super) fn measure(desk: &mut Desk<'_, '_>) -> Result<()> {
    desk.make()?;
    let mut volume = Volume::open(desk)?;
    volume.program_start()?;
    for kept in volume.desk.amounts.kept.clone() {
        volume.desk.kept = kept;
        volume.grow(kept)?;
        volume.level()?;
    }
    Ok(())
}

/// A mounted volume and a connection to it.
struct Volume<'d, 'a, 'n> {
    desk: &'d mut Desk<'a, 'n>,
    /// Its local state.
    folder: PathBuf,
    connection: Connection,
    /// Snapshots that stay.
    there: u64,
}

impl<'d, 'a, 'n> Volume<'d, 'a, 'n> {
    fn open(desk: &'d mut Desk<'a, 'n>) -> Result<Self> {
        let state = desk.turn.state();
        let mut folders = std::fs::read_dir(&state).at(&state)?;
        let folder = folders
            .find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.join(SOCKET).exists()));
        let none = || Error::Wrong(format!("no state folder has a {SOCKET}"));
        let folder = folder.ok_or_else(none)?;
        Ok(Self {
            connection: Connection::open(&folder.join(SOCKET), desk.limit())?,
            folder,
            desk,
            there: 0,
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// A command about this volume.
    fn command(&self, verb: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = weldrfs_command(self.desk.places(), &self.desk.turn.state(), verb)?;
        command.args(arguments);
        Ok(command)
    }

    /// `weldrfs snapshot VERB` of the whole volume.
    fn snapshot(&self, verb: &str, name: &str) -> Result<process::Done> {
        let mut command = self.command("snapshot", &[verb])?;
        self.desk.run(command.arg(self.desk.turn.root()).arg(name))
    }

    fn request_snapshot(&mut self, name: &str) -> Result<()> {
        let body = json!({ "name": name });
        self.connection
            .post::<Value>("/v1/snapshots", &body)
            .map(drop)
    }

    fn names(&mut self) -> Result<Vec<String>> {
        let list: List = self.connection.get("/v1/snapshots")?;
        Ok(list.snapshots.into_iter().map(|s| s.name).collect())
    }

    /// Removes what was made besides those that stay, the newest first.
    fn tidy(&mut self) -> Result<()> {
        let names = self.names()?;
        for name in names.iter().rev().filter(|name| !name.starts_with(KEPT)) {
            let body = json!({ "name": name });
            self.connection
                .post::<Value>("/v1/snapshots/remove", &body)?;
        }
        let left = self.names()?.len() as u64;
        let there = self.there;
        ensure(left == there, || {
            format!("{left} snapshots are there, not {there}")
        })
    }

    /// Waits until all is in the database and in the store.
    fn sync(&mut self) -> Result<()> {
        self.connection
            .post::<Value>("/v1/sync", &json!({}))
            .map(drop)
    }

    fn program_start(&mut self) -> Result<()> {
        self.desk.doing("program_start");
        let mut took = Vec::new();
        for _ in 0..self.desk.amounts.commands {
            let done = self.desk.run(&mut self.command("--version", &[])?)?;
            took.push(done.seconds * 1e3);
        }
        self.desk.note(&took);
        Ok(())
    }

    /// Everything with as many snapshots as there are now.
    fn level(&mut self) -> Result<()> {
        self.normal_writes()?;
        self.tidy()?;
        self.sync()?;
        self.pauses()?;
        self.tidy()?;
        self.sync()?;
        self.many_snapshots()?;
        self.tidy()?;
        self.sync()?;
        self.many_changes()?;
        self.tidy()?;
        self.sync()?;
        self.trees_come_and_go()?;
        self.tidy()?;
        self.sync()
    }
}
