//! The mounts that run, from the notes that every mount leaves and the kernel's table.

use std::io;
use std::path::{Path, PathBuf};

use weldrfs_control::FoundMount;

use crate::mount_table::MountTable;
use crate::registry::{MountRecord, Registry};
use crate::source::{Place, Source};

/// Beginnings of the names of folders that hold something that is only looked at, see FORMAT.md.
const VIEWS: [&str; 2] = ["at-", "divergent-"];

/// Which store a source is: equal for the same volume, however it is written.
pub(super) fn place_of(source: &Source, endpoint: Option<&str>) -> String {
    match &source.place {
        Place::Directory(dir) => format!("file:{}", dir.display()),
        Place::Bucket { bucket, prefix } => {
            let endpoint = endpoint.unwrap_or("?").trim_end_matches('/');
            format!("s3:{endpoint}/{bucket}/{prefix}")
        }
    }
}

/// The mounts that run and are in the kernel's table.
pub(super) fn running(registry: &Registry) -> io::Result<Vec<FoundMount>> {
    let table = MountTable::read()?;
    let in_table = |record: &MountRecord| table.ours().any(|entry| record.is_at(&entry.mountpoint));
    Ok(registry
        .records()
        .into_iter()
        .filter(|record| record.is_running() && in_table(record))
        .filter_map(|record| found(&record))
        .collect())
}

/// A record as the sidecar knows mounts; `None` for one whose source is not understood.
pub(super) fn found(record: &MountRecord) -> Option<FoundMount> {
    let source = Source::parse(record.source.as_ref()).ok()?;
    Some(FoundMount {
        source: record.source.clone(),
        place: place_of(&source, record.endpoint.as_deref()),
        is_view: is_view(&record.state_dir),
        path: PathBuf::from(&record.mountpoint),
        state_dir: record.state_dir.clone(),
        socket: record.socket.clone(),
        pid: record.pid,
        pid_mark: record.pid_started_ticks,
        started_ms: record.started_ms,
    })
}

fn is_view(state_dir: &Path) -> bool {
    let name = state_dir.file_name().unwrap_or_default().to_string_lossy();
    VIEWS.iter().any(|begin| name.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_store_is_the_same_place_however_it_is_written() {
        let place =
            |text: &str, endpoint| place_of(&Source::parse(text.as_ref()).unwrap(), endpoint);
        assert_eq!(
            place("file:///srv/a", None),
            place("file://localhost/srv//a/", None)
        );
        assert_ne!(place("file:///srv/a", None), place("file:///srv/b", None));
        let one = Some("http://one");
        assert_eq!(
            place("s3://bucket/p", one),
            place("s3://bucket/p/", Some("http://one/"))
        );
        assert_ne!(
            place("s3://bucket/p", one),
            place("s3://bucket/p", Some("http://two"))
        );
        assert_ne!(place("s3://bucket/p", one), place("s3://bucket", one));
    }

    #[test]
    fn what_is_only_looked_at_is_told_by_its_folder() {
        assert!(is_view(Path::new("/v/0123/at-77")));
        assert!(is_view(Path::new("/v/0123/divergent-2026")));
        assert!(!is_view(Path::new("/v/0123")));
    }
}
