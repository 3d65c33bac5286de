//! What other file systems have instead of snapshots: a copy of the tree, made as each makes it best, compared and copied
//! back. Nothing of it depends on how many there are.

use std::path::Path;
use std::process::Command;

use super::desk::Desk;
use crate::error::{Error, Result, ensure};
use crate::peers;
use crate::target::Base;

/// How a copy is made.
enum Copier {
    Cp,
    Juicefs(std::path::PathBuf),
}

impl Copier {
    fn of(base: &Base, desk: &Desk<'_, '_>) -> Result<Self> {
        match base {
            Base::Juicefs => Ok(Self::Juicefs(peers::juicefs(desk.places())?)),
            _ => Ok(Self::Cp),
        }
    }

    /// A copy; one to go back to keeps owners, modes and times.
    fn command(&self, from: &Path, to: &Path, keeps_all: bool) -> Command {
        let mut command = match self {
            Self::Cp => {
                let mut command = Command::new("cp");
                command.arg(if keeps_all { "-a" } else { "-r" });
                command
            }
            Self::Juicefs(program) => {
                let mut command = Command::new(program);
                command.arg("clone");
                command.args(keeps_all.then_some("--preserve"));
                command
            }
        };
        command.arg(from).arg(to);
        command
    }
}

/// Measures all that this file system has.
pub(super) fn measure(desk: &mut Desk<'_, '_>, base: &Base) -> Result<()> {
    let copier = Copier::of(base, desk)?;
    desk.make()?;
    desk.writes(&mut |_| Ok(()))?;
    desk.writer()?;
    desk.settle_kernel()?;
    let (tree, copy, clone) = (desk.tree(), desk.beside("copy"), desk.beside("clone"));

    desk.doing("create");
    let made = desk.run(&mut copier.command(&tree, &copy, true))?;
    desk.note(&[made.seconds * 1e3]);
    desk.check(&copy, false)?;
    back_and_forth(desk, &copy)?;

    desk.doing("clone");
    let made = desk.run(&mut copier.command(&tree, &clone, false))?;
    desk.note(&[made.seconds]);
    desk.check(&clone, false)?;

    desk.doing("rm_rf");
    let removed = remove(desk, &tree)?;
    desk.note(&[removed]);
    desk.doing("restore_tree");
    let made = desk.run(&mut copier.command(&copy, &tree, true))?;
    desk.note(&[made.seconds]);
    desk.check(&tree, false)
}

/// Many changes: found, and taken back.
fn back_and_forth(desk: &mut Desk<'_, '_>, copy: &Path) -> Result<()> {
    desk.doing("diff");
    desk.change()?;
    let tree = desk.tree();
    let mut command = Command::new("diff");
    command.arg("-rq").arg(copy).arg(&tree);
    // It ends with 1 when there are differences, as there have to be.
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\"; test $? = 1", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let found = desk.run(&mut shell)?;
    let lines = found.stdout.lines().count() as u64;
    let is_told = |what: &str| found.stdout.contains(what);
    // A folder that is only on one side is one line.
    ensure(
        lines > desk.changed() / 2 && is_told("differ") && is_told("Only in"),
        || format!("diff told {lines} differences"),
    )?;
    desk.note(&[found.seconds * 1e3]);

    desk.doing("restore");
    let below = |path: &Path| {
        let mut text = path.as_os_str().to_owned();
        text.push("/");
        text
    };
    let mut rsync = Command::new("rsync");
    // Edits within a second of the copy are edits too.
    rsync.args(["-a", "--delete", "--modify-window=-1"]);
    rsync.arg(below(copy)).arg(below(&tree));
    let restored = desk.run(&mut rsync)?;
    desk.note(&[restored.seconds * 1e3]);
    desk.check_state("before", "after")
}

fn remove(desk: &Desk<'_, '_>, path: &Path) -> Result<f64> {
    let mut rm = Command::new("rm");
    let done = desk.run(rm.arg("-rf").arg(path))?;
    match path.exists() {
        true => Err(Error::Wrong("it is still there after rm -rf".into())),
        false => Ok(done.seconds),
    }
}
