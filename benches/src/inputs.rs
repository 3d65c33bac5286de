//! The inputs of the coding workload: made once by `benches/coding/make_inputs.py`, and what to expect of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{At, Error, Result};
use crate::places::Places;
use crate::process::run;
use crate::work::tree_sum;

const MAKE_DEADLINE: Duration = Duration::from_secs(3600);
const TAR_DEADLINE: Duration = Duration::from_secs(300);
const BUFFER: usize = 1 << 20;
/// What `git grep` looks for.
pub(crate) const PATTERN: &str = "import";

#[derive(Debug, Deserialize)]
struct Manifest {
    repo: Repo,
    app: App,
    #[serde(rename = "crate")]
    krate: Crate,
}

/// What the repository holds.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Repo {
    pub(crate) head: String,
    pub(crate) files: u64,
    pub(crate) far: String,
}

/// What the package managers install.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct App {
    pub(crate) npm_files: u64,
    pub(crate) bun_files: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Crate {
    says: String,
}

/// Inputs of one size, and what comes out when they are used on the local disk.
pub(crate) struct Inputs {
    folder: PathBuf,
    pub(crate) repo: Repo,
    pub(crate) app: App,
    /// What the built crate prints.
    pub(crate) says: String,
    /// Checksum of the repository's files, without `.git`.
    pub(crate) repo_sum: String,
    /// What `git grep -c` prints for [`PATTERN`].
    pub(crate) grep: String,
    /// Checksum of the built application.
    pub(crate) dist_sum: String,
    /// The repository's files as an archive on the local disk.
    pub(crate) archive: PathBuf,
}

impl Inputs {
    /// Makes them if they are not there. `scratch` is a folder on the local disk.
    pub(crate) fn make(places: &Places, size: &str, scratch: &Path) -> Result<Self> {
        let mut make = Command::new("python3");
        make.arg(places.coding("make_inputs.py"))
            .args(["--size", size]);
        let folder = PathBuf::from(run(&mut make, MAKE_DEADLINE)?.stdout.trim());
        let path = folder.join("manifest.json");
        let text = std::fs::read_to_string(&path).at(&path)?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|source| Error::Json {
            what: "the inputs' manifest".into(),
            source,
        })?;
        let repo = folder.join("repo");
        let archive = scratch.join("repo.tar");
        let mut tar = Command::new("tar");
        tar.arg("cf").arg(&archive).arg("-C").arg(&repo);
        run(tar.args(["--exclude=./.git", "."]), TAR_DEADLINE)?;
        let mut grep = Command::new("git");
        grep.args(["-c", "safe.directory=*", "-C"]).arg(&repo);
        let grep = run(grep.args(["grep", "-c", PATTERN]), TAR_DEADLINE)?.stdout;
        Ok(Self {
            repo_sum: tree_sum(&repo, Some(Path::new(".git")))?,
            dist_sum: tree_sum(&folder.join("reference/dist"), None)?,
            repo: manifest.repo,
            app: manifest.app,
            says: manifest.krate.says,
            grep,
            archive,
            folder,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Reads whatever the steps will read from the local disk, so that it is as warm for one target as for the next.
    pub(crate) fn warm(&self) -> Result<()> {
        let names = [
            "repo",
            "app",
            "crate",
            "bin",
            "bun-cache",
            "npm-cache",
            "reference/dist",
        ];
        for name in names {
            read_below(&self.path(name))?;
        }
        read_below(&self.archive)
    }
}

fn read_below(path: &Path) -> Result<()> {
    let found = path.symlink_metadata().at(path)?;
    if found.is_dir() {
        for entry in std::fs::read_dir(path).at(path)? {
            read_below(&entry.at(path)?.path())?;
        }
    } else if found.is_file() {
        let mut file = std::fs::File::open(path).at(path)?;
        let mut buffer = vec![0; BUFFER.min(found.len() as usize + 1)];
        while file.read(&mut buffer).at(path)? > 0 {}
    }
    Ok(())
}
