//! Where things lie: the programs that were built, the inputs, the folder a run works in.

use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};

/// Paths of one invocation.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) repository: PathBuf,
    /// Folder of the built programs.
    programs: PathBuf,
    /// What may be thrown away and made again: inputs, peers, work.
    target: PathBuf,
}

impl Places {
    /// Finds everything from the program that runs.
    pub(crate) fn find() -> Result<Self> {
        let own = std::env::current_exe().at("this program")?;
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Ok(Self {
            programs: own.parent().unwrap_or(Path::new("/")).to_owned(),
            ..Self::in_repository(manifest.parent().unwrap_or(manifest))
        })
    }

    /// Places of a repository whose programs are not needed.
    pub(crate) fn in_repository(repository: &Path) -> Self {
        let target = repository.join("target");
        Self {
            repository: repository.to_owned(),
            programs: target.clone(),
            target,
        }
    }

    /// A built program.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        match path.exists() {
            true => Ok(path),
            false => Err(Error::Missing(format!(
                "{name} is not built: run this through scripts/dev bench"
            ))),
        }
    }

    pub(crate) fn coding(&self, name: &str) -> PathBuf {
        self.repository.join("benches/coding").join(name)
    }

    /// Folder of the kept runs.
    pub(crate) fn results(&self) -> PathBuf {
        self.repository.join("benches/results")
    }

    /// Folder of the peers' programs.
    pub(crate) fn peers(&self) -> PathBuf {
        self.target.join("peers")
    }

    /// Where runs work unless told otherwise.
    pub(crate) fn work(&self) -> PathBuf {
        self.target.join("bench-work")
    }

    /// Where runs that are not kept are written.
    pub(crate) fn unkept(&self) -> PathBuf {
        self.target.join("bench-results")
    }

    /// Takes this machine's paths out of a text that will be kept.
    pub(crate) fn redact(&self, text: &str, work: &Path) -> String {
        let mut text = text.to_owned();
        for (path, name) in [
            (work, "WORK"),
            (&self.target, "TARGET"),
            (&self.programs, "TARGET"),
            (&self.repository, "REPOSITORY"),
        ] {
            let path = path.to_string_lossy();
            if path.len() > 1 {
                text = text.replace(path.as_ref(), name);
            }
        }
        without_other_paths(&text)
    }
}

/// Replaces what is left of absolute paths: homes and temporary folders are nobody's business.
fn without_other_paths(text: &str) -> String {
    let words = text.split_inclusive([' ', ',', '"', '\'', '=', ':', '(']);
    let mut out = String::new();
    for word in words {
        let bare = word.trim_start_matches(['"', '\'', '(']);
        let private = ["/home/", "/root/", "/tmp/", "/work/", "/var/"];
        match private.iter().any(|p| bare.starts_with(p)) {
            true => {
                out.push_str("PATH");
                let end = word.chars().last();
                out.extend(end.filter(|c| " ,\"'=:(".contains(*c)));
            }
            false => out.push_str(word),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_the_machine_is_kept() {
        let places = Places {
            repository: "/srv/repo".into(),
            programs: "/elsewhere/release".into(),
            target: "/srv/repo/target".into(),
        };
        let said = "mount /mnt/w/turn/mnt failed: \"/root/.npmrc\", see /srv/repo/target/x and /tmp/a-1/b (exit 3)";
        assert_eq!(
            places.redact(said, Path::new("/mnt/w")),
            "mount WORK/turn/mnt failed: \"PATH\", see TARGET/x and PATH (exit 3)"
        );
    }
}
