//! The trash of an open volume: the API's requests to the engine, and its answers back.

use weldrfs_control::{
    ApiError, TRASH_ENTRIES_MAX, TrashEmptyReport, TrashEmptyRequest, TrashEntryInfo, TrashList,
    TrashListRequest, TrashRestoreReport, TrashRestoreRequest, path_text,
};
use weldrfs_fs::{Order, TrashEntry, TrashTarget};

use super::OpenVolume;
use super::snapshots::refused;

impl OpenVolume {
    pub(crate) fn trash(&self, request: &TrashListRequest) -> Result<TrashList, ApiError> {
        let path = request.exact_path()?;
        let found = self.0.engine().trash(&path);
        let found = found.map_err(|error| refused(&error))?;
        let left_out = found.len().saturating_sub(TRASH_ENTRIES_MAX);
        Ok(TrashList {
            entries: found.iter().skip(left_out).map(info).collect(),
            left_out: left_out as u64,
        })
    }

    pub(crate) fn restore_trash(
        &self,
        order: &Order,
        request: &TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError> {
        let path = request.exact_path()?;
        let to = request.exact_to()?;
        let target = TrashTarget {
            path: &path,
            to: to.as_deref(),
            until_ms: request.at_ms,
        };
        let restored = self.0.engine().restore_trash_on(order, target);
        let restored = restored.map_err(|error| refused(&error))?;
        Ok(TrashRestoreReport {
            names: restored.names,
            deleted_ms: restored.deleted_ms,
        })
    }

    pub(crate) fn empty_trash(
        &self,
        request: TrashEmptyRequest,
    ) -> Result<TrashEmptyReport, ApiError> {
        let emptied = self.0.empty_trash(request.older_than_ms.unwrap_or(0));
        let emptied = emptied.map_err(|error| refused(&error))?;
        Ok(TrashEmptyReport {
            names: emptied.names,
            bytes: emptied.bytes,
        })
    }
}

fn info(entry: &TrashEntry) -> TrashEntryInfo {
    let (path, path_base64) = path_text(&entry.path);
    TrashEntryInfo {
        path,
        path_base64,
        directory: entry.is_dir(),
        deleted_ms: entry.deleted_ms,
        files: entry.files,
        bytes: entry.bytes,
    }
}
