//! Branches of an open volume: the API's requests to the engine, and its answers back.

use weldrfs_control::{
    ApiError, DropReport, VolumeBranch, VolumeBranchDrop, VolumeBranchRequest, VolumeBranches,
};
use weldrfs_fs::{BRANCHES, Order};

use super::OpenVolume;
use super::snapshots::refused;

impl OpenVolume {
    pub(crate) fn branches(&self) -> Result<VolumeBranches, ApiError> {
        let names = self.0.engine().branches();
        Ok(VolumeBranches {
            names: names.map_err(|error| refused(&error))?,
        })
    }

    pub(crate) fn branch(
        &self,
        order: &Order,
        request: &VolumeBranchRequest,
    ) -> Result<VolumeBranch, ApiError> {
        let (project, name) = (&request.project, &request.name);
        let made = self.0.engine().branch_on(order, project, name);
        let made = made.map_err(|error| refused(&error))?;
        Ok(VolumeBranch {
            path: format!("{BRANCHES}/{}", request.name),
            is_new: made.is_new,
        })
    }

    pub(crate) fn drop_branch(&self, request: &VolumeBranchDrop) -> Result<DropReport, ApiError> {
        let dropped = self.0.drop_branch(&request.name);
        let dropped = dropped.map_err(|error| refused(&error))?;
        Ok(DropReport {
            freed_bytes: dropped.freed_bytes,
            kept_bytes: dropped.kept_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sidecar_looks_for_branches_where_the_engine_makes_them() {
        assert_eq!(weldrfs_control::BRANCHES_FOLDER, weldrfs_fs::BRANCHES);
    }
}
