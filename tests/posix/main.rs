//! Every guarantee of the page on semantics, one test each. Most run on the local disk first: a check that fails there
//! is itself wrong. Where a mount differs from ext4, the test says so and checks both.

#[cfg(test)]
#[path = "../support"]
mod support {
    pub(crate) mod calls;
    pub(crate) mod ext4;
    pub(crate) mod mount;
    pub(crate) mod place;
    pub(crate) mod scripts;
    pub(crate) mod stop;
}

#[cfg(test)]
mod access;
#[cfg(test)]
mod common;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod directories;
#[cfg(test)]
mod locks;
#[cfg(test)]
mod mapping;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod page;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod set_id;
#[cfg(test)]
mod space;
#[cfg(test)]
mod times;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod watching;

#[cfg(test)]
mod tests {
    use crate::support::place::on_disk_and_mount;
    use crate::*;
    use libtest_mimic::Trial;

    macro_rules! both {
        ($($module:ident :: $check:ident),* $(,)?) => {
            vec![$((stringify!($check), (|| on_disk_and_mount($module::$check)) as fn())),*]
        };
    }

    macro_rules! alone {
        ($($module:ident :: $check:ident),* $(,)?) => {
            vec![$((stringify!($check), $module::$check as fn())),*]
        };
    }

    fn named() -> Vec<(&'static str, fn())> {
        let mut all = both![
            locks::record_locks_are_split_converted_and_merged,
            locks::record_locks_go_with_any_close_of_the_file,
            locks::open_file_locks_belong_to_the_open_file,
            locks::flock_is_shared_exclusive_and_converted,
            locks::locks_need_a_fitting_open_mode,
            locks::locks_end_with_their_process,
            locks::waiting_lock_is_granted_on_release,
            locks::waiting_lock_is_interrupted_by_a_signal,
            locks::deadlock_of_record_locks_is_found,
            locks::locks_follow_the_file_not_the_name,
            direct::direct_and_buffered_see_the_same_bytes,
            direct::direct_io_without_alignment,
            direct::direct_append_and_end_of_file,
            mapping::shared_mapping_is_one_memory_between_processes,
            mapping::private_mapping_stays_private,
            mapping::mapping_beyond_a_truncation_is_a_bus_error,
            mapping::mapping_of_an_unlinked_file_stays,
            mapping::mapping_sees_holes_and_copies,
            transfer::sendfile_moves_the_right_bytes,
            transfer::splice_moves_the_right_bytes,
            transfer::copy_file_range_between_processes_files,
            programs::running_program_cannot_be_written,
            programs::running_program_can_be_replaced,
            programs::file_open_for_writing_cannot_be_run,
            set_id::set_id_bits_go_when_another_user_changes_the_content,
            set_id::set_id_bits_go_with_the_owner,
            set_id::privileged_writers_keep_set_id_bits,
            set_id::file_capabilities_go_with_a_write,
            set_id::set_group_id_without_group_execution,
            access::sticky_directory_protects_other_peoples_names,
            access::set_group_id_directory_hands_on_its_group,
            access::permissions_are_checked_with_all_groups,
            access::access_control_lists,
            access::classes_of_extended_attributes,
            access::room_for_extended_attributes,
            times::times_are_kept_to_the_nanosecond,
            times::times_now_and_omitted,
            times::times_at_the_ends_of_the_range,
            times::access_time_and_reading,
            times::what_changes_which_time,
            times::birth_time,
            times::times_of_a_named_pipe,
            space::statfs_counts_what_is_used,
            space::statfs_is_the_same_after_a_remount,
            space::largest_file,
            space::flags_and_block_maps,
            directories::stable_names_are_listed_exactly_once,
            directories::stable_names_of_a_large_directory_are_listed_exactly_once,
            directories::seekdir_goes_back_to_telldir,
            directories::directory_positions_stay_while_names_change,
            directories::rewinddir_sees_what_is_new,
            directories::size_of_a_directory,
            directories::removed_directory_is_empty_and_takes_nothing,
            orphans::unlinked_file_lives_until_it_is_closed,
            watching::watchers_hear_of_what_other_processes_do,
        ];
        all.extend(alone![
            orphans::orphans_are_reclaimed_after_a_crash,
            times::access_time_and_mount_options,
            transfer::copies_share_their_bytes_in_the_store,
            page::every_test_the_page_names_exists,
        ]);
        all
    }

    /// The names of all of them.
    pub(crate) fn names() -> Vec<&'static str> {
        named().into_iter().map(|(name, _)| name).collect()
    }

    pub(super) fn trials() -> Vec<Trial> {
        let trial = |(name, test): (&str, fn())| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        };
        named().into_iter().map(trial).collect()
    }
}

fn main() -> std::process::ExitCode {
    support::calls::serve_if_asked();
    let mut arguments = libtest_mimic::Arguments::from_args();
    // One at a time: a process that another test starts has, for a moment, everything that this one has open, and a
    // mount could not be taken away.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests::trials()).exit_code()
}
