//! Snapshots of an open volume: the API's requests to the engine, and its answers back.

use weldrfs_control::{
    ApiError, CloneReport, CloneRequest, DIFFERENCES_MAX, DiffReport, DiffRequest, DifferenceInfo,
    DifferenceKind, RemoveReport, RemoveRequest, SnapshotInfo, SnapshotList, SnapshotRequest,
    SnapshotRestoreReport, SnapshotRestoreRequest, path_text,
};
use weldrfs_fs::{Difference, FsError, InodeRow, Kind, Order, Snapshot, SnapshotNames};

use super::OpenVolume;

impl OpenVolume {
    pub(crate) fn snapshots(&self) -> SnapshotList {
        let all = self.0.engine().snapshots();
        SnapshotList {
            snapshots: all.into_iter().map(info).collect(),
        }
    }

    pub(crate) fn snapshot(
        &self,
        order: &Order,
        request: SnapshotRequest,
    ) -> Result<SnapshotInfo, ApiError> {
        let names = SnapshotNames {
            name: request.name,
            note: request.note,
            // Whoever asks for one mostly wants to keep it.
            kept: !request.automatic,
            owner: request.owner,
        };
        let made = self.0.engine().create_snapshot_on(order, names);
        self.0.thin_soon();
        made.map(info).map_err(|error| refused(&error))
    }

    pub(crate) fn remove_snapshot(
        &self,
        request: &RemoveRequest,
    ) -> Result<RemoveReport, ApiError> {
        let removed = self.0.engine().remove_snapshot(&request.name);
        removed.map_err(|error| refused(&error))?;
        Ok(RemoveReport {})
    }

    pub(crate) fn diff(&self, request: &DiffRequest) -> Result<DiffReport, ApiError> {
        let (newer, path) = (request.newer.as_deref(), request.exact_path()?);
        let found = self.0.engine().diff(&request.older, newer, &path);
        let found = found.map_err(|error| refused(&error))?;
        Ok(DiffReport {
            left_out: found.len().saturating_sub(DIFFERENCES_MAX) as u64,
            differences: found.iter().take(DIFFERENCES_MAX).map(difference).collect(),
        })
    }

    pub(crate) fn restore(
        &self,
        order: &Order,
        request: &SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        let path = request.exact_path()?;
        let restored = self.0.engine().restore_on(order, &request.name, &path);
        self.0.thin_soon();
        let (restored, late) = restored.map_err(|error| refused(&error))?;
        Ok(SnapshotRestoreReport {
            late_writes: late as u64,
            names: restored.names,
            safety: restored.safety.map(info),
        })
    }

    pub(crate) fn clone_tree(
        &self,
        order: &Order,
        request: &CloneRequest,
    ) -> Result<CloneReport, ApiError> {
        let engine = self.0.engine();
        let (from, to) = (request.exact_from()?, request.exact_to()?);
        let (above, name) = match to.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&to[..at], &to[at + 1..]),
            None => (&b""[..], &to[..]),
        };
        let about = |path: &str, error: &FsError| match refused(error) {
            ApiError::InvalidRequest(text) => ApiError::InvalidRequest(format!("{path}: {text}")),
            other => other,
        };
        let source = engine.walk(&from);
        let source = source.map_err(|error| about(&request.from, &error))?;
        if source.kind != Kind::Dir {
            return Err(ApiError::InvalidRequest(format!(
                "{} is no directory; cp --reflink copies a file without its content",
                request.from
            )));
        }
        let parent = engine.walk(above);
        let parent = parent.map_err(|error| about(&String::from_utf8_lossy(above), &error))?;
        let made = engine.clone_tree_on(order, source.ino, parent.ino, name);
        let made = made.map_err(|error| about(&request.to, &error))?;
        Ok(CloneReport { ino: made.ino.0 })
    }
}

/// An error as the API tells it: what the request can mend, and what it cannot.
pub(super) fn refused(error: &FsError) -> ApiError {
    let text = error.to_string();
    match error.errno() {
        libc::ENOENT
        | libc::EEXIST
        | libc::EINVAL
        | libc::ENOTDIR
        | libc::EISDIR
        | libc::ENAMETOOLONG
        | libc::EFBIG => ApiError::InvalidRequest(text),
        libc::EDQUOT => ApiError::LimitReached(text),
        libc::EROFS => ApiError::ReadOnly(text),
        libc::ETIMEDOUT | libc::ECANCELED => ApiError::DeadlineExceeded(text),
        _ => {
            tracing::warn!(%error, "a request about snapshots failed");
            ApiError::Internal(text)
        }
    }
}

fn info(snapshot: Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        epoch: snapshot.epoch.0,
        lsn: snapshot.lsn.0,
        made_ms: snapshot.made_ms,
        kept: snapshot.kept,
        name: snapshot.name,
        note: snapshot.note,
        owner: snapshot.owner,
    }
}

fn difference(one: &Difference) -> DifferenceInfo {
    let shown = |path: &Option<Vec<u8>>| match path.as_deref().map(path_text) {
        Some((text, exact)) => (Some(text), exact),
        None => (None, None),
    };
    let (path, path_base64) = path_text(&one.path);
    let (from, from_base64) = shown(&one.from);
    let (old_path, old_path_base64) = shown(&one.old_path);
    let bytes = |row: &InodeRow| row.is_file().then_some(row.size);
    DifferenceInfo {
        path,
        path_base64,
        from_base64,
        old_path,
        old_path_base64,
        kind: match (&one.before, &one.after, &one.from) {
            (None, _, _) => DifferenceKind::Created,
            (_, None, _) => DifferenceKind::Deleted,
            (_, _, Some(_)) => DifferenceKind::Renamed,
            _ => DifferenceKind::Changed,
        },
        from,
        directory: one.after.or(one.before).is_some_and(|row| row.is_dir()),
        content: one.content,
        mode: one.mode,
        owner: one.owner,
        xattrs: one.xattrs,
        bytes_before: one.before.as_ref().and_then(bytes),
        bytes_after: one.after.as_ref().and_then(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weldrfs_fs::MetaError;

    #[test]
    fn too_many_snapshots_are_a_limit_and_no_mistake_of_the_request() {
        let error = refused(&FsError::Meta(MetaError::TooManySnapshots(10_000)));
        assert_eq!(error.code(), "limit_reached");
        assert!(error.to_string().contains("10000"), "{error}");
    }
}
