//! What a run needs before its first step: its turn, the project, the mount, and a snapshot of what was there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Cancelled, Patience, RunLoop, group_of, out_of_time, project_of};
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::mounts::Occupied;
use crate::sidecar::workflows::definition::Workflow;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::projects::Project;
use crate::sidecar::workflows::registry::Turn;
use crate::sidecar::workflows::snapshots::{OWNER, may_pass, take};
use crate::sidecar::workflows::steps::{fault, fault_of};
use crate::sidecar::workflows::types::Fault;

/// Between two looks at a mount that does not run.
const MOUNT_AGAIN: Duration = Duration::from_millis(500);
/// How long it is waited for at least.
const MOUNT_LEAST: Duration = Duration::from_secs(5);

impl RunLoop {
    /// Waits until as few others of its kind go on as its definition says.
    pub(super) async fn turn(&mut self, workflow: &Workflow) -> Result<(), Cancelled> {
        let Some(most) = &workflow.definition.concurrency else {
            return Ok(());
        };
        if self.turn.is_some() {
            return Ok(());
        }
        let run = &self.rows.run;
        let turn = self.parts.registry.queue(group_of(run), run.seq);
        let most = usize::try_from(most.value).unwrap_or(usize::MAX);
        self.unless_cancelled(Turn::comes(turn.wait(), most))
            .await?;
        self.turn = Some(turn);
        Ok(())
    }

    /// The project, as this run works in it.
    pub(super) fn project(&self, alone: bool) -> Project {
        project_of(&self.rows.run, alone)
    }

    /// Waits until nobody is in its way in the project. A run that is queued is not in it, all others that are not over are.
    pub(super) async fn project_is_free(&mut self) -> Result<(), Cancelled> {
        let (projects, project) = (self.parts.projects.clone(), self.project(false));
        let inside = match projects.enter(&project) {
            Ok(inside) => inside,
            Err(other) => {
                let id = &self.rows.run.id;
                let message = format!("run {id} waits for run {other}, which is in the project");
                let data = json!({"state": self.rows.run.state, "waits_for": other});
                let event = self.event(kinds::RUN, message, data);
                self.save(None, vec![event]).await;
                let waiting = async move { projects.wait(&project).await };
                self.unless_cancelled(waiting).await?
            }
        };
        self.inside = Some(inside);
        Ok(())
    }

    /// Waits until the volume has room for the snapshots of this run beside those of others that go on.
    pub(super) async fn has_room(&mut self, workflow: &Workflow) -> Result<(), Cancelled> {
        let (room, mount) = (self.parts.room.clone(), self.rows.run.mount.clone());
        let steps = workflow.steps.len();
        let waiting = async move { room.take(&mount, steps).await };
        self.room = self.unless_cancelled(waiting).await?;
        Ok(())
    }

    /// Makes sure that the mount is there and stays.
    pub(super) async fn enter(
        &mut self,
        workflow: &Workflow,
    ) -> Result<Result<(), Fault>, Cancelled> {
        let who = format!("run {} of {}", self.rows.run.id, self.rows.run.workflow);
        // Also of a run whose time is over: what was under way has perhaps ended in time.
        let time = self.time_left(workflow).max(MOUNT_LEAST);
        let entering = timeout(time, self.mount(who, Patience::UntilMounted));
        Ok(match self.unless_cancelled(entering).await? {
            Ok(Ok(occupied)) => {
                self.occupied = Some(occupied);
                Ok(())
            }
            Ok(Err(ApiError::NotFound(_))) => Err(fault(
                "mount_gone",
                format!("the mount {} is not there any more", self.rows.run.mount),
            )),
            Ok(Err(error)) => Err(fault_of(&error)),
            Err(_) => Err(out_of_time("waited for the mount")),
        })
    }

    /// The mount, held for `who`; once it is there, if that is waited for.
    pub(super) fn mount(
        &self,
        who: String,
        patience: Patience,
    ) -> impl Future<Output = Result<Occupied, ApiError>> + use<> {
        let (parts, mount) = (Arc::clone(&self.parts), self.rows.run.mount.clone());
        let folder = PathBuf::from(&self.rows.run.path);
        async move {
            loop {
                match parts.mounts.occupy(&mount, &folder, who.clone()).await {
                    Err(error) if patience == Patience::UntilMounted && may_pass(&error) => {
                        sleep(MOUNT_AGAIN).await;
                    }
                    done => return done,
                }
            }
        }
    }

    pub(super) async fn first_snapshot(&mut self) -> Result<Result<(), Fault>, Cancelled> {
        let run = &self.rows.run;
        let name = format!("run-{}", run.id);
        let note = format!("before run {} of {}", run.id, run.workflow);
        let (parts, mount, named) = (Arc::clone(&self.parts), run.mount.clone(), name.clone());
        let taking = async move { take(&parts, &mount, (&named, OWNER), &note).await };
        if let Err(error) = self.unless_cancelled(taking).await? {
            return Ok(Err(fault(
                "snapshot_failed",
                format!("the project could not be snapshotted before the first step: {error}"),
            )));
        }
        self.reached(Point::FirstSnapshot).await;
        self.rows.run.snapshot = Some(name);
        self.save(None, Vec::new()).await;
        self.reached(Point::FirstSnapshotAfter).await;
        Ok(Ok(()))
    }
}
