//! A day's coding on a mount; afterwards the tree survives a remount and the loss of every cache.
//!
//! `WELDRFS_CODING_SIZE=full` takes the large inputs.

#[cfg(test)]
mod support {
    pub(crate) mod mount;
    pub(crate) mod scripts;
}

#[cfg(test)]
mod tests {
    use super::support::mount::{Volume, require_fuse};
    use super::support::scripts::{difference, in_repository, inputs, succeed, treesum};
    use std::process::Command;
    use std::time::Duration;

    const DAY_DEADLINE: Duration = Duration::from_secs(3_000);

    #[test]
    fn a_day_of_coding_survives_remount_and_empty_caches() {
        require_fuse();
        let size = std::env::var("WELDRFS_CODING_SIZE").unwrap_or_else(|_| "small".to_owned());
        let inputs = inputs(&size);
        let mut volume = Volume::mounted();
        let day = volume.root().join("day");
        let script = in_repository("tests/e2e/coding_day.sh");
        let steps = succeed(
            Command::new(&script)
                .arg(&day)
                .arg(&inputs)
                .arg(volume.beside("report.json")),
            DAY_DEADLINE,
        );
        println!("on the mount: {steps}");
        let (now, most) = volume.memory();
        println!(
            "resident memory: {} MiB, at most {} MiB",
            now >> 20,
            most >> 20
        );

        let [first, second, third] =
            ["first", "second", "third"].map(|name| volume.beside(&format!("listing-{name}")));
        let before = treesum(&day, &first);
        println!("{before}");

        volume.remount();
        let after = treesum(&day, &second);
        assert_eq!(
            before,
            after,
            "the tree changed by a remount:\n{}",
            difference(&first, &second)
        );

        volume.sync_and_drop_caches();
        volume.remount();
        // Once more after mounting: nothing that starting read may be left in a cache either.
        volume.sync_and_drop_caches();
        let cold = treesum(&day, &third);
        assert_eq!(
            before,
            cold,
            "the tree changed when read back from the store:\n{}",
            difference(&first, &third)
        );
        volume.unmount();
    }
}
