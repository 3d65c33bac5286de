//! The file systems that are compared: how each is named on the command line, whether it can be had here, and how it
//! is mounted. Owns no measuring.

mod commands;
mod mounted;
mod turn;

use std::path::Path;

use crate::error::{Error, Result};
use crate::facts::file_system_of;
use crate::peers;
use crate::places::Places;
use crate::record::TargetRecord;

pub(crate) use commands::{Setting, mount_command, prepare, weldrfs_command};
pub(crate) use mounted::Mounted;
pub(crate) use turn::{Ground, MOUNTPOINT, Turn, remove};

/// The suffix that asks for `/dev/cpu_dma_latency` to be held at 0 during a target's turns.
const LATENCY_SUFFIX: &str = "+low_latency";
/// The local disk, to which all others are compared.
pub(crate) const LOCAL_DISK: &str = "ext4";

/// Which file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The folder the run works in.
    Disk,
    /// WeldrFS with mount options.
    Weldrfs(String),
    /// WeldrFS with its store in a directory.
    WeldrfsFile,
    /// The empty file system in memory.
    Floor,
    Juicefs,
    Rclone,
    S3fs,
}

/// A file system and how it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) base: Base,
    pub(crate) latency_held: bool,
}

impl Target {
    /// A target by its name: `ext4`, `floor`, `weldrfs`, `weldrfs_file`, `juicefs`, `rclone`, `s3fs`, each also with
    /// `+low_latency`.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let (base, latency_held) = match name.strip_suffix(LATENCY_SUFFIX) {
            Some(base) => (base, true),
            None => (name, false),
        };
        let base = match base {
            LOCAL_DISK => Base::Disk,
            "weldrfs" => Base::Weldrfs(String::new()),
            "weldrfs_file" => Base::WeldrfsFile,
            "floor" => Base::Floor,
            "juicefs" => Base::Juicefs,
            "rclone" => Base::Rclone,
            "s3fs" => Base::S3fs,
            _ => {
                return Err(Error::Wrong(format!(
                    "no target is called {name}: there are ext4, weldrfs, weldrfs_file, floor, juicefs, rclone and s3fs, \
                     each also with {LATENCY_SUFFIX}"
                )));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            base,
            latency_held,
        })
    }

    /// WeldrFS with mount options, named after them.
    pub(crate) fn weldrfs_with(options: &str) -> Self {
        Self {
            name: format!("weldrfs+{options}"),
            base: Base::Weldrfs(options.to_owned()),
            latency_held: false,
        }
    }

    /// Whether it is WeldrFS, however it is mounted.
    pub(crate) fn is_weldrfs(&self) -> bool {
        matches!(self.base, Base::Weldrfs(_) | Base::WeldrfsFile)
    }

    /// Whether it is one of those that take so long that they take part in fewer rounds.
    pub(crate) fn is_peer(&self) -> bool {
        matches!(self.base, Base::Juicefs | Base::Rclone | Base::S3fs)
    }

    /// What a record says of it; with the reason when it cannot be had. Installs a peer that is missing.
    pub(crate) fn record(&self, places: &Places, work: &Path) -> TargetRecord {
        let known = self.version(places, work);
        TargetRecord {
            name: self.name.clone(),
            options: commands::described(&self.base),
            latency_held: self.latency_held,
            skipped: known
                .as_ref()
                .err()
                .map(|why| places.redact(&why.to_string(), work)),
            version: known.unwrap_or_default(),
        }
    }

    fn version(&self, places: &Places, work: &Path) -> Result<String> {
        if self.latency_held {
            drop(crate::latency::hold()?);
        }
        if self.base != Base::Disk && !Path::new("/dev/fuse").exists() {
            return Err(Error::Missing("there is no /dev/fuse".into()));
        }
        match &self.base {
            Base::Disk => match file_system_of(work).as_str() {
                LOCAL_DISK => Ok("of the kernel".into()),
                other => Err(Error::Missing(format!(
                    "the work folder is on {other}: give --work a folder on ext4"
                ))),
            },
            Base::Weldrfs(_) | Base::WeldrfsFile => {
                peers::version(&places.program("weldrfs")?, "--version")
            }
            Base::Floor => {
                places.program("floor")?;
                Ok("fuser 0.18, NO_OPEN".into())
            }
            Base::Juicefs => peers::version(&peers::juicefs(places)?, "version"),
            Base::Rclone => peers::version(&peers::rclone(places)?, "version"),
            Base::S3fs => {
                // It keeps its bytes in rclone's server.
                peers::rclone(places)?;
                peers::version(&peers::s3fs()?, "--version")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_as_they_are_given() {
        for name in [
            "ext4",
            "floor",
            "weldrfs",
            "weldrfs_file",
            "juicefs",
            "rclone",
            "s3fs",
        ] {
            let plain = Target::parse(name).unwrap();
            let held = Target::parse(&format!("{name}+low_latency")).unwrap();
            assert_eq!(plain.base, held.base);
            assert!(!plain.latency_held && held.latency_held && held.name.starts_with(name));
        }
        let other = Target::weldrfs_with("threads=4");
        assert_eq!(other.name, "weldrfs+threads=4");
        assert!(Target::parse("xfs").is_err());
    }
}
