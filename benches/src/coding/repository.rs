//! git on a repository of many files.

use std::path::Path;

use super::{Desk, Step};
use crate::error::{Result, ensure};
use crate::inputs::PATTERN;
use crate::sys;
use crate::work::tree_sum;

pub(super) const WARM: [Step; 7] = [
    Step {
        name: "git_clone",
        about: "clone as over a network: pack, unpack, check out",
        needs: &[],
        run: clone,
    },
    Step {
        name: "git_status",
        about: "status of a clean tree, second time",
        needs: &["git_clone"],
        run: status,
    },
    Step {
        name: "git_checkout_far",
        about: "check out the first commit",
        needs: &["git_clone"],
        run: |desk| checkout(desk, &desk.inputs.repo.far),
    },
    Step {
        name: "git_checkout_back",
        about: "and back to the last",
        needs: &["git_checkout_far"],
        run: checkout_back,
    },
    Step {
        name: "git_grep",
        about: "git grep over all files, second time",
        needs: &["git_checkout_back"],
        run: grep,
    },
    Step {
        name: "git_commit",
        about: "edit 50 files, add 100, git add, git commit",
        needs: &["git_grep"],
        run: commit,
    },
    Step {
        name: "git_gc",
        about: "repack everything",
        needs: &["git_commit"],
        run: gc,
    },
];

pub(super) const COLD: [Step; 2] = [
    Step {
        name: "git_status_cold",
        about: "status with empty kernel caches",
        needs: &["git_gc"],
        run: status_cold,
    },
    Step {
        name: "git_grep_cold",
        about: "git grep with empty kernel caches",
        needs: &["git_gc"],
        run: grep_cold,
    },
];

const EDITED: usize = 50;
const ADDED: usize = 100;

fn clone(desk: &Desk<'_>) -> Result<f64> {
    // file:// makes git pack and unpack as it does over a network, instead of linking files.
    let url = format!("file://{}", desk.inputs.path("repo").display());
    let done = desk.git("", &["clone", "-q", &url, "repo"])?;
    let head = desk.git("repo", &["rev-parse", "HEAD"])?.stdout;
    let files = desk.git("repo", &["ls-files"])?.stdout.lines().count() as u64;
    let wanted = &desk.inputs.repo;
    ensure(head.trim() == wanted.head && files == wanted.files, || {
        format!("the clone has {files} files and ends at {}", head.trim())
    })?;
    Ok(done.seconds)
}

fn status(desk: &Desk<'_>) -> Result<f64> {
    desk.git("repo", &["status", "--porcelain"])?;
    timed_status(desk)
}

fn timed_status(desk: &Desk<'_>) -> Result<f64> {
    let done = desk.git("repo", &["status", "--porcelain"])?;
    ensure(done.stdout.is_empty(), || {
        format!("git status is not empty: {:.200}", done.stdout)
    })?;
    Ok(done.seconds)
}

/// Nothing changed, by content and not by remembered times.
fn clean(desk: &Desk<'_>) -> Result<()> {
    desk.git("repo", &["update-index", "-q", "--really-refresh"])?;
    timed_status(desk).map(drop)
}

fn checkout(desk: &Desk<'_>, what: &str) -> Result<f64> {
    let done = desk.git("repo", &["checkout", "-q", what])?;
    clean(desk)?;
    Ok(done.seconds)
}

fn checkout_back(desk: &Desk<'_>) -> Result<f64> {
    let seconds = checkout(desk, "main")?;
    let sum = tree_sum(&desk.at("repo"), Some(Path::new(".git")))?;
    ensure(sum == desk.inputs.repo_sum, || {
        format!("the tree is {sum}, not {}", desk.inputs.repo_sum)
    })?;
    Ok(seconds)
}

fn grep(desk: &Desk<'_>) -> Result<f64> {
    desk.git("repo", &["grep", "-c", PATTERN])?;
    let done = desk.git("repo", &["grep", "-c", PATTERN])?;
    ensure(done.stdout == desk.inputs.grep, || {
        "git grep finds something else".into()
    })?;
    Ok(done.seconds)
}

fn commit(desk: &Desk<'_>) -> Result<f64> {
    use crate::error::At as _;
    use std::io::Write as _;
    let files = desk.git("repo", &["ls-files", "*.js"])?.stdout;
    for name in files.lines().take(EDITED) {
        let path = desk.at("repo").join(name);
        let mut file = std::fs::File::options()
            .append(true)
            .open(&path)
            .at(&path)?;
        file.write_all(b"\n/* edited */\n").at(&path)?;
    }
    let new = desk.at("repo/new");
    std::fs::create_dir(&new).at(&new)?;
    for n in 0..ADDED {
        let path = new.join(format!("file-{n}.txt"));
        std::fs::write(&path, format!("line {n}\n")).at(&path)?;
    }
    let add = desk.git("repo", &["add", "-A"])?;
    let commit = desk.git("repo", &["commit", "-q", "-m", "A day's work"])?;
    let changed = desk
        .git("repo", &["diff", "--name-only", "HEAD~1", "HEAD"])?
        .stdout;
    let changed = changed.lines().count();
    ensure(changed > ADDED, || {
        format!("the commit changed {changed} files")
    })?;
    clean(desk)?;
    Ok(add.seconds + commit.seconds)
}

fn gc(desk: &Desk<'_>) -> Result<f64> {
    let done = desk.git("repo", &["gc", "-q"])?;
    desk.git("repo", &["fsck", "--full", "--strict"])?;
    Ok(done.seconds)
}

/// Empties the caches; git itself, which is on the local disk, is warm.
fn emptied(desk: &Desk<'_>) -> Result<()> {
    sys::drop_caches()?;
    let repo = desk.inputs.path("repo");
    let mut warm = desk.command("git", "");
    warm.current_dir(repo).args(["status", "--porcelain"]);
    desk.run(&mut warm).map(drop)
}

fn status_cold(desk: &Desk<'_>) -> Result<f64> {
    emptied(desk)?;
    timed_status(desk)
}

fn grep_cold(desk: &Desk<'_>) -> Result<f64> {
    let before = desk.git("repo", &["grep", "-c", PATTERN])?.stdout;
    emptied(desk)?;
    let done = desk.git("repo", &["grep", "-c", PATTERN])?;
    ensure(done.stdout == before, || {
        "git grep finds something else with empty caches".into()
    })?;
    Ok(done.seconds)
}
