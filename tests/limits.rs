//! Limits and corners of POSIX on a mount. Each check runs on the local disk first: one that fails
//! there is itself wrong.

#[cfg(test)]
mod support {
    pub(crate) mod limits {
        pub(crate) mod attributes;
        pub(crate) mod content;
        pub(crate) mod names;
        pub(crate) mod sizes;
    }
    pub(crate) mod ext4;
    pub(crate) mod mount;
    pub(crate) mod place;
    pub(crate) mod scripts;
    pub(crate) mod stop;
}

#[cfg(test)]
mod tests {
    use super::support::limits::{attributes, content, names, sizes};
    use super::support::place::on_disk_and_mount;

    macro_rules! checks {
        ($($module:ident :: $check:ident),* $(,)?) => {
            $(
                #[test]
                fn $check() {
                    on_disk_and_mount($module::$check);
                }
            )*
        };
    }

    checks! {
        sizes::hundred_thousand_files,
        sizes::ten_gigabytes_sparse,
        sizes::path_of_four_thousand_bytes,
        sizes::thousand_hard_links,
        names::names_of_255_bytes,
        names::names_of_any_bytes,
        names::directory_read_while_it_changes,
        content::rename_over_an_open_file,
        content::unlink_and_keep_writing,
        content::shared_mappings,
        content::append_by_four_processes,
        content::holes,
        content::copy_within_and_between_files,
        attributes::extended_attributes,
        attributes::times_to_the_nanosecond,
        attributes::setuid_is_cleared,
        attributes::pipes_and_sockets,
        attributes::locks_between_processes,
        attributes::statfs,
    }
}
