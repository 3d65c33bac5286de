//! Copying, unpacking, editing, appending, large files, removing.

use std::path::Path;

use super::{Desk, Step};
use crate::error::{Result, ensure};
use crate::sys;
use crate::work::tree_sum;

pub(super) const TREES: [Step; 3] = [
    Step {
        name: "cp_r",
        about: "cp -r of the repository",
        needs: &["git_clone"],
        run: copy,
    },
    Step {
        name: "tar_x",
        about: "unpack the repository's files from an archive on the local disk",
        needs: &[],
        run: untar,
    },
    Step {
        name: "four_processes",
        about: "the same in four processes at once",
        needs: &[],
        run: four,
    },
];

pub(super) const CONTENT: [Step; 6] = [
    Step {
        name: "edit_loop",
        about: "write a temporary file, fsync, rename over the old one",
        needs: &[],
        run: |desk| {
            let count = desk.sizes.edits.to_string();
            Ok(desk.own("edits", &[&desk.at("edited"), &count])?.seconds)
        },
    },
    Step {
        name: "tiny_appends",
        about: "many appends of 65 bytes to one open file",
        needs: &[],
        run: |desk| {
            let count = desk.sizes.appends.to_string();
            Ok(desk.own("appends", &[&desk.at("log.txt"), &count])?.seconds)
        },
    },
    Step {
        name: "big_write",
        about: "write a large file in order, fsync",
        needs: &[],
        run: |desk| big(desk, "write-big", false),
    },
    Step {
        name: "big_read",
        about: "read it in order, second time",
        needs: &["big_write"],
        run: |desk| {
            big(desk, "read-big", false)?;
            big(desk, "read-big", false)
        },
    },
    Step {
        name: "random_read",
        about: "read random blocks of 4 KiB of it",
        needs: &["big_write"],
        run: |desk| big(desk, "read-random", true),
    },
    Step {
        name: "random_write",
        about: "overwrite random blocks of 4 KiB of it, fsync",
        needs: &["big_write"],
        run: |desk| big(desk, "write-random", true),
    },
];

pub(super) const COLD: [Step; 2] = [
    Step {
        name: "random_read_cold",
        about: "random blocks with empty kernel caches",
        needs: &["random_write"],
        run: |desk| {
            sys::drop_caches()?;
            big(desk, "read-random", true)
        },
    },
    Step {
        name: "big_read_cold",
        about: "the large file in order with empty kernel caches",
        needs: &["random_write"],
        run: |desk| {
            sys::drop_caches()?;
            big(desk, "read-big", false)
        },
    },
];

pub(super) const REMOVE: [Step; 2] = [
    Step {
        name: "rm_copy",
        about: "rm -rf of the copied repository",
        needs: &["cp_r"],
        run: |desk| remove(desk, "copy"),
    },
    Step {
        name: "rm_node_modules",
        about: "rm -rf node_modules",
        needs: &["bun_install"],
        run: |desk| remove(desk, "app/node_modules"),
    },
];

fn copy(desk: &Desk<'_>) -> Result<f64> {
    let done = desk.run(desk.command("cp", "").args(["-r", "repo", "copy"]))?;
    let (from, to) = (
        tree_sum(&desk.at("repo"), None)?,
        tree_sum(&desk.at("copy"), None)?,
    );
    ensure(from == to, || format!("the copy is {to}, not {from}"))?;
    Ok(done.seconds)
}

fn unpacked(desk: &Desk<'_>, sum: &str) -> Result<()> {
    let wanted = &desk.inputs.repo_sum;
    ensure(sum == wanted, || format!("the tree is {sum}, not {wanted}"))
}

fn untar(desk: &Desk<'_>) -> Result<f64> {
    let folder = desk.at("untarred");
    desk.run(desk.command("mkdir", "").arg(&folder))?;
    let mut tar = desk.command("tar", "untarred");
    let done = desk.run(tar.arg("xf").arg(&desk.inputs.archive))?;
    unpacked(desk, &tree_sum(&folder, None)?)?;
    Ok(done.seconds)
}

fn four(desk: &Desk<'_>) -> Result<f64> {
    let said = desk.own("four", &[&desk.inputs.archive, &desk.at("four")])?;
    unpacked(desk, &said.sum)?;
    Ok(said.seconds)
}

/// One of the pieces of work on the large file.
fn big(desk: &Desk<'_>, name: &str, counted: bool) -> Result<f64> {
    let (file, size) = (desk.at("big.bin"), desk.sizes.big_mebibytes.to_string());
    let count = desk.sizes.random_blocks.to_string();
    let said = match counted {
        true => desk.own(name, &[&file, &size, &count])?,
        false => desk.own(name, &[&file, &size])?,
    };
    Ok(said.seconds)
}

fn remove(desk: &Desk<'_>, name: &str) -> Result<f64> {
    let done = desk.run(desk.command("rm", "").args(["-rf", name]))?;
    let is_there = Path::new(&desk.at(name)).symlink_metadata().is_ok();
    ensure(!is_there, || format!("{name} is still there"))?;
    Ok(done.seconds)
}
