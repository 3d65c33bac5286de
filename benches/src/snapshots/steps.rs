//! What is measured of snapshots, in which unit, and where it should be. Pure.

use crate::record::{StepRecord, Unit};

/// Files of the tree that the goals are about.
pub(crate) const GOAL_FILES: u64 = 27_000;

/// One figure.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    unit: Unit,
    about: &'static str,
    /// At most this, in its unit, at [`GOAL_FILES`] files.
    goal: Option<f64>,
}

const fn figure(name: &'static str, unit: Unit, about: &'static str) -> Figure {
    Figure {
        name,
        unit,
        about,
        goal: None,
    }
}

const fn with_goal(goal: f64, of: Figure) -> Figure {
    Figure {
        goal: Some(goal),
        ..of
    }
}

use Unit::{Kibibytes, Milliseconds, PerSecond, Seconds};

/// All figures, in the order of the tables.
pub(crate) const FIGURES: [Figure; 30] = [
    with_goal(
        5.0,
        figure(
            "create",
            Milliseconds,
            "weldrfs snapshot create; ext4: cp -a of the tree; JuiceFS: juicefs clone --preserve",
        ),
    ),
    figure(
        "create_request",
        Milliseconds,
        "the same as a request to the volume's socket",
    ),
    figure(
        "create_busy",
        Milliseconds,
        "the request right after many files were overwritten",
    ),
    figure(
        "create_while",
        Milliseconds,
        "the request while somebody writes without pause",
    ),
    figure(
        "program_start",
        Milliseconds,
        "weldrfs --version: what starting the program costs",
    ),
    figure(
        "remove",
        Milliseconds,
        "weldrfs snapshot rm, hardly anything changed since",
    ),
    figure(
        "remove_changed",
        Milliseconds,
        "weldrfs snapshot rm after many files changed since, as for diff",
    ),
    figure(
        "writer_p99",
        Milliseconds,
        "appending and creating without pause: 99 of 100 operations are as fast",
    ),
    figure(
        "writer_p99_while",
        Milliseconds,
        "the same while snapshots are made, 20 a second",
    ),
    figure(
        "writer_worst",
        Milliseconds,
        "the longest operation of that writer",
    ),
    figure(
        "writer_worst_while",
        Milliseconds,
        "the same while snapshots are made",
    ),
    figure(
        "diff",
        Milliseconds,
        "weldrfs snapshot diff after a turn of many changes; others: diff -rq with the copy",
    ),
    figure(
        "diff_request",
        Milliseconds,
        "the same again as a request, once all is in the database",
    ),
    with_goal(
        200.0,
        figure(
            "restore",
            Milliseconds,
            "weldrfs snapshot restore of those changes; others: rsync -a --delete from the copy",
        ),
    ),
    figure("restore_request", Milliseconds, "the same as a request"),
    figure(
        "undo",
        Milliseconds,
        "weldrfs snapshot restore of what the restore replaced",
    ),
    with_goal(
        1.0,
        figure(
            "clone",
            Seconds,
            "weldrfs clone; ext4: cp -r; JuiceFS: juicefs clone",
        ),
    ),
    with_goal(
        0.0,
        figure(
            "clone_moved",
            Kibibytes,
            "file content that the clone wrote, or read from the store",
        ),
    ),
    figure(
        "rm_rf",
        Seconds,
        "rm -rf of the tree, which the kept snapshots hold",
    ),
    figure(
        "rm_rf_clone",
        Seconds,
        "rm -rf of the clone, which no snapshot holds",
    ),
    figure(
        "restore_tree",
        Seconds,
        "weldrfs snapshot restore of the tree that is gone; others: the copy is copied, as for create",
    ),
    figure(
        "make",
        Seconds,
        "write the tree, small file after small file",
    ),
    figure(
        "turn",
        Milliseconds,
        "a typical turn, 20 files edited, 4 added, 4 deleted, and its snapshot",
    ),
    figure("create_4k", PerSecond, "create a file, write 4 KiB, close"),
    figure(
        "overwrite_4k",
        PerSecond,
        "write 4 KiB over a file that is there",
    ),
    figure("rename", PerSecond, "rename within a folder"),
    figure(
        "git_mix",
        PerSecond,
        "an object written and renamed, a working file replaced, now and then an index",
    ),
    figure(
        "database_growth",
        Kibibytes,
        "what the database grew for each turn and its snapshot",
    ),
    figure(
        "layers_growth",
        Kibibytes,
        "what was published of the database for each turn and its snapshot, all turns together",
    ),
    figure(
        "layers_growth_alone",
        Kibibytes,
        "the same when each turn is published by itself",
    ),
];

/// A figure of a tree of `files` files with `kept` snapshots.
pub(crate) fn step_name(figure: &str, files: u64, kept: u64) -> String {
    format!("{figure}/{files}/{kept}")
}

/// What a name that [`step_name`] made is about: figure, files, snapshots kept.
pub(crate) fn parts(step: &str) -> Option<(&str, u64, u64)> {
    let mut parts = step.split('/');
    let (figure, files, kept) = (parts.next()?, parts.next()?, parts.next()?);
    Some((figure, files.parse().ok()?, kept.parse().ok()?))
}

/// What a figure should be at most, in its unit.
pub(crate) fn goal(name: &str, files: u64) -> Option<f64> {
    let of = FIGURES.iter().find(|figure| figure.name == name)?;
    of.goal.filter(|_| files == GOAL_FILES)
}

/// The steps of a run.
pub(super) fn records(files: &[u64], kept: &[u64]) -> Vec<StepRecord> {
    let mut records = Vec::new();
    for files in files {
        for figure in &FIGURES {
            for kept in kept {
                records.push(StepRecord {
                    name: step_name(figure.name, *files, *kept),
                    unit: figure.unit,
                    about: format!("{}; {files} files, {kept} snapshots kept", figure.about),
                });
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_tells_its_figure_files_and_snapshots() {
        assert_eq!(
            parts(&step_name("clone", 27_000, 10)),
            Some(("clone", 27_000, 10))
        );
        assert_eq!(parts("create_4k/4"), None);
        assert_eq!(parts("clone/many/0"), None);
    }

    #[test]
    fn every_figure_is_there_once_for_each_size_and_number_of_snapshots() {
        let all = records(&[1_000, 27_000], &[0, 10, 1_000]);
        assert_eq!(all.len(), FIGURES.len() * 6);
        let names: std::collections::BTreeSet<&str> = all.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn goals_are_about_one_size() {
        assert_eq!(goal("create", GOAL_FILES), Some(5.0));
        assert_eq!(goal("create", 1_000), None);
        assert_eq!(goal("diff", GOAL_FILES), None);
    }
}
