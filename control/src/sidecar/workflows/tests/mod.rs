//! The rules of workflows, one test for each, on a machine whose sandboxes, mounts and volumes are tasks of the test.

mod agents;
mod bounds;
mod kills;
mod previews;
mod restarts;
mod reverts;
mod rig;
mod rules;
